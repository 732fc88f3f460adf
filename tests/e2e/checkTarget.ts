/** Prints what the end-to-end tests will test, and fails if that is not an API they can test. Runs before them. */
import { randomUUID } from 'node:crypto';
import { JobsError, waitForJob } from '../../client/jobs.ts';
import { localhostFetch } from '../../scripts/aws/localhostFetch.ts';
import { API_BASE_URL } from './deployment.ts';

/** Seconds in which requests without a response, and refused ones, are repeated. */
const LIMIT = 10;

if (API_BASE_URL === undefined) {
  console.log('End-to-end tests: each suite deploys to its own AWS emulator');
} else {
  console.log(`End-to-end tests of ${API_BASE_URL}`);
  const problem = /^https?:\/\/./.test(API_BASE_URL)
    ? await problemOf(`${API_BASE_URL}/jobs/${randomUUID()}`)
    : `must be the base URL of the API, or not be set, but is '${API_BASE_URL}'`;
  if (problem !== undefined) {
    console.error(`Error: API_BASE_URL ${problem}`);
    process.exitCode = 1;
  }
}

/** Returns what is wrong with the API at which this job does not exist, or undefined if nothing is. */
async function problemOf(jobUrl: string): Promise<string | undefined> {
  try {
    await waitForJob(jobUrl, { fetch: localhostFetch, limit: LIMIT });
  } catch (error) {
    if (!(error instanceof JobsError)) throw error;
    if (error.status === 404 && error.message.includes("Job '")) return undefined;
    return `must be the base URL of the API, with its stage (/Prod): ${error.message}${reasonOf(error)}`;
  }
  return 'must be the base URL of the API, but finds every job';
}

/** What fetch says about a network error is in the cause of its cause. */
function reasonOf({ cause }: JobsError): string {
  return cause instanceof Error && cause.cause instanceof Error ? `: ${cause.cause.message}` : '';
}
