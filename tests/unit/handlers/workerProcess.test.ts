import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { text } from 'node:stream/consumers';
import { expect, test } from '@jest/globals';
import { RESERVE_MS } from '../../../src/attempt.ts';
import { newJob, unixSeconds } from '../../../src/job.ts';
import { JOB_ID, LIFETIMES } from '../../support/jobs.ts';
import { startJobsTable } from '../../support/jobsTable.ts';

test('a worker whose stage never settles flushes its output and ends its process', async () => {
  const table = await startJobsTable();
  try {
    await table.put(newJob(JOB_ID, 'a text', unixSeconds(Date.now()), LIFETIMES));
    // Logs more than a pipe can buffer.
    const script = `
      const { handler } = await import('./src/handlers/worker.ts');
      const { stages } = await import('./src/stages/index.ts');
      stages[0].run = () => {
        for (let line = 0; line < 1000; line += 1) console.log('line ' + 'x'.repeat(600));
        return new Promise(() => undefined);
      };
      const remainingMs = [${RESERVE_MS + 1}, ${RESERVE_MS + 1}, ${RESERVE_MS + 1}];
      await handler({ jobId: '${JOB_ID}' }, { getRemainingTimeInMillis: () => remainingMs.shift() ?? 0 });`;
    const child = spawn(process.execPath, ['--input-type=module', '--eval', script], {
      env: { ...process.env, AWS_ENDPOINT_URL_DYNAMODB: table.endpoint, POWERTOOLS_DEV: '' },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const [output, errors, [code]] = await Promise.all([text(child.stdout), text(child.stderr), once(child, 'exit')]);

    expect(output.match(/^line x{600}$/gm)).toHaveLength(1000);
    expect(output).toContain('"TimeInQueue"');
    expect(errors).toContain('Stage still running: ending the process');
    expect(code).toBe(1);
  } finally {
    table.stop();
  }
});
