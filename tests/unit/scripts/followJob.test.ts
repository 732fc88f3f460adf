import { expect, test } from '@jest/globals';
import { followJob } from '../../../scripts/aws/followJob.ts';
import { captureConsole } from '../../support/consoleCapture.ts';

const output = captureConsole();

test('poll.sh prints a job as JSON that cannot control the terminal', async () => {
  const job = {
    jobId: 'id',
    status: 'DONE',
    text: '\u001b[2J \u009b2J \u007f é 😀',
    createdAt: 1,
    updatedAt: 2,
    result: {},
  };

  await followJob('http://127.0.0.1/jobs/id', { fetch: async () => Response.json(job) });

  const printed = output.at(-1) ?? '';
  expect(JSON.parse(printed)).toEqual(job);
  expect(printed.replaceAll('\n', '')).not.toMatch(/\p{Cc}/u);
});
