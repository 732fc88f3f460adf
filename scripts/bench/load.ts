/**
 * A load test of a deployed API. Jobs are submitted at random times (an open loop: a slow API does not slow them
 * down), or all at once, and each is followed with client/jobs.ts until it ends.
 */
import { randomInt } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { type JobsError, submitJob, waitForJob } from '../../client/jobs.ts';
import { localhostFetch } from '../aws/localhostFetch.ts';

const USAGE = `Usage: npm run load -- URL [--rate 1] [--seconds 60] [--seed NUMBER] [--burst JOBS]
Submits jobs at random times, on average --rate a second for --seconds; the same --seed gives the same times. Or
submits --burst jobs at once. Follows each until it ends, for at most 10 minutes. Refused requests are repeated as
openapi.yaml allows.
Exit code 1 if a job was not accepted within 10 minutes, or was lost: unknown to the API, or not ended by then.`;

const LIMIT_SECONDS = 600;
/** Seeds are smaller than this prime number. */
const SEEDS = 2 ** 31 - 1;

/** Counts the requests of one kind. */
class Requests {
  sent = 0;
  /** Repeated requests by the status of the response that refused them. */
  readonly repeated = new Map<string, number>();

  readonly fetch: typeof fetch = (...request) => {
    this.sent += 1;
    return localhostFetch(...request);
  };

  readonly onRetry = ({ status }: JobsError): void => add(this.repeated, String(status ?? 'no response'));
}

const posts = new Requests();
const gets = new Requests();
let accepted = 0;
/** Ended jobs by status. */
const ended = new Map<string, number>();
/** Seconds from a job's first POST to the GET that returned its outcome. */
const durations: number[] = [];
/** One line for each job that was given up or lost. */
const problems: string[] = [];

try {
  if (process.argv.includes('--help')) console.log(USAGE);
  else await main();
} catch (error) {
  console.error(messageOf(error));
  process.exitCode = 1;
}

async function main(): Promise<void> {
  const { url, arrivals } = readArguments();
  await Promise.all(
    arrivals.map(async (seconds, index) => {
      await sleep(1000 * seconds);
      await runJob(`job ${index + 1}`, url);
    }),
  );
  console.log(report(arrivals.length));
  for (const problem of problems) console.error(problem);
  if (problems.length > 0) process.exitCode = 1;
}

/** The API's URL, and when to submit each job (seconds after the start). */
function readArguments(): { url: string; arrivals: number[] } {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      rate: { type: 'string', default: '1' },
      seconds: { type: 'string', default: '60' },
      seed: { type: 'string', default: String(randomInt(1, SEEDS)) },
      burst: { type: 'string', default: '0' },
    },
  });
  const [url = '', ...rest] = positionals;
  if (!/^https?:\/\/./.test(url) || !URL.canParse(url) || rest.length > 0) throw new Error(USAGE);
  const number = (name: keyof typeof values, least: number, most: number): number => {
    const value = Number(values[name]);
    if (!(value >= least && value <= most)) throw new Error(`--${name} must be from ${least} to ${most}\n${USAGE}`);
    return value;
  };
  const burst = number('burst', 0, 10_000);
  const seed = Math.floor(number('seed', 1, SEEDS - 1));
  const arrivals =
    burst > 0
      ? new Array<number>(burst).fill(0)
      : randomTimes(number('rate', 0.01, 1000), number('seconds', 1, 3600), seed);
  console.log(`${arrivals.length} jobs ${burst > 0 ? 'at once' : `at random times (--seed ${seed})`}, to ${url}`);
  return { url, arrivals };
}

/** Random times with independent, exponentially distributed gaps (a Poisson process). */
function randomTimes(rate: number, seconds: number, seed: number): number[] {
  const times: number[] = [];
  // The generator of Park and Miller.
  let state = seed;
  const gap = () => {
    state = (state * 48_271) % SEEDS;
    return -Math.log(state / SEEDS) / rate;
  };
  for (let time = gap(); time < seconds; time += gap()) times.push(time);
  return times;
}

async function runJob(name: string, url: string): Promise<void> {
  const started = performance.now();
  const limit = LIMIT_SECONDS;
  let problem = `${name} was given up`;
  try {
    const { jobUrl, retryAfter } = await submitJob(url, `Load test ${name} is great`, { limit, ...posts });
    accepted += 1;
    problem = `${name} is lost`;
    const { status } = await waitForJob(jobUrl, { limit, firstWait: retryAfter, ...gets });
    add(ended, status);
    durations.push((performance.now() - started) / 1000);
  } catch (error) {
    problems.push(`${problem}: ${messageOf(error)}`);
  }
}

function add(counts: Map<string, number>, key: string): void {
  counts.set(key, (counts.get(key) ?? 0) + 1);
}

function report(jobs: number): string {
  const shown = (counts: ReadonlyMap<string, number>) =>
    [...counts].map(([key, count]) => `${count} x ${key}`).join(', ') || 'none';
  const sorted = durations.toSorted((a, b) => a - b);
  // The percentile by nearest rank.
  const duration = (share: number) => {
    const value = sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)];
    return value === undefined ? 'none' : `${value.toFixed(1)} s`;
  };
  return [
    `accepted     ${accepted} of ${jobs}`,
    `ended        ${shown(ended)}`,
    `POSTs        ${posts.sent}, repeated after: ${shown(posts.repeated)}`,
    `GETs         ${gets.sent}, repeated after: ${shown(gets.repeated)}`,
    `GETs a job   ${(gets.sent / Math.max(1, accepted)).toFixed(1)}`,
    `POST to end  p50 ${duration(0.5)}, p99 ${duration(0.99)}, slowest ${duration(1)}`,
  ].join('\n');
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
