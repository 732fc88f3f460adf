import { type Findings, type FunctionFindings, type FunctionName, functionNames } from './measure.ts';

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

/** The CPU that a function of this memory size has while it runs. */
const cpusOf = (memoryMb: number) => Math.min(1, memoryMb / MEMORY_OF_ONE_CPU_MB);

/**
 * The duration of a call at a memory size, estimated from measurements with a full CPU: CPU time divided by the
 * share of a CPU, plus waiting time, plus, if it is cold, the load time (Lambda loads functions with a full CPU).
 */
function estimateMs({ functions }: Findings, name: FunctionName, memoryMb: number, isCold: boolean): number {
  const { loadMs, firstMs, warmMs } = functions[name];
  return WAITING_MS[name] + (isCold ? loadMs + firstMs / cpusOf(memoryMb) : warmMs / cpusOf(memoryMb));
}

/** The estimates of the application's own code at several memory sizes, without the stages. */
export function memoryTable(findings: Findings): readonly Readonly<Record<string, number>>[] {
  return MEMORY_SIZES_MB.map((MB) => {
    const ms = (name: FunctionName, isCold: boolean) => estimateMs(findings, name, MB, isCold);
    // Lambda bills whole milliseconds.
    const billedMs = Math.ceil(ms('createJob', false)) + GETS_PER_JOB * Math.ceil(ms('getJob', false));
    return {
      MB,
      'POST cold, ms': Math.round(ms('createJob', true)),
      'POST warm, ms': Math.round(ms('createJob', false)),
      'GET cold, ms': Math.round(ms('getJob', true)),
      'GET warm, ms': Math.round(ms('getJob', false)),
      'worker cold, ms': Math.round(ms('worker', true)),
      'worker warm, ms': Math.round(ms('worker', false)),
      'POST and GETs, $ per million jobs': rounded(billedMs * 1000 * (MB / 1024) * DOLLARS_PER_GB_SECOND, 2),
    };
  });
}

/** Compares the findings with the project's goals: counts and ratios, which do not depend on the machine's speed. */
export function judge(findings: Findings) {
  const { createJob, getJob, worker } = findings.functions;
  const largest = ({ jobs }: FunctionFindings) => Math.max(...jobs.map(({ awsCalls }) => awsCalls));
  const units = (of: 'writeUnits' | 'readUnits', ...found: FunctionFindings[]) =>
    found.reduce((total, { jobs }) => total + (jobs[0]?.[of] ?? Number.NaN), 0);
  const coldCpuMs = createJob.firstMs / cpusOf(createJob.memoryMb);
  const coldShare = createJob.loadShare * (1 + coldCpuMs / createJob.loadMs);
  const workerShare = estimateMs(findings, 'worker', worker.memoryMb, false) / SAMPLE_STAGES_MS;
  const goals: [goal: string, found: number, limit: number][] = functionNames.flatMap((name) => {
    const found = findings.functions[name];
    return [
      [`${name}: size, % of SAM's default build`, (100 * found.bundleBytes) / found.defaultBytes, 70],
      [`${name}: load time, % of SAM's default build`, 100 * found.loadShare, MOST_LOAD_SHARE[name]],
      [`${name}: memory used, % of its memory size`, (100 * found.memoryMiB) / found.memoryMb, 75],
      [`${name}: AWS calls`, largest(found), MOST_CALLS[name]],
      [`${name}: connections`, found.connections, MOST_CONNECTIONS[name]],
    ];
  });
  goals.push(
    ['job with a text of 100 B: write units', units('writeUnits', createJob, worker), 3],
    ['GET of a text of 100 B: read units', units('readUnits', getJob), 1],
    ['job with one GET: bytes logged', createJob.logBytes + getJob.logBytes + worker.logBytes, 4000],
    ["POST, warm: the application's share, %", 100 * createJob.addedShare, 30],
    ["GET, warm: the application's share, %", 100 * getJob.addedShare, 30],
    ["POST, cold: load and first call, % of the load time of SAM's default build", 100 * coldShare, 120],
    ['worker, warm: estimated time added, % of the sample stages', 100 * workerShare, 5],
  );
  return goals.map(([goal, found, limit]) => ({ goal, found: rounded(found, 3), limit, isMet: found <= limit }));
}

/** Prints the findings as tables. */
export function print(
  { machine, functions }: Findings,
  memory: ReturnType<typeof memoryTable>,
  goals: ReturnType<typeof judge>,
) {
  const row = (value: (found: FunctionFindings) => number | string) =>
    Object.fromEntries(functionNames.map((name) => [name, value(functions[name])]));
  console.log(machine);
  console.table({
    'bundle, kB': row(({ bundleBytes }) => rounded(bundleBytes / 1000, 1)),
    "  SAM's default build": row(({ defaultBytes }) => rounded(defaultBytes / 1000, 1)),
    'load, CPU ms': row(({ loadMs }) => rounded(loadMs, 1)),
    "  % of SAM's default build": row(({ loadShare }) => rounded(100 * loadShare, 1)),
    'first call, CPU ms': row(({ firstMs }) => rounded(firstMs, 1)),
    'warm call, CPU ms': row(({ warmMs }) => rounded(warmMs, 1)),
    '  ms added to the SDK': row(({ addedMs }) => rounded(addedMs, 3)),
    "  the application's share, %": row(({ addedShare }) => rounded(100 * addedShare, 1)),
    'log of a call, B': row(({ logBytes }) => rounded(logBytes, 0)),
    'memory used, MiB': row(({ memoryMiB }) => rounded(memoryMiB, 0)),
    ...Object.fromEntries(
      functions.createJob.jobs.map(({ textBytes }, index) => [
        `${textBytes} B: calls, write, read units`,
        row(({ jobs }) => `${jobs[index]?.awsCalls}, ${jobs[index]?.writeUnits}, ${jobs[index]?.readUnits}`),
      ]),
    ),
  });
  console.log("Estimated times of the application's code. Lambda adds the start of its own runtime to each cold one:");
  console.table(memory);
  for (const { goal, found, limit, isMet } of goals) {
    console.log(`${isMet ? 'PASS' : 'FAIL'}  ${goal}: ${found}, at most ${limit}`);
  }
}

const rounded = (value: number, digits: number) => Number(value.toFixed(digits));
