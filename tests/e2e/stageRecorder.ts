import { once } from 'node:events';
import { createServer } from 'node:http';
import type { RESULTS } from './faultyStages.ts';

/**
 * What a stage of the test does:
 * - `work`: takes so many milliseconds, unless its signal aborts.
 * - `ignore`: takes so many milliseconds, whatever its signal says.
 * - `never`: never settles.
 * - `block`: lets its process do nothing else for so many milliseconds.
 * - `throw`: throws a StageError.
 * - `fail`: throws another error, with a cause.
 * - `die`: its process is killed.
 * - `odd keys`, `deep`: returns an unusual result.
 */
export type StageAction =
  | `${'work' | 'ignore' | 'block'} ${number}`
  | 'never'
  | 'throw'
  | 'fail'
  | 'die'
  | keyof typeof RESULTS;

/** One run of one stage. */
interface StageRun {
  readonly jobName: string;
  readonly stage: string;
  /** Unix milliseconds. */
  readonly startedAt: number;
  /** Undefined while the stage is at work. */
  readonly endedAt: number | undefined;
}

/** Tells the stages of the test what to do, and records when they run. */
export interface StageRecorder {
  /** The text of the job of this name. */
  textOf(jobName: string): string;
  /** The runs of a job's stages, in the order of their starts. */
  runsOf(jobName: string): readonly StageRun[];
  /** Each time that a stage of a job started while another stage of the same job was at work. */
  readonly overlaps: readonly string[];
  close(): Promise<void>;
}

/** @param actionOf decides what a stage does; `count` is 1 for the job's first run of that stage */
export async function startStageRecorder(
  actionOf: (jobName: string, stage: string, count: number) => StageAction,
): Promise<StageRecorder> {
  const runs = new Map<string, { -readonly [field in keyof StageRun]: StageRun[field] }[]>();
  const overlaps: string[] = [];

  const server = createServer((incoming, outgoing) => {
    const [, jobName = '', stage = ''] = (incoming.url ?? '').split('/');
    const before = runs.get(jobName) ?? [];
    for (const other of before.filter(({ endedAt }) => endedAt === undefined)) {
      overlaps.push(`${jobName}: ${stage} started while ${other.stage}, started at ${other.startedAt}, was at work`);
    }
    const run: (typeof before)[number] = { jobName, stage, startedAt: Date.now(), endedAt: undefined };
    runs.set(jobName, [...before, run]);
    const end = () => {
      run.endedAt ??= Date.now();
      outgoing.end();
    };
    incoming.resume().on('end', end).on('error', end);
    outgoing.on('close', end);
    const count = before.filter((other) => other.stage === stage).length + 1;
    outgoing.writeHead(200, { 'X-Action': actionOf(jobName, stage, count) }).flushHeaders();
  });
  // A stage may take longer than a request may by default.
  server.requestTimeout = 0;
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('The stage recorder has no port');

  return {
    textOf: (jobName) => `http://127.0.0.1:${address.port}/${jobName}`,
    runsOf: (jobName) => runs.get(jobName) ?? [],
    overlaps,
    close: async () => {
      server.closeAllConnections();
      server.close();
      await once(server, 'close');
    },
  };
}
