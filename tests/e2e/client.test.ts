/** The client, and the two commands that use it: poll.sh, and the load test on an account with 10 executions. */
import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { createServer, type Server, type ServerResponse } from 'node:http';
import { join, resolve } from 'node:path';
import { text } from 'node:stream/consumers';
import { afterAll, beforeAll, describe, expect, jest, test } from '@jest/globals';
import { JobsError, submitJob, waitForJob } from '../../client/jobs.ts';
import { localhostFetch } from '../../scripts/aws/localhostFetch.ts';
import { build, deploy, type Emulator, startEmulator } from '../../scripts/local/emulator.ts';
import { listen } from '../support/listen.ts';

jest.setTimeout(180_000);

const root = resolve(import.meta.dirname, '..', '..');

/** Runs a program. Returns its exit code and what it printed. */
async function run(program: string, ...args: string[]) {
  const child = spawn(program, args, { cwd: root, stdio: ['ignore', 'pipe', 'pipe'] });
  const exited = new Promise<number | null>((resolve) => child.once('close', resolve));
  const [stdout, stderr, code] = await Promise.all([text(child.stdout), text(child.stderr), exited]);
  return { code, stdout, stderr };
}

describe('on the AWS emulator, with 10 concurrent executions', () => {
  let aws: Emulator;
  let baseUrl: string;
  const options = { fetch: localhostFetch };

  beforeAll(async () => {
    // As on AWS, an event for which no execution is free is tried again after 1 s.
    aws = await startEmulator({ env: { LAMBDA_ACCOUNT_CONCURRENCY: '10', LAMBDA_ASYNC_RETRY_BASE_SECONDS: '1' } });
    await build(aws);
    baseUrl = (await deploy(aws, { stackName: 'client' })).baseUrl;
  });

  afterAll(() => aws?.stop());

  test('the client submits a job and returns it when it is done', async () => {
    const { jobId, jobUrl, retryAfter } = await submitJob(`${baseUrl}/`, 'a good day', options);
    const job = await waitForJob(jobUrl, { ...options, firstWait: retryAfter });

    expect(jobUrl).toBe(`${baseUrl}/jobs/${jobId}`);
    expect(job).toMatchObject({ jobId, status: 'DONE', text: 'a good day', result: { ocr: { wordCount: 3 } } });
  });

  test('the client creates one job for the same key and text, and none for the same key and another text', async () => {
    const keyed = { ...options, idempotencyKey: randomUUID() };

    const first = await submitJob(baseUrl, 'a good day', keyed);
    const second = await submitJob(baseUrl, 'a good day', keyed);
    const other = submitJob(baseUrl, 'a bad day', keyed);

    expect(second.jobId).toBe(first.jobId);
    await expect(other).rejects.toMatchObject({ name: 'JobsError', status: 422 });
  });

  test('the client throws a JobsError with status 404 for an unknown job', async () => {
    const unknown = waitForJob(`${baseUrl}/jobs/${randomUUID()}`, options);

    await expect(unknown).rejects.toThrow(JobsError);
    await expect(unknown).rejects.toMatchObject({ status: 404 });
  });

  test('the load test at its default rate loses no job, and no request is refused unless jobs are slow', async () => {
    // At most 8 of these jobs are submitted within 7 s, so the API has 2 executions as long as jobs take that long.
    const load = await run('npm', 'run', '--silent', 'load', '--', baseUrl, '--seconds', '20', '--seed', '9');

    const slowest = Number(/slowest ([\d.]+) s$/m.exec(load.stdout)?.[1]);
    expect(load).toMatchObject({ code: 0, stderr: '' });
    expect(load.stdout).toMatch('\naccepted     19 of 19\nended        19 x DONE\n');
    if (slowest <= 7) {
      expect(load.stdout).toMatch('\nPOSTs        19, repeated after: none\n');
      expect(load.stdout).toMatch(/\nGETs {9}\d+, repeated after: none\n/);
    } else {
      console.info(`Jobs took up to ${slowest} s here, so requests may have been refused:\n${load.stdout}`);
    }
  });
});

