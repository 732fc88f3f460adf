import { execFile } from 'node:child_process';
import { getEventListeners } from 'node:events';
import { readFileSync } from 'node:fs';
import { createServer, type IncomingHttpHeaders, type Server, type ServerResponse } from 'node:http';
import { resolve } from 'node:path';
import { text } from 'node:stream/consumers';
import { promisify } from 'node:util';
import { afterAll, beforeAll, beforeEach, expect, test } from '@jest/globals';
import { type Job, JobsError, submitJob, waitForJob } from '../../../client/jobs.ts';
import { listen } from '../../support/listen.ts';

const root = resolve(__dirname, '..', '..', '..');

const ID = '3837c848-3428-45f5-a4fc-eb057690d746';
const KEY = /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;
const COMMON = { jobId: ID, text: 'a text', createdAt: 1795503947, updatedAt: 1795503952 };
const PENDING = { ...COMMON, status: 'PENDING' };
const RUNNING = { ...COMMON, status: 'IN_PROGRESS' };
const DONE = { ...COMMON, status: 'DONE', result: { ocr: { wordCount: 2 } } };
const FAILED = { ...COMMON, status: 'ERROR', errorMessage: "Stage 'ocr' failed" };
const ACCEPTED = { jobId: ID, status: 'PENDING', message: 'Job accepted.' };

/** How the server responds to one request. */
type Response = (response: ServerResponse) => void;

const responseOf =
  (status: number, body: object | string, headers: Record<string, string> = {}): Response =>
  (response) =>
    response.writeHead(status, headers).end(typeof body === 'string' ? body : JSON.stringify(body));

const accepted = responseOf(202, ACCEPTED, { Location: `/Prod/jobs/${ID}`, 'Retry-After': '5' });
const resetConnection: Response = (response) => response.destroy();
const resetInTheMiddle: Response = (response) => {
  response.writeHead(200).write(JSON.stringify(DONE).slice(0, 20), () => response.destroy());
};
const neverRespond: Response = () => undefined;
const dripWithoutEnd: Response = (response) => {
  response.writeHead(200);
  const timer = setInterval(() => response.write(' '), 2);
  response.on('close', () => clearInterval(timer));
};

let server: Server;
let baseUrl: string;
let jobUrl: string;
/** The last one is repeated. */
let responses: Response[];
let requests: { method: string | undefined; url: string | undefined; headers: IncomingHttpHeaders; body: string }[];

beforeAll(async () => {
  server = createServer(async (request, response) => {
    const respond = responses.length > 1 ? responses.shift() : responses[0];
    requests.push({ method: request.method, url: request.url, headers: request.headers, body: await text(request) });
    respond?.(response);
  });
  baseUrl = `http://127.0.0.1:${await listen(server)}/Prod`;
  jobUrl = `${baseUrl}/jobs/${ID}`;
});

afterAll(() => {
  server.close();
  server.closeAllConnections();
});

let waits: number[];
let failures: (number | undefined)[];
/** Options with a clock that only sleeping advances. */
let time: {
  sleep: (seconds: number) => Promise<void>;
  clock: () => number;
  onRetry: (failure: JobsError, wait: number) => void;
};

beforeEach(() => {
  requests = [];
  waits = [];
  failures = [];
  let now = 1_795_503_947_000;
  time = {
    sleep: async (seconds) => {
      waits.push(seconds);
      now += 1000 * seconds;
    },
    clock: () => now,
    onRetry: ({ status }) => failures.push(status),
  };
});

const rejectionOf = (call: Promise<unknown>): Promise<unknown> =>
  call.then(
    (value) => {
      throw new Error(`Resolved to ${JSON.stringify(value)}`);
    },
    (error: unknown) => error,
  );

test('submitJob sends the text with a new idempotency key, and returns the job with its URL', async () => {
  responses = [accepted];

  const job = await submitJob(baseUrl, 'a text', time);
  await submitJob(baseUrl, 'a text', time);

  const headers = { 'content-type': 'application/json', 'idempotency-key': expect.stringMatching(KEY) };
  const request = { method: 'POST', url: '/Prod/jobs', body: '{"text":"a text"}', headers };
  expect(job).toEqual({ jobId: ID, jobUrl, status: 'PENDING', retryAfter: 5 });
  expect(requests).toMatchObject([request, request]);
  expect(new Set(requests.map(({ headers }) => headers['idempotency-key'])).size).toBe(2);
});

