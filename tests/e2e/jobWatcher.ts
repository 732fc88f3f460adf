import { setTimeout as sleep } from 'node:timers/promises';
import { getJob, stringField } from './deployment.ts';

/** How a job came to its end, as GET showed it. */
export interface Ending {
  readonly jobId: string;
  readonly status: 'DONE' | 'ERROR';
  readonly body: unknown;
  /** Each status once, in the order seen. */
  readonly statuses: readonly string[];
  /** From the moment that the job was given to the watcher. */
  readonly seconds: number;
}

const INTERVAL_MS = 1500;
const READERS = 4;

/**
 * Reads every job that it is given again and again, to its end and beyond, and notes whatever must
 * never be seen. An answer 5xx is not among that: a fault of a read changes no job.
 */
export class Watcher {
  readonly #baseUrl: string;
  readonly #violations: string[] = [];
  readonly #rereads = new Map<string, number>();
  #isStopped = false;
  #idleReaders = READERS;
  readonly #waiting: (() => void)[] = [];

  constructor(baseUrl: string) {
    this.#baseUrl = baseUrl;
  }

  /** A status that went back, an end that changed, a job that was gone. */
  get violations(): readonly string[] {
    return this.#violations;
  }

  /** How often each ended job was read again. */
  get rereads(): ReadonlyMap<string, number> {
    return this.#rereads;
  }

  /** Follows a job, and rejects when it has not ended after so many milliseconds. */
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
      const answer = await this.#inTurn(() => getJob(this.#baseUrl, jobId));
      if (answer.status < 500) {
        if (answer.status !== 200) {
          const violation = `${jobId} is gone: ${answer.status} ${answer.text}; seen: ${statuses.join(', ')}`;
          this.#violations.push(violation);
          throw new Error(violation);
        }
        const status = stringField(answer, 'status');
        if (statuses.includes(status) && statuses.at(-1) !== status)
          this.#violations.push(`${jobId} back to ${status}`);
        if (statuses.at(-1) !== status) statuses.push(status);
        if (shownEnd !== undefined) {
          if (shownEnd !== answer.text) this.#violations.push(`${jobId}: ${shownEnd} became ${answer.text}`);
          this.#rereads.set(jobId, (this.#rereads.get(jobId) ?? 0) + 1);
        } else if (status === 'DONE' || status === 'ERROR') {
          shownEnd = answer.text;
          this.#rereads.set(jobId, 0);
          resolve({ jobId, status, body: answer.json, statuses, seconds: (Date.now() - started) / 1000 });
        }
      }
      if (shownEnd === undefined && Date.now() - started > limitMs) {
        throw new Error(`Job ${jobId} has not ended after ${limitMs / 1000} s; seen: ${statuses.join(', ')}`);
      }
      await sleep(shownEnd === undefined ? INTERVAL_MS : 5 * INTERVAL_MS, undefined, { ref: false });
    }
  }

  /** A few reads at a time, so that the reading does not slow down what is read. */
  async #inTurn<T>(read: () => Promise<T>): Promise<T> {
    if (this.#idleReaders > 0) this.#idleReaders -= 1;
    else await new Promise<void>((resolve) => this.#waiting.push(resolve));
    try {
      return await read();
    } finally {
      const next = this.#waiting.shift();
      if (next === undefined) this.#idleReaders += 1;
      else next();
    }
  }
}
