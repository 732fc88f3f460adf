/**
 * A load test of a deployed API. Jobs are submitted at random times (an open loop: a slow API does not slow them
 * down), or all at once, and each is followed with client/jobs.ts until it ends.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { type JobsError, submitJob, waitForJob } from '../../client/jobs.ts';
import { localhostFetch } from '../aws/localhostFetch.ts';
import { percentile } from './statistics.ts';

const USAGE = `Usage: npm run load -- URL [--rate 1] [--seconds 60] [--burst JOBS] [--first-get SECONDS]
                             [--limit 600] [--seed NUMBER]
Submits jobs at random times, on average --rate a second for --seconds, or --burst jobs at once. Follows each
until it ends, for at most --limit seconds. The first GET comes when Retry-After says, or after --first-get seconds.
The same --seed gives the same times. Refused requests are repeated as openapi.yaml allows.
Exit code 1 if a job was not accepted within the limit, or was lost: unknown to the API, or not ended by the limit.`;

interface Options {
  readonly url: string;
  /** When to submit each job, in seconds after the start. */
  readonly arrivals: readonly number[];
  /** Seconds. */
  readonly firstGet: number | undefined;
  /** Seconds. */
  readonly limit: number;
}

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

async function runJob(name: string, { url, firstGet, limit }: Options): Promise<void> {
  const started = performance.now();
  let problem = `${name} was given up`;
  try {
    const { fetch, onRetry } = posts;
    const { jobUrl, retryAfter } = await submitJob(url, `Load test ${name} is great`, { limit, fetch, onRetry });
    accepted += 1;
    problem = `${name} is lost`;
    const { status } = await waitForJob(jobUrl, {
      limit,
      firstWait: firstGet ?? retryAfter,
      fetch: gets.fetch,
      onRetry: gets.onRetry,
    });
    add(ended, status);
    durations.push((performance.now() - started) / 1000);
  } catch (error) {
    problems.push(`${problem}: ${error instanceof Error ? error.message : error}`);
  }
}

function add(counts: Map<string, number>, key: string): void {
  counts.set(key, (counts.get(key) ?? 0) + 1);
}

/** Random times with independent, exponentially distributed gaps (a Poisson process). */
function randomTimes(rate: number, seconds: number, random: () => number): number[] {
  const times: number[] = [];
  const gap = () => -Math.log(1 - random()) / rate;
  for (let time = gap(); time < seconds; time += gap()) times.push(time);
  return times;
}

/** Numbers from 0 to 1, the same for the same seed (the generator mulberry32). */
function randomFrom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

function report(jobs: number): string {
  const shown = (counts: ReadonlyMap<string, number>) =>
    [...counts].map(([key, count]) => `${count} x ${key}`).join(', ') || 'none';
  const duration = (share: number) =>
    durations.length === 0 ? 'none' : `${percentile(durations, share).toFixed(1)} s`;
  return [
    `accepted     ${accepted} of ${jobs}`,
    `ended        ${shown(ended)}`,
    `POSTs        ${posts.sent}, repeated after: ${shown(posts.repeated)}`,
    `GETs         ${gets.sent}, repeated after: ${shown(gets.repeated)}`,
    `GETs a job   ${(gets.sent / Math.max(1, accepted)).toFixed(1)}`,
    `POST to end  p50 ${duration(0.5)}, p99 ${duration(0.99)}, slowest ${duration(1)}`,
  ].join('\n');
}

function readArguments(): Options {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      rate: { type: 'string', default: '1' },
      seconds: { type: 'string', default: '60' },
      burst: { type: 'string' },
      'first-get': { type: 'string' },
      limit: { type: 'string', default: '600' },
      seed: { type: 'string', default: String(Date.now() % 1_000_000) },
    },
  });
  const [url = '', ...rest] = positionals;
  if (!/^https?:\/\/./.test(url) || !URL.canParse(url) || rest.length > 0) throw new Error(USAGE);
  const number = (name: keyof typeof values, least: number, most: number): number => {
    const value = Number(values[name]);
    if (!(value >= least && value <= most)) throw new Error(`--${name} must be from ${least} to ${most}\n${USAGE}`);
    return value;
  };
  const burst = values.burst === undefined ? 0 : number('burst', 1, 10_000);
  const seed = number('seed', 0, 2 ** 31);
  const arrivals =
    burst > 0
      ? Array.from({ length: burst }, () => 0)
      : randomTimes(number('rate', 0.01, 1000), number('seconds', 1, 3600), randomFrom(seed));
  const firstGet = values['first-get'] === undefined ? undefined : number('first-get', 0, 3600);
  console.log(`${arrivals.length} jobs ${burst > 0 ? 'at once' : `at random times (--seed ${seed})`}, to ${url}`);
  return { url, arrivals, firstGet, limit: number('limit', 1, 3600) };
}

async function main(): Promise<void> {
  if (process.argv.includes('--help') || process.argv.includes('-h')) return console.log(USAGE);
  const options = readArguments();
  const start = async (seconds: number, index: number) => {
    await sleep(1000 * seconds);
    await runJob(`job ${index + 1}`, options);
  };
  await Promise.all(options.arrivals.map(start));
  console.log(report(options.arrivals.length));
  for (const problem of problems) console.error(problem);
  if (problems.length > 0) process.exitCode = 1;
}

main().catch((error: unknown) => {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
});
