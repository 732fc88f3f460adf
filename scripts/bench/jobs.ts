import { setTimeout as sleep } from 'node:timers/promises';
import type { BareCall } from './bareCalls.ts';
import type { Database } from './database.ts';
import { getEvent, postEvent, textOf } from './events.ts';
import { type BuiltFunction, type FunctionName, type PerFunction, perFunction } from './functions.ts';
import type { Processes, ProcessFindings } from './processes.ts';
import { median, sum } from './statistics.ts';
import { type Certificate, type SeenCall, startStub } from './stub.ts';

/** The last one is the largest that the API accepts. */
const TEXT_BYTES = [100, 10_000, 100_000, 128 * 1024] as const;
/** The number of jobs in each process. The first is a cold start, the others are warm. */
const JOBS = 5;

/** What was measured for jobs with a text of one size. */
export interface JobFindings {
  readonly textBytes: number;
  /** Per job, or per GET for getJob. */
  readonly awsCalls: PerFunction<number>;
  readonly writeUnits: PerFunction<number>;
  readonly readUnits: PerFunction<number>;
  readonly logBytes: PerFunction<number>;
  /** The most connections that one process opened to one endpoint. */
  readonly connections: PerFunction<number>;
  readonly peakMiB: PerFunction<number>;
  /** What is billed for the worker in addition to its stages, in wall-clock and CPU time. Cold includes loading. */
  readonly worker: {
    readonly coldMs: number;
    readonly warmMs: number;
    readonly warmCpuMs: number;
  };
}

/** A job's requests and DynamoDB's responses, for replay. */
export interface Sample {
  readonly events: Pick<PerFunction<unknown>, 'createJob' | 'getJob'>;
  readonly calls: Pick<PerFunction<readonly BareCall[]>, 'createJob' | 'getJob'>;
  /** DynamoDB's last response to each operation. */
  readonly responses: ReadonlyMap<string, string>;
}

interface Setting {
  readonly functions: PerFunction<BuiltFunction>;
  readonly processes: Processes;
  readonly database: Database;
  readonly certificate: Certificate;
}

/**
 * Runs jobs with texts of every size from POST to DONE. The sizes run in parallel, because a worker mostly
 * waits. They start at different times, so that their work does not coincide.
 */
export async function followJobs(
  setting: Setting,
): Promise<readonly { readonly findings: JobFindings; readonly sample: Sample }[]> {
  return Promise.all(
    TEXT_BYTES.map(async (textBytes, index) => {
      await sleep(index * 1250);
      return followJobsOf(textBytes, setting);
    }),
  );
}

async function followJobsOf(textBytes: number, { functions, processes, database, certificate }: Setting) {
  const responses = new Map<string, string>();
  let units: { readonly isRead: boolean; readonly units: number }[] = [];
  const stub = await startStub(certificate, async (call) => {
    const { body, units: consumed } = await database.perform(call);
    responses.set(call.operation, body);
    units.push({ isRead: call.operation === 'GetItem', units: consumed });
    return body;
  });

  const run = async (name: FunctionName, events: readonly unknown[]) => {
    const { bundle } = functions[name];
    const calls = events.map((event) => ({ bundle, event }));
    const process = await processes.run(functions[name], stub.environment, { load: [bundle], calls });
    const seen = { ...stub.takeSeen(), units };
    units = [];
    return { name, process, seen };
  };

  const createJob = await run('createJob', Array(JOBS).fill(postEvent(textOf(textBytes))));
  const jobIds = createJob.seen.calls
    .filter(({ operation }) => operation === 'Invoke')
    .map(({ body }): { readonly jobId: string } => JSON.parse(body));
  const worker = await run('worker', jobIds);
  const getEvents = jobIds.map(({ jobId }) => getEvent(jobId));
  const getJob = await run('getJob', getEvents);
  stub.stop();

  const runs = { createJob, worker, getJob };
  const each = (value: (run: typeof createJob) => number) => perFunction((name) => value(runs[name]));
  const findings: JobFindings = {
    textBytes,
    awsCalls: each(({ seen }) => seen.calls.length / JOBS),
    writeUnits: each(({ seen }) => sum(seen.units.filter(({ isRead }) => !isRead).map(({ units }) => units)) / JOBS),
    readUnits: each(({ seen }) => sum(seen.units.filter(({ isRead }) => isRead).map(({ units }) => units)) / JOBS),
    logBytes: each(({ process }) => Buffer.byteLength(process.log) / JOBS),
    connections: each(({ seen }) => Math.max(...seen.connections)),
    peakMiB: each(({ process }) => process.peakMiB),
    worker: overheadOf(worker.process),
  };
  const sample: Sample = {
    events: { createJob: postEvent(textOf(textBytes)), getJob: getEvents[0] },
    calls: {
      createJob: createJob.seen.calls.slice(0, createJob.seen.calls.length / JOBS).map(bareCallOf),
      getJob: getJob.seen.calls.slice(0, 1).map(bareCallOf),
    },
    responses,
  };
  return { findings, sample };
}

/** What is billed for a worker's process in addition to its stages, whose durations are in its log. */
function overheadOf({ loadMs, callMs, cpuMs, log }: ProcessFindings): JobFindings['worker'] {
  const stages = new Map<unknown, number>();
  for (const line of log.trimEnd().split('\n')) {
    const { jobId, stage, durationMs }: { jobId?: string; stage?: string; durationMs?: number } = JSON.parse(line);
    if (stage !== undefined && durationMs !== undefined) stages.set(jobId, (stages.get(jobId) ?? 0) + durationMs);
  }
  const stageMs = [...stages.values()];
  if (stageMs.length !== JOBS) throw new Error(`${JOBS} jobs ran, but ${stageMs.length} of them logged stages`);
  const [firstMs = Number.NaN, ...warmMs] = callMs.map((rounds, index) => sum(rounds) - (stageMs[index] ?? 0));
  return { coldMs: loadMs + firstMs, warmMs: median(warmMs), warmCpuMs: median(cpuMs.slice(1).map(sum)) };
}

/** A call as input for the SDK. For DynamoDB, the JSON of the request is the input. */
function bareCallOf({ operation, path, body }: SeenCall): BareCall {
  const input = JSON.parse(body);
  switch (operation) {
    case 'GetItem':
    case 'PutItem':
    case 'UpdateItem':
      return { operation, input };
    case 'Invoke':
      return { operation, input: { FunctionName: path.split('/').at(-2), InvocationType: 'Event', Payload: body } };
    default:
      throw new Error(`No bare call for ${operation}`);
  }
}
