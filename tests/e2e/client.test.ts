/** The client, and the two commands that use it: poll.sh, and the load test on an account with 10 executions. */
import { createServer, type Server, type ServerResponse } from 'node:http';
import { join, resolve } from 'node:path';
import { afterAll, beforeAll, describe, expect, jest, test } from '@jest/globals';
import { submitJob, waitForJob } from '../../client/jobs.ts';
import { localhostFetch } from '../../scripts/aws/localhostFetch.ts';
import { build, deploy, type Emulator, startEmulator } from '../../scripts/local/emulator.ts';
import { listen } from '../support/listen.ts';
import { command } from './command.ts';

// An outer limit, for a busy machine.
jest.setTimeout(900_000);

const root = resolve(import.meta.dirname, '..', '..');

const poll = (...args: string[]) => command('bash', [join(root, 'scripts', 'poll.sh'), ...args]);
const load = (...args: string[]) => command('npm', ['run', '--silent', 'load', '--', ...args], { cwd: root });

describe('on the AWS emulator, with 10 concurrent executions', () => {
  let aws: Emulator;
  let baseUrl: string;

  beforeAll(async () => {
    aws = await startEmulator({ env: { LAMBDA_ACCOUNT_CONCURRENCY: '10' } });
    await build(aws);
    baseUrl = (await deploy(aws, { stackName: 'client' })).baseUrl;
  });

  afterAll(() => aws?.stop());

  test('the client submits a job and returns it when it is done', async () => {
    const options = { fetch: localhostFetch };

    const { jobId, jobUrl, retryAfter } = await submitJob(`${baseUrl}/`, 'a good day', options);
    const job = await waitForJob(jobUrl, { ...options, firstWait: retryAfter });

    expect(jobUrl).toBe(`${baseUrl}/jobs/${jobId}`);
    expect(job).toMatchObject({ jobId, status: 'DONE', text: 'a good day', result: expect.any(Object) });
  });

  test('the load test at its default rate loses no job, and no request is refused unless jobs are slow', async () => {
    // At most 8 of these jobs are submitted within 7 s, so the API has 2 executions as long as jobs take that long.
    const loaded = await load(baseUrl, '--seconds', '20', '--seed', '6000018');

    const slowest = Number(/slowest ([\d.]+) s$/m.exec(loaded.stdout)?.[1]);
    expect(loaded).toMatchObject({ code: 0, stderr: '' });
    expect(loaded.stdout).toMatch('\naccepted     19 of 19\n');
    if (slowest <= 7) {
      expect(loaded.stdout).toMatch('\nended        19 x DONE\nPOSTs        19, repeated after: none\n');
      expect(loaded.stdout).toMatch(/\nGETs {9}\d+, repeated after: none\n/);
    } else {
      console.info(`Jobs took up to ${slowest} s here, so requests may have been refused:\n${loaded.stdout}`);
    }
  });

  test('a burst of four times as many jobs as there are executions loses none, although Lambda refuses requests', async () => {
    const loaded = await load(baseUrl, '--burst', '40');

    expect(loaded).toMatchObject({ code: 0, stderr: '' });
    expect(loaded.stdout).toMatch(/\naccepted {5}40 of 40\n.*\nPOSTs .*repeated after: \d+ x 429/);
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

  test('poll.sh says why it repeats a GET', async () => {
    const refusals = [429, undefined];
    respond = (response) => {
      if (refusals.length === 0) return json(response, 200, { ...JOB, status: 'DONE', result: {} });
      const status = refusals.shift();
      return status === undefined
        ? response.destroy()
        : json(response, status, { error: 'Try again' }, { 'Retry-After': '1' });
    };

    const { code, stdout, stderr } = await poll(url, ID);

    expect({ code, stdout }).toEqual({ code: 0, stdout: expect.stringMatching(/^ *\d+ s {2}DONE\n\{\n/) });
    expect(stderr.split('\n').slice(0, 2)).toEqual([
      `${url}/jobs/${ID} returned 429: Try again; trying again in 1 s`,
      expect.stringMatching(`^No response from ${url}/jobs/${ID}; trying again in [123] s$`),
    ]);
  });

  const FAILED = { ...JOB, status: 'ERROR', errorMessage: 'no' };
  const PENDING = { ...JOB, status: 'PENDING' };

  test.each([
    ['a job that ended as ERROR', 200, FAILED, '60', 1, /^Error: the job ended as/],
    ['an unknown job', 404, { error: 'Job not found' }, '60', 3, /^Error: there is no such job: http/],
    ['control characters', 400, { error: '\u001b[31mred' }, '60', 3, /^Error: http\S+ returned 400: {2}\[31mred\n$/],
    ['a job that does not end', 200, PENDING, '3', 4, /^Error: .* within 3 s \(status: PENDING\): http/],
    [
      'an API that refuses every GET',
      500,
      { error: 'No' },
      '3',
      4,
      /\nError: .* within 3 s: http\S+ returned 500: No\n$/,
    ],
  ])('poll.sh says what is wrong with %s', async (_what, status, body, limit, code, message) => {
    respond = (response) => json(response, status, body);

    const polled = await poll(`${url}/jobs/${ID}`, limit);

    expect(polled).toMatchObject({ code, stderr: expect.stringMatching(message) });
  });

  test('poll.sh says why it gets no response', async () => {
    const polled = await poll('http://127.0.0.1:1', ID, '3');

    expect(polled).toMatchObject({ code: 3, stderr: expect.stringMatching(/\nError: no response from http\S+: \w+/) });
  });

  test.each([
    ['a job id and no URL', [ID]],
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
    const accepted = { Location: `/Prod/jobs/${ID}`, 'Retry-After': '1' };
    respond = (response, method) => {
      if (method === 'GET') gets += 1;
      else posts += 1;
      if (posts <= 3) return json(response, 429, { error: 'Too many' }, { 'Retry-After': '1' });
      if (method === 'POST') return json(response, 202, { jobId: ID, status: 'PENDING' }, accepted);
      if (gets === 1) return response.destroy();
      return json(response, 200, { ...JOB, status: 'DONE', result: {} });
    };

    const { code, stdout } = await load(url, '--burst', '3');

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

  test.each([
    ['is refused', 400, 'job 1 was given up: http'],
    ['is lost', 202, 'job 1 is lost: http'],
  ])('the load test fails if a job %s, and names it', async (_what, posted, problem) => {
    respond = (response, method) =>
      method === 'POST'
        ? json(response, posted, { jobId: ID, status: 'PENDING' }, { Location: `/Prod/jobs/${ID}` })
        : json(response, 404, { error: 'Job not found' });

    const loaded = await load(url, '--burst', '1');

    expect(loaded).toMatchObject({ code: 1, stderr: expect.stringContaining(problem) });
  });

  test.each([
    ['a rate of 0', ['http://127.0.0.1', '--rate', '0']],
    ['two URLs', ['http://127.0.0.1', 'http://127.0.0.1']],
  ])('the load test prints its usage if it gets %s', async (_what, args) => {
    const loaded = await load(...args);

    expect(loaded).toMatchObject({ code: 1, stdout: '', stderr: expect.stringMatching(/Usage: npm run load/) });
  });
});
