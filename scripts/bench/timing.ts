import { type BuiltFunction, type FunctionName, functionNames, type PerFunction, perFunction } from './functions.ts';
import type { Sample } from './jobs.ts';
import type { Processes, ProcessFindings } from './processes.ts';
import { median, percentile } from './statistics.ts';
import { type Certificate, startStub } from './stub.ts';

/** How many fresh processes of each kind load a function and make a first call. */
const LOADS = 21;
/** How many processes make warm calls, and how many calls each makes. */
const WARM_PROCESSES = 3;
const WARM_CALLS = 500;

interface Spread {
  readonly median: number;
  readonly p95: number;
}

/** How long a function takes to load, in milliseconds. */
interface LoadFindings {
  readonly template: Spread;
  /** The same sources built with SAM's defaults. */
  readonly default: Spread;
  /** Only Node's own modules that the bundle requires. */
  readonly floor: Spread;
  readonly modules: readonly string[];
}

/** What the calls of one function take. Times are in milliseconds. */
interface CallFindings {
  readonly firstMs: Spread;
  readonly firstCpuMs: number;
  readonly warmP50Ms: number;
  readonly warmP99Ms: number;
  readonly warmCpuMs: number;
  /** The median time that our code adds to the same calls by the SDK alone, made alternately in the same process. */
  readonly addedMs: number;
  /** The most connections that one process opened to one endpoint. */
  readonly connections: number;
  readonly peakMiB: number;
  /** The same with the largest text that the API accepts. */
  readonly peakLargestMiB: number;
}

export interface TimingFindings {
  readonly load: PerFunction<LoadFindings>;
  readonly calls: { readonly createJob: CallFindings; readonly getJob: CallFindings };
}

interface Setting {
  readonly functions: PerFunction<BuiltFunction>;
  readonly processes: Processes;
  readonly certificate: Certificate;
  /** The bundle of bareCalls.ts. */
  readonly bareCalls: string;
  readonly smallest: Sample;
  readonly largest: Sample;
}

type Run = ProcessFindings & { readonly connections: number };

/** Measures load and call times in one process at a time, alternating between the kinds of processes. */
export async function timeFunctions(setting: Setting): Promise<TimingFindings> {
  const { functions, processes, certificate, bareCalls, smallest, largest } = setting;
  let responses = smallest.responses;
  const stub = await startStub(certificate, async ({ operation }) => responses.get(operation) ?? '{}');
  const run = async (name: FunctionName, plan: Parameters<Processes['run']>[2]): Promise<Run> => {
    const process = await processes.run(functions[name], stub.environment, plan);
    return { ...process, connections: Math.max(...stub.takeSeen().connections) };
  };
  const callOf = (name: 'createJob' | 'getJob', sample: Sample) => ({
    bundle: functions[name].bundle,
    event: sample.events[name],
  });

  const runs = perFunction(() => ({ template: [] as Run[], default: [] as Run[], floor: [] as Run[] }));
  const modules = { createJob: [] as string[], getJob: [] as string[], worker: [] as string[] };
  for (const name of functionNames) {
    modules[name] = [...(await run(name, { load: [functions[name].bundle], traceModules: true })).modules];
  }
  for (let round = 0; round < LOADS; round += 1) {
    for (const name of functionNames) {
      const { bundle, defaultBundle } = functions[name];
      const calls = name === 'worker' ? [] : [callOf(name, smallest)];
      runs[name].floor.push(await run(name, { load: modules[name] }));
      runs[name].default.push(await run(name, { load: [defaultBundle] }));
      runs[name].template.push(await run(name, { load: [bundle], calls }));
    }
  }

  const callRuns = async (name: 'createJob' | 'getJob', sample: Sample, withBareCalls: boolean) => {
    const bare = withBareCalls ? [{ bundle: bareCalls, event: sample.calls[name] }] : [];
    responses = sample.responses;
    return run(name, {
      load: [functions[name].bundle],
      calls: [callOf(name, sample), ...bare],
      rounds: 1 + WARM_CALLS,
    });
  };
  const warm = { createJob: newCallRuns(), getJob: newCallRuns() };
  for (let round = 0; round < WARM_PROCESSES; round += 1) {
    for (const name of ['createJob', 'getJob'] as const) {
      warm[name].alone.push(await callRuns(name, smallest, false));
      warm[name].besideBareCalls.push(await callRuns(name, smallest, true));
      warm[name].largest.push(await callRuns(name, largest, false));
    }
  }
  stub.stop();

  return {
    load: perFunction((name) => ({
      template: spreadOf(runs[name].template.map(({ loadMs }) => loadMs)),
      default: spreadOf(runs[name].default.map(({ loadMs }) => loadMs)),
      floor: spreadOf(runs[name].floor.map(({ loadMs }) => loadMs)),
      modules: modules[name],
    })),
    calls: {
      createJob: callFindings(runs.createJob.template, warm.createJob),
      getJob: callFindings(runs.getJob.template, warm.getJob),
    },
  };
}

const newCallRuns = () => ({
  alone: [] as Run[],
  besideBareCalls: [] as Run[],
  largest: [] as Run[],
});

function callFindings(
  firstRuns: readonly Run[],
  { alone, besideBareCalls, largest }: ReturnType<typeof newCallRuns>,
): CallFindings {
  const warmMs = alone.flatMap(({ callMs: [ms = []] }) => ms.slice(1));
  const addedMs = besideBareCalls.flatMap(({ callMs: [ours = [], bare = []] }) =>
    ours.map((ms, round) => ms - (bare[round] ?? Number.NaN)).slice(1),
  );
  return {
    firstMs: spreadOf(firstRuns.flatMap(({ callMs: [ms = []] }) => ms)),
    firstCpuMs: median(firstRuns.flatMap(({ cpuMs: [ms = []] }) => ms)),
    warmP50Ms: median(warmMs),
    warmP99Ms: percentile(warmMs, 0.99),
    warmCpuMs: median(alone.flatMap(({ cpuMs: [ms = []] }) => ms.slice(1))),
    addedMs: median(addedMs),
    connections: Math.max(...alone.map(({ connections }) => connections)),
    peakMiB: Math.max(...alone.map(({ peakMiB }) => peakMiB)),
    peakLargestMiB: Math.max(...largest.map(({ peakMiB }) => peakMiB)),
  };
}

function spreadOf(values: readonly number[]): Spread {
  return { median: median(values), p95: percentile(values, 0.95) };
}
