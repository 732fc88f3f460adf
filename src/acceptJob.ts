import { type Job, phaseOf } from './job.ts';
import type { JobRepository } from './jobRepository.ts';
import { count, logger } from './telemetry.ts';

/** The result of a POST. */
export type Acceptance =
  | { readonly kind: 'accepted'; readonly status: Job['status'] }
  /** The idempotency key was used before, with another text. */
  | { readonly kind: 'otherText' }
  /** DynamoDB or Lambda failed. With an idempotency key the job may exist, for a repeated POST to start. */
  | { readonly kind: 'notStored' | 'notStarted'; readonly cause: unknown };

/**
 * Stores the job, then starts the worker; the job is accepted once both are done. If either fails, a
 * job without an idempotency key is deleted again, because no client can repeat its POST. A job with
 * a key stays: a repeated POST starts it, otherwise its deadline ends it.
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
    // Only an answer was lost. No client knows the id yet, so none can have seen a later status.
    count('JobsAccepted');
    return { kind: 'accepted', status: 'IN_PROGRESS' };
  }
}

/** Deletes the job. Returns false if a worker has claimed it and it therefore stays. */
async function isDeleted(repository: JobRepository, jobId: string): Promise<boolean> {
  try {
    return await repository.deletePending(jobId);
  } catch (error) {
    // No client knows its id. If it exists, its deadline ends it.
    logger.error('Job could not be deleted', { outcome: 'left behind', error });
    return true;
  }
}
