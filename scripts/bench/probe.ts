/**
 * One fresh process of the benchmark. It stands in for a Lambda execution environment: it loads a bundle as
 * Lambda does, then calls handlers. Its input is a {@link Plan}. It prints the handlers' logs and, as the last
 * line, the {@link Measured} values.
 */
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import type { Context } from 'aws-lambda';
import { lambdaContext } from '../../tests/support/lambdaContext.ts';

/** What the process does. */
export interface Plan {
  /** The bundle whose load time is measured. */
  readonly load: string;
  /** Called one after another in every round. */
  readonly calls: readonly { readonly bundle: string; readonly event: unknown }[];
  readonly rounds: number;
}

/** What the process measured. Times are milliseconds of CPU time. */
export interface Measured {
  readonly loadMs: number;
  /** By call, then by round. */
  readonly callMs: readonly (readonly number[])[];
  /** Used after the last call. */
  readonly memoryMiB: number;
}

type Handler = (event: unknown, context: Context) => Promise<{ readonly statusCode?: number } | undefined>;

const plan: Plan = JSON.parse(readFileSync(0, 'utf8'));
const require = createRequire(plan.load);

const cpuMs = () => {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
};

const begin = cpuMs();
require(plan.load);
const loadMs = cpuMs() - begin;

main();

async function main(): Promise<void> {
  const calls = plan.calls.map((call) => ({ ...call, callMs: [] as number[] }));
  for (let round = 0; round < plan.rounds; round += 1) {
    // Reverse every other round, so no call always comes first.
    for (const call of round % 2 === 0 ? calls : calls.toReversed()) {
      const { handler }: { handler: Handler } = require(call.bundle);
      const started = cpuMs();
      const response = await handler(call.event, lambdaContext());
      call.callMs.push(cpuMs() - started);
      if ((response?.statusCode ?? 200) >= 300) throw new Error(`The response is ${JSON.stringify(response)}`);
      // As in Lambda, the event loop turns between two calls, which releases sockets.
      await new Promise((resolve) => setImmediate(resolve));
    }
  }
  const memoryMiB = process.memoryUsage.rss() / 2 ** 20;
  console.log(JSON.stringify({ loadMs, callMs: calls.map(({ callMs }) => callMs), memoryMiB } satisfies Measured));
}
