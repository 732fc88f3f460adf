/**
 * Load-tests a deployed API: `npm run load -- URL [--jobs 100] [--concurrency 20] [--limit 300]`.
 * Submits `jobs` jobs, with at most `concurrency` in flight, and follows each to its end for `limit`
 * seconds at most. Exits with code 1 if no job was accepted, or if an accepted job was lost: it was
 * unknown to the API, or had not ended by the limit.
 */
import { lookup } from 'node:dns';
import { once } from 'node:events';
import http from 'node:http';
import https from 'node:https';
import type { LookupFunction } from 'node:net';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { percentile } from './statistics.ts';

const USAGE = 'Usage: npm run load -- URL [--jobs 1..10000] [--concurrency 1..200] [--limit 1..3600 (seconds)]';
/** Longer than API Gateway waits for a function. */
const REQUEST_TIMEOUT_MS = 35_000;

interface ApiResponse {
  readonly status: number;
  readonly retryAfterMs: number;
  readonly body: { readonly jobId?: string; readonly status?: string };
}

/** One run and its results. Times are in milliseconds. */
class Load {
  readonly #url: string;
  readonly #deadline: number;
  readonly #agent: http.Agent;
  readonly #transport: typeof http | typeof https;
  readonly postMs: number[] = [];
  readonly getMs: number[] = [];
  /** From the POST's response to the GET that returned the end. */
  readonly endMs: number[] = [];
  /** POSTs that were not accepted, by status or error code. */
  readonly rejected = new Map<string, number>();
  /** GETs that had to be repeated, by status or error code. */
  readonly repeated = new Map<string, number>();
  /** Ended jobs, by status. */
  readonly ended = new Map<string, number>();
  accepted = 0;
  lost = 0;

  constructor(url: URL, concurrency: number, limitSeconds: number) {
    this.#url = url.href.replace(/\/$/, '');
    this.#deadline = Date.now() + limitSeconds * 1000;
    this.#transport = url.protocol === 'https:' ? https : http;
    this.#agent = new this.#transport.Agent({ keepAlive: true, maxSockets: concurrency });
  }

  /** Submits and follows the jobs. Stops at the limit, once the open requests are finished. */
  async run(jobs: number, concurrency: number): Promise<void> {
    let submitted = 0;
    const lane = async () => {
      while (submitted < jobs && Date.now() < this.#deadline) {
        submitted += 1;
        await this.#runJob(submitted);
      }
    };
    await Promise.all(Array.from({ length: Math.min(jobs, concurrency) }, lane));
    this.#agent.destroy();
  }

  async #runJob(number: number): Promise<void> {
    const started = performance.now();
    const response = await this.#request('POST', '/jobs', { text: `Load test job ${number} is a great job` });
    if (typeof response === 'string' || response.status !== 202) {
      add(this.rejected, typeof response === 'string' ? response : String(response.status));
      return;
    }
    const acceptedAt = performance.now();
    this.postMs.push(acceptedAt - started);
    this.accepted += 1;
    const status = await this.#follow(`/jobs/${response.body.jobId}`, response.retryAfterMs);
    if (status === undefined) {
      this.lost += 1;
      return;
    }
    add(this.ended, status);
    this.endMs.push(performance.now() - acceptedAt);
  }

  /** Returns DONE or ERROR, or undefined if the job is unknown or did not end before the limit. */
  async #follow(path: string, firstWaitMs: number): Promise<string | undefined> {
    let waitMs = firstWaitMs;
    while (Date.now() + waitMs < this.#deadline) {
      await sleep(waitMs);
      const started = performance.now();
      const response = await this.#request('GET', path);
      if (typeof response === 'string') {
        add(this.repeated, response);
        continue;
      }
      waitMs = response.retryAfterMs;
      if (response.status === 404) return undefined;
      if (response.status !== 200) {
        add(this.repeated, String(response.status));
        continue;
      }
      this.getMs.push(performance.now() - started);
      if (response.body.status === 'DONE' || response.body.status === 'ERROR') return response.body.status;
    }
    return undefined;
  }

  /** Returns the response, or the error code if the request failed. */
  async #request(method: string, path: string, body?: object): Promise<ApiResponse | string> {
    try {
      const request = this.#transport.request(`${this.#url}${path}`, {
        method,
        agent: this.#agent,
        headers: body === undefined ? {} : { 'Content-Type': 'application/json' },
        signal: AbortSignal.timeout(REQUEST_TIMEOUT_MS),
        lookup: lookupLocalhost,
      });
      request.end(body === undefined ? undefined : JSON.stringify(body));
      const [response]: http.IncomingMessage[] = await once(request, 'response');
      if (response === undefined) return 'no response';
      const received = await text(response);
      const retryAfter = Number(response.headers['retry-after'] ?? 1);
      return {
        status: response.statusCode ?? 0,
        retryAfterMs: 1000 * Math.max(1, Number.isFinite(retryAfter) ? retryAfter : 1),
        body: JSON.parse(received),
      };
    } catch (error) {
      return error instanceof Error && 'code' in error ? String(error.code) : String(error);
    }
  }
}

