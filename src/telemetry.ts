import { Logger } from '@aws-lambda-powertools/logger';
import { Metrics, MetricUnit } from '@aws-lambda-powertools/metrics';
import type { Context } from 'aws-lambda';
import type { Job } from './job.ts';

/**
 * Structured JSON logs, in one shape everywhere: `function_request_id`, then of these what is known:
 * `jobId`, `attempt`, `stage`, `durationMs`, `outcome`, `error`. A job's text is never logged, nor
 * any message that may quote it.
 */
export const logger = new Logger();

const metrics = new Metrics();

/** What is counted, beside the job's two times: TimeInQueue and TimeToEnd, in whole seconds as the record keeps them. */
type Count = 'JobsAccepted' | 'JobsDone' | 'JobsFailed' | 'ClaimsRefused' | 'ClaimsHeld' | 'Retries';

/** Adds one to a count. */
export function count(name: Count): void {
  metrics.addMetric(name, MetricUnit.Count, 1);
}

/** An attempt has begun at `now` (Unix seconds): how long the job waited for its first, or that it is a retry. */
export function countAttempt(job: Job, now: number): void {
  if (job.attempt > 1) count('Retries');
  else metrics.addMetric('TimeInQueue', MetricUnit.Seconds, Math.max(0, now - job.createdAt));
}

/** A job has ended at `endedAt` (Unix seconds): how, and how long after it was accepted. */
export function countEnd(status: 'DONE' | 'ERROR', job: Job, endedAt: number): void {
  count(status === 'DONE' ? 'JobsDone' : 'JobsFailed');
  metrics.addMetric('TimeToEnd', MetricUnit.Seconds, Math.max(0, endedAt - job.createdAt));
}

/**
 * One invocation: its logs carry its request id and nothing of the one before, its failure is
 * logged, and its metrics are sent.
 *
 * @throws what `work` throws
 */
export function observed<T>(context: Context, work: () => Promise<T>): Promise<T> {
  logger.resetKeys();
  logger.addContext(context);
  const started = performance.now();
  return work()
    .catch((error: unknown) => {
      const durationMs = Math.round(performance.now() - started);
      logger.error('Invocation failed', { outcome: 'failed', durationMs, error });
      throw error;
    })
    .finally(() => {
      if (metrics.hasStoredMetrics()) metrics.publishStoredMetrics();
    });
}
