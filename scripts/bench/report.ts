import { type FunctionName, type PerFunction, perFunction } from './functions.ts';
import type { JobFindings } from './jobs.ts';
import { type MemoryEstimate, memoryTable } from './memory.ts';
import { median } from './statistics.ts';
import type { TimingFindings } from './timing.ts';

/** All results of the benchmark. */
export interface Findings {
  readonly machine: { readonly node: string; readonly cpu: string; readonly cores: number };
  readonly memoryMiB: PerFunction<number>;
  readonly bundleBytes: PerFunction<number>;
  /** The same sources built with SAM's defaults. */
  readonly defaultBytes: PerFunction<number>;
  readonly timings: TimingFindings;
  /** Estimated durations of createJob and getJob at other memory sizes. */
  readonly memory: readonly MemoryEstimate[];
  /** By text size, smallest first. */
  readonly jobs: readonly JobFindings[];
}

export interface Goal {
  readonly goal: string;
  readonly found: string;
  readonly isMet: boolean;
}

/** Compares the findings with the project's goals. */
export function judge({ bundleBytes, defaultBytes, timings, memory, memoryMiB, jobs }: Findings): readonly Goal[] {
  const share = (name: FunctionName) => timings.load[name].template.median / timings.load[name].default.median;
  const all = (value: (job: JobFindings) => number) => Math.max(...jobs.map(value));
  const { createJob, getJob } = timings.calls;
  const connections = [
    createJob.connections,
    getJob.connections,
    ...jobs.flatMap((job) => Object.values(job.connections)),
  ];
  const writeUnits = Object.values(jobs[0]?.writeUnits ?? {}).reduce((total, units) => total + units, 0);

  const atMost = (goal: string, value: number, limit: number, show: (value: number) => string): Goal => ({
    goal,
    found: show(value),
    isMet: value <= limit,
  });
  const perFunctionGoals = Object.values(
    perFunction((name) => [
      atMost(`load time of ${name}: at most 50 % of SAM's default`, share(name), 0.5, percent),
      atMost(`size of ${name}: at most 70 % of SAM's default`, bundleBytes[name] / defaultBytes[name], 0.7, percent),
    ]),
  ).flat();
  return [
    ...perFunctionGoals,
    atMost(
      'POST: two AWS calls',
      all(({ awsCalls }) => awsCalls.createJob),
      2,
      String,
    ),
    atMost(
      'GET: one AWS call',
      all(({ awsCalls }) => awsCalls.getJob),
      1,
      String,
    ),
    atMost(
      'worker: two AWS calls',
      all(({ awsCalls }) => awsCalls.worker),
      2,
      String,
    ),
    atMost('no more than one connection to each endpoint', Math.max(...connections), 1, String),
    atMost(`three write units for a text of ${jobs[0]?.textBytes} bytes`, writeUnits, 3, String),
    atMost(
      "POST, cold, at the template's memory size: at most 100 ms by the estimate",
      memory.find(({ memoryMb }) => memoryMb === memoryMiB.createJob)?.postColdMs ?? Number.POSITIVE_INFINITY,
      100,
      milliseconds,
    ),
    atMost('POST: our code adds at most 1 ms (p50)', createJob.addedMs, 1, milliseconds),
    atMost('GET: our code adds at most 1 ms (p50)', getJob.addedMs, 1, milliseconds),
    atMost(
      'worker, cold: at most 100 ms billed in addition to the stages (median)',
      median(jobs.map(({ worker }) => worker.coldMs)),
      100,
      milliseconds,
    ),
  ];
}

