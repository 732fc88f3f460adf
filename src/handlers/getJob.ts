import { validate as isUuid } from 'uuid';
import { documentClient } from '../aws.ts';
import { requireEnv } from '../config.ts';
import { HttpError, httpHandler, json } from '../http.ts';
import { isEnded, type Job, retryAfter, unixSeconds } from '../job.ts';
import { JobRepository } from '../jobRepository.ts';
import { logger } from '../telemetry.ts';

/** The handler's dependencies. */
export interface GetJobDependencies {
  readonly repository: JobRepository;
  /** Unix milliseconds. */
  readonly clock: () => number;
}

/** `GET /jobs/{jobId}`: the job, in any status. */
export function buildHandler({ repository, clock }: GetJobDependencies) {
  return httpHandler(
    'GET',
    async (event) => {
      const jobId = event.pathParameters?.['jobId'] ?? '';
      logger.appendKeys({ jobId });
      const now = unixSeconds(clock());
      const job = isUuid(jobId) ? await repository.find(jobId, now) : undefined;
      if (job === undefined) throw new HttpError(404, `Job '${jobId}' not found`);
      return json(200, bodyOf(job), isEnded(job) ? {} : { 'Retry-After': String(retryAfter(job, now)) });
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
  clock: Date.now,
});
