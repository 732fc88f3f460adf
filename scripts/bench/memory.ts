import type { TimingFindings } from './timing.ts';

/** The memory at which a function has one full vCPU. Below that, its share of a CPU is proportional to its memory. */
const MEMORY_OF_ONE_CPU_MB = 1769;
const MEMORY_SIZES_MB = [128, 256, 512, 1024, MEMORY_OF_ONE_CPU_MB];
/** Lambda on arm64 in us-east-1, as in docs/costs-and-scale.md. */
const DOLLARS_PER_GB_SECOND = 0.0000133334;
/** How often a client that obeys Retry-After reads a job of 5 s. */
const GETS_PER_JOB = 6;
/** Assumed time that a call waits for DynamoDB and Lambda, in milliseconds. The stubs respond immediately. */
const WAITING_MS = { createJob: 20, getJob: 5 };

/** What createJob and getJob would take at one memory size. Times in milliseconds. */
export interface MemoryEstimate {
  readonly memoryMb: number;
  readonly postColdMs: number;
  readonly postWarmMs: number;
  readonly getColdMs: number;
  readonly getWarmMs: number;
  /** Lambda's price for the duration of one POST and six GETs, all warm, times a million. */
  readonly dollarsPerMillionJobs: number;
}

/**
 * Estimates the durations at each memory size from measurements with a full CPU: load time (Lambda loads
 * functions with a full CPU), plus CPU time divided by the share of a CPU, plus waiting time.
 */
export function estimateMemory({ load, calls }: TimingFindings): readonly MemoryEstimate[] {
  return MEMORY_SIZES_MB.map((memoryMb) => {
    const share = Math.min(1, memoryMb / MEMORY_OF_ONE_CPU_MB);
    const warm = (name: 'createJob' | 'getJob') => calls[name].warmCpuMs / share + WAITING_MS[name];
    const cold = (name: 'createJob' | 'getJob') =>
      load[name].template.median + calls[name].firstCpuMs / share + WAITING_MS[name];
    const billedMs = Math.ceil(warm('createJob')) + GETS_PER_JOB * Math.ceil(warm('getJob'));
    return {
      memoryMb,
      postColdMs: cold('createJob'),
      postWarmMs: warm('createJob'),
      getColdMs: cold('getJob'),
      getWarmMs: warm('getJob'),
      dollarsPerMillionJobs: billedMs * 1000 * (memoryMb / 1024) * DOLLARS_PER_GB_SECOND,
    };
  });
}

/** The estimates as a text table. */
export function memoryTable(estimates: readonly MemoryEstimate[]): string {
  const ms = (value: number) => value.toFixed(value < 10 ? 1 : 0).padStart(10);
  return [
    'estimated ms by memory    POST cold POST warm  GET cold  GET warm  $ per million jobs',
    ...estimates.map(
      ({ memoryMb, postColdMs, postWarmMs, getColdMs, getWarmMs, dollarsPerMillionJobs }) =>
        `${String(memoryMb).padStart(19)} MB  ${ms(postColdMs)}${ms(postWarmMs)}${ms(getColdMs)}${ms(getWarmMs)}${dollarsPerMillionJobs.toFixed(2).padStart(20)}`,
    ),
  ].join('\n');
}
