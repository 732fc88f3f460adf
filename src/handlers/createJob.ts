import { createHmac } from 'node:crypto';
import { v4 as uuid } from 'uuid';
import { acceptJob } from '../acceptJob.ts';
import { documentClient, workerStarter } from '../aws.ts';
import { optionalEnv, requireEnv, requireSeconds } from '../config.ts';
import { parseIdempotencyKey, parseText } from '../createJobRequest.ts';
import { callerOf, HttpError, httpHandler, json, retryAfterHeader } from '../http.ts';
import { newJob, retryAfter, unixSeconds } from '../job.ts';
import { JobRepository } from '../jobRepository.ts';
import { logger } from '../telemetry.ts';

/** The handler's dependencies. */
export interface CreateJobDependencies {
  readonly repository: JobRepository;
  /** Starts the worker without waiting for it. */
  readonly startWorker: (jobId: string) => Promise<void>;
  /** Seconds, as in template.yaml. */
  readonly lifetimes: { readonly maxEventAge: number; readonly workerTimeout: number };
  /** Clients do not know it, so they cannot compute the job id for another client's idempotency key. */
  readonly idNamespace: string;
  /** How long most jobs take, in seconds. An earlier GET is not worth its cost. */
  readonly expectedJobSeconds: number;
  /** The origin whose pages may call the API, or an empty string. */
  readonly corsOrigin: string;
  readonly newId: () => string;
  /** Unix milliseconds. */
  readonly clock: () => number;
}

/** `POST /jobs`: accepts a job, and responds before it runs. */
export function buildHandler({ repository, startWorker, corsOrigin, clock, ...dependencies }: CreateJobDependencies) {
  const { lifetimes, idNamespace, expectedJobSeconds, newId } = dependencies;
  return httpHandler('POST', corsOrigin, async (event) => {
    const text = parseText(event);
    const key = parseIdempotencyKey(event);
    const owner = callerOf(event);
    const jobId = key === undefined ? newId() : idFromKey(key, owner, idNamespace);
    logger.appendKeys({ jobId });

    const now = unixSeconds(clock());
    const job = newJob(jobId, text, now, lifetimes, owner);
    const acceptance = await acceptJob(repository, startWorker, job, key !== undefined);
    logger.info('POST handled', { outcome: acceptance.kind });

    switch (acceptance.kind) {
      case 'accepted': {
        const { status, earlier } = acceptance;
        const message = 'Job accepted. Poll GET /jobs/{jobId} for status updates.';
        // The path as the client sees it: behind API Gateway it starts with the stage.
        const location = `${event.requestContext.path.replace(/\/$/, '')}/${jobId}`;
        const seconds = earlier === undefined ? expectedJobSeconds : retryAfter(earlier, now);
        return json(202, { jobId, status, message }, { Location: location, ...retryAfterHeader(seconds) });
      }
      case 'otherText':
        throw new HttpError(422, "Header 'Idempotency-Key' was already used with a different text");
      case 'notStored':
        throw acceptance.cause;
      case 'notStarted':
        throw new HttpError(503, 'The job could not be started; please try again', {
          headers: retryAfterHeader(1),
          cause: acceptance.cause,
        });
    }
  });
}

/**
 * Returns the same UUID for the same key of the same caller. It cannot be computed without the namespace.
 * Keys have no line breaks, so no two pairs of caller and key are joined to the same string.
 */
function idFromKey(key: string, caller: string | undefined, namespace: string): string {
  const source = caller === undefined ? key : `${caller}\n${key}`;
  return uuid({ random: createHmac('sha256', namespace).update(source).digest().subarray(0, 16) });
}

export const handler = buildHandler({
  repository: new JobRepository(documentClient(), requireEnv('JOBS_TABLE_NAME')),
  startWorker: workerStarter(requireEnv('WORKER_FUNCTION_NAME')),
  lifetimes: {
    maxEventAge: requireSeconds('WORKER_MAX_EVENT_AGE_SECONDS'),
    workerTimeout: requireSeconds('WORKER_TIMEOUT_SECONDS'),
  },
  idNamespace: requireEnv('JOB_ID_NAMESPACE'),
  expectedJobSeconds: requireSeconds('EXPECTED_JOB_SECONDS'),
  corsOrigin: optionalEnv('CORS_ORIGIN'),
  newId: () => uuid(),
  clock: Date.now,
});