test('submitJob sends the given key and headers, and accepts a base URL that ends with a slash', async () => {
  responses = [accepted];

  await submitJob(`${baseUrl}/`, 'a text', { ...time, idempotencyKey: 'k-1', headers: { Authorization: 'token' } });

  expect(requests[0]).toMatchObject({
    url: '/Prod/jobs',
    headers: { authorization: 'token', 'idempotency-key': 'k-1' },
  });
});

test('submitJob repeats a POST with the same key after 429, 5xx and resets, and waits as Retry-After says', async () => {
  responses = [
    responseOf(429, { error: 'Too many requests' }, { 'Retry-After': '7' }),
    responseOf(503, { error: 'The job could not be started' }, { 'Retry-After': '1' }),
    responseOf(500, { error: 'Internal server error' }),
    resetConnection,
    accepted,
  ];

  const job = await submitJob(baseUrl, 'a text', time);

  expect(job).toMatchObject({ jobId: ID });
  expect(failures).toEqual([429, 503, 500, undefined]);
  expect(waits.slice(0, 2)).toEqual([7, 1]);
  expect(new Set(requests.map(({ headers, body }) => headers['idempotency-key'] + body)).size).toBe(1);
});

test('without a Retry-After, the wait is random and grows with each failure, up to 30 seconds', async () => {
  responses = [responseOf(500, '')];

  await rejectionOf(submitJob(baseUrl, 'a text', { ...time, limit: 200 }));

  const longest = [1, 2, 4, 8, 16, 30, 30];
  longest.forEach((most, index) => {
    expect(waits[index]).toBeGreaterThanOrEqual(most / 2);
    expect(waits[index]).toBeLessThanOrEqual(most);
  });
});

test('submitJob gives up at the limit, with the last failure', async () => {
  responses = [responseOf(429, { error: 'Too many requests' }, { 'Retry-After': '25' })];

  const error = await rejectionOf(submitJob(baseUrl, 'a text', time));

  const message = `${baseUrl}/jobs returned 429: Too many requests`;
  expect(error).toBeInstanceOf(JobsError);
  expect(error).toMatchObject({ name: 'JobsError', status: 429, message });
  expect(waits).toEqual([25, 25, 10]);
});

test.each([
  [400, { error: "Field 'text' must be a string" }, "Field 'text' must be a string"],
  [401, { message: 'Unauthorized' }, 'Unauthorized'],
  [403, '<h1>Forbidden</h1>', '<h1>Forbidden</h1>'],
])('a POST that is refused with %i %j is not repeated, and the error says why', async (status, body, reason) => {
  responses = [responseOf(status, body)];

  const error = await rejectionOf(submitJob(baseUrl, '', time));

  expect(error).toBeInstanceOf(JobsError);
  expect(error).toMatchObject({ status, message: `${baseUrl}/jobs returned ${status}: ${reason}` });
  expect(requests).toHaveLength(1);
});

test.each([
  ['nonsense', responseOf(202, '<html>', { Location: '/' })],
  ['null', responseOf(202, 'null', { Location: '/' })],
  ['no job id', responseOf(202, { status: 'PENDING' }, { Location: '/' })],
  ['an unknown status', responseOf(202, { jobId: ID, status: 'PAUSED' }, { Location: '/' })],
  ['no Location', responseOf(202, ACCEPTED)],
])('a 202 with %s is an error', async (_what, response) => {
  responses = [response];

  const error = await rejectionOf(submitJob(baseUrl, 'a text', time));

  expect(error).toBeInstanceOf(JobsError);
  expect(error).toMatchObject({ status: 202, message: expect.stringContaining(`${baseUrl}/jobs returned`) });
});

test.each([
  ['URL', 'nowhere', {}],
  ['header', 'http://127.0.0.1', { Authorization: 'two\nlines' }],
])('a malformed %s is a TypeError at once', async (_what, url, headers) => {
  const error = await rejectionOf(submitJob(url, 'a text', { ...time, headers }));

  expect(error).toMatchObject({ name: 'TypeError' });
  expect(waits).toEqual([]);
});

