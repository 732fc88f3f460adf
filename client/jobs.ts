/**
 * A client of the API in one file, for Node.js 20.3 or newer and for browsers. It needs nothing else: copy it into
 * your program. All times are in seconds.
 */

/** A job as GET returns it. The times are Unix times; `result` has the results of the stages by stage name. */
export type Job = {
  readonly jobId: string;
  readonly text: string;
  readonly createdAt: number;
  readonly updatedAt: number;
} & (
  | { readonly status: 'PENDING' | 'IN_PROGRESS' }
  | { readonly status: 'DONE'; readonly result: Readonly<Record<string, unknown>> }
  | { readonly status: 'ERROR'; readonly errorMessage: string }
);
/** A job whose status is final. */
export type EndedJob = Extract<Job, { readonly status: 'DONE' | 'ERROR' }>;

/** What POST returned. `retryAfter` is how long to wait before the first GET of `jobUrl`. */
export interface AcceptedJob {
  readonly jobId: string;
  readonly jobUrl: string;
  readonly status: Job['status'];
  readonly retryAfter: number;
}

/** Why a job could not be submitted or read. */
export class JobsError extends Error {
  /** The HTTP status, or undefined if no complete response was received. */
  readonly status: number | undefined;
  /** Set if nothing failed, but the job had not ended at the limit. */
  readonly job: Job | undefined;

  constructor(message: string, status: number | undefined, details: { job?: Job; cause?: unknown } = {}) {
    super(message, { cause: details.cause });
    this.name = 'JobsError';
    this.status = status;
    this.job = details.job;
  }
}

interface RequestOptions {
  /** Sent with each request, for example to sign in. */
  readonly headers?: Readonly<Record<string, string>>;
  /** When it is aborted, the call rejects with its reason. */
  readonly signal?: AbortSignal | undefined;
  /** When to give up. Default: 60 for a POST, 600 for the GETs of a job. */
  readonly limit?: number;
  /** The time for one request, including its response. Default: 35, because API Gateway takes up to 29. */
  readonly requestTimeout?: number;
  /** Called before a request is repeated after `wait` seconds. */
  readonly onRetry?: (failure: JobsError, wait: number) => void;
  /** For tests. `clock` returns milliseconds. */
  readonly fetch?: typeof fetch;
  readonly sleep?: (seconds: number, signal?: AbortSignal) => Promise<void>;
  readonly clock?: () => number;
}

export interface SubmitOptions extends RequestOptions {
  /** POSTs with the same key and text create only one job. Default: a random UUID. */
  readonly idempotencyKey?: string;
}

export interface WaitOptions extends RequestOptions {
  /** How long to wait before the first GET: `retryAfter` of the accepted job. Default: 0. */
  readonly firstWait?: number;
  /** How long to wait between two GETs, to show progress. Default: what `Retry-After` says, which costs less. */
  readonly interval?: number | undefined;
  /** Called with what each GET returned. */
  readonly onStatus?: (job: Job) => void;
}

/**
 * Submits a job. Repeats the POST after 429, 5xx and network errors, as `Retry-After` says.
 *
 * @throws JobsError if the API refuses the job, or with the last failure at the limit; TypeError if the URL, a
 *   header or a time is malformed
 */
export async function submitJob(baseUrl: string, text: string, options: SubmitOptions = {}): Promise<AcceptedJob> {
  const key = options.idempotencyKey ?? crypto.randomUUID();
  const headers = { ...options.headers, 'Content-Type': 'application/json', 'Idempotency-Key': key };
  const init = { method: 'POST', headers, body: JSON.stringify({ text }) };
  const call = new Call(`${baseUrl.replace(/\/+$/, '')}/jobs`, init, options, 60);
  const { json, location, retryAfter = 1 } = await call.send(202);
  const { jobId, status } = fieldsOf(json);
  if (typeof jobId !== 'string' || !isStatus(status)) throw new JobsError(`${call.url} returned no job`, 202);
  if (location === null) throw new JobsError(`${call.url} returned no Location`, 202);
  return { jobId, jobUrl: new URL(location, call.url).href, status, retryAfter };
}

/**
 * Waits until a job is DONE or ERROR. Reads it as often as `Retry-After` says, and repeats a GET after 429, 5xx and
 * network errors.
 *
 * @throws JobsError if the job cannot be read (status 404 if there is no such job) or has not ended at the limit;
 *   TypeError if the URL, a header or a time is malformed
 */
