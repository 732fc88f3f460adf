import { once } from 'node:events';
import { createServer } from 'node:http';

/**
 * What a stage of the test's build does:
 * - `work`: takes so many milliseconds, unless it is told to stop.
 * - `ignore`: takes so many milliseconds, and does not stop when it is told to.
 * - `block`: does not let its process do anything else for so many milliseconds.
 * - `throw`: throws.
 * - `die`: its process is killed.
 */
export type StageAction = `${'work' | 'ignore' | 'block'} ${number}` | 'throw' | 'die';

/** One run of one stage. */
interface StageRun {
  readonly jobName: string;
  readonly stage: string;
  /** Unix milliseconds. */
  readonly startedAt: number;
  /** Undefined while the stage is at work. */
  readonly endedAt: number | undefined;
}

/** Tells the stages of the test's build what to do, and records when they run. */
export interface StageRecorder {
  /** The text of the job of this name. */
  textOf(jobName: string): string;
  /** The runs of a job's stages, in the order of their beginnings. */
  runsOf(jobName: string): readonly StageRun[];
  /** Each time that a stage of a job began while another one of the same job was at work. */
  readonly overlaps: readonly string[];
  close(): Promise<void>;
}

/** @param actionOf decides what a stage does; `count` is 1 at the job's first run of that stage */
export async function startStageRecorder(
  actionOf: (jobName: string, stage: string, count: number) => StageAction,
): Promise<StageRecorder> {
  const runs = new Map<string, { -readonly [field in keyof StageRun]: StageRun[field] }[]>();
  const overlaps: string[] = [];

  const server = createServer((incoming, outgoing) => {
    const [, jobName = '', stage = ''] = (incoming.url ?? '').split('/');
    const before = runs.get(jobName) ?? [];
    for (const other of before.filter(({ endedAt }) => endedAt === undefined)) {
      overlaps.push(`${jobName}: ${stage} began while ${other.stage}, begun at ${other.startedAt}, was at work`);
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
  // A stage may be at work for longer than any request.
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