test('an aborted signal stops the repeating, and is the reason of the rejection', async () => {
  responses = [responseOf(500, '')];
  const controller = new AbortController();
  const onRetry = () => controller.abort(new Error('not needed any more'));

  const error = await rejectionOf(submitJob(baseUrl, 'a text', { onRetry, signal: controller.signal }));

  expect(error).toMatchObject({ message: 'not needed any more' });
  expect(requests).toHaveLength(1);
});

test('waitForJob follows a job to DONE, waits as Retry-After says, and sends the given headers with each GET', async () => {
  responses = [
    responseOf(200, PENDING, { 'Retry-After': '1' }),
    responseOf(200, RUNNING, { 'Retry-After': '3' }),
    responseOf(200, RUNNING),
    responseOf(200, DONE),
  ];
  const seen: Job[] = [];

  const headers = { 'x-api-key': 'secret' };

  const job = await waitForJob(jobUrl, { ...time, headers, firstWait: 5, onStatus: (status) => seen.push(status) });

  expect(job).toEqual(DONE);
  expect(waits).toEqual([5, 1, 3, 1]);
  expect(seen).toEqual([PENDING, RUNNING, RUNNING, DONE]);
  expect(requests).toMatchObject(Array(4).fill({ method: 'GET', url: `/Prod/jobs/${ID}`, headers }));
});

test('waitForJob returns a job that ended as ERROR, and waits one second after a Retry-After without seconds', async () => {
  const values = ['0', '-1', 'Wed, 21 Oct 2026 07:28:00 GMT', '99999999999', ''];
  responses = [...values.map((value) => responseOf(200, PENDING, { 'Retry-After': value })), responseOf(200, FAILED)];

  const job = await waitForJob(jobUrl, time);

  expect(job).toEqual(FAILED);
  expect(waits).toEqual([0, 1, 1, 1, 1, 1]);
});

test('waitForJob reads the job at the interval that is given, except after a 429', async () => {
  responses = [
    responseOf(200, PENDING, { 'Retry-After': '9' }),
    responseOf(429, '', { 'Retry-After': '2' }),
    responseOf(200, RUNNING, { 'Retry-After': '9' }),
    responseOf(200, DONE),
  ];

  await waitForJob(jobUrl, { ...time, interval: 0.5 });

  expect(waits).toEqual([0, 0.5, 2, 0.5]);
});

test('waitForJob repeats a GET after 429, 5xx, resets and a response that was cut off', async () => {
  responses = [
    responseOf(429, { error: 'Too many requests' }, { 'Retry-After': '2' }),
    responseOf(502, { error: 'Internal server error' }),
    resetConnection,
    resetInTheMiddle,
    responseOf(200, DONE),
  ];

  const job = await waitForJob(jobUrl, time);

  expect(job).toEqual(DONE);
  expect(failures).toEqual([429, 502, undefined, undefined]);
});

test.each([
  ['never comes', neverRespond],
  ['drips without end', dripWithoutEnd],
])('a response that %s is ended by the timeout, and the request is repeated', async (_what, response) => {
  responses = [response, responseOf(200, DONE)];

  const job = await waitForJob(jobUrl, { ...time, requestTimeout: 0.1 });

  expect(job).toEqual(DONE);
  expect(failures).toEqual([undefined]);
});

test('waitForJob gives up at the limit if the job has not ended', async () => {
  responses = [responseOf(200, RUNNING, { 'Retry-After': '30' })];

  const error = await rejectionOf(waitForJob(jobUrl, { ...time, limit: 70 }));

  expect(error).toBeInstanceOf(JobsError);
  expect(error).toMatchObject({ status: 200, job: RUNNING, message: `${jobUrl} is still IN_PROGRESS at the limit` });
  expect(waits).toEqual([0, 30, 30, 10]);
});

test.each(['limit', 'interval', 'firstWait'])('waitForJob rejects if %s is not a number', async (name) => {
  responses = [responseOf(200, RUNNING), responseOf(200, DONE)];

  const error = await rejectionOf(waitForJob(jobUrl, { ...time, [name]: Number.NaN }));

  expect(error).toMatchObject({ name: 'TypeError' });
});

