import { type IncomingMessage, request } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Stage } from '../../src/stages.ts';

/**
 * The stages of the test's build, in place of src/stages.ts. A job's text is its own URL at the
 * stage recorder. Each stage asks there what to do, and holds the connection for as long as it is
 * at work, so that the recorder sees the end even of a stage whose process is killed.
 */
export const stages: readonly Stage[] = ['first', 'second', 'third'].map((name) => ({
  name,
  async run(text, { pause, signal }) {
    const call = request(`${text}/${name}`, { method: 'POST', agent: false });
    call.flushHeaders();
    const answer = await new Promise<IncomingMessage>((resolve, reject) => {
      call.on('response', resolve);
      call.on('error', reject);
    });
    try {
      const [action, argument] = String(answer.headers['x-action']).split(' ');
      switch (action) {
        case 'die':
          process.kill(process.pid, 'SIGKILL');
          break;
        case 'block':
          for (const until = Date.now() + Number(argument); Date.now() < until; );
          break;
        case 'ignore':
          await sleep(Number(argument));
          break;
        case 'throw':
          throw new Error(`Stage ${name} was told to throw`);
        default:
          await pause(Number(argument), signal);
      }
    } finally {
      const ended = new Promise<void>((resolve) => answer.on('close', resolve));
      call.end();
      answer.resume();
      await ended;
    }
    return { stage: name };
  },
}));
