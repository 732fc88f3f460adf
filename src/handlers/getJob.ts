import { validate as isUuid } from 'uuid';
import { documentClient } from '../aws.ts';
import { optionalEnv, requireEnv } from '../config.ts';
import { callerOf, HttpError, httpHandler, json, retryAfterHeader } from '../http.ts';
import { type Job, retryAfter, unixSeconds } from '../job.ts';
import { JobRepository } from '../jobRepository.ts';
import { logger } from '../telemetry.ts';

/** The handler's dependencies. */
export interface GetJobDependencies {
  readonly repository: JobRepository;
  /** The origin whose pages may call the API, or an empty string. */
  readonly corsOrigin: string;
  /** Unix milliseconds. */
  readonly clock: () => number;
}

/** `GET /jobs/{jobId}`: the caller's job, in any status. */
export function buildHandler({ repository, corsOrigin, clock }: GetJobDependencies) {
  return httpHandler(
    'GET',
    corsOrigin,
    async (event) => {
      const jobId = event.pathParameters?.['jobId'] ?? '';
      logger.appendKeys({ jobId });
      const now = unixSeconds(clock());
      const job = isUuid(jobId) ? await repository.find(jobId, now) : undefined;
      // The same response for another caller's job, so that nobody learns which ids exist.
      if (job === undefined || job.owner !== callerOf(event)) throw new HttpError(404, `Job '${jobId}' not found`);
      return json(200, bodyOf(job), retryAfterHeader(retryAfter(job, now)));
    },
    { 'Cache-Control': 'no-store' },
  );
}

/** The response body, with its fields in this order. The result is JSON already and is sent as stored. */
function bodyOf(job: Job): object | string {
  const { jobId, status, text, createdAt, updatedAt } = job;
  const fields = { jobId, status, text, createdAt, updatedAt };
  if (job.status === 'DONE') return `${JSON.stringify(fields).slice(0, -1)},"result":${job.result}}`;
  if (job.status === 'ERROR') return { ...fields, errorMessage: job.errorMessage };
  return fields;
}

export const handler = buildHandler({
  repository: new JobRepository(documentClient(), requireEnv('JOBS_TABLE_NAME')),
  corsOrigin: optionalEnv('CORS_ORIGIN'),
  clock: Date.now,
});
