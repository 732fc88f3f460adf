import { type Job, phaseOf } from './job.ts';
import type { JobRepository } from './jobRepository.ts';
import { count, logError } from './telemetry.ts';

/** The result of a POST. */
export type Acceptance =
  /** `earlier` is the job of an earlier POST with the same idempotency key. */
  | { readonly kind: 'accepted'; readonly status: Job['status']; readonly earlier?: Job }
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
  const acceptance = await storeAndStart(repository, startWorker, job);
  const isFailure = acceptance.kind === 'notStored' || acceptance.kind === 'notStarted';
  if (!isFailure || hasKey || (await deleteUnlessClaimed(repository, job.jobId))) return acceptance;
  // Only a response was lost: a worker has the job. No client knows its id, so none has seen a later status.
  count('JobsAccepted');
  return { kind: 'accepted', status: 'IN_PROGRESS' };
}

async function storeAndStart(
  repository: JobRepository,
  startWorker: (jobId: string) => Promise<void>,
  job: Job,
): Promise<Acceptance> {
  const { jobId, createdAt: now } = job;
  let earlier: Job | undefined;
  try {
    if (!(await repository.create(job))) {
      earlier = await repository.find(jobId, now);
      if (earlier === undefined) {
        return { kind: 'notStarted', cause: new Error('The earlier job with this idempotency key has just expired') };
      }
    }
  } catch (cause) {
    return { kind: 'notStored', cause };
  }
  const stored = earlier ?? job;
  if (stored.text !== job.text) return { kind: 'otherText' };
  if (phaseOf(stored, now) === 'claimable') {
    try {
      await startWorker(jobId);
    } catch (cause) {
      return { kind: 'notStarted', cause };
    }
    count('JobsAccepted');
  }
  return { kind: 'accepted', status: stored.status, ...(earlier && { earlier }) };
}

/** Deletes the job, unless a worker has claimed it. Returns false if it was claimed. */
async function deleteUnlessClaimed(repository: JobRepository, jobId: string): Promise<boolean> {
  try {
    return await repository.deletePending(jobId);
  } catch (error) {
    // If the job still exists, it ends at its deadline. No client knows its id.
    logError('Job could not be deleted', error, { outcome: 'left behind' });
    return true;
  }
}
