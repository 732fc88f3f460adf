import { createHmac } from 'node:crypto';
import { v4 as uuid } from 'uuid';
import { acceptJob } from '../acceptJob.ts';
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
  /** Nobody outside knows it, so that nobody can make a job's id from its idempotency key. */
  readonly idNamespace: string;
  readonly newId: () => string;
  /** Unix milliseconds. */
  readonly clock: () => number;
}

/** `POST /jobs`: accepts a job, and answers before it runs. */
export function buildHandler(dependencies: CreateJobDependencies) {
  const { repository, startWorker, lifetimes, idNamespace, newId, clock } = dependencies;

  return httpHandler('POST', async (event) => {
    const text = parseText(event);
    const idempotencyKey = parseIdempotencyKey(event);
    const jobId = idempotencyKey === undefined ? newId() : idFromKey(idempotencyKey, idNamespace);
    logger.appendKeys({ jobId });

    const job = newJob(jobId, text, unixSeconds(clock()), lifetimes);
    const acceptToken = newId();
    const acceptance = await acceptJob(repository, startWorker, job, acceptToken);
    logger.info('POST answered', { outcome: acceptance.outcome });

    switch (acceptance.outcome) {
      case 'accepted': {
        const message = 'Job accepted. Poll GET /jobs/{jobId} for status updates.';
        // The path as the client sees it: behind API Gateway with the stage in front.
        const location = `${event.requestContext.path.replace(/\/$/, '')}/${jobId}`;
        return json(202, { jobId, status: acceptance.status, message }, { Location: location, 'Retry-After': '1' });
      }
      case 'otherText':
        throw new HttpError(422, "Header 'Idempotency-Key' was used before with another text");
      case 'notStarted':
        throw new HttpError(503, 'The job could not be started; please try again', {
          headers: { 'Retry-After': '1' },
          cause: acceptance.cause,
        });
    }
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
