import { setTimeout as sleep } from 'node:timers/promises';
import { numberField, requestOnce, stringField } from './deployment.ts';

/** How a job ended, as GET returned it. */
export interface Ending {
  readonly jobId: string;
  readonly status: 'DONE' | 'ERROR';
  readonly body: unknown;
  /** Each status once, in the order seen. */
  readonly statuses: readonly string[];
  /** Since the watcher started to follow the job. */
  readonly seconds: number;
  /** From the job's creation until it ended, as its record says. */
  readonly recordedSeconds: number;
}

const INTERVAL_MS = 1500;
const READERS = 4;

/**
 * Reads each job repeatedly, even after it has ended, and records violations of the guarantees. A 5xx
 * response is not a violation, because a failed read does not change the job.
 */
export class Watcher {
  readonly #baseUrl: string;
  readonly #violations: string[] = [];
  readonly #rereads = new Map<string, number>();
  /** Few, so that the reads do not slow down the jobs. */
  readonly #limited = limiter(READERS);
  #isStopped = false;

  constructor(baseUrl: string) {
    this.#baseUrl = baseUrl;
  }

  /** Statuses that moved backwards, outcomes that changed, and jobs that disappeared. */
  get violations(): readonly string[] {
    return this.#violations;
  }

  /** How often each job was read again after it had ended. */
  get rereads(): ReadonlyMap<string, number> {
    return this.#rereads;
  }

  /** Follows a job until it ends. Rejects if that takes more than `limitMs`. */
  follow(jobId: string, limitMs: number): Promise<Ending> {
    const { promise, resolve, reject } = Promise.withResolvers<Ending>();
    this.#watch(jobId, limitMs, resolve).catch(reject);
    return promise;
  }

  stop(): void {
    this.#isStopped = true;
  }

  async #watch(jobId: string, limitMs: number, resolve: (ending: Ending) => void): Promise<void> {
    const started = Date.now();
    const statuses: string[] = [];
    let shownEnd: string | undefined;
    while (!this.#isStopped) {
      const response = await this.#limited(() => requestOnce(`${this.#baseUrl}/jobs/${jobId}`));
      if (response.status < 500) {
        if (response.status !== 200) {
          const violation = `${jobId} is gone: ${response.status} ${response.text}; seen: ${statuses.join(', ')}`;
          this.#violations.push(violation);
          throw new Error(violation);
        }
        const status = stringField(response, 'status');
        if (statuses.includes(status) && statuses.at(-1) !== status)
          this.#violations.push(`${jobId} back to ${status}`);
        if (statuses.at(-1) !== status) statuses.push(status);
        if (shownEnd !== undefined) {
          if (shownEnd !== response.text) this.#violations.push(`${jobId}: ${shownEnd} became ${response.text}`);
          this.#rereads.set(jobId, (this.#rereads.get(jobId) ?? 0) + 1);
        } else if (status === 'DONE' || status === 'ERROR') {
          shownEnd = response.text;
          this.#rereads.set(jobId, 0);
          resolve({
            jobId,
            status,
            body: response.json,
            statuses,
            seconds: (Date.now() - started) / 1000,
            recordedSeconds: numberField(response, 'updatedAt') - numberField(response, 'createdAt'),
          });
        }
      }
      if (shownEnd === undefined && Date.now() - started > limitMs) {
        throw new Error(`Job ${jobId} did not end within ${limitMs / 1000} s; seen: ${statuses.join(', ')}`);
      }
      await sleep(shownEnd === undefined ? INTERVAL_MS : 5 * INTERVAL_MS, undefined, { ref: false });
    }
  }
}

/** Returns a function that runs what it is given, at most `count` at the same time, in the order of the calls. */
export function limiter(count: number): <T>(run: () => Promise<T>) => Promise<T> {
  let idle = count;
  const waiting: (() => void)[] = [];
  return async (run) => {
    if (idle > 0) idle -= 1;
    else await new Promise<void>((resolve) => waiting.push(resolve));
    try {
      return await run();
    } finally {
      const next = waiting.shift();
      if (next === undefined) idle += 1;
      else next();
    }
  };
}