test('waitForJob gives up at the limit if no server responds, with the last failure and no job', async () => {
  responses = [resetConnection];

  const error = await rejectionOf(waitForJob(jobUrl, { ...time, limit: 20 }));

  const message = `No response from ${jobUrl}`;
  expect(error).toMatchObject({ status: undefined, job: undefined, message, cause: { name: 'TypeError' } });
});

test.each([
  ['nonsense', '{"jobId":'],
  ['an unknown status', { ...COMMON, status: 'PAUSED' }],
  ['no status', COMMON],
  ['no job id', { ...DONE, jobId: undefined }],
  ['no text', { ...DONE, text: undefined }],
  ['a time that is not a number', { ...DONE, createdAt: 'today' }],
  ['no time of the last change', { ...DONE, updatedAt: undefined }],
  ['DONE but a result of null', { ...DONE, result: null }],
  ['ERROR but no message', { ...FAILED, errorMessage: undefined }],
])('a 200 with %s is an error', async (_what, body) => {
  responses = [responseOf(200, body)];

  const error = await rejectionOf(waitForJob(jobUrl, time));

  expect(error).toBeInstanceOf(JobsError);
  expect(error).toMatchObject({ status: 200, job: undefined, message: `${jobUrl} returned no job` });
  expect(requests).toHaveLength(1);
});

test('an aborted signal ends the wait before the next GET', async () => {
  responses = [responseOf(200, PENDING, { 'Retry-After': '30' })];
  const controller = new AbortController();
  const onStatus = () => setImmediate(() => controller.abort());

  const error = await rejectionOf(waitForJob(jobUrl, { onStatus, signal: controller.signal }));

  expect(error).toMatchObject({ name: 'AbortError' });
  expect(requests).toHaveLength(1);
});

test('an aborted signal ends a request that has no response', async () => {
  const controller = new AbortController();
  responses = [() => controller.abort(new Error('closed'))];

  const error = await rejectionOf(waitForJob(jobUrl, { signal: controller.signal }));

  expect(error).toMatchObject({ message: 'closed' });
});

test('a signal that is aborted already prevents every request', async () => {
  const error = await rejectionOf(waitForJob(jobUrl, { signal: AbortSignal.abort() }));

  expect(error).toMatchObject({ name: 'AbortError' });
  expect(requests).toEqual([]);
});

test('waits leave no listener on the signal', async () => {
  responses = [responseOf(200, RUNNING), responseOf(200, RUNNING), responseOf(200, DONE)];
  const { signal } = new AbortController();

  await waitForJob(jobUrl, { signal, interval: 0 });

  expect(requests).toHaveLength(3);
  expect(getEventListeners(signal, 'abort')).toEqual([]);
});

test('the code in the README submits a job, waits for it, and prints its result', async () => {
  const readme = readFileSync(resolve(root, 'README.md'), 'utf8');
  const [, code = ''] = /```ts\n(import .*?)```/s.exec(readme) ?? [];
  responses = [
    responseOf(202, ACCEPTED, { Location: `/Prod/jobs/${ID}`, 'Retry-After': '1' }),
    responseOf(200, RUNNING, { 'Retry-After': '1' }),
    responseOf(200, DONE),
  ];
  const program = code.replace(/(const baseUrl = )'.*'/, `$1'${baseUrl}'`);

  const args = ['--input-type=module-typescript', '--eval', program];
  const { stdout } = await promisify(execFile)(process.execPath, args, { cwd: root });

  expect(stdout).toBe('{ ocr: { wordCount: 2 } }\n');
});

test('the client needs only what browsers have', async () => {
  const tsc = ['node_modules/typescript/bin/tsc', '--ignoreConfig', '--noEmit', '--strict', '--module', 'esnext'];
  const libraries = ['--target', 'es2022', '--lib', 'es2022,dom', '--types', ''];

  const check = promisify(execFile)(process.execPath, [...tsc, ...libraries, 'client/jobs.ts'], { cwd: root });

  await expect(check).resolves.toEqual({ stdout: '', stderr: '' });
});
