import { once } from 'node:events';
import { type IncomingMessage, request } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Stage, StageError } from '../../src/stages/stage.ts';

/** Unusual results of stages, as JSON. */
export const RESULTS = {
  'odd keys': '{"constructor":{"name":"String"},"__proto__":{"a":1},"counts":{"constructor":1},"big":1e+300}',
  deep: `${'{"a":'.repeat(500)}1${'}'.repeat(500)}`,
} as const;

/**
 * The test stages, which replace src/stages/index.ts in the build. The text of a job is the job's URL at the
 * stage recorder. Each stage asks the recorder what to do and keeps the connection open while it runs.
 * The recorder therefore sees when a stage ends, even if its process is killed.
 */
export const stages: readonly Stage[] = ['first', 'second', 'third'].map((name) => ({
  name,
  async run(text, { signal }) {
    const call = request(`${text}/${name}`, { method: 'POST', agent: false });
    call.flushHeaders();
    const response = await new Promise<IncomingMessage>((resolve, reject) => {
      call.on('response', resolve);
      call.on('error', reject);
    });
    const action = String(response.headers['x-action']);
    const milliseconds = Number(action.split(' ')[1]);
    try {
      switch (action.replace(/ \d+$/, '')) {
        case 'die':
          process.kill(process.pid, 'SIGKILL');
          break;
        case 'block':
          for (const until = Date.now() + milliseconds; Date.now() < until; );
          break;
        case 'ignore':
          await sleep(milliseconds);
          break;
        case 'linger':
          await once(signal, 'abort');
          await sleep(milliseconds);
          signal.throwIfAborted();
          break;
        case 'never':
          await new Promise(() => undefined);
          break;
        case 'throw':
          throw new StageError(`Stage ${name} was told to throw`);
        case 'fail':
          throw new Error('An error with details', { cause: new Error('The cause') });
        case 'large':
          return { text: 'x'.repeat(400 * 1024) };
        case 'odd keys':
        case 'deep':
          return JSON.parse(action === 'deep' ? RESULTS.deep : RESULTS['odd keys']);
        default:
          await sleep(milliseconds, undefined, { signal });
      }
    } finally {
      const ended = new Promise<void>((resolve) => response.on('close', resolve));
      call.end();
      response.resume();
      await ended;
    }
    return { stage: name };
  },
}));
