import { type Job, phaseOf } from './job.ts';
import type { JobRepository } from './jobRepository.ts';
import { count, logger } from './telemetry.ts';

/** The result of a POST. */
export type Acceptance =
  | { readonly kind: 'accepted'; readonly status: Job['status'] }
  /** The idempotency key was already used with a different text. */
  | { readonly kind: 'otherText' }
  /** DynamoDB or Lambda failed. With an idempotency key the job may exist; a repeated POST then starts it. */
  | { readonly kind: 'notStored' | 'notStarted'; readonly cause: unknown };

/**
 * Stores the job, then starts the worker. If either fails, a job without an idempotency key is
 * deleted, because no client can repeat its POST. A job with a key is kept: a repeated POST starts
 * it, or it ends at its deadline.
 */
export async function acceptJob(
  repository: JobRepository,
  startWorker: (jobId: string) => Promise<void>,
  job: Job,
  hasKey: boolean,
): Promise<Acceptance> {
  const { jobId, text, createdAt: now } = job;
  let failure: 'notStored' | 'notStarted' = 'notStored';
  try {
    const stored = (await repository.create(job)) ? job : await repository.find(jobId, now);
    if (stored !== undefined && stored.text !== text) return { kind: 'otherText' };
    failure = 'notStarted';
    if (stored === undefined) throw new Error('The earlier job with this idempotency key has just expired');
    if (phaseOf(stored, now) === 'claimable') {
      await startWorker(jobId);
      count('JobsAccepted');
    }
    return { kind: 'accepted', status: stored.status };
  } catch (cause) {
    if (hasKey || (await isDeleted(repository, jobId))) return { kind: failure, cause };
    // Only a response was lost: a worker has the job. No client knows its id, so none has seen a later status.
    count('JobsAccepted');
    return { kind: 'accepted', status: 'IN_PROGRESS' };
  }
}

/** Deletes the job. Returns false if a worker has already claimed it. */
async function isDeleted(repository: JobRepository, jobId: string): Promise<boolean> {
  try {
    return await repository.deletePending(jobId);
  } catch (error) {
    // If the job still exists, it ends at its deadline. No client knows its id.
    logger.error('Job could not be deleted', { outcome: 'left behind', error });
    return true;
  }
}
