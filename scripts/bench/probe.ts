/**
 * One fresh process of the benchmark, which stands in for a Lambda execution environment: it loads modules as
 * Lambda does, then calls handlers. Arguments: the file with the {@link Plan}, and the file for the
 * {@link Findings}. The handlers' logs go to stdout, as in Lambda.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { createRequire, registerHooks } from 'node:module';
import type { Context } from 'aws-lambda';

/** What the process does. */
export interface Plan {
  /** The modules whose load time is measured: a bundle, or Node's own modules. */
  readonly load: readonly string[];
  /** Called one after another in every round. */
  readonly calls: readonly { readonly bundle: string; readonly event: unknown }[];
  readonly rounds: number;
  /** Whether to record which of Node's own modules are loaded. This takes time. */
  readonly traceModules: boolean;
  readonly functionName: string;
  readonly memoryMiB: number;
}

/** What the process measured. */
export interface Findings {
  readonly loadMs: number;
  /** By call, then by round. */
  readonly callMs: readonly (readonly number[])[];
  readonly cpuMs: readonly (readonly number[])[];
  /** The last response to each call; null for the worker and the bare calls. */
  readonly responses: readonly (HandlerResponse | null)[];
  readonly peakMiB: number;
  readonly modules: readonly string[];
}

interface HandlerResponse {
  readonly statusCode: number;
}

type Handler = (event: unknown, context: Context) => Promise<HandlerResponse | undefined>;

const [planFile = '', findingsFile = ''] = process.argv.slice(2);
const plan: Plan = JSON.parse(readFileSync(planFile, 'utf8'));
const require = createRequire(planFile);
const modules = new Set<string>();

if (plan.traceModules) {
  registerHooks({
    resolve(specifier, context, next) {
      const resolved = next(specifier, context);
      if (resolved.url.startsWith('node:')) modules.add(resolved.url);
      return resolved;
    },
  });
}

const cpuMs = () => {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
};

const begin = performance.now();
for (const module of plan.load) require(module);
const loadMs = performance.now() - begin;

main().catch((error: unknown) => {
  console.error(error);
  process.exitCode = 1;
});

async function main(): Promise<void> {
  const calls = plan.calls.map((call) => ({ ...call, ...newTimings() }));
  for (let round = 0; round < plan.rounds; round += 1) {
    // Reverse every other round, so no call always comes first.
    for (const call of round % 2 === 0 ? calls : calls.toReversed()) {
      const { handler }: { handler: Handler } = require(call.bundle);
      const context = newContext();
      const cpuBefore = cpuMs();
      const started = performance.now();
      const response = await handler(call.event, context);
      call.callMs.push(performance.now() - started);
      call.cpuMs.push(cpuMs() - cpuBefore);
      call.response = response ?? null;
      // As in Lambda, the event loop turns between two calls, which releases sockets.
      await new Promise((resolve) => setImmediate(resolve));
    }
  }
  const findings: Findings = {
    loadMs,
    callMs: calls.map((call) => call.callMs),
    cpuMs: calls.map((call) => call.cpuMs),
    responses: calls.map((call) => call.response),
    peakMiB: peakMiB(),
    modules: [...modules],
  };
  writeFileSync(findingsFile, JSON.stringify(findings));
}

function newTimings(): { callMs: number[]; cpuMs: number[]; response: HandlerResponse | null } {
  return { callMs: [], cpuMs: [], response: null };
}

function newContext(): Context {
  const deadline = Date.now() + 30_000;
  return {
    awsRequestId: '7f3c1e0a-5d0b-4c53-9f0e-0a3f5b1c2d4e',
    callbackWaitsForEmptyEventLoop: true,
    functionName: plan.functionName,
    functionVersion: '$LATEST',
    invokedFunctionArn: `arn:aws:lambda:us-east-1:123456789012:function:${plan.functionName}`,
    logGroupName: '/bench/functions',
    logStreamName: 'bench',
    memoryLimitInMB: String(plan.memoryMiB),
    getRemainingTimeInMillis: () => deadline - Date.now(),
    done: () => undefined,
    fail: () => undefined,
    succeed: () => undefined,
  };
}

/** The peak memory of this process. On Linux, `maxRSS` can include the parent's memory, so this reads VmHWM instead. */
function peakMiB(): number {
  const status = process.platform === 'linux' ? readFileSync('/proc/self/status', 'utf8') : '';
  const kilobytes = /^VmHWM:\s+(\d+) kB$/m.exec(status)?.[1] ?? process.resourceUsage().maxRSS;
  return Number(kilobytes) / 1024;
}
