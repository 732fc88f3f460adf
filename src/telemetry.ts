import { Logger } from '@aws-lambda-powertools/logger';
import { Metrics, MetricUnit } from '@aws-lambda-powertools/metrics';
import type { Context } from 'aws-lambda';
import type { Job } from './job.ts';

/**
 * Structured JSON logs. Each line has `function_request_id` and, where they apply, `jobId`, `attempt`,
 * `stage`, `durationMs`, `outcome` and `error`. A job's text is never logged, unless a stage
 * includes it in an error message.
 */
export const logger = new Logger();

const metrics = new Metrics();

/** The counters. There are also two durations in whole seconds: TimeInQueue and TimeToEnd. */
type Count = 'JobsAccepted' | 'JobsDone' | 'JobsFailed' | 'ClaimsRefused' | 'ClaimsHeld' | 'Retries';

/** Adds one to a counter. */
export function count(name: Count): void {
  metrics.addMetric(name, MetricUnit.Count, 1);
}

/** Records the start of an attempt at `now` (Unix seconds): the time in the queue, or a retry for later attempts. */
export function recordAttempt(job: Job, now: number): void {
  if (job.attempt > 1) count('Retries');
  else metrics.addMetric('TimeInQueue', MetricUnit.Seconds, Math.max(0, now - job.createdAt));
}

/** Records the end of a job at `endedAt` (Unix seconds), and the time since its creation. */
export function recordEnd(status: 'DONE' | 'ERROR', job: Job, endedAt: number): void {
  count(status === 'DONE' ? 'JobsDone' : 'JobsFailed');
  metrics.addMetric('TimeToEnd', MetricUnit.Seconds, Math.max(0, endedAt - job.createdAt));
}

/**
 * Runs one invocation: log lines get the request id, an error is logged and rethrown, and the
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
