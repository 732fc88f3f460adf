import { setTimeout as sleep } from 'node:timers/promises';
import { numberField, requestOnce, stringField } from './deployment.ts';

/** How a job ended, as GET returned it. */
export interface Ending {
  readonly jobId: string;
  readonly status: 'DONE' | 'ERROR';
  readonly body: unknown;
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
export function startWatcher(baseUrl: string) {
  const violations: string[] = [];
  const rereads = new Map<string, number>();
  // Few, so that the reads do not slow down the jobs.
  const limited = limiter(READERS);
  let isStopped = false;

  async function watch(jobId: string, limitMs: number, resolve: (ending: Ending) => void): Promise<void> {
    const started = Date.now();
    const statuses: string[] = [];
    let shownEnd: string | undefined;
    for (; !isStopped; await sleep(shownEnd === undefined ? INTERVAL_MS : 5 * INTERVAL_MS, undefined, { ref: false })) {
      if (shownEnd === undefined && Date.now() - started > limitMs) {
        throw new Error(`Job ${jobId} did not end within ${limitMs / 1000} s; seen: ${statuses.join(', ')}`);
      }
      const response = await limited(() => requestOnce(`${baseUrl}/jobs/${jobId}`));
      if (response.status >= 500) continue;
      if (response.status !== 200) violations.push(`${jobId} is gone: ${response.status} ${response.text}`);
      const status = stringField(response, 'status');
      if (status !== statuses.at(-1)) {
        if (statuses.includes(status)) violations.push(`${jobId} back to ${status}`);
        statuses.push(status);
      }
      if (shownEnd !== undefined) {
        if (shownEnd !== response.text) violations.push(`${jobId}: ${shownEnd} became ${response.text}`);
        rereads.set(jobId, (rereads.get(jobId) ?? 0) + 1);
      } else if (status === 'DONE' || status === 'ERROR') {
        shownEnd = response.text;
        rereads.set(jobId, 0);
        resolve({
          jobId,
          status,
          body: response.json,
          seconds: (Date.now() - started) / 1000,
          recordedSeconds: numberField(response, 'updatedAt') - numberField(response, 'createdAt'),
        });
      }
    }
  }

  return {
    /** Statuses that moved backwards, outcomes that changed, and jobs that disappeared. */
    violations,
    /** How often each job was read again after it had ended. */
    rereads,
    /** Follows a job until it ends. Rejects if that takes more than `limitMs`. */
    follow: (jobId: string, limitMs: number) =>
      new Promise<Ending>((resolve, reject) => void watch(jobId, limitMs, resolve).catch(reject)),
    stop: () => {
      isStopped = true;
    },
  };
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