/** The findings as a text table. */
export function table(findings: Findings, goals: readonly Goal[]): string {
  const { machine, memoryMiB, bundleBytes, defaultBytes, timings, memory, jobs } = findings;
  const { load, calls } = timings;
  const perName = (measure: string, value: (name: FunctionName) => string): Row => {
    const { createJob, getJob, worker } = perFunction(value);
    return [measure, createJob, getJob, worker];
  };
  const ofCalls = (measure: string, value: (found: (typeof calls)['createJob']) => string, worker: string): Row => [
    measure,
    value(calls.createJob),
    value(calls.getJob),
    worker,
  ];
  const ofJobs = (measure: string, value: (job: JobFindings, name: FunctionName) => string): readonly Row[] =>
    jobs.map((job) => perName(`${measure}, text of ${bytes(job.textBytes)}`, (name) => value(job, name)));
  const workerRows = (measure: string, value: (job: JobFindings) => string): readonly Row[] =>
    jobs.map((job) => [`${measure}, text of ${bytes(job.textBytes)}`, '', '', value(job)]);
  const spread = ({ median, p95 }: { readonly median: number; readonly p95: number }) =>
    `${median.toFixed(1)} / ${p95.toFixed(1)} ms`;

  const rows: readonly Row[] = [
    [`Node ${machine.node}, ${machine.cores} x ${machine.cpu}`, 'createJob', 'getJob', 'worker'],
    perName('memory size in the template', (name) => `${memoryMiB[name]} MB`),
    perName('bundle size', (name) => bytes(bundleBytes[name])),
    perName(
      "  of SAM's default",
      (name) => `${percent(bundleBytes[name] / defaultBytes[name])} of ${bytes(defaultBytes[name])}`,
    ),
    perName('load, median / p95', (name) => spread(load[name].template)),
    perName("  SAM's default", (name) => spread(load[name].default)),
    perName("  floor: Node's own modules only", (name) => spread(load[name].floor)),
    perName("  of SAM's default", (name) => percent(load[name].template.median / load[name].default.median)),
    ofCalls('first call over TLS, median / p95', ({ firstMs }) => spread(firstMs), ''),
    ofCalls('  its CPU time', ({ firstCpuMs }) => milliseconds(firstCpuMs), ''),
    ofCalls('warm call over TLS, p50', ({ warmP50Ms }) => milliseconds(warmP50Ms), ''),
    ofCalls('warm call over TLS, p99', ({ warmP99Ms }) => milliseconds(warmP99Ms), ''),
    ofCalls('  its CPU time', ({ warmCpuMs }) => milliseconds(warmCpuMs), ''),
    ofCalls('  added to the SDK by our code, p50', ({ addedMs }) => milliseconds(addedMs), ''),
    ...workerRows(
      'billed in addition to the stages, first / warm',
      ({ worker }) => `${worker.coldMs.toFixed(1)} / ${milliseconds(worker.warmMs)}`,
    ),
    ...workerRows('  CPU time of a warm job', ({ worker }) => milliseconds(worker.warmCpuMs)),
    ...ofJobs('AWS calls', ({ awsCalls }, name) => String(awsCalls[name])),
    ...ofJobs('write units', ({ writeUnits }, name) => String(writeUnits[name])),
    ...ofJobs('read units', ({ readUnits }, name) => String(readUnits[name])),
    ...ofJobs('log', ({ logBytes }, name) => bytes(logBytes[name])),
    ofCalls(
      'peak memory after 500 calls (worker: 5 jobs)',
      ({ peakMiB }) => mebibytes(peakMiB),
      mebibytes(jobs[0]?.peakMiB.worker ?? Number.NaN),
    ),
    ofCalls(
      `  text of ${bytes(jobs.at(-1)?.textBytes ?? Number.NaN)}`,
      ({ peakLargestMiB }) => mebibytes(peakLargestMiB),
      mebibytes(jobs.at(-1)?.peakMiB.worker ?? Number.NaN),
    ),
  ];
  const widths = [0, 1, 2, 3].map((column) => Math.max(...rows.map((row) => (row[column] ?? '').length)));
  const lines = rows.map((row) =>
    row
      .map((cell, column) => pad(cell, widths[column] ?? 0, column > 0))
      .join('  ')
      .trimEnd(),
  );
  const verdicts = goals.map(({ goal, found, isMet }) => `${isMet ? 'PASS' : 'FAIL'}  ${goal}: ${found}`);
  return [...lines, '', memoryTable(memory), '', ...verdicts].join('\n');
}

type Row = readonly [measure: string, createJob: string, getJob: string, worker: string];

const percent = (share: number) => `${(share * 100).toFixed(0)} %`;
const milliseconds = (value: number) => `${value.toFixed(value < 1 ? 3 : 1)} ms`;
const mebibytes = (value: number) => `${value.toFixed(0)} MiB`;
const bytes = (value: number) => (value < 1000 ? `${value.toFixed(0)} B` : `${(value / 1000).toFixed(1)} kB`);
const pad = (cell: string, width: number, isNumber: boolean) => (isNumber ? cell.padStart(width) : cell.padEnd(width));
