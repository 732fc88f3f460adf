import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer, type RequestListener, type Server } from 'node:http';
import { connect } from 'node:net';
import { join } from 'node:path';
import { DynamoDBClient, ListTablesCommand } from '@aws-sdk/client-dynamodb';
import { InvokeCommand, LambdaClient } from '@aws-sdk/client-lambda';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { backendServer } from '../../scripts/local/backendServer.ts';
import { createTable } from '../../scripts/local/jobsTable.ts';
import { listen } from '../support/listen.ts';

const OPTIONS = { region: 'us-east-1', credentials: { accessKeyId: 'test', secretAccessKey: 'test' } };
const PATH = '/2015-03-31/functions/WorkerFunction/invocations';
const JOB_ID = '3f1c9a52-7d84-4b6e-9a1f-0c2d5e8b7a64';
const COMMAND = `To run job ${JOB_ID}:\n  echo '{"jobId":"${JOB_ID}"}' | sam local invoke WorkerFunction --event -`;

let servers: Server[] = [];
let printed: string[] = [];

beforeEach(() => {
  printed = [];
});

afterEach(() => {
  for (const server of servers) server.close().closeAllConnections();
  servers = [];
});

async function start(server: Server): Promise<string> {
  servers.push(server);
  return `http://127.0.0.1:${await listen(server)}`;
}

/** Keeps the lines of this test, including those that are printed after it ends. */
function printer(): (line: string) => void {
  const lines = printed;
  return (line) => lines.push(line);
}

/** Starts the backend in front of a `sam local start-lambda` that handles requests in this way. */
async function startBackend(startLambda: RequestListener): Promise<string> {
  const lambdaUrl = await start(createServer(startLambda));
  return start(backendServer(lambdaUrl, printer()));
}

/** Starts the backend without `sam local start-lambda`: nothing listens on port 1. */
const startBackendAlone = () => start(backendServer('http://127.0.0.1:1', printer()));

const post = (url: string, body: string, type = 'Event', path = PATH) =>
  fetch(url + path, { method: 'POST', headers: { 'X-Amz-Invocation-Type': type }, body });

async function untilPrinted(): Promise<string> {
  while (printed.length === 0) await new Promise((resolve) => setTimeout(resolve, 5));
  return printed.join('\n');
}

test('an event for the worker goes to sam local start-lambda', async () => {
  const received: object[] = [];
  const endpoint = await startBackend(async (request, response) => {
    const body = Buffer.concat(await request.toArray()).toString();
    received.push({ url: request.url, type: request.headers['x-amz-invocation-type'], body });
    response.writeHead(202).end();
  });

  const client = new LambdaClient({ endpoint, ...OPTIONS });
  const Payload = JSON.stringify({ jobId: JOB_ID });
  await client.send(new InvokeCommand({ FunctionName: 'WorkerFunction', InvocationType: 'Event', Payload }));

  expect(await untilPrinted()).toBe(`Job ${JOB_ID} was sent to sam local start-lambda`);
  expect(received).toEqual([{ url: PATH, type: 'Event', body: `{"jobId":"${JOB_ID}"}` }]);
});

test('an event for the worker is accepted before start-lambda responds', async () => {
  const url = await startBackend(() => undefined);

  const { status } = await post(url, `{"jobId": "${JOB_ID}"}`);

  expect(status).toBe(202);
  expect(printed).toEqual([]);
});

test.each([
  ['is not running', startBackendAlone],
  ['fails', () => startBackend((_request, response) => response.writeHead(500).end())],
])('an event for the worker is printed as a command to paste if start-lambda %s', async (_why, startIt) => {
  const url = await startIt();

  await post(url, `{"jobId":"${JOB_ID}"}`);

  expect(await untilPrinted()).toBe(COMMAND);
});

test.each([
  ['an id with shell characters', `{"jobId":"'; touch pwned; echo '"}`],
  ['an id that contains a UUID', `{"jobId":"${JOB_ID}'; touch pwned; '"}`],
  ['another field', `{"jobId":"${JOB_ID}","text":"x"}`],
  ['two events', `{"jobId":"${JOB_ID}"}\n{"jobId":"${JOB_ID}"}`],
  ['no JSON', 'jobId'],
])('an event with %s is refused, and neither sent nor printed', async (_what, body) => {
  let calls = 0;
  const url = await startBackend(() => {
    calls += 1;
  });

  const response = await post(url, body);

  expect(response.status).toBe(400);
  expect(await response.json()).toEqual({ message: expect.stringContaining('{"jobId": "<uuid>"}') });
  expect({ calls, printed }).toEqual({ calls: 0, printed: [] });
});

test.each([
  ['a synchronous invocation', 'RequestResponse', PATH],
  ['an invocation of another function', 'Event', PATH.replace('Worker', 'Other')],
])('%s is refused, and not printed', async (_what, type, path) => {
  const url = await startBackendAlone();

  const { ok } = await post(url, `{"jobId":"${JOB_ID}"}`, type, path);

  expect({ ok, printed }).toEqual({ ok: false, printed: [] });
});

test('a client that disconnects does not stop the backend', async () => {
  const url = await startBackendAlone();
  const socket = connect(Number(new URL(url).port), '127.0.0.1');
  socket.write(`POST ${PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"jobId`);
  await once(socket, 'connect');
  socket.resetAndDestroy();

  const { status } = await post(url, `{"jobId":"${JOB_ID}"}`);

  expect(status).toBe(202);
});

const testOnPosix = process.platform === 'win32' ? test.skip : test;

testOnPosix.each(['SIGINT', 'SIGTERM'] as const)(
  '%s stops the backend, even while a client is connected',
  async (signal) => {
    const { port } = new URL(await start(createServer()));
    servers.pop()?.close();
    const script = join(__dirname, '../../scripts/local/samLocalBackend.ts');
    const backend = spawn(process.execPath, [script, '--port', port], { stdio: ['ignore', 'pipe', 'inherit'] });
    const exited = once(backend, 'exit');
    let output = '';
    for await (const chunk of backend.stdout.setEncoding('utf8')) {
      output += chunk;
      if (output.includes('Ctrl-C')) break;
    }
    const client = connect(Number(port), '127.0.0.1').on('error', () => undefined);
    await once(client, 'connect');

    backend.kill(signal);

    expect(await exited).toEqual([0, null]);
    expect(output).toContain(`Sample job ${JOB_ID} is PENDING\n`);
  },
);

test('every other request goes to DynamoDB', async () => {
  const endpoint = await startBackendAlone();
  const client = new DynamoDBClient({ endpoint, ...OPTIONS });

  await createTable(client, 'JobsTable');

  expect((await client.send(new ListTablesCommand({}))).TableNames).toEqual(['JobsTable']);
  client.destroy();
});
