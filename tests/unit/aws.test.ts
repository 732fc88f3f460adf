import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import { InvokeCommand, LambdaClient } from '@aws-sdk/client-lambda';
import { GetCommand } from '@aws-sdk/lib-dynamodb';
import { afterEach, describe, expect, jest, test } from '@jest/globals';
import { mockClient } from 'aws-sdk-client-mock';
import { CALL_BUDGET_MS, documentClient, workerStarter } from '../../src/aws.ts';
import { defaultProvider } from '../../src/bundle/lambdaCredentials.ts';

// The machine may be busy with other things.
jest.setTimeout(60_000);

let server: Server | undefined;

afterEach(() => {
  jest.useRealTimers();
  jest.restoreAllMocks();
  delete process.env['AWS_ENDPOINT_URL'];
  server?.close();
  server?.closeAllConnections();
  server = undefined;
});

/** An AWS that gives each request this answer, or none; the bodies of the requests so far. */
async function startAws(answer?: { readonly status: number; readonly body: string }): Promise<readonly string[]> {
  const requests: string[] = [];
  server = createServer(async (request, response) => {
    requests.push(Buffer.concat(await request.toArray()).toString());
    if (answer !== undefined)
      response.writeHead(answer.status, { 'Content-Type': 'application/json' }).end(answer.body);
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('The server has no port');
  process.env['AWS_ENDPOINT_URL'] = `http://127.0.0.1:${address.port}`;
  return requests;
}

describe('a call that AWS never answers', () => {
  test.each([
    ['DynamoDB', () => documentClient().send(new GetCommand({ TableName: 'JobsTable', Key: { jobId: 'id' } }))],
    ['Lambda', () => workerStarter('WorkerFunction')('id')],
  ])('of %s is tried twice and fails within its budget', async (_service, call) => {
    const requests = await startAws();
    // The network runs in real time, and time-outs by a clock that goes on when the network is idle.
    jest.useFakeTimers({ doNotFake: ['nextTick', 'queueMicrotask', 'setImmediate'] });
    const started = Date.now();
    const settled = call().then(
      () => 'answered',
      (error: unknown) => (error instanceof Error ? error.name : 'no error'),
    );
    let outcome: string | undefined;
    void settled.then((value) => {
      outcome = value;
    });
    for (let turns = 0; turns < 20_000 && outcome === undefined; turns++) {
      await new Promise(setImmediate);
      if (requests.length > 0 && turns % 20 === 0) await jest.advanceTimersByTimeAsync(50);
    }
    expect(outcome).toBe('TimeoutError');
    expect(requests).toHaveLength(2);
    expect(Date.now() - started).toBeGreaterThan(1000);
    expect(Date.now() - started).toBeLessThanOrEqual(CALL_BUDGET_MS);
  });
});

test('a call that AWS answers with a fault of its own is tried twice', async () => {
  const requests = await startAws({ status: 500, body: '{"message": "no"}' });
  jest.spyOn(Math, 'random').mockReturnValue(0);
  await expect(workerStarter('WorkerFunction')('id')).rejects.toMatchObject({ $metadata: { httpStatusCode: 500 } });
  expect(requests).toEqual(['{"jobId":"id"}', '{"jobId":"id"}']);
});

test('the worker is started by an event that holds the job id alone', async () => {
  const lambda = mockClient(LambdaClient);
  lambda.on(InvokeCommand).resolves({ StatusCode: 202 });
  await workerStarter('WorkerFunction')('"id"');
  expect(lambda.calls().map(({ args: [command] }) => command.input)).toEqual([
    { FunctionName: 'WorkerFunction', InvocationType: 'Event', Payload: '{"jobId":"\\"id\\""}' },
  ]);
  // However long Lambda asks the SDK to wait before it tries again.
  const [, options]: readonly unknown[] = lambda.calls()[0]?.args ?? [];
  expect(options).toEqual({ abortSignal: expect.any(AbortSignal) });
  lambda.restore();
});

test('the worker counts as not started when Lambda refuses', async () => {
  const lambda = mockClient(LambdaClient);
  lambda.on(InvokeCommand).rejects(new Error('Rate exceeded'));
  await expect(workerStarter('WorkerFunction')('id')).rejects.toThrow('Rate exceeded');
  lambda.restore();
});

test('the functions take their credentials from the environment', async () => {
  await expect(defaultProvider()()).resolves.toMatchObject({ accessKeyId: 'test', secretAccessKey: 'test' });
});
