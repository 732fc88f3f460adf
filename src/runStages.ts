import { inspect } from 'node:util';
import { fitsItem, type Outcome } from './job.ts';
import { type Stage, type StageContext, StageError } from './stages/stage.ts';
import { logger } from './telemetry.ts';

/** The longest error message that a job keeps, in code points. */
const MAX_MESSAGE_CODE_POINTS = 1000;

/**
 * Runs the stages in order until one fails, or `signal` aborts, and returns how the job ends. Does not
 * throw, whatever a stage throws or returns.
 *
 * @param running holds the name of a stage from its start until it settles, even after this returns
 * @param clock Unix milliseconds
 */
export async function runStages(
  stages: readonly Stage[],
  job: { readonly jobId: string; readonly text: string },
  { signal, running, clock }: { signal: AbortSignal; running: Set<string>; clock: () => number },
): Promise<Outcome> {
  const { jobId, text } = job;
  const results: Record<string, StageContext['results'][string]> = {};
  const members: string[] = [];
  for (const stage of stages) {
    const { name } = stage;
    const started = clock();
    running.add(name);
    // As a method, because a stage may be a class instance; in an async function, because it may throw synchronously.
    const work = (async () => stage.run(text, { jobId, results, signal }))().finally(() => running.delete(name));
    try {
      const json = toJson(await raceWithAbort(work, signal));
      results[name] = JSON.parse(json);
      members.push(`${JSON.stringify(name)}:${json}`);
      logger.info('Stage done', { stage: name, outcome: 'done', durationMs: clock() - started });
    } catch (error) {
      const outcome = signal.aborted ? 'timed out' : 'failed';
      logFailure({ stage: name, outcome, durationMs: clock() - started }, error);
      const errorMessage = signal.aborted ? `Stage '${name}' took too long` : clientMessage(error, name);
      return { status: 'ERROR', errorMessage };
    }
  }
  // Built from each stage's JSON, because encoding all results again could overflow the stack.
  const result = `{${members.join()}}`;
  if (fitsItem(text, result)) return { status: 'DONE', result };
  logger.error('Result too large', { outcome: 'failed' });
  return { status: 'ERROR', errorMessage: 'The result cannot be stored: it is too large' };
}

/** Settles as `work` does, or rejects as soon as `signal` aborts. */
async function raceWithAbort<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  const { promise: aborted, reject } = Promise.withResolvers<never>();
  const onAbort = () => reject(signal.reason);
  signal.addEventListener('abort', onAbort);
  if (signal.aborted) onAbort();
  try {
    return await Promise.race([work, aborted]);
  } finally {
    signal.removeEventListener('abort', onAbort);
  }
}

/** The JSON text of a result. Throws an Error if it is not an object or has a value that JSON cannot represent. */
function toJson(result: unknown): string {
  const json = JSON.stringify(result, (key, value: unknown) => {
    const isLost =
      (typeof value === 'number' && !Number.isFinite(value)) || value instanceof Map || value instanceof Set;
    if (isLost || typeof value === 'bigint') {
      throw new TypeError(`JSON cannot represent ${value}, the value of '${key}'`);
    }
    return value;
  });
  if (typeof json !== 'string' || !json.startsWith('{')) throw new TypeError('The result is not a JSON object');
  return json;
}

/** The message that the client gets for the error of a stage. */
function clientMessage(error: unknown, stage: string): string {
  let message = '';
  try {
    if (error instanceof StageError) message = String(error.message);
  } catch {
    // JavaScript can throw objects that cannot be read.
  }
  return Array.from(message.toWellFormed()).slice(0, MAX_MESSAGE_CODE_POINTS).join('') || `Stage '${stage}' failed`;
}

/** Logs an error as thrown. Some values make the logger itself throw. */
function logFailure(fields: object, error: unknown): void {
  try {
    logger.error('Stage failed', { ...fields, error });
  } catch {
    logger.error('Stage failed', { ...fields, error: inspect(error, { customInspect: false }) });
  }
}
