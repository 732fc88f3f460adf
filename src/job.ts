/**
 * The life cycle of a job. Its rules are pure functions of a job and a time.
 *
 *   PENDING --claim--> IN_PROGRESS --final write--> DONE | ERROR
 *      |                 |      ^
 *      |                 +------+ claim again, once the lease has expired
 *      +--- lapse ---> ERROR <--+ lapse: attempts used up, or deadline passed
 *
 * Each transition is one conditional write of the job repository. If a write depends on a rule, the
 * same rule follows as a DynamoDB condition in capitals; the repository's tests check that they agree.
 * DONE and ERROR are final. All times are Unix seconds.
 */

/** How a job ends. `result` is the JSON text of an object: the stages' results by stage name. */
export type Outcome =
  | { readonly status: 'DONE'; readonly result: string }
  | { readonly status: 'ERROR'; readonly errorMessage: string };

interface CommonFields {
  readonly jobId: string;
  /** The caller that created the job. Only this caller may read it. Absent if the API has no sign-in. */
  readonly owner?: string;
  /** Well-formed Unicode, trimmed, at most {@link MAX_TEXT_BYTES}. */
  readonly text: string;
  readonly createdAt: number;
  readonly updatedAt: number;
  /** The job counts as deleted from this time on. */
  readonly expiresAt: number;
  /** No attempt may start from this time on. */
  readonly deadline: number;
  /** How many attempts have started. */
  readonly attempt: number;
}

type Pending = { readonly status: 'PENDING' };
type InProgress = { readonly status: 'IN_PROGRESS'; readonly leaseToken: string; readonly leaseExpiresAt: number };

/** A job as stored in the table. */
export type Job = CommonFields & (Pending | InProgress | Outcome);

/** The right of one invocation of the worker to run a job and to end it. */
export interface Lease {
  readonly token: string;
  readonly expiresAt: number;
}

/**
 * The maximum size of a text in bytes as JSON. Text and results of the sample stages then fit in a DynamoDB
 * item: "the result for the longest text fits in an item with the text" in tests/unit/stages/samples.test.ts.
 */
export const MAX_TEXT_BYTES = 128 * 1024;

/** The size of a text in bytes as JSON, without the quotes. */
export const sizeAsJson = (text: string): number => Buffer.byteLength(JSON.stringify(text)) - 2;

/** Whether a job with this result fits in a DynamoDB item. All other attributes take less than 1 KiB. */
export const fitsItem = ({ text, owner = '' }: Pick<Job, 'text' | 'owner'>, result: string): boolean =>
  Buffer.byteLength(text) + Buffer.byteLength(owner) + Buffer.byteLength(result) <= 399 * 1024;

/** How long a job and its idempotency key are kept. */
const RETENTION_SECONDS = 7 * 24 * 60 * 60;

/** The first try and Lambda's two retries: `MaximumRetryAttempts: 2` in template.yaml. */
export const MAX_ATTEMPTS = 3;

/**
 * Lambda kills an invocation at its timeout, by the clock of its machine. A lease lasts this much
 * longer, so a worker whose clock is ahead cannot start a stage while the first worker may still be
 * running one. AWS keeps clocks within milliseconds. Nothing else relies on clocks: a wrong clock can
 * change when a job ends, but never an outcome that is stored.
 */
export const CLOCK_SKEW_SECONDS = 5;

/** Milliseconds as whole seconds, rounded down. */
export const unixSeconds = (milliseconds: number): number => Math.floor(milliseconds / 1000);

/** createJob sends the event within this time after `createdAt`: its `Timeout` in template.yaml. */
export const SUBMIT_SECONDS = 28;

/**
 * A new job.
 *
 * @param lifetimes in seconds, from template.yaml. Lambda delivers an event for the last time within
 *   `maxEventAge` after createJob has sent it, and that invocation can take up to `workerTimeout`.
 */
export function newJob(
  jobId: string,
  text: string,
  now: number,
  lifetimes: { readonly maxEventAge: number; readonly workerTimeout: number },
  owner?: string,
): Job {
  return {
    jobId,
    ...(owner === undefined ? {} : { owner }),
    status: 'PENDING',
    text,
    createdAt: now,
    updatedAt: now,
    expiresAt: now + RETENTION_SECONDS,
    deadline: now + SUBMIT_SECONDS + lifetimes.maxEventAge + lifetimes.workerTimeout,
    attempt: 0,
  };
}

/** The lease of a worker invocation that Lambda kills at `killedAt` (Unix milliseconds). */
export function newLease(token: string, killedAt: number): Lease {
  return { token, expiresAt: Math.ceil(killedAt / 1000) + CLOCK_SKEW_SECONDS };
}

/** Whether the job counts as deleted. DynamoDB deletes expired items late, so readers check. */
export const isExpired = (job: Job, now: number): boolean => job.expiresAt <= now;
export const IS_EXPIRED = 'expiresAt <= :now';

const isPending = (job: Job): boolean => job.status === 'PENDING';
export const IS_PENDING = '#status = :pending';

const isLeaseOver = (job: Job, now: number): boolean => job.status === 'IN_PROGRESS' && job.leaseExpiresAt <= now;
export const IS_LEASE_OVER = '(#status = :inProgress AND leaseExpiresAt <= :now)';

/** Whether another attempt may start after those that have started. */
export const hasAttemptsLeft = (job: Job): boolean => job.attempt < MAX_ATTEMPTS;
export const HAS_ATTEMPTS_LEFT = 'attempt < :maxAttempts';

const isBeforeDeadline = (job: Job, now: number): boolean => job.deadline > now;
export const IS_BEFORE_DEADLINE = 'deadline > :now';

/** Whether the job has reached DONE or ERROR. */
export const isEnded = (job: Job): boolean => job.status === 'DONE' || job.status === 'ERROR';

/**
 * How long a client should wait before the next GET, in seconds: a quarter of the job's age, from 1 to 30.
 * Undefined once the job has ended.
 */
export const retryAfter = (job: Job, now: number): number | undefined =>
  isEnded(job) ? undefined : Math.min(Math.max(1, Math.floor((now - job.createdAt) / 4)), 30);

/**
 * What can happen to a job next:
 * - `claimable`: an attempt may start.
 * - `held`: an attempt has a live lease.
 * - `lapsed`: no attempt may ever start again, and none is live. The next reader ends the job.
 * - `ended`: nothing.
 */
export function phaseOf(job: Job, now: number): 'claimable' | 'held' | 'lapsed' | 'ended' {
  if (isEnded(job)) return 'ended';
  if (!isPending(job) && !isLeaseOver(job, now)) return 'held';
  return hasAttemptsLeft(job) && isBeforeDeadline(job, now) ? 'claimable' : 'lapsed';
}

/** When and why a lapsed job ended. Both depend only on the record, so they are the same for every reader. */
export function lapseOf(job: Job): { readonly endedAt: number; readonly errorMessage: string } {
  const leaseOverAt = job.status === 'IN_PROGRESS' ? job.leaseExpiresAt : job.createdAt;
  return hasAttemptsLeft(job)
    ? {
        endedAt: Math.max(leaseOverAt, job.deadline),
        errorMessage: 'Processing failed: the job did not finish before its deadline',
      }
    : { endedAt: leaseOverAt, errorMessage: `Processing failed: all ${MAX_ATTEMPTS} attempts ended without a result` };
}
