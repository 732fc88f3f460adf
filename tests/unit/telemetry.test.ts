import { afterEach, beforeEach, expect, jest, test } from '@jest/globals';
import { newJob } from '../../src/job.ts';
import { count, recordAttempt, recordEnd, withTelemetry } from '../../src/telemetry.ts';
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

/** The metrics that one invocation sends. */
async function metricsOf(work: () => void): Promise<unknown> {
  await withTelemetry(lambdaContext(), async () => work());
  expect(log).toHaveLength(1);
  return JSON.parse(log.join());
}

test('an invocation sends all its metrics in one log line', async () => {
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

test('an invocation that counts nothing sends no metrics', async () => {
  await withTelemetry(lambdaContext(), async () => undefined);
  expect(log).toEqual([]);
});

test('a failed invocation still sends its metrics', async () => {
  const work = withTelemetry(lambdaContext(), async () => {
    count('ClaimsRefused');
    throw new Error('no');
  });
  await expect(work).rejects.toThrow('no');
  expect(log.join()).toContain('ClaimsRefused');
});

test('a first attempt records the time in the queue', async () => {
  const sent = await metricsOf(() => recordAttempt({ ...job, attempt: 1 }, 1007));
  expect(sent).toMatchObject({ TimeInQueue: 7 });
  expect(sent).not.toHaveProperty('Retries');
});

test('a later attempt counts as a retry', async () => {
  const sent = await metricsOf(() => recordAttempt({ ...job, attempt: 2 }, 1007));
  expect(sent).toMatchObject({ Retries: 1 });
  expect(sent).not.toHaveProperty('TimeInQueue');
});

test.each([
  ['DONE' as const, 'JobsDone'],
  ['ERROR' as const, 'JobsFailed'],
])('an end as %s counts as %s and records the time since the job was created', async (status, name) => {
  expect(await metricsOf(() => recordEnd(status, job, 1012))).toMatchObject({ [name]: 1, TimeToEnd: 12 });
});

test('times are never negative, even if clocks differ', async () => {
  const sent = await metricsOf(() => {
    recordAttempt({ ...job, attempt: 1 }, 999);
    recordEnd('DONE', job, 998);
  });
  expect(sent).toMatchObject({ TimeInQueue: 0, TimeToEnd: 0 });
});

test('a failed invocation is logged once, with its cause', async () => {
  await expect(withTelemetry(lambdaContext(), () => Promise.reject(new Error('no route')))).rejects.toThrow('no route');
  expect(log).toHaveLength(1);
  expect(JSON.parse(log.join())).toMatchObject({ level: 'ERROR', outcome: 'failed', error: { message: 'no route' } });
});
