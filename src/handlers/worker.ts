import { setTimeout as sleep } from 'node:timers/promises';
import type { Context } from 'aws-lambda';
import { v4 as uuid } from 'uuid';
import { CALL_BUDGET_MS, documentClient } from '../aws.ts';
import { requireEnv } from '../config.ts';
import { newLease, unixSeconds } from '../job.ts';
import { JobRepository } from '../jobRepository.ts';
import { runStages } from '../runStages.ts';
import { type Stage, type StageTools, stages as sampleStages } from '../stages.ts';
import { count, countAttempt, countEnd, logger, observed } from '../telemetry.ts';

/** What the handler needs of the world. */
export interface WorkerDependencies {
  readonly repository: JobRepository;
  readonly stages: readonly Stage[];
  readonly pause: StageTools['pause'];
  /** A signal that aborts after so many milliseconds. */
  readonly abortAfter: (milliseconds: number) => AbortSignal;
  readonly newToken: () => string;
  /** Unix milliseconds. */
  readonly clock: () => number;
}

/** Kept back from the function's time: enough to write the end, and to give the lease back if that fails. */
const RESERVE_MS = 2 * CALL_BUDGET_MS;

/**
 * Runs one job. Lambda delivers its event at least once, and again after a failure; the claim
 * decides who runs. Every event stays responsible for its job until it has seen the job ended (or
 * gone): where it finds the lease of another attempt live, it fails, and Lambda brings it back when
 * that lease is over. So no event disappears on the word of an attempt that may yet die.
 *
 * @throws whatever went wrong around the stages; Lambda then tries again, and keeps what it gives up on
 */
export function buildHandler(dependencies: WorkerDependencies) {
  const { repository, stages, pause, abortAfter, newToken, clock } = dependencies;

  return async (event: unknown, context: Context): Promise<void> => {
    const isHeld = await observed(context, async () => {
      const jobId = parseJobId(event);
      logger.appendKeys({ jobId });
      // In this order, so that the lease errs on the long side.
      const remaining = context.getRemainingTimeInMillis();
      const started = clock();
      const signal = abortAfter(Math.max(0, remaining - RESERVE_MS));
      const lease = newLease(newToken(), started + remaining);

      // The failure itself is what matters; where the lease stays, it runs out by itself.
      const giveBack = () => repository.release(jobId, lease, unixSeconds(clock())).catch(() => undefined);

      const claim = await repository.claim(jobId, lease, unixSeconds(started)).catch(async (error: unknown) => {
        // The claim may have landed, and only its answer been lost.
        await giveBack();
        throw error;
      });
      if (claim.outcome !== 'claimed') {
        count(claim.outcome === 'held' ? 'ClaimsHeld' : 'ClaimsRefused');
        logger.warn('Claim refused', { outcome: claim.outcome });
        return claim.outcome === 'held';
      }
      const { job } = claim;
      logger.appendKeys({ attempt: job.attempt });
      countAttempt(job, unixSeconds(started));

      try {
        const end = await runStages(stages, job.text, { jobId, pause, signal, clock });
        const endedAt = unixSeconds(clock());
        const stored = await repository.end(jobId, lease, end, endedAt);
        if (stored === undefined) throw new Error(`Job ${jobId} is no longer held by this attempt`);
        countEnd(stored.status, job, endedAt);
        logger.info('Job ended', { outcome: stored.status, durationMs: clock() - started });
        return false;
      } catch (error) {
        // A stage that heeds no signal may still be at work: then only this invocation's end ends its lease.
        if (!signal.aborted) await giveBack();
        throw error;
      }
    });
    if (isHeld) throw new Error('The job is held by another attempt; this event has to come back');
  };
}

/** @throws an Error, so that Lambda keeps an event that is not ours where an operator finds it */
function parseJobId(event: unknown): string {
  if (typeof event === 'object' && event !== null && 'jobId' in event && typeof event.jobId === 'string') {
    return event.jobId;
  }
  throw new Error('Event must be {"jobId": "<id>"}');
}

export const handler = buildHandler({
  repository: new JobRepository(documentClient(), requireEnv('JOBS_TABLE_NAME')),
  stages: sampleStages,
  pause: (milliseconds, signal) => sleep(milliseconds, undefined, { signal }),
  abortAfter: (milliseconds) => AbortSignal.timeout(milliseconds),
  newToken: () => uuid(),
  clock: Date.now,
});
