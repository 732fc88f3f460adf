import { createServer, type Server } from 'node:http';
import { InvokeCommand, LambdaClient } from '@aws-sdk/client-lambda';
import { GetCommand } from '@aws-sdk/lib-dynamodb';
import { afterEach, describe, expect, jest, test } from '@jest/globals';
import { mockClient } from 'aws-sdk-client-mock';
import { CALL_BUDGET_MS, documentClient, workerStarter } from '../../src/aws.ts';
import { defaultProvider } from '../../src/bundle/lambdaCredentials.ts';
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

/** Starts a fake AWS that sends this response to every request, or none. Returns the bodies of all requests so far. */
async function startAws(reply?: { readonly status: number; readonly body: string }): Promise<readonly string[]> {
  const requests: string[] = [];
  server = createServer(async (request, response) => {
    requests.push(Buffer.concat(await request.toArray()).toString());
    if (reply !== undefined) response.writeHead(reply.status, { 'Content-Type': 'application/json' }).end(reply.body);
  });
  process.env['AWS_ENDPOINT_URL'] = `http://127.0.0.1:${await listen(server)}`;
  return requests;
}

describe('a call that gets no response', () => {
  test.each([
    ['DynamoDB', () => documentClient().send(new GetCommand({ TableName: 'JobsTable', Key: { jobId: 'id' } }))],
    ['Lambda', () => workerStarter('WorkerFunction')('id')],
  ])('from %s is tried twice and fails within its budget', async (_service, call) => {
    const requests = await startAws();
    // The network runs in real time. Timeouts use a fake clock that is advanced in small steps, with enough
    // turns of the event loop in between for the network to keep up.
    jest.useFakeTimers({ doNotFake: ['nextTick', 'queueMicrotask', 'setImmediate'] });
    const started = Date.now();
    const settled = call().then(
      () => 'no error',
      (error: unknown) => (error instanceof Error ? error.name : 'not an Error'),
    );
    let errorName: string | undefined;
    void settled.then((value) => {
      errorName = value;
    });
    for (let turns = 0; turns < 20_000 && errorName === undefined; turns++) {
      await new Promise(setImmediate);
      if (requests.length > 0 && turns % 20 === 0) await jest.advanceTimersByTimeAsync(50);
    }
    expect(errorName).toBe('TimeoutError');
    expect(requests).toHaveLength(2);
    expect(Date.now() - started).toBeGreaterThan(1000);
    expect(Date.now() - started).toBeLessThanOrEqual(CALL_BUDGET_MS);
  });
});

test('a call that gets a server error is tried twice', async () => {
  const requests = await startAws({ status: 500, body: '{"message": "no"}' });
  jest.spyOn(Math, 'random').mockReturnValue(0);
  await expect(workerStarter('WorkerFunction')('id')).rejects.toMatchObject({ $metadata: { httpStatusCode: 500 } });
  expect(requests).toEqual(['{"jobId":"id"}', '{"jobId":"id"}']);
});

test('the event that starts the worker contains only the job id', async () => {
  const lambda = mockClient(LambdaClient);
  lambda.on(InvokeCommand).resolves({ StatusCode: 202 });
  await workerStarter('WorkerFunction')('"id"');
  expect(lambda.calls().map(({ args: [command] }) => command.input)).toEqual([
    { FunctionName: 'WorkerFunction', InvocationType: 'Event', Payload: '{"jobId":"\\"id\\""}' },
  ]);
  // The signal limits the call even if Lambda asks the SDK to wait longer before its retry.
  const [, options]: readonly unknown[] = lambda.calls()[0]?.args ?? [];
  expect(options).toEqual({ abortSignal: expect.any(AbortSignal) });
  lambda.restore();
});

test('starting the worker fails if Lambda refuses', async () => {
  const lambda = mockClient(LambdaClient);
  lambda.on(InvokeCommand).rejects(new Error('Rate exceeded'));
  await expect(workerStarter('WorkerFunction')('id')).rejects.toThrow('Rate exceeded');
  lambda.restore();
});

test('the functions read their credentials from the environment', async () => {
  await expect(defaultProvider()()).resolves.toMatchObject({ accessKeyId: 'test', secretAccessKey: 'test' });
});
