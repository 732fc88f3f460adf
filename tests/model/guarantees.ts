/**
 * The guarantees of docs/design.md, numbered as there. The simulated world passes everything that is
 * seen to each of them. A guarantee yields what broke it.
 */
import { isDeepStrictEqual } from 'node:util';
import { isEnded, type Job, MAX_ATTEMPTS, type Outcome, phaseOf, SUBMIT_SECONDS, unixSeconds } from '../../src/job.ts';
import type { Invocation } from './simulatedInvocation.ts';

/** As in template.yaml, except for a shorter maximum age of events. In seconds. */
export const LIFETIMES = { maxEventAge: 600, workerTimeout: 30 };

/** How far a clock may be ahead of true time, in milliseconds. No clock is behind. */
export const MAX_SKEW_MS = 5000;
/** The same for sequences with unrealistically wrong clocks, which not every guarantee survives. */
export const WILD_SKEW_MS = 3600_000;

/** The users who have signed in. */
export type User = 'A' | 'B';

/** What is known about a job id: the job that has it now, and what clients were told about that job. */
export interface KnownJob {
  readonly jobId: string;
  readonly name: string;
  /** The caller of the first POST that used the id. */
  readonly owner: User;
  /** The id was made from an idempotency key. */
  readonly hasKey: boolean;
  /** Counts the jobs with this id, which can be reused once a job is deleted or expired. */
  readonly incarnation: number;
  readonly record: Job | undefined;
  /** The texts of all jobs with this id. */
  readonly texts: ReadonlySet<string>;
  /** A POST returned 202. */
  readonly isAccepted: boolean;
  /** A POST was killed or cut off, so its job may remain although there was no 202. */
  readonly isExcused: boolean;
  /** The final body that a GET has returned, and how many invocations had started by then. */
  readonly shown: object | undefined;
  readonly shownAt: number;
}

/** Everything that is known. */
export interface Knowledge {
  /** True time in milliseconds. */
  readonly now: number;
  readonly hasWildClocks: boolean;
  readonly jobs: readonly KnownJob[];
  readonly invocations: readonly Invocation[];
  /** The events in Lambda's queue. */
  readonly queue: readonly { readonly jobId: string }[];
}

/** Something that was just seen, and the job that it is about. */
export type Seen =
  /** A write changed the record. */
  | { readonly what: 'change'; readonly job: KnownJob; readonly before: Job; readonly after: Job }
  /** The record was deleted or replaced, although it had not expired. */
  | { readonly what: 'loss'; readonly job: KnownJob; readonly before: Job }
  | ({ readonly what: 'POST response'; readonly invocation: Invocation; readonly text: string } & Response)
  | { readonly what: 'response to a POST without faults'; readonly job: KnownJob; readonly status: number | undefined }
  /** `before` is what was known when the owner's GET started. */
  | ({ readonly what: 'GET response'; readonly before: KnownJob } & Response)
  | ({ readonly what: 'GET response for another caller' } & Response)
  | { readonly what: 'stage start'; readonly job: KnownJob; readonly invocation: Invocation }
  /** The repository reported that an attempt's outcome is stored. */
  | { readonly what: 'final write'; readonly job: KnownJob; readonly end: Outcome }
  /** The worker returned without an error, so Lambda forgets the event. `before` as for a GET. */
  | { readonly what: 'success of the worker'; readonly job: KnownJob; readonly before: KnownJob }
  /** A handler returned or threw. */
  | { readonly what: 'end of an invocation'; readonly invocation: Invocation }
  /** One move is over. */
  | { readonly what: 'end of a move' }
  /** Guarantee 1's time is over, and a GET has returned. */
  | { readonly what: 'end of time'; readonly job: KnownJob };

interface Response {
  readonly job: KnownJob;
  readonly status: number;
  readonly body: unknown;
}

type Guarantee = (seen: Seen, known: Knowledge) => Iterable<string>;

