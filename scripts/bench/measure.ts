import { execFile } from 'node:child_process';
import { cpus } from 'node:os';
import { promisify } from 'node:util';
import { getJobEvent, postJobEvent } from '../../tests/support/events.ts';
import { type SeenCall, startStandIn } from './aws.ts';
import { buildFunction, buildScript } from './functions.ts';
import type { Measured, Plan } from './probe.ts';

/** The last one is the largest that the API accepts. */
const TEXT_BYTES = [100, 10_000, 100_000, 128 * 1024] as const;
/** How many processes load each bundle and make a first call. */
const LOADS = 21;
/** How many processes make warm calls of a function, and how many calls each makes. */
const WARM_PROCESSES = 3;
const WARM_CALLS = 500;

export const functionNames = ['createJob', 'getJob', 'worker'] as const;
export type FunctionName = (typeof functionNames)[number];
export type FunctionFindings = Awaited<ReturnType<typeof measure>>['functions'][FunctionName];

const execute = promisify(execFile);

/**
 * Builds the functions into the directory and measures them. Times are CPU times of the application and the
 * SDK, in the fastest process, because whatever else runs on the machine can only make a process slower.
 */
export async function measure(directory: string) {
  const built = {
    createJob: await buildFunction('createJob', directory),
    getJob: await buildFunction('getJob', directory),
    worker: await buildFunction('worker', directory),
  };
  const probe = await buildScript('probe.ts', directory);
  const bareCalls = await buildScript('bareCalls.ts', directory);
  const standIn = await startStandIn(directory);

  /** Runs a process of a function. Throws an Error if it fails or a handler returns an error response. */
  const run = async (name: FunctionName, plan: Partial<Plan>): Promise<Run> => {
    const env = { ...built[name].environment, ...standIn.environment };
    const running = execute(process.execPath, [probe], { env, maxBuffer: Number.POSITIVE_INFINITY });
    const whole: Plan = { load: built[name].bundle, calls: [], rounds: 1, ...plan };
    running.child.stdin?.end(JSON.stringify(whole));
    const { stdout } = await running;
    const end = stdout.lastIndexOf('\n', stdout.length - 2) + 1;
    const measured: Measured = JSON.parse(stdout.slice(end));
    return { ...measured, log: stdout.slice(0, end), ...standIn.takeSeen() };
  };

  console.error('Running jobs with texts of several sizes (half a minute)');
  const callEach = (name: FunctionName, events: readonly unknown[]) =>
    run(name, { calls: events.map((event) => ({ bundle: built[name].bundle, event })) });
  // The first job warms the processes up.
  const postEvents = [TEXT_BYTES[0], ...TEXT_BYTES].map((bytes) =>
    postJobEvent(JSON.stringify({ text: textOf(bytes) })),
  );
  const createJob = await callEach('createJob', postEvents);
  const invocations = createJob.calls.filter(({ operation }) => operation === 'Invoke');
  const jobEvents: { readonly jobId: string }[] = invocations.map(({ body }) => JSON.parse(body));
  const getEvents = jobEvents.map(({ jobId }) => getJobEvent(jobId));
  const worker = await callEach('worker', jobEvents);
  const getJob = await callEach('getJob', getEvents);
  const callsOf = ({ calls }: Run, job: number) =>
    calls.filter(({ body }) => body.includes(jobEvents[job]?.jobId ?? ''));

  /** Loads both bundles of a function, one after the other, and makes a first call. */
  const timeLoads = async (name: FunctionName, calls: Plan['calls']) => {
    const own: Run[] = [];
    const byDefault: Run[] = [];
    for (let round = 0; round < LOADS; round += 1) {
      byDefault.push(await run(name, { load: built[name].defaultBundle }));
      own.push(await run(name, { calls }));
    }
    return {
      loadMs: Math.min(...own.map(({ loadMs }) => loadMs)),
      /** The load time divided by that of the default build. */
      loadShare: median(own.map(({ loadMs }, round) => loadMs / (byDefault[round]?.loadMs ?? Number.NaN))),
      firstMs: Math.min(...own.flatMap(({ callMs }) => callMs[0] ?? [])),
    };
  };

  /** Makes warm calls with the smallest text, alternating with the SDK alone, and then with the largest text. */
  const timeCalls = async (name: 'createJob' | 'getJob', job: Run, events: readonly object[]) => {
    const [bundle, last] = [built[name].bundle, events.length - 1];
    standIn.replay(callsOf(job, 0));
    const calls = [{ bundle, event: events[0] }];
    const loads = await timeLoads(name, calls);
    const compared = [...calls, { bundle: bareCalls, event: callsOf(job, 0) }];
    const warm: { readonly ms: number; readonly bareMs: number }[] = [];
    for (let round = 0; round < WARM_PROCESSES; round += 1) {
      const { callMs } = await run(name, { calls: compared, rounds: 1 + WARM_CALLS });
      const [ms = Number.NaN, bareMs = Number.NaN] = callMs.map((all) => median(all.slice(1)));
      warm.push({ ms, bareMs });
    }
    standIn.replay(callsOf(job, last));
    const { memoryMiB } = await run(name, { calls: [{ bundle, event: events[last] }], rounds: 1 + WARM_CALLS });
    return {
      ...loads,
      warmMs: Math.min(...warm.map(({ ms }) => ms)),
      /** What a call takes in addition to the same calls by the SDK alone, and its share of the call. */
      addedMs: Math.min(...warm.map(({ ms, bareMs }) => ms - bareMs)),
      addedShare: median(warm.map(({ ms, bareMs }) => (ms - bareMs) / ms)),
      memoryMiB,
    };
  };

  /** The bundles' sizes, and what one job with a text of each size needs. */
  const countsOf = (name: FunctionName, run: Run) => ({
    memoryMb: built[name].memoryMb,
    bundleBytes: built[name].bundleBytes,
    /** The same sources, built with SAM's defaults. */
    defaultBytes: built[name].defaultBytes,
    connections: run.connections,
    logBytes: Buffer.byteLength(run.log) / jobEvents.length,
    jobs: TEXT_BYTES.map((textBytes, index) => {
      const calls = callsOf(run, index + 1);
      const units = (isRead: boolean) =>
        calls.reduce((sum, call) => sum + (isRead === (call.operation === 'GetItem') ? call.units : 0), 0);
      return { textBytes, awsCalls: calls.length, writeUnits: units(false), readUnits: units(true) };
    }),
  });

  console.error('Loading and calling the functions (a minute)');
  const [firstMs = Number.NaN, warmMs = Number.NaN] = worker.callMs.flat();
  // Not compared with the SDK alone.
  const added = { addedMs: Number.NaN, addedShare: Number.NaN };
  const workerTimes = { ...(await timeLoads('worker', [])), firstMs, warmMs, ...added };
  const functions = {
    createJob: { ...countsOf('createJob', createJob), ...(await timeCalls('createJob', createJob, postEvents)) },
    getJob: { ...countsOf('getJob', getJob), ...(await timeCalls('getJob', getJob, getEvents)) },
    worker: { ...countsOf('worker', worker), ...workerTimes, memoryMiB: worker.memoryMiB },
  };
  standIn.stop();
  return { machine: `Node ${process.version}, ${cpus().length} x ${cpus()[0]?.model ?? 'CPU'}`, functions };
}

const median = (values: readonly number[]) => values.toSorted((a, b) => a - b)[values.length >> 1] ?? Number.NaN;

type Run = Measured & { readonly log: string; readonly calls: readonly SeenCall[]; readonly connections: number };

/** A text of the given size. */
const textOf = (bytes: number) => `${'This great text has some words. '.repeat(bytes / 32 + 1).slice(0, bytes - 1)}.`;
