import { createServer } from 'node:http';
import { listen } from '../support/listen.ts';
import type { RESULTS } from './faultyStages.ts';

/**
 * What a test stage does. Numbers are milliseconds.
 * - `work`: runs for that long, unless its signal aborts.
 * - `ignore`: runs for that long and ignores its signal.
 * - `linger`: runs until its signal aborts, and for that long after it.
 * - `never`: never settles.
 * - `block`: blocks the event loop for that long.
 * - `throw`: throws a `StageError`.
 * - `fail`: throws an `Error` with a cause.
 * - `die`: kills its process.
 * - `large`: returns a result that does not fit in an item.
 * - `odd keys`, `deep`: returns an unusual result.
 */
export type StageAction =
  | `${'work' | 'ignore' | 'linger' | 'block'} ${number}`
  | 'never'
  | 'throw'
  | 'fail'
  | 'die'
  | 'large'
  | keyof typeof RESULTS;

/** One run of one stage. */
interface StageRun {
  stage: string;
  /** Unix milliseconds. */
  startedAt: number;
  /** Undefined while the stage is running. */
  endedAt: number | undefined;
}

/**
 * Starts a server that tells the test stages what to do, and records when they run.
 *
 * @param actionOf returns what a stage does; `count` is 1 for the job's first run of that stage
 */
export async function startStageRecorder(actionOf: (jobName: string, stage: string, count: number) => StageAction) {
  const runs = new Map<string, StageRun[]>();
  const overlaps: string[] = [];

  const server = createServer((incoming, outgoing) => {
    const [, jobName = '', stage = ''] = (incoming.url ?? '').split('/');
    const before = runs.get(jobName) ?? [];
    for (const other of before.filter(({ endedAt }) => endedAt === undefined)) {
      overlaps.push(`${jobName}: ${stage} started while ${other.stage}, started at ${other.startedAt}, was running`);
    }
    const run: StageRun = { stage, startedAt: Date.now(), endedAt: undefined };
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
  // A stage can run for longer than Node's default limit for a request.
  server.requestTimeout = 0;
  const port = await listen(server);

  return {
    /** The text of the job with this name. */
    textOf: (jobName: string) => `http://127.0.0.1:${port}/${jobName}`,
    /** The runs of a job's stages, in the order in which they started. */
    runsOf: (jobName: string): readonly StageRun[] => runs.get(jobName) ?? [],
    /** Each case of a stage that started while another stage of the same job was running. */
    overlaps,
    close: () => {
      server.closeAllConnections();
      server.close();
    },
  };
}
