import { fitsItem, type Job, type Outcome } from './job.ts';
import { type Stage, type StageContext, StageError } from './stages/stage.ts';
import { logError, logger } from './telemetry.ts';

/** The longest error message that a job keeps, in code points. */
const MAX_MESSAGE_CODE_POINTS = 1000;

/** What a run of the stages depends on, in addition to the stages and the job. */
interface RunOptions {
  /** Aborts when the stages' time is up. */
  readonly signal: AbortSignal;
  /** Aborts the signal if the time is up. A stage that blocks the process keeps the timer from doing so. */
  readonly checkTime: () => void;
  /** Gets the promise of each stage, by name, and keeps it until the stage settles, even after the run. */
  readonly running: Map<string, Promise<unknown>>;
  /** Unix milliseconds. */
  readonly clock: () => number;
}

/**
 * Runs the stages in order until one fails, or `signal` aborts, and returns how the job ends. Does not
 * throw, whatever a stage throws or returns.
 */
export async function runStages(
  stages: readonly Stage[],
  job: Pick<Job, 'jobId' | 'text' | 'owner'>,
  { signal, checkTime, running, clock }: RunOptions,
): Promise<Outcome> {
  const { jobId, text } = job;
  const results: Record<string, StageContext['results'][string]> = Object.create(null);
  const members: string[] = [];
  for (const stage of stages) {
    const { name } = stage;
    const started = clock();
    try {
      signal.throwIfAborted();
      // As a method, because a stage may be a class instance.
      const work = Promise.try(() => stage.run(text, { jobId, results, signal })).finally(() => running.delete(name));
      running.set(name, work);
      const json = toJson(await raceWithAbort(work, signal));
      // Otherwise the next stage would be reported as too slow.
      if (stage !== stages.at(-1)) checkTime();
      signal.throwIfAborted();
      results[name] = JSON.parse(json);
      members.push(`${JSON.stringify(name)}:${json}`);
      logger.info('Stage done', { stage: name, outcome: 'done', durationMs: clock() - started });
    } catch (error) {
      const outcome = signal.aborted ? 'timed out' : 'failed';
      logError('Stage failed', error, { stage: name, outcome, durationMs: clock() - started });
      const errorMessage = signal.aborted ? `Stage '${name}' took too long` : clientMessage(error, name);
      return { status: 'ERROR', errorMessage };
    }
  }
  // Built from each stage's JSON, because encoding all results again could overflow the stack.
  const result = `{${members.join()}}`;
  if (fitsItem(job, result)) return { status: 'DONE', result };
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

/**
 * The JSON text of a result. Throws an Error if it is not an object, or if JSON would change or lose a value
 * without an error. No message quotes a key or a value, because both can come from the text of the job.
 */
function toJson(result: unknown): string {
  const ancestors: unknown[] = [];
  const json = JSON.stringify(result, function (this: object, key, value: unknown) {
    const original: unknown = Reflect.get(this, key);
    if (!isKept(original, value)) {
      throw new TypeError(
        `JSON cannot represent ${typeof value === 'number' ? value : `a value of type ${tagOf(original)}`}`,
      );
    }
    while (ancestors.length > 0 && ancestors.at(-1) !== this) ancestors.pop();
    if (ancestors.includes(value)) throw new TypeError('JSON cannot represent a cycle');
    if (typeof value === 'object') ancestors.push(value);
    return value;
  });
  if (typeof json !== 'string' || !json.startsWith('{')) throw new TypeError('The result is not a JSON object');
  return json;
}

/**
 * Whether JSON keeps a value. It replaces NaN and an invalid Date by null, and a Map, a Promise or an
 * Error by {}, and it leaves out functions.
 *
 * @param original what the stage returned
 * @param value the same, or what its toJSON method returned
 */
function isKept(original: unknown, value: unknown): boolean {
  if (value === undefined || value === null) return original === value;
  if (typeof value === 'number') return Number.isFinite(value);
  if (typeof value !== 'object') return typeof value === 'string' || typeof value === 'boolean';
  if (tagOf(value) !== 'Object') return Array.isArray(value);
  // An instance of a class that has only private fields or accessors would become {}.
  const prototype: unknown = Object.getPrototypeOf(value);
  const isPlain = prototype === null || Object.getPrototypeOf(prototype) === null;
  return isPlain || Object.keys(value).length > 0;
}

/** The type of a value as JavaScript names it, such as Map, Promise or Function. */
const tagOf = (value: unknown): string => Object.prototype.toString.call(value).slice('[object '.length, -1);

/** The message that the client gets for the error of a stage. */
function clientMessage(error: unknown, stage: string): string {
  let message = '';
  try {
    // Cut first, because an array of the code points of many MiB would use up the memory.
    if (error instanceof StageError) message = String(error.message).slice(0, 2 * MAX_MESSAGE_CODE_POINTS);
  } catch {
    // JavaScript can throw objects that cannot be read.
  }
  return Array.from(message.toWellFormed()).slice(0, MAX_MESSAGE_CODE_POINTS).join('') || `Stage '${stage}' failed`;
}
