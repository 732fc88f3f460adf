/**
 * Measures the application's own part of the functions: bundle size, load time, AWS calls, DynamoDB units, log,
 * CPU time and memory (`npm run bench`). Fresh processes load the functions, built as in the template, and call
 * them. Their AWS calls go over TLS to a stand-in on this machine. Exits with code 1 if a goal is missed.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type FunctionFindings, type FunctionName, functionNames, measure } from './measure.ts';

/** The memory at which a function has one full vCPU. Below that, its share of a CPU is proportional to its memory. */
const MEMORY_OF_ONE_CPU_MB = 1769;
const MEMORY_SIZES_MB = [128, 256, 512, 1024, MEMORY_OF_ONE_CPU_MB];
/** Lambda on arm64 in us-east-1, as in docs/costs-and-scale.md. */
const DOLLARS_PER_GB_SECOND = 0.0000133334;
/** How often a client that respects Retry-After reads a job of 5 s. */
const GETS_PER_JOB = 2;
/** Assumed time that a call waits for DynamoDB and Lambda, in milliseconds. The stand-in answers immediately. */
const WAITING_MS = { createJob: 20, getJob: 5, worker: 10 };
/** How long the sample stages wait. */
const SAMPLE_STAGES_MS = 5000;
const MOST_CALLS = { createJob: 2, getJob: 1, worker: 2 };
/** In percent of SAM's default build. Nobody waits for the worker, which keeps the SDK's event streams. */
const MOST_LOAD_SHARE = { createJob: 55, getJob: 55, worker: 65 };
/** One for each client of the SDK. */
const MOST_CONNECTIONS = { createJob: 2, getJob: 1, worker: 1 };

const directory = await mkdtemp(join(tmpdir(), 'bench-'));
const { machine, functions } = await measure(directory).finally(() => rm(directory, { recursive: true }));
console.log(`${machine}; times are milliseconds of CPU time, shares are parts of 1`);
console.table(Object.fromEntries(functionNames.map((name) => [name, numbersOf(functions[name])])));
for (const name of functionNames) {
  console.log(`${name}: what one job needs`);
  console.table(functions[name].jobs);
}
console.log("Estimated times of the application's code. Lambda adds the start of its own runtime to each cold one:");
console.table(MEMORY_SIZES_MB.map(estimatesAt));
for (const [goal, found, limit] of goals()) {
  if (!(found <= limit)) process.exitCode = 1;
  console.log(`${found <= limit ? 'PASS' : 'FAIL'}  ${goal}: ${rounded(found, 3)}, at most ${limit}`);
}

/** The CPU that a function of this memory size has while it runs. */
function cpusOf(memoryMb: number): number {
  return Math.min(1, memoryMb / MEMORY_OF_ONE_CPU_MB);
}

/**
 * The duration of a call at a memory size, estimated from measurements with a full CPU: CPU time divided by the
 * share of a CPU, plus waiting time, plus, if it is cold, the load time (Lambda loads functions with a full CPU).
 */
function estimateMs(name: FunctionName, memoryMb: number, isCold: boolean): number {
  const { loadMs, firstMs, warmMs } = functions[name];
  return WAITING_MS[name] + (isCold ? loadMs + firstMs / cpusOf(memoryMb) : warmMs / cpusOf(memoryMb));
}

/** The estimates of the application's own code at a memory size, without the stages. */
function estimatesAt(MB: number) {
  // Lambda bills whole milliseconds.
  const billedMs =
    Math.ceil(estimateMs('createJob', MB, false)) + GETS_PER_JOB * Math.ceil(estimateMs('getJob', MB, false));
  return {
    MB,
    'POST cold, ms': Math.round(estimateMs('createJob', MB, true)),
    'POST warm, ms': Math.round(estimateMs('createJob', MB, false)),
    'GET cold, ms': Math.round(estimateMs('getJob', MB, true)),
    'GET warm, ms': Math.round(estimateMs('getJob', MB, false)),
    'worker cold, ms': Math.round(estimateMs('worker', MB, true)),
    'worker warm, ms': Math.round(estimateMs('worker', MB, false)),
    'POST and GETs, $ per million jobs': rounded(billedMs * 1000 * (MB / 1024) * DOLLARS_PER_GB_SECOND, 2),
  };
}

/** The project's goals: counts and ratios, which do not depend on the machine's speed. */
function goals(): [goal: string, found: number, limit: number][] {
  const { createJob, getJob, worker } = functions;
  const units = (of: 'writeUnits' | 'readUnits', ...found: FunctionFindings[]) =>
    found.reduce((total, { jobs }) => total + (jobs[0]?.[of] ?? Number.NaN), 0);
  const coldCpuMs = createJob.firstMs / cpusOf(createJob.memoryMb);
  const coldShare = createJob.loadShare * (1 + coldCpuMs / createJob.loadMs);
  const workerShare = estimateMs('worker', worker.memoryMb, false) / SAMPLE_STAGES_MS;
  const ofEach = functionNames.flatMap((name): [string, number, number][] => {
    const found = functions[name];
    return [
      [`${name}: size, % of SAM's default build`, (100 * found.bundleBytes) / found.defaultBytes, 70],
      [`${name}: load time, % of SAM's default build`, 100 * found.loadShare, MOST_LOAD_SHARE[name]],
      [`${name}: memory used, % of its memory size`, (100 * found.memoryMiB) / found.memoryMb, 75],
      [`${name}: AWS calls`, Math.max(...found.jobs.map(({ awsCalls }) => awsCalls)), MOST_CALLS[name]],
      [`${name}: connections`, found.connections, MOST_CONNECTIONS[name]],
    ];
  });
  return [
    ...ofEach,
    ['job with a text of 100 B: write units', units('writeUnits', createJob, worker), 3],
    ['GET of a text of 100 B: read units', units('readUnits', getJob), 1],
    ['job with one GET: bytes logged', createJob.logBytes + getJob.logBytes + worker.logBytes, 4000],
    ["POST, warm: the application's share, %", 100 * createJob.addedShare, 30],
    ["GET, warm: the application's share, %", 100 * getJob.addedShare, 30],
    ["POST, cold: load and first call, % of the load time of SAM's default build", 100 * coldShare, 120],
    ['worker, warm: estimated time added, % of the sample stages', 100 * workerShare, 5],
  ];
}

function numbersOf(found: FunctionFindings): Record<string, number> {
  const numbers = Object.entries(found).flatMap(([name, value]) =>
    typeof value === 'number' ? [{ name, value }] : [],
  );
  return Object.fromEntries(numbers.map(({ name, value }) => [name, rounded(value, 3)]));
}

function rounded(value: number, digits: number): number {
  return Number(value.toFixed(digits));
}
