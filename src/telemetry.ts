import { Logger } from '@aws-lambda-powertools/logger';
import { Metrics, MetricUnit } from '@aws-lambda-powertools/metrics';
import type { Context } from 'aws-lambda';
import type { Job } from './job.ts';

/**
 * Structured JSON logs. Each line has `function_request_id` and, where they apply, `jobId`, `attempt`,
 * `stage`, `durationMs`, `outcome` and `error`. A job's text is never logged, unless a stage
 * includes it in an error message. Errors are logged with {@link logError}.
 */
export const logger = new Logger();

/** The longest name and code, message, and stack that are logged, in UTF-16 code units. */
const MAX_LOGGED = { name: 100, message: 2000, stack: 4000 };

/** How many causes of an error are logged, each the cause of the one before. */
const MAX_CAUSES = 4;

/** What is logged of an error. All of it is plain data. */
interface LoggedError {
  readonly name?: string | undefined;
  readonly message?: string | undefined;
  readonly code?: string | number | undefined;
  /** The stack frames, without name and message. */
  readonly stack?: string | undefined;
  readonly cause?: LoggedError | undefined;
}

/**
 * Logs anything that was thrown. Of an error only name, message, code, stack and causes are logged, each
 * cut to a fixed length: libraries attach requests, credentials, output and buffers to their errors.
 */
export function logError(message: string, error: unknown, fields: object): void {
  logger.error(message, { ...fields, error: loggedError(error, MAX_CAUSES) });
}

function loggedError(error: unknown, causesLeft: number): LoggedError {
  if ((typeof error !== 'object' && typeof error !== 'function') || error === null) {
    return { message: cut(String(error), MAX_LOGGED.message) };
  }
  const message = read(error, 'message');
  const code = read(error, 'code');
  // The first error of an AggregateError counts as its cause.
  const cause = read(error, 'cause') ?? read(read(error, 'errors'), '0');
  return {
    name: cut(read(error, 'name'), MAX_LOGGED.name),
    message: cut(message, MAX_LOGGED.message),
    code: typeof code === 'number' ? code : cut(code, MAX_LOGGED.name),
    stack: framesOf(read(error, 'stack'), message),
    cause: cause === undefined || causesLeft === 0 ? undefined : loggedError(cause, causesLeft - 1),
  };
}

/** A property of a value. Undefined if there is none, or if reading it throws. */
function read(value: unknown, property: string): unknown {
  try {
    return Reflect.get(Object(value), property);
  } catch {
    return undefined;
  }
}

/** The frames of a stack. Before them it repeats name and message, which could use up the whole length. */
function framesOf(stack: unknown, message: unknown): string | undefined {
  if (typeof stack !== 'string') return undefined;
  const start = typeof message === 'string' ? stack.indexOf(message) : -1;
  const messageEnd = start < 0 ? 0 : start + String(message).length;
  return cut(stack.slice(stack.indexOf('\n', messageEnd) + 1), MAX_LOGGED.stack);
}

function cut(value: unknown, maxLength: number): string | undefined {
  return typeof value === 'string' ? value.slice(0, maxLength) : undefined;
}

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

/** Records that a job ended at `endedAt` (Unix seconds), and the time since its creation. */
export function recordEnd(status: 'DONE' | 'ERROR', job: Job, endedAt: number): void {
  count(status === 'DONE' ? 'JobsDone' : 'JobsFailed');
  metrics.addMetric('TimeToEnd', MetricUnit.Seconds, Math.max(0, endedAt - job.createdAt));
}

/**
 * Runs one invocation: log lines get the request id, an error is logged and rethrown, and the
 * metrics are sent last.
 */
export function withTelemetry<T>(context: Context, work: () => Promise<T>): Promise<T> {
  logger.resetKeys();
  logger.addContext(context);
  const started = performance.now();
  return work()
    .catch((error: unknown) => {
      const durationMs = Math.round(performance.now() - started);
      logError('Invocation failed', error, { outcome: 'failed', durationMs });
      throw error;
    })
    .finally(() => {
      if (metrics.hasStoredMetrics()) metrics.publishStoredMetrics();
    });
}