export async function waitForJob(jobUrl: string, options: WaitOptions = {}): Promise<EndedJob> {
  const { firstWait = 0, interval, headers = {}, onStatus } = options;
  const call = new Call(jobUrl, { headers }, options, 600);
  await call.wait(firstWait);
  for (;;) {
    const { json: job, retryAfter = 1 } = await call.send(200);
    if (!isJob(job)) throw new JobsError(`${call.url} returned no job`, 200);
    onStatus?.(job);
    if (job.status === 'DONE' || job.status === 'ERROR') return job;
    if (call.isOver) throw new JobsError(`${call.url} is still ${job.status} at the limit`, 200, { job });
    await call.wait(interval ?? retryAfter);
  }
}

/** A request that is repeated until its response is final or the limit is reached. */
class Call {
  readonly url: string;
  readonly #init: RequestInit;
  readonly #options: RequestOptions;
  readonly #end: number;

  constructor(url: string, init: RequestInit, options: RequestOptions, defaultLimit: number) {
    // Throws if the URL or a header is malformed. In fetch that would look like a network error.
    this.url = new Request(url, init).url;
    this.#init = init;
    this.#options = options;
    this.#end = this.#now() + (options.limit ?? defaultLimit);
  }

  /** Whether the limit is reached. */
  get isOver(): boolean {
    return this.#now() >= this.#end;
  }

  #now(): number {
    return (this.#options.clock ?? Date.now)() / 1000;
  }

  /** Waits, but not past the limit. */
  async wait(seconds: number): Promise<void> {
    const { signal, sleep = wakeableSleep } = this.#options;
    signal?.throwIfAborted();
    const wait = Math.min(seconds, this.#end - this.#now());
    // A timer would take NaN as 1 ms, and the limit would never be reached.
    if (Number.isNaN(wait)) throw new TypeError('A limit or an interval is not a number');
    await sleep(wait, signal);
    signal?.throwIfAborted();
  }

  /** Sends the request until the response has this status. */
  async send(expected: number) {
    for (let backoff = 1; ; backoff = Math.min(2 * backoff, 30)) {
      const { status, headers, body, cause } = await this.#sendOnce();
      this.#options.signal?.throwIfAborted();
      const seconds = headers.get('Retry-After') ?? '';
      const retryAfter = /^\d{1,6}$/.test(seconds) ? Math.max(1, Number(seconds)) : undefined;
      const json = parsed(body);
      if (status === expected) return { json, location: headers.get('Location'), retryAfter };

      const { error, message = body.slice(0, 200) } = fieldsOf(json);
      const what =
        status === undefined ? `No response from ${this.url}` : `${this.url} returned ${status}: ${error ?? message}`;
      const failure = new JobsError(what, status, { cause });
      if (this.isOver || !(status === undefined || status === 429 || status >= 500)) throw failure;
      // If there is no Retry-After, clients that failed at the same time repeat at different times.
      const wait = retryAfter ?? backoff * (0.5 + Math.random() / 2);
      this.#options.onRetry?.(failure, wait);
      await this.wait(wait);
    }
  }

  async #sendOnce() {
    const { signal, requestTimeout = 35, fetch: fetchUrl = fetch } = this.#options;
    const timeout = AbortSignal.timeout(1000 * requestTimeout);
    const init = { ...this.#init, signal: signal === undefined ? timeout : AbortSignal.any([signal, timeout]) };
    try {
      const response = await fetchUrl(this.url, init);
      // The timeout also applies to a body that never ends.
      return { status: response.status, headers: response.headers, body: await response.text() };
    } catch (cause) {
      return { headers: new Headers(), body: '', cause };
    }
  }
}

/** Resolves early if the signal is aborted. */
function wakeableSleep(seconds: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const wake = () => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', wake);
      resolve();
    };
    const timer = setTimeout(wake, 1000 * seconds);
    signal?.addEventListener('abort', wake);
  });
}

function parsed(body: string): unknown {
  try {
    return JSON.parse(body);
  } catch {
    return undefined;
  }
}

const fieldsOf = (json: unknown): Record<string, unknown> => ({ ...Object(json) });

const isStatus = (status: unknown): status is Job['status'] =>
  status === 'PENDING' || status === 'IN_PROGRESS' || status === 'DONE' || status === 'ERROR';

function isJob(json: unknown): json is Job {
  const { jobId, status, text, createdAt, updatedAt, result, errorMessage } = fieldsOf(json);
  if (typeof jobId !== 'string' || typeof text !== 'string' || !isStatus(status)) return false;
  if (typeof createdAt !== 'number' || typeof updatedAt !== 'number') return false;
  if (status === 'DONE') return typeof result === 'object' && result !== null;
  return status !== 'ERROR' || typeof errorMessage === 'string';
}
