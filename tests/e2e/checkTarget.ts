/** Prints what the end-to-end tests will test, and fails if that is not an API they can test. Runs before them. */
import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { API_BASE_URL, requestOnce } from './deployment.ts';

const TRIES = 4;
const PAUSE_MS = 2000;

if (API_BASE_URL === undefined) {
  console.log('End-to-end tests: each suite deploys to its own AWS emulator');
} else {
  console.log(`End-to-end tests of ${API_BASE_URL}`);
  const problem = /^https?:\/\/./.test(API_BASE_URL)
    ? await problemOf(API_BASE_URL)
    : `API_BASE_URL must be the base URL of the API, or not be set, but is '${API_BASE_URL}'`;
  if (problem !== undefined) {
    console.error(`Error: ${problem}`);
    process.exitCode = 1;
  }
}

/** Returns what is wrong with the API at this URL, or undefined if nothing is. */
async function problemOf(baseUrl: string): Promise<string | undefined> {
  const url = `${baseUrl}/jobs/${randomUUID()}`;
  let problem = '';
  for (let tries = 0; tries < TRIES; tries += 1) {
    if (tries > 0) await sleep(PAUSE_MS);
    try {
      const answer = await requestOnce(url);
      if (answer.status === 404 && answer.text.includes("Job '")) return undefined;
      problem = `returned ${answer.status}: is this the base URL of the API, with its stage (/Prod)?`;
    } catch (error) {
      problem = `failed: ${error instanceof Error ? error.message : error}`;
    }
  }
  return `API_BASE_URL cannot be tested: GET ${url} ${problem}`;
}
