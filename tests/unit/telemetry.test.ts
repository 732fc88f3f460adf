import { afterEach, beforeEach, expect, jest, test } from '@jest/globals';
import { newJob } from '../../src/job.ts';
import { count, countAttempt, countEnd, withTelemetry } from '../../src/telemetry.ts';
import { captureConsole } from '../support/consoleCapture.ts';
import { lambdaContext } from '../support/lambdaContext.ts';

const job = newJob('id', 'a text', 1000, { maxEventAge: 600, workerTimeout: 30 });

let log: readonly string[];
beforeEach(() => {
  log = captureConsole();
});
afterEach(() => {
  jest.restoreAllMocks();
});

/** The metrics that one invocation sends, by name. */
async function metricsOf(work: () => void): Promise<unknown> {
  await withTelemetry(lambdaContext(), async () => work());
  expect(log).toHaveLength(1);
  return JSON.parse(log.join());
}

test('an invocation sends what was counted in it, in one line, under the stack’s name', async () => {
  const sent = await metricsOf(() => {
    count('JobsAccepted');
    count('ClaimsRefused');
  });
  expect(sent).toMatchObject({
    service: 'test',
    JobsAccepted: 1,
    ClaimsRefused: 1,
    _aws: {
      CloudWatchMetrics: [
        {
          Namespace: 'AsyncJobs',
          Dimensions: [['service']],
          Metrics: [
            { Name: 'JobsAccepted', Unit: 'Count' },
            { Name: 'ClaimsRefused', Unit: 'Count' },
          ],
        },
      ],
    },
  });
});

test('an invocation that counts nothing sends nothing', async () => {
  await withTelemetry(lambdaContext(), async () => undefined);
  expect(log).toEqual([]);
});

test('an invocation that fails sends its metrics, and fails', async () => {
  const work = withTelemetry(lambdaContext(), async () => {
    count('ClaimsRefused');
    throw new Error('no');
  });
  await expect(work).rejects.toThrow('no');
  expect(log.join()).toContain('ClaimsRefused');
});

test('a first attempt is counted by its time in the queue', async () => {
  const sent = await metricsOf(() => countAttempt({ ...job, attempt: 1 }, 1007));
  expect(sent).toMatchObject({ TimeInQueue: 7 });
  expect(sent).not.toHaveProperty('Retries');
});

test('a further attempt is counted as a retry', async () => {
  const sent = await metricsOf(() => countAttempt({ ...job, attempt: 2 }, 1007));
  expect(sent).toMatchObject({ Retries: 1 });
  expect(sent).not.toHaveProperty('TimeInQueue');
});

test.each([
  ['DONE' as const, 'JobsDone'],
  ['ERROR' as const, 'JobsFailed'],
])('an end as %s is counted as %s, with the time since the job was accepted', async (status, name) => {
  expect(await metricsOf(() => countEnd(status, job, 1012))).toMatchObject({ [name]: 1, TimeToEnd: 12 });
});

test('clocks that differ count no negative time', async () => {
  const sent = await metricsOf(() => {
    countAttempt({ ...job, attempt: 1 }, 999);
    countEnd('DONE', job, 998);
  });
  expect(sent).toMatchObject({ TimeInQueue: 0, TimeToEnd: 0 });
});

test('an invocation that fails before it counts anything is logged once, with its cause', async () => {
  await expect(withTelemetry(lambdaContext(), () => Promise.reject(new Error('no route')))).rejects.toThrow('no route');
  expect(log).toHaveLength(1);
  expect(JSON.parse(log.join())).toMatchObject({ level: 'ERROR', outcome: 'failed', error: { message: 'no route' } });
});
