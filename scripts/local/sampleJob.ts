import { submitJob } from '../../client/jobs.ts';
import { followJob } from '../aws/followJob.ts';

/** Submits a text as a job. Returns the job's URL. */
export async function submit(baseUrl: string, text: string): Promise<string> {
  console.log(`\nPOST ${baseUrl}/jobs\n${JSON.stringify({ text })}`);
  const { jobId, jobUrl, status } = await submitJob(baseUrl, text);
  console.log(`202 ${JSON.stringify({ jobId, status })}\n`);
  return jobUrl;
}

/** Prints each status of a job, then the job. Throws an Error unless it ends as DONE within a minute. */
export async function follow(jobUrl: string): Promise<void> {
  console.log(`GET ${jobUrl}`);
  const { status } = await followJob(jobUrl, { interval: 0.5, limit: 60 });
  if (status === 'ERROR') throw new Error('The job ended as ERROR');
}
