import { createHmac } from 'node:crypto';
import { v4 as uuid } from 'uuid';
import { documentClient, workerStarter } from '../aws.ts';
import { requireEnv, requireSeconds } from '../config.ts';
import { parseIdempotencyKey, parseText } from '../createJobRequest.ts';
import { HttpError, httpHandler, json } from '../http.ts';
import { newJob, unixSeconds } from '../job.ts';
import { JobRepository } from '../jobRepository.ts';
import { logger } from '../telemetry.ts';

/** What the handler needs of the world. */
export interface CreateJobDependencies {
  readonly repository: JobRepository;
  /** Hands the job to the worker, without waiting for it. */
  readonly startWorker: (jobId: string) => Promise<void>;
  /** Seconds, as in template.yaml. */
  readonly lifetimes: { readonly maxEventAge: number; readonly workerTimeout: number };
  /** Secret enough that nobody outside can make a job's id from its idempotency key. */
  readonly idNamespace: string;
  readonly newId: () => string;
  /** Unix milliseconds. */
  readonly clock: () => number;
}

/**
 * `POST /jobs`: the record first, then the event. A 202 is a promise: both are there. Any other
 * answer takes back what is there, so that nothing runs that nobody was told of.
 */
export function buildHandler(dependencies: CreateJobDependencies) {
  const { repository, startWorker, lifetimes, idNamespace, newId, clock } = dependencies;

  return httpHandler(async (event) => {
    const text = parseText(event);
    const idempotencyKey = parseIdempotencyKey(event);
    const jobId = idempotencyKey === undefined ? newId() : idFromKey(idempotencyKey, idNamespace);
    logger.appendKeys({ jobId });
    const acceptToken = newId();

    const accepted = (status: string) =>
      json(
        202,
        { jobId, status, message: 'Job accepted. Poll GET /jobs/{jobId} for status updates.' },
        { Location: `${event.requestContext.path.replace(/\/$/, '')}/${jobId}`, 'Retry-After': '1' },
      );

    const create = async () => {
      try {
        return await repository.create(newJob(jobId, text, unixSeconds(clock()), lifetimes), acceptToken);
      } catch (error) {
        await withdraw();
        throw error;
      }
    };

    const withdraw = async () => {
      try {
        await repository.withdraw(jobId, acceptToken);
      } catch (error) {
        // The job's deadline ends what is left, and the same idempotency key starts it again.
        logger.error('Job could not be withdrawn', { outcome: 'left behind', error });
      }
    };

    if (await create()) {
      try {
        await startWorker(jobId);
        logger.info('Job accepted', { outcome: 'accepted' });
        return accepted('PENDING');
      } catch (error) {
        await withdraw();
        // Only the answer was lost: the event is there, and a worker has the job.
        const job = await repository.find(jobId, unixSeconds(clock()));
        if (job !== undefined && job.status !== 'PENDING') return accepted(job.status);
        throw unavailable(error);
      }
    }

    const job = await repository.find(jobId, unixSeconds(clock()));
    if (job === undefined) throw unavailable('another request with this idempotency key just withdrew its job');
    if (job.text !== text) throw new HttpError(422, "Header 'Idempotency-Key' was used before with another text");
    return accepted(job.status);
  });
}

function unavailable(cause: unknown): HttpError {
  return new HttpError(503, 'The job could not be started; please try again', {
    headers: { 'Retry-After': '1' },
    cause,
  });
}

/** A UUID that is the same for the same key, and that nobody can make without the namespace. */
function idFromKey(key: string, namespace: string): string {
  return uuid({ random: createHmac('sha256', namespace).update(key).digest().subarray(0, 16) });
}

export const handler = buildHandler({
  repository: new JobRepository(documentClient(), requireEnv('JOBS_TABLE_NAME')),
  startWorker: workerStarter(requireEnv('WORKER_FUNCTION_NAME')),
  lifetimes: {
    maxEventAge: requireSeconds('WORKER_MAX_EVENT_AGE_SECONDS'),
    workerTimeout: requireSeconds('WORKER_TIMEOUT_SECONDS'),
  },
  idNamespace: requireEnv('JOB_ID_NAMESPACE'),
  newId: () => uuid(),
  clock: Date.now,
});
