import { JobsError } from '../../client/jobs.ts';
import { followJob } from './followJob.ts';
import { oneLine } from './oneLine.ts';

const USAGE = `Usage: bash scripts/poll.sh BASE_URL JOB_ID [LIMIT_SECONDS]
       bash scripts/poll.sh JOB_URL [LIMIT_SECONDS]
Polls a job until it ends, for at most LIMIT_SECONDS (default 120). Prints each status once, then the job.
Repeats a GET after 429, 5xx and network errors.
Exit code: 0 DONE; 1 ERROR; 2 wrong usage; 3 no such job, or an unexpected response; 4 limit reached.`;

process.exitCode = await main(process.argv.slice(2));

async function main(args: readonly string[]): Promise<number> {
  if (args[0] === '-h' || args[0] === '--help') {
    console.log(USAGE);
    return 0;
  }
  const [jobUrl, limit = '120', ...rest] = withJobUrl(args);
  if (jobUrl === undefined || !/^[1-9]\d{0,4}$/.test(limit) || rest.length > 0) {
    console.error(USAGE);
    return 2;
  }
  try {
    const { status } = await followJob(jobUrl, { limit: Number(limit) });
    if (status === 'DONE') return 0;
    console.error('Error: the job ended as ERROR');
    return 1;
  } catch (error) {
    if (!(error instanceof JobsError)) throw error;
    const [code, message] = failureOf(error, jobUrl, limit);
    console.error(`Error: ${oneLine(message)}`);
    return code;
  }
}

/** Joins a base URL and a job id to the job's URL. Returns no arguments if the first ones are neither. */
function withJobUrl([url = '', ...rest]: readonly string[]): readonly string[] {
  if (!/^https?:\/\/./.test(url) || !URL.canParse(url)) return [];
  const trimmed = url.replace(/\/$/, '');
  if (/\/jobs\/./.test(trimmed)) return [trimmed, ...rest];
  const [jobId = '', ...others] = rest;
  return /^[\w-]+$/.test(jobId) ? [`${trimmed.replace(/\/jobs$/, '')}/jobs/${jobId}`, ...others] : [];
}

function failureOf({ status, job, message, cause }: JobsError, jobUrl: string, limit: string): [number, string] {
  const late = `the job did not end within ${limit} s`;
  if (job !== undefined) return [4, `${late} (status: ${job.status}): ${jobUrl}`];
  if (status === undefined) return [3, `no response from ${jobUrl}: ${reasonOf(cause)}`];
  if (status === 404) return [3, `there is no such job: ${jobUrl}`];
  return status === 429 || status >= 500 ? [4, `${late}: ${message}`] : [3, message];
}

/** What fetch says about a network error is in its cause. */
function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return error.cause === undefined ? error.message : reasonOf(error.cause);
}
