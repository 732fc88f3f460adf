/**
 * The life cycle of a job, as pure functions of a job and a time.
 *
 *   PENDING --claim--> IN_PROGRESS --end--> DONE | ERROR
 *      |                 |      ^
 *      |                 +------+ claim again, once the lease is over
 *      +--- lapse ---> ERROR <--+ lapse: attempts used up, or the deadline passed
 *
 * Every move is one conditional write of the job repository, and each of those conditions says in
 * DynamoDB's terms what a function here says in TypeScript; tests/jobRepository.test.ts holds the
 * two together. DONE and ERROR have no way out: an end is final.
 *
 * All times are Unix seconds.
 */

/** What a stage answers, and what the API shows of it: plain JSON. */
export type Json = string | number | boolean | null | readonly Json[] | { readonly [key: string]: Json };

/** The plain object that one stage answers. */
export type StageResult = { readonly stage: string; readonly [key: string]: Json };

/** The stages' answers, by stage name. */
export type JobResult = { readonly [stageName: string]: StageResult };

/** How a job ends. */
export type End =
  | { readonly status: 'DONE'; readonly result: JobResult }
  | { readonly status: 'ERROR'; readonly errorMessage: string };

interface JobRecord {
  readonly jobId: string;
  /** Well-formed Unicode, trimmed, at most {@link MAX_TEXT_BYTES} of UTF-8. */
  readonly text: string;
  readonly createdAt: number;
  readonly updatedAt: number;
  /** When the job is forgotten. DynamoDB's TTL deletes late, so that readers compare it themselves. */
  readonly expiresAt: number;
  /** From here on no attempt may begin. */
  readonly deadline: number;
  /** How many attempts have begun. */
  readonly attempt: number;
  readonly maxAttempts: number;
}

/** A job as the table holds it. */
export type Job = JobRecord &
  (
    | { readonly status: 'PENDING' }
    | { readonly status: 'IN_PROGRESS'; readonly leaseExpiresAt: number; readonly leaseToken?: string }
    | (End & { readonly leaseToken?: string })
  );

/** The right of one invocation of the worker to run a job, and to end it. */
export interface Lease {
  readonly token: string;
  readonly expiresAt: number;
}

/**
 * The longest text, in bytes of UTF-8, so that a whole job always fits DynamoDB's item of 400 KiB.
 * The result repeats parts of the text: at most 80 code points as preview, and distinct words of
 * it as keywords, lower-cased, which can lengthen UTF-8 by half at most (U+023A: 2 bytes to 3).
 * So text + keywords <= 128 + 192 = 320 KiB, and all else is below 2 KiB. Stages of your own may
 * answer more: a result that does not fit ends its job as ERROR.
 */
export const MAX_TEXT_BYTES = 128 * 1024;

/** A job is kept this long, and with it the memory of its idempotency key. */
const RETENTION_SECONDS = 7 * 24 * 60 * 60;

/** One try and Lambda's two retries: `MaximumRetryAttempts: 2` in template.yaml. */
export const MAX_ATTEMPTS = 3;

/**
 * Lambda kills an invocation at its time limit, by the clock of the machine that it runs on. A
 * lease ends this much later, so that an invocation elsewhere, whose clock may be ahead, never
 * starts a stage while the killed one could still be in it. AWS keeps its clocks within
 * milliseconds. No other rule leans on clocks: who ends a job is decided by whichever conditional
 * write comes first, so that skew can move the moment of an end, but not an end.
 */
export const CLOCK_SKEW_SECONDS = 5;

/** Whole seconds of a clock in milliseconds, rounded down. */
export const unixSeconds = (milliseconds: number): number => Math.floor(milliseconds / 1000);

/**
 * A new job.
 *
 * @param lifetimes from template.yaml, in seconds. Lambda delivers an event for the last time
 *   within `maxEventAge`, and that invocation may take `workerTimeout`. The deadline stands in the
 *   record, so that a later deployment with other numbers changes no job that is there.
 */
export function newJob(
  jobId: string,
  text: string,
  now: number,
  lifetimes: { readonly maxEventAge: number; readonly workerTimeout: number },
): Job {
  return {
    jobId,
    status: 'PENDING',
    text,
    createdAt: now,
    updatedAt: now,
    expiresAt: now + RETENTION_SECONDS,
    deadline: now + lifetimes.maxEventAge + lifetimes.workerTimeout,
    attempt: 0,
    maxAttempts: MAX_ATTEMPTS,
  };
}

/** The lease of an invocation of the worker that Lambda kills at `hardDeadline` (Unix milliseconds). */
export function newLease(token: string, hardDeadline: number): Lease {
  return { token, expiresAt: Math.ceil(hardDeadline / 1000) + CLOCK_SKEW_SECONDS };
}

/** Whether the job has reached DONE or ERROR. */
export function isEnded(job: Job): boolean {
  return job.status === 'DONE' || job.status === 'ERROR';
}

/** Whether the job is to be treated as deleted. */
export function isExpired(job: Job, now: number): boolean {
  return job.expiresAt <= now;
}

/**
 * Where a job stands, whatever its status says:
 * - `claimable`: an attempt may begin. The repository's claim has this for its condition.
 * - `held`: the lease of an attempt is live.
 * - `lapsed`: it can never be claimed again, and nobody is left to end it. Readers do.
 * - `ended`: for good.
 */
export function phaseOf(job: Job, now: number): 'claimable' | 'held' | 'lapsed' | 'ended' {
  if (isEnded(job)) return 'ended';
  if (job.status === 'IN_PROGRESS' && job.leaseExpiresAt > now) return 'held';
  return job.attempt < job.maxAttempts && job.deadline > now ? 'claimable' : 'lapsed';
}

/** The end of a lapsed job, and its moment: they follow from the record alone, whoever looks and whenever. */
export function lapseOf(job: Job): { readonly endedAt: number; readonly errorMessage: string } {
  const leaseOver = job.status === 'IN_PROGRESS' ? job.leaseExpiresAt : job.createdAt;
  return job.attempt < job.maxAttempts
    ? {
        endedAt: Math.max(leaseOver, job.deadline),
        errorMessage: 'Processing failed: the job did not finish before its deadline',
      }
    : { endedAt: leaseOver, errorMessage: `Processing failed: all ${job.maxAttempts} attempts ended without a result` };
}
