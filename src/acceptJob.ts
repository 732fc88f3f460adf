import type { Job } from './job.ts';
import type { JobRepository } from './jobRepository.ts';
import { count, logger } from './telemetry.ts';

/** What became of a POST. */
export type Acceptance =
  | { readonly outcome: 'accepted'; readonly status: Job['status'] }
  /** The id, made from an idempotency key, belongs to a job with another text. */
  | { readonly outcome: 'otherText' }
  /** The worker could not be started, and the job was taken back. */
  | { readonly outcome: 'notStarted'; readonly cause: unknown };

/**
 * Stores the job, then starts the worker. The order makes `accepted` a promise: record and event
 * are both there. What is not accepted is withdrawn, so that nothing runs that nobody was told of.
 *
 * @param acceptToken stands for this POST; no two POSTs share one
 * @throws what the repository throws when the job cannot be stored; it is then withdrawn too
 */
export async function acceptJob(
  repository: JobRepository,
  startWorker: (jobId: string) => Promise<void>,
  job: Job,
  acceptToken: string,
): Promise<Acceptance> {
  const { jobId, text, createdAt: now } = job;

  const withdraw = async () => {
    try {
      return await repository.withdraw(jobId, acceptToken, now);
    } catch (error) {
      // Nobody is left to start it: its deadline will end it, or a repeat with its key start it.
      logger.error('Job could not be withdrawn', { outcome: 'left behind', error });
      return undefined;
    }
  };

  let isStored = false;
  try {
    isStored = await repository.create(job, acceptToken);
    if (isStored) {
      await startWorker(jobId);
      count('JobsAccepted');
      return { outcome: 'accepted', status: 'PENDING' };
    }
  } catch (cause) {
    const claimed = await withdraw();
    // Only an answer was lost: a worker has the job, by this POST's event or by one that came late.
    if (claimed?.text === text) {
      count('JobsAccepted');
      return { outcome: 'accepted', status: claimed.status };
    }
    if (!isStored) throw cause;
    return { outcome: 'notStarted', cause };
  }

  const existing = await repository.find(jobId, now);
  if (existing !== undefined && existing.text !== text) return { outcome: 'otherText' };
  // It was refused for being absent or beyond PENDING. If it is PENDING now, another POST has stored
  // it since, and may yet withdraw it.
  if (existing === undefined || existing.status === 'PENDING') {
    return { outcome: 'notStarted', cause: 'another POST with this idempotency key is under way' };
  }
  return { outcome: 'accepted', status: existing.status };
}
