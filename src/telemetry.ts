import { Logger } from '@aws-lambda-powertools/logger';

/**
 * Structured JSON logs, in one shape everywhere: request id (by `addContext`), then of these what
 * is known: `jobId`, `attempt`, `stage`, `durationMs`, `outcome`, `error`. A job's text is never
 * logged, nor any message that may quote it.
 */
export const logger = new Logger();