describe('with a server that misbehaves', () => {
  const ID = '3837c848-3428-45f5-a4fc-eb057690d746';
  const JOB = { jobId: ID, text: 'a text', createdAt: 1795503947, updatedAt: 1795503952 };
  let server: Server;
  let url: string;
  /** Responds to POSTs and GETs. */
  let respond: (response: ServerResponse, method: string) => void;

  const json = (response: ServerResponse, status: number, body: object, headers: Record<string, string> = {}) =>
    response.writeHead(status, headers).end(JSON.stringify(body));

  beforeAll(async () => {
    server = createServer((request, response) => respond(response, request.method ?? ''));
    url = `http://127.0.0.1:${await listen(server)}/Prod`;
  });

  afterAll(() => {
    server.close();
    server.closeAllConnections();
  });

  const poll = (...args: string[]) => run('bash', join(root, 'scripts', 'poll.sh'), ...args);
  const load = (...args: string[]) => run('npm', 'run', '--silent', 'load', '--', url, ...args);

  test('poll.sh repeats a GET after 429, 5xx and resets', async () => {
    const refusals = [429, 503, undefined];
    respond = (response) => {
      if (refusals.length === 0) return json(response, 200, { ...JOB, status: 'DONE', result: {} });
      const status = refusals.shift();
      if (status === undefined) return response.destroy();
      return json(response, status, { error: 'Try again' }, { 'Retry-After': '1' });
    };

    const { code, stdout, stderr } = await poll(url, ID);

    expect({ code, stdout }).toEqual({ code: 0, stdout: expect.stringMatching(/^ *\d+ s {2}DONE\n\{\n/) });
    expect(stderr.split('\n').slice(0, 3)).toEqual([
      `${url}/jobs/${ID} returned 429: Try again; trying again in 1 s`,
      `${url}/jobs/${ID} returned 503: Try again; trying again in 1 s`,
      expect.stringMatching(`^No response from ${url}/jobs/${ID}; trying again in [234] s$`),
    ]);
  });

  test.each([
    ['a job that ended as ERROR', { ...JOB, status: 'ERROR', errorMessage: 'no' }, 200, 1, /^Error: the job ended as/],
    ['an unknown job', { error: 'Job not found' }, 404, 3, /^Error: there is no such job: http/],
    ['a refusal', { message: 'Forbidden' }, 403, 3, /^Error: http\S+ returned 403: Forbidden\n$/],
    ['an unknown status', { ...JOB, status: '\u001b[31m$(touch mark)' }, 200, 3, /^Error: http\S+ returned no job\n$/],
    ['control characters', { error: '\u001b[31mred' }, 400, 3, /^Error: http\S+ returned 400: {2}\[31mred\n$/],
    [
      'a job that does not end',
      { ...JOB, status: 'PENDING' },
      200,
      4,
      /^Error: .* within 1 s \(status: PENDING\): http/,
    ],
    ['an API that refuses every GET', { error: 'No' }, 500, 4, /\nError: .* within 1 s: http\S+ returned 500: No\n$/],
  ])('poll.sh says what is wrong with %s', async (_what, body, status, code, message) => {
    respond = (response) => json(response, status, body);

    const polled = await poll(`${url}/jobs/${ID}`, '1');

    expect(polled).toMatchObject({ code, stderr: expect.stringMatching(message) });
  });

  test('poll.sh says why it gets no response', async () => {
    const polled = await poll('http://127.0.0.1:1', ID, '1');

    expect(polled).toMatchObject({ code: 3, stderr: expect.stringMatching(/\nError: no response from http\S+: \w+/) });
  });

  test.each([
    ['no argument', []],
    ['a job id and no URL', [ID]],
    ['a URL that is not of HTTP', ['ftp://127.0.0.1', ID]],
    ['a base URL and no job id', ['http://127.0.0.1']],
    ['a limit of 0', ['http://127.0.0.1', ID, '0']],
    ['one argument too many', ['http://127.0.0.1', ID, '1', '2']],
  ])('poll.sh prints its usage if it gets %s', async (_what, args) => {
    const polled = await poll(...args);

    expect(polled).toMatchObject({ code: 2, stdout: '', stderr: expect.stringMatching(/^Usage: /) });
  });

  test('the load test counts repeated requests, and submits a burst at once', async () => {
    let posts = 0;
    let gets = 0;
    const accepted = { Location: `/Prod/jobs/${ID}`, 'Retry-After': '9' };
    respond = (response, method) => {
      if (method === 'GET') gets += 1;
      else posts += 1;
      if (posts <= 3) return json(response, 429, { error: 'Too many' }, { 'Retry-After': '1' });
      if (method === 'POST') return json(response, 202, { jobId: ID, status: 'PENDING' }, accepted);
      if (gets === 1) return response.destroy();
      return json(response, 200, { ...JOB, status: 'DONE', result: {} });
    };

    const { code, stdout } = await load('--burst', '3', '--first-get', '0');

    expect(code).toBe(0);
    expect(stdout).toMatch(
      new RegExp(
        [
          '^3 jobs at once, to http.*',
          'accepted     3 of 3',
          'ended        3 x DONE',
          'POSTs        6, repeated after: 3 x 429',
          'GETs         4, repeated after: 1 x no response',
          'GETs a job   1.3',
          String.raw`POST to end  p50 \d\.\d s, p99 \d\.\d s, slowest \d\.\d s`,
        ].join('\n'),
      ),
    );
  });

  test('the load test fails if a job was not accepted, and names it', async () => {
    respond = (response) => json(response, 400, { error: 'No' });

    const loaded = await load('--burst', '1');

    expect(loaded).toMatchObject({ code: 1, stderr: `job 1 was given up: ${url}/jobs returned 400: No\n` });
  });

  test('the load test fails if a job is lost, and names it', async () => {
    respond = (response, method) =>
      method === 'POST'
        ? json(response, 202, { jobId: ID, status: 'PENDING' }, { Location: `/Prod/jobs/${ID}` })
        : json(response, 404, { error: 'Job not found' });

    const loaded = await load('--burst', '1', '--first-get', '0');

    expect(loaded).toMatchObject({ code: 1, stderr: `job 1 is lost: ${url}/jobs/${ID} returned 404: Job not found\n` });
  });

  test.each([
    ['a word instead of a URL', ['nowhere']],
    ['a rate of 0', ['http://127.0.0.1', '--rate', '0']],
    ['two URLs', ['http://127.0.0.1', 'http://127.0.0.1']],
  ])('the load test prints its usage if it gets %s', async (_what, args) => {
    const loaded = await run('npm', 'run', '--silent', 'load', '--', ...args);

    expect(loaded).toMatchObject({ code: 1, stdout: '', stderr: expect.stringMatching(/Usage: npm run load/) });
  });
});