export const guarantees: Readonly<Record<string, Guarantee>> = {
  *'Guarantee 1: every accepted job ends'(seen, known) {
    switch (seen.what) {
      case 'loss':
        if (seen.job.isAccepted) yield 'an accepted job is gone';
        break;
      case 'POST response':
        if (seen.status === 202 && isCurrent(seen, known) && !seen.job.record) yield '202 without a job';
        break;
      case 'response to a POST without faults': {
        const { record, jobId } = seen.job;
        if (record !== undefined && mayBeExpired(record, known)) break;
        if (seen.status !== 202 && seen.status !== 422) yield 'a POST failed without a fault';
        const isClaimable = record !== undefined && phaseOf(record, unixSeconds(known.now)) === 'claimable';
        const willStart = known.queue.some((event) => event.jobId === jobId);
        if (seen.status === 202 && isClaimable && !willStart) yield '202 for a job that no event will start';
        break;
      }
      case 'GET response': {
        const mayFail = !seen.before.isAccepted || !isSameJob(seen, known) || seen.status === 500;
        if (seen.status !== 200 && !mayFail) yield 'an accepted job is not found';
        break;
      }
      case 'end of time': {
        const { name, record, shown } = seen.job;
        if (!record || !isEnded(record) || !shown) yield `${name} did not end in time`;
      }
    }
  },

  *'Guarantee 2: the final status never changes'(seen, known) {
    switch (seen.what) {
      case 'change': {
        const { before, after } = seen;
        if (RANK[after.status] < RANK[before.status]) yield 'the status moved backwards';
        if (isEnded(before) && !isDeepStrictEqual(publicFields(before), publicFields(after))) {
          yield 'an outcome changed';
        }
        break;
      }
      case 'final write':
        if (!hasEnd(seen.job.record, seen.end)) yield 'the repository reported an outcome as stored, but it is not';
        break;
      case 'GET response': {
        const { job, before, status, body } = seen;
        if (status === 500) break;
        const hasChanged = before.shown !== undefined && !isDeepStrictEqual(body, before.shown);
        if (hasChanged && isSameJob(seen, known)) yield 'an outcome has changed since a GET returned it';
        const isStored = job.record !== undefined && isDeepStrictEqual(body, publicFields(job.record));
        if (isFinal(body) && !isStored && job.incarnation === before.incarnation) {
          yield 'a GET returned an outcome that is not stored';
        }
        break;
      }
      case 'POST response': {
        const { job, invocation, status, body } = seen;
        if (status !== 202 || !isCurrent(seen, known) || job.record === undefined) break;
        const told = STATUSES.find((name) => name === pick(body, 'status'));
        const isReached = told !== undefined && RANK[told] <= RANK[job.record.status];
        if (!isReached) yield '202 with a status that the job has not reached yet';
        const wasShown = job.shown !== undefined && job.shownAt <= invocation.number;
        if (wasShown && told !== job.record.status) yield '202 with a status other than the final one of a GET';
      }
    }
  },

  *'Guarantee 3: no stage runs twice at the same time'(seen, known) {
    switch (seen.what) {
      case 'stage start': {
        const { job, invocation } = seen;
        const running = known.invocations.filter((other) => other !== invocation && other.unsettledStages > 0);
        if (running.some(({ sandbox }) => sandbox === invocation.sandbox)) {
          yield "an earlier invocation's stage is running in this process";
        }
        // With wild clocks, a lease can be over while its attempt is still running.
        if (known.hasWildClocks) break;
        if (running.some(({ jobId, isDead }) => jobId === job.jobId && !isDead)) {
          yield 'two invocations are running stages of the same job';
        }
        if (job.record?.status !== 'IN_PROGRESS') yield 'a stage started although the job is not IN_PROGRESS';
        break;
      }
      case 'change': {
        const [first, second] = ['first', 'second'].map((stage) => pick(resultOf(seen.after, stage), 'by'));
        const isWhole = first !== undefined && first === second;
        if (seen.after.status === 'DONE' && !isWhole) yield 'a result is from two attempts';
        break;
      }
      case 'end of an invocation':
        if (seen.invocation.unsettledStages > 0) yield 'a stage is still running after its attempt';
    }
  },

  *'Guarantee 4: a failed POST without a key leaves no job'(seen, known) {
    switch (seen.what) {
      case 'stage start':
        if (!mayExist(seen.job, known)) yield 'a job is running although its POST failed';
        break;
      case 'loss':
        if (seen.before.status !== 'PENDING') yield 'a job is gone although a worker had claimed it';
        break;
      case 'end of a move':
        for (const job of known.jobs) {
          if (job.record === undefined || mayBeExpired(job.record, known) || mayExist(job, known)) continue;
          yield `${job.name} exists although its POST failed`;
        }
    }
  },

  *'Guarantee 5: a POST with an idempotency key can be repeated'(seen, known) {
    switch (seen.what) {
      case 'loss':
        if (seen.job.hasKey) yield 'a job with a key is gone';
        break;
      case 'POST response': {
        const { job, text, status, body } = seen;
        if (status === 422 && [...job.texts].every((other) => other === text)) yield '422 for the same text';
        if (status !== 202) break;
        if (pick(body, 'jobId') !== job.jobId) yield '202 with the id of another job';
        const isSameText = job.record === undefined || job.record.text === text;
        if (isCurrent(seen, known) && !isSameText) yield '202 for a job with a different text';
      }
    }
  },

  *'Guarantee 6: an event that Lambda gives up on is kept'(seen, known) {
    // Lambda keeps an event if the worker fails. A job that replaced an expired one has its own event.
    if (seen.what === 'success of the worker' && isSameJob(seen, known) && !isEnded(seen.job.record)) {
      yield 'an event is gone, but its job has not ended';
    }
  },

  *'Guarantee 7: jobs and keys belong to their caller'(seen) {
    switch (seen.what) {
      case 'POST response': {
        const isForeign = seen.job.owner !== seen.invocation.user;
        if (isForeign && seen.status === 202) yield 'a POST got the job of another caller';
        if (isForeign && seen.status === 422) yield '422 because of the job of another caller';
        break;
      }
      case 'GET response for another caller': {
        const unknown = { error: `Job '${seen.job.jobId}' not found` };
        const isUnknown = seen.status === 404 && isDeepStrictEqual(seen.body, unknown);
        if (!isUnknown && seen.status !== 500) yield 'a GET of the job of another caller is not as for an unknown id';
      }
    }
  },

  /** What "How it works" says in addition. */
  *'The life cycle'(seen, known) {
    switch (seen.what) {
      case 'change': {
        const { before, after } = seen;
        for (const name of ['text', 'owner', 'createdAt', 'expiresAt', 'deadline'] as const) {
          if (before[name] !== after[name]) yield `${name} changed`;
        }
        if (after.attempt < before.attempt || after.attempt > MAX_ATTEMPTS) yield 'the attempts are miscounted';
        const isLapse = after.status === 'ERROR' && after.errorMessage.startsWith('Processing failed');
        const mayLapse = phaseOf(before, unixSeconds(known.now + MAX_SKEW_MS)) === 'lapsed';
        if (!isEnded(before) && isLapse && !mayLapse && !known.hasWildClocks) {
          yield 'a job lapsed although it could still have ended otherwise';
        }
        break;
      }
      case 'stage start':
        if (seen.invocation.timerDueAt <= known.now) yield "a stage started although the stages' time was up";
    }
  },
};

