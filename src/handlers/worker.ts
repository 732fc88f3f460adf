import { setTimeout } from 'node:timers';
import type { Context } from 'aws-lambda';
import { v4 as uuid } from 'uuid';
import { type AttemptDependencies, runAttempt } from '../attempt.ts';
import { documentClient } from '../aws.ts';
import { requireEnv, requireSeconds } from '../config.ts';
import { JobRepository } from '../jobRepository.ts';
import { stages } from '../stages/index.ts';
import { logger, withTelemetry } from '../telemetry.ts';

/**
 * How long the worker waits, after the final write, for stages that are stopping, in milliseconds. As much
 * time must then be left to end the process before Lambda kills it.
 */
const STOP_MS = 1000;

/** The handler's dependencies. */
export interface WorkerDependencies extends AttemptDependencies {
  /** Ends the process after its output has been written. */
  readonly endProcess: () => Promise<void>;
}

/**
 * Runs the job of an event `{"jobId"}`. Lambda delivers an event at least once, and again after a
 * failure; the claim decides which delivery runs the job. If another attempt is running, the delivery
 * fails and Lambda retries it. If that attempt crashes, the retry takes over.
 *
 * Lambda reuses processes, even after a failure. A stage that does not settle would keep running during
 * the next attempt or another job, so the process exits. Lambda counts that as an error.
 *
 * @throws any error outside the stages. Lambda retries the event, and keeps it if it gives up.
 */
export function buildHandler({ endProcess, ...dependencies }: WorkerDependencies) {
  return async (event: unknown, context: Context): Promise<void> => {
    const remainingMs = () => context.getRemainingTimeInMillis();
    const running = new Map<string, Promise<unknown>>();
    try {
      const result = await withTelemetry(context, async () => {
        const jobId = parseJobId(event);
        logger.appendKeys({ jobId });
        return runAttempt(dependencies, jobId, remainingMs, running);
      });
      if (result === 'held') throw new Error('Another attempt holds the job; Lambda will deliver this event again');
    } finally {
      if (running.size > 0) {
        const stopMs = Math.max(0, Math.min(STOP_MS, remainingMs() - STOP_MS));
        await settled(running, stopMs, dependencies.startTimer);
      }
      if (running.size > 0) {
        logger.error('Stage still running: ending the process', { stage: [...running.keys()].join() });
        await endProcess();
      }
    }
  };
}

/** Resolves when all of these stages have settled, or after `milliseconds`. */
async function settled(
  running: ReadonlyMap<string, Promise<unknown>>,
  milliseconds: number,
  startTimer: WorkerDependencies['startTimer'],
): Promise<void> {
  const { promise: timeUp, resolve } = Promise.withResolvers<void>();
  const stopTimer = startTimer(milliseconds, resolve);
  await Promise.race([Promise.allSettled(running.values()), timeUp]);
  stopTimer();
}

/** Returns the job id. Throws an Error for any other event, which Lambda keeps for an operator. */
function parseJobId(event: unknown): string {
  if (typeof event === 'object' && event !== null && 'jobId' in event && typeof event.jobId === 'string') {
    return event.jobId;
  }
  throw new Error('Event must be {"jobId": "<id>"}');
}

export const handler = buildHandler({
  repository: new JobRepository(documentClient(), requireEnv('JOBS_TABLE_NAME')),
  stages,
  workerTimeout: requireSeconds('WORKER_TIMEOUT_SECONDS'),
  startTimer(milliseconds, onTime) {
    const timer = setTimeout(onTime, milliseconds);
    return () => clearTimeout(timer);
  },
  newToken: () => uuid(),
  clock: Date.now,
  async endProcess() {
    // process.exit discards buffered output.
    for (const stream of [process.stdout, process.stderr]) await new Promise((done) => stream.write('', done));
    process.exit(1);
  },
});
