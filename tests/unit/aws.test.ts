import { once } from 'node:events';
import { createServer, type Server, type ServerResponse } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, jest, test } from '@jest/globals';
import { CALL_BUDGET_MS, documentClient, workerStarter } from '../../src/aws.ts';
import { defaultProvider } from '../../src/bundle/lambdaCredentials.ts';
import { newJob } from '../../src/job.ts';
import { JobRepository } from '../../src/jobRepository.ts';
import { LIFETIMES } from '../support/jobs.ts';
import { listen } from '../support/listen.ts';

let server: Server | undefined;

afterEach(() => {
  jest.useRealTimers();
  jest.restoreAllMocks();
  delete process.env['AWS_ENDPOINT_URL'];
  server?.close();
  server?.closeAllConnections();
  server = undefined;
});

/** Starts a fake AWS that responds to every request like this. Returns the bodies of all requests so far. */
async function startAws(respond: (response: ServerResponse) => unknown): Promise<readonly string[]> {
  const requests: string[] = [];
  server = createServer(async (request, response) => {
    requests.push(Buffer.concat(await request.toArray()).toString());
    await respond(response);
  });
  process.env['AWS_ENDPOINT_URL'] = `http://127.0.0.1:${await listen(server)}`;
  return requests;
}

const repository = () => new JobRepository(documentClient(), 'JobsTable');
const JSON_TYPE = { 'Content-Type': 'application/x-amz-json-1.0' };

test.each([
  ['DynamoDB', () => repository().find('id', 0)],
  ['Lambda', () => workerStarter('WorkerFunction')('id')],
])('a call to %s that gets no response is tried twice and fails within its budget', async (_service, call) => {
  const requests = await startAws(() => undefined);
  // The network runs in real time. Timeouts use a fake clock, which stands still until the first request has
  // arrived, and again until the second one has, which is sent after the longest timeout and back-off.
  jest.useFakeTimers({ doNotFake: ['nextTick', 'queueMicrotask', 'setImmediate'] });
  const started = jest.now();
  const settled = call().then(
    () => 'no error',
    (error: unknown) => (error instanceof Error ? error.name : 'not an Error'),
  );
  let errorName: string | undefined;
  void settled.then((value) => {
    errorName = value;
  });

  for (let turns = 0; errorName === undefined; turns += 1) {
    await new Promise(setImmediate);
    const isArriving = requests.length === 0 || (requests.length === 1 && jest.now() - started > 2600);
    if (!isArriving && turns % 20 === 0) await jest.advanceTimersByTimeAsync(50);
  }

  expect(errorName).toBe('TimeoutError');
  expect(requests).toHaveLength(2);
  expect(jest.now() - started).toBeGreaterThan(1000);
  expect(jest.now() - started).toBeLessThanOrEqual(CALL_BUDGET_MS);
});

describe('the time of a whole call is limited to its budget', () => {
  const job = newJob('id', 'a text', 0, LIFETIMES);
  const calls: readonly (readonly [string, () => Promise<unknown>])[] = [
    ['a put', () => repository().create(job)],
    ['a read', () => repository().find('id', 0)],
    ['an update', () => repository().claim('id', { token: 'token', expiresAt: 35 }, 0)],
    ['a delete', () => repository().deletePending('id')],
    ['an Invoke', () => workerStarter('WorkerFunction')('id')],
  ];

  /** Replaces the timer of a call's budget by a signal that the test aborts. */
  function controlBudget() {
    const controller = new AbortController();
    const timeout = jest.spyOn(AbortSignal, 'timeout').mockReturnValue(controller.signal);
    return { timeout, end: () => controller.abort() };
  }

  test.each(calls)('%s whose response never ends fails when its budget is used up', async (_name, call) => {
    const budget = controlBudget();
    const requests = await startAws(async (response) => {
      response.writeHead(200, JSON_TYPE);
      for (let bytes = 0; bytes < 10; bytes += 1) {
        response.write(' ');
        await sleep(5);
      }
      budget.end();
      await sleep(1000, undefined, { ref: false });
      response.end('{}');
    });

    const failure = call();

    await expect(failure).rejects.toMatchObject({ name: 'AbortError' });
    expect(requests).toHaveLength(1);
    expect(budget.timeout.mock.calls).toEqual([[CALL_BUDGET_MS]]);
  });

  test.each(calls)('%s that is throttled with a Retry-After fails when its budget is used up', async (_name, call) => {
    const budget = controlBudget();
    const requests = await startAws(async (response) => {
      const throttled = { ...JSON_TYPE, 'x-amzn-ErrorType': 'ThrottlingException', 'Retry-After': '1' };
      response.writeHead(429, throttled).end('{"__type": "ThrottlingException", "message": "Slow down"}');
      await once(response, 'finish');
      await sleep(50);
      budget.end();
    });

    const failure = call();

    await expect(failure).rejects.toMatchObject({ name: 'AbortError' });
    expect(requests).toHaveLength(1);
  });
});

test('a call that gets a server error is tried twice', async () => {
  const requests = await startAws((response) => response.writeHead(500, JSON_TYPE).end('{"message": "no"}'));
  jest.spyOn(Math, 'random').mockReturnValue(0);

  await expect(workerStarter('WorkerFunction')('id')).rejects.toMatchObject({ $metadata: { httpStatusCode: 500 } });
  expect(requests).toEqual(['{"jobId":"id"}', '{"jobId":"id"}']);
});

test('the functions read their credentials from the environment', async () => {
  await expect(defaultProvider()()).resolves.toMatchObject({ accessKeyId: 'test', secretAccessKey: 'test' });
});
