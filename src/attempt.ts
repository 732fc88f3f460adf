import { CALL_BUDGET_MS } from './aws.ts';
import { hasAttemptsLeft, newLease, unixSeconds } from './job.ts';
import type { JobRepository } from './jobRepository.ts';
import { runStages } from './runStages.ts';
import type { Stage } from './stages/stage.ts';
import { count, logger, recordAttempt, recordEnd } from './telemetry.ts';

/** Time reserved for the final write, in milliseconds. */
export const RESERVE_MS = CALL_BUDGET_MS;

/**
 * A timeout is attributed to the stages if start-up, claim and reserved time together took no more
 * than this, in milliseconds. Otherwise Lambda or DynamoDB was slow, and the job gets another attempt.
 * A process that starts again after an exit needs 1.0 to 1.6 s for start-up and claim at 256 MB.
 */
export const MAX_OVERHEAD_MS = RESERVE_MS + 3000;

/** The dependencies of an attempt. */
export interface AttemptDependencies {
  readonly repository: JobRepository;
  readonly stages: readonly Stage[];
  /** The worker's timeout in seconds, as in template.yaml. */
  readonly workerTimeout: number;
  /**
   * Calls `onTime` after the given time. Returns a function that cancels the timer. The timer
   * must keep the process alive, because a stage may wait for something that does not.
   */
  readonly startTimer: (milliseconds: number, onTime: () => void) => () => void;
  readonly newToken: () => string;
  /** Unix milliseconds. */
  readonly clock: () => number;
}

/**
 * Runs one attempt: claims the job, runs the stages within the remaining time, and stores the outcome.
 *
 * @param remainingMs how long the invocation may still run
 * @param running see {@link runStages}
 * @returns `held` if another attempt has a live lease; Lambda must then deliver the event again
 * @throws if the claim or the outcome cannot be written, or if the stages timed out without having had
 *   their full time and the job has attempts left. The lease then expires, and Lambda's retry starts the
 *   next attempt.
 */
export async function runAttempt(
  { repository, stages, workerTimeout, startTimer, newToken, clock }: AttemptDependencies,
  jobId: string,
  remainingMs: () => number,
  running: Map<string, Promise<unknown>>,
): Promise<'ended' | 'held'> {
  // The remaining time is read before the clock, so the lease is never too short.
  const remaining = remainingMs();
  const startedAt = clock();
  const lease = newLease(newToken(), startedAt + remaining);

  const claim = await repository.claim(jobId, lease, unixSeconds(startedAt));
  if (claim.kind !== 'claimed') {
    count('ClaimsRefused');
    if (claim.kind === 'held') count('ClaimsHeld');
    logger.warn('Claim refused', { outcome: claim.kind });
    return claim.kind === 'held' ? 'held' : 'ended';
  }
  const { job } = claim;
  logger.appendKeys({ attempt: job.attempt });
  recordAttempt(job, unixSeconds(startedAt));
  logger.info('Attempt started', { outcome: claim.kind });

  const limitMs = remainingMs() - RESERVE_MS;
  const controller = new AbortController();
  const { signal } = controller;
  const stopTimer = startTimer(limitMs, () => controller.abort());
  const checkTime = () => {
    if (remainingMs() <= RESERVE_MS) controller.abort();
  };
  checkTime();
  const outcome = await runStages(stages, job, { signal, checkTime, running, clock });
  stopTimer();
  if (signal.aborted && hasAttemptsLeft(job) && limitMs < workerTimeout * 1000 - MAX_OVERHEAD_MS) {
    throw new Error(`The stages timed out after only ${limitMs} ms; another attempt is needed`);
  }

  const endedAt = unixSeconds(clock());
  if (!(await repository.end(jobId, lease, outcome, endedAt))) throw new Error('This attempt no longer holds the job');
  recordEnd(outcome.status, job, endedAt);
  logger.info('Job ended', { outcome: outcome.status, durationMs: clock() - startedAt });
  return 'ended';
}
