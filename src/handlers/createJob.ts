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

/** The handler's dependencies. */
export interface CreateJobDependencies {
  readonly repository: JobRepository;
  /** Starts the worker without waiting for it. */
  readonly startWorker: (jobId: string) => Promise<void>;
  /** Seconds, as in template.yaml. */
  readonly lifetimes: { readonly maxEventAge: number; readonly workerTimeout: number };
  /** Clients do not know it, so they cannot compute the job id for someone else's idempotency key. */
  readonly idNamespace: string;
  readonly newId: () => string;
  /** Unix milliseconds. */
  readonly clock: () => number;
}

/** `POST /jobs`: accepts a job, and responds before it runs. */
export function buildHandler({ repository, startWorker, lifetimes, idNamespace, newId, clock }: CreateJobDependencies) {
  return httpHandler('POST', async (event) => {
    const text = parseText(event);
    const key = parseIdempotencyKey(event);
    const jobId = key === undefined ? newId() : idFromKey(key, idNamespace);
    logger.appendKeys({ jobId });

    const job = newJob(jobId, text, unixSeconds(clock()), lifetimes);
    const acceptance = await acceptJob(repository, startWorker, job, key !== undefined);
    logger.info('POST handled', { outcome: acceptance.kind });

    switch (acceptance.kind) {
      case 'accepted': {
        const message = 'Job accepted. Poll GET /jobs/{jobId} for status updates.';
        // The path as the client sees it: behind API Gateway it starts with the stage.
        const location = `${event.requestContext.path.replace(/\/$/, '')}/${jobId}`;
        return json(202, { jobId, status: acceptance.status, message }, { Location: location, 'Retry-After': '1' });
      }
      case 'otherText':
        throw new HttpError(422, "Header 'Idempotency-Key' was used before with another text");
      case 'notStored':
        throw acceptance.cause;
      case 'notStarted':
        throw new HttpError(503, 'The job could not be started; please try again', {
          headers: { 'Retry-After': '1' },
          cause: acceptance.cause,
        });
    }
  });
}

/** Returns the same UUID for the same key. It cannot be computed without the namespace. */
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