/** When a job must have ended, in seconds of true time (guarantee 1). */
export const latestEnd = ({ createdAt }: Job): number =>
  createdAt + SUBMIT_SECONDS + LIFETIMES.maxEventAge + 2 * LIFETIMES.workerTimeout + MAX_SKEW_MS / 1000;

/** Whether the job has expired by any clock. */
export const mayBeExpired = ({ expiresAt }: Job, { now, hasWildClocks }: Pick<Knowledge, 'now' | 'hasWildClocks'>) =>
  expiresAt * 1000 <= now + (hasWildClocks ? 2 * WILD_SKEW_MS : MAX_SKEW_MS);

const RANK = { PENDING: 0, IN_PROGRESS: 1, DONE: 2, ERROR: 2 };
const STATUSES = ['PENDING', 'IN_PROGRESS', 'DONE', 'ERROR'] as const;

/** Whether a POST's response is about the job that has the id now. Another one may replace an expired job. */
function isCurrent({ job, invocation }: Extract<Seen, { what: 'POST response' }>, known: Knowledge): boolean {
  const isExpired = job.record !== undefined && mayBeExpired(job.record, known);
  return job.incarnation === invocation.incarnation && !isExpired;
}

/** Whether the job still exists. */
function isSameJob<T extends { readonly job: KnownJob; readonly before: KnownJob }>(
  seen: T,
  known: Knowledge,
): seen is T & { readonly job: { readonly record: Job } } {
  const { job, before } = seen;
  return job.incarnation === before.incarnation && job.record !== undefined && !mayBeExpired(job.record, known);
}

/** Whether the job has a POST that was accepted, can be repeated, was cut off, or is still running. */
const mayExist = ({ jobId, hasKey, isAccepted, isExcused }: KnownJob, { invocations }: Knowledge): boolean =>
  hasKey ||
  isAccepted ||
  isExcused ||
  invocations.some((other) => other.kind === 'POST' && other.jobId === jobId && !other.isDone && !other.isDead);

/** What the API shows of a job. */
function publicFields(job: Job): object {
  const { jobId, status, text, createdAt, updatedAt } = job;
  const common = { jobId, status, text, createdAt, updatedAt };
  if (job.status === 'DONE') return { ...common, result: JSON.parse(job.result) };
  return job.status === 'ERROR' ? { ...common, errorMessage: job.errorMessage } : common;
}

/** What a stage returned, if the job is DONE. */
const resultOf = (job: Job, stage: string): unknown =>
  job.status === 'DONE' ? pick(JSON.parse(job.result), stage) : undefined;

const hasEnd = (job: Job | undefined, end: Outcome): boolean =>
  Object.entries(end).every(([name, value]) => pick(job, name) === value);

/** Whether the body of a GET's response has a final status. */
export const isFinal = (body: unknown): body is object => ['DONE', 'ERROR'].includes(String(pick(body, 'status')));

/** One field of parsed JSON. */
export function pick(value: unknown, name: string): unknown {
  return typeof value === 'object' && value !== null
    ? Object.entries(value).find(([key]) => key === name)?.[1]
    : undefined;
}
