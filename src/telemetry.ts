import { Logger } from '@aws-lambda-powertools/logger';
import { Metrics, MetricUnit } from '@aws-lambda-powertools/metrics';
import type { Context } from 'aws-lambda';
import type { Job } from './job.ts';

/**
 * Structured JSON logs. Each line has `function_request_id` and, where they apply, `jobId`, `attempt`,
 * `stage`, `durationMs`, `outcome` and `error`. A job's text is never logged, except where a stage
 * quotes it in the message of an error.
 */
export const logger = new Logger();

const metrics = new Metrics();

/** The counters. Besides them there are two times, TimeInQueue and TimeToEnd, in whole seconds. */
type Count = 'JobsAccepted' | 'JobsDone' | 'JobsFailed' | 'ClaimsRefused' | 'ClaimsHeld' | 'Retries';

/** Adds one to a counter. */
export function count(name: Count): void {
  metrics.addMetric(name, MetricUnit.Count, 1);
}

/** Records an attempt that starts at `now` (Unix seconds): the first by its time in the queue, others as retries. */
export function countAttempt(job: Job, now: number): void {
  if (job.attempt > 1) count('Retries');
  else metrics.addMetric('TimeInQueue', MetricUnit.Seconds, Math.max(0, now - job.createdAt));
}

/** Records the end of a job at `endedAt` (Unix seconds), and the time since its creation. */
export function countEnd(status: 'DONE' | 'ERROR', job: Job, endedAt: number): void {
  count(status === 'DONE' ? 'JobsDone' : 'JobsFailed');
  metrics.addMetric('TimeToEnd', MetricUnit.Seconds, Math.max(0, endedAt - job.createdAt));
}

/**
 * Runs one invocation: its log lines have its request id, an error is logged and thrown on, and the
 * metrics are sent at the end.
 */
export function withTelemetry<T>(context: Context, work: () => Promise<T>): Promise<T> {
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