/** Resolves names under .localhost, which curl and browsers do but Node does not. */
const lookupLocalhost: LookupFunction = (hostname, options, callback) => {
  if (!hostname.endsWith('.localhost')) {
    lookup(hostname, options, callback);
    return;
  }
  const address = { address: '127.0.0.1', family: 4 };
  if (options.all) callback(null, [address]);
  else callback(null, address.address, address.family);
};

function add(counts: Map<string, number>, key: string): void {
  counts.set(key, (counts.get(key) ?? 0) + 1);
}

function report({ accepted, lost, rejected, repeated, ended, postMs, getMs, endMs }: Load, seconds: number): string {
  const shown = (counts: ReadonlyMap<string, number>) =>
    [...counts].map(([key, count]) => `${count} x ${key}`).join(', ') || 'none';
  const latency = (values: readonly number[]) =>
    values.length === 0
      ? 'none'
      : [0.5, 0.9, 0.99, 1].map((share) => percentile(values, share).toFixed(0).padStart(7)).join('');
  return [
    `accepted           ${accepted} in ${seconds.toFixed(0)} s`,
    `rejected           ${shown(rejected)}`,
    `ended              ${shown(ended)}`,
    `lost               ${lost}`,
    `GETs repeated      ${shown(repeated)}`,
    `GETs per job       ${(getMs.length / Math.max(1, accepted)).toFixed(1)}`,
    'milliseconds           p50    p90    p99    max',
    `POST, accepted     ${latency(postMs)}`,
    `GET                ${latency(getMs)}`,
    `accepted to ended  ${latency(endMs)}`,
  ].join('\n');
}

/** Parses a whole number within bounds. Throws an Error with the usage if it is not one. */
function within(value: string, least: number, most: number): number {
  const number = Number(value);
  if (!Number.isInteger(number) || number < least || number > most) throw new Error(USAGE);
  return number;
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      help: { type: 'boolean', short: 'h', default: false },
      jobs: { type: 'string', default: '100' },
      concurrency: { type: 'string', default: '20' },
      limit: { type: 'string', default: '300' },
    },
  });
  if (values.help) return console.log(USAGE);
  const url = URL.parse(positionals[0] ?? '');
  if (url === null || !['http:', 'https:'].includes(url.protocol) || positionals.length > 1) throw new Error(USAGE);
  const jobs = within(values.jobs, 1, 10_000);
  const concurrency = within(values.concurrency, 1, 200);
  const limitSeconds = within(values.limit, 1, 3600);

  console.log(`${jobs} jobs to ${url.href}, ${concurrency} at a time, for ${limitSeconds} s at most`);
  const load = new Load(url, concurrency, limitSeconds);
  const started = performance.now();
  await load.run(jobs, concurrency);
  console.log(report(load, (performance.now() - started) / 1000));
  if (load.lost > 0 || load.accepted === 0) process.exitCode = 1;
}

main().catch((error: unknown) => {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
});
