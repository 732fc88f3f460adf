import type { End, StageResult } from './job.ts';
import { isStageResult } from './jobRecord.ts';
import type { Stage, StageTools } from './stages.ts';
import { logger } from './telemetry.ts';

/** The longest error message that a job keeps, in code points. */
const MAX_MESSAGE_CODE_POINTS = 1000;

/**
 * Runs the stages in order, and says how the job ends: DONE with their answers, or ERROR with the
 * message of the one that threw or that was not done when `signal` aborted. Never throws.
 */
export async function runStages(
  stages: readonly Stage[],
  text: string,
  { clock, ...tools }: StageTools & { readonly clock: () => number },
): Promise<End> {
  const { signal } = tools;
  const result: Record<string, StageResult> = {};
  for (const { name, run } of stages) {
    const started = clock();
    try {
      const answer: unknown = await orAbort(run(text, tools), signal);
      if (!isStageResult(answer)) throw new Error(`Stage '${name}' answered what cannot be stored`);
      result[name] = answer;
      logger.info('Stage done', { stage: name, outcome: 'done', durationMs: clock() - started });
    } catch (error) {
      logger.error('Stage failed', {
        stage: name,
        outcome: signal.aborted ? 'timed out' : 'threw',
        durationMs: clock() - started,
        error: withoutMessage(error),
      });
      return {
        status: 'ERROR',
        errorMessage: signal.aborted ? `Stage '${name}' took too long` : messageOf(error, name),
      };
    }
  }
  return { status: 'DONE', result };
}

/** Settles as `work` does, or rejects when `signal` aborts first. */
async function orAbort<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
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

/** What the client reads of an error that a stage threw. */
function messageOf(error: unknown, stage: string): string {
  const message = error instanceof Error ? error.message : '';
  const shown = Array.from(message.toWellFormed()).slice(0, MAX_MESSAGE_CODE_POINTS).join('');
  return shown === '' ? `Stage '${stage}' failed` : shown;
}

/** What the log shows of it: its message may quote the job's text, and stands in the job for whoever has the id. */
function withoutMessage(error: unknown): object {
  if (!(error instanceof Error)) return { name: typeof error };
  // Behind the message, of which a line may look like a frame.
  const frames = (error.stack ?? '')
    .replace(error.message, '')
    .split('\n')
    .filter((line) => line.startsWith('    at '));
  return { name: error.name, stack: frames.map((frame) => frame.trim()) };
}
