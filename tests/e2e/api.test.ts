import { randomUUID } from 'node:crypto';
import { CloudWatchLogsClient, paginateFilterLogEvents } from '@aws-sdk/client-cloudwatch-logs';
import { afterAll, beforeAll, expect, jest, test } from '@jest/globals';
import { clientOptions } from '../../scripts/local/emulator.ts';
import { unixSeconds } from '../../src/job.ts';
import { SAMPLE, SAMPLE_RESULT } from '../support/sample.ts';
import {
  type Answer,
  API_BASE_URL,
  AWS_FAILED,
  checkEveryAnswer,
  type Deployment,
  getJob,
  isEmulator,
  numberField,
  openDeployment,
  pollUntilEnded,
  post,
  request,
  stringField,
  submit,
} from './deployment.ts';
import { openContract } from './openapiContract.ts';

// Outer limits, for a busy machine. On an account with 10 concurrent executions, Lambda delays some of 20 jobs by minutes.
jest.setTimeout(1_200_000);
const JOB_LIMIT_MS = 600_000;

const STACK_NAME = 'api-test';
const UUID_V4 = /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;
/** Lower case lengthens these five words, which makes the result of the sample stages as large as possible. */
const LONGEST = `${[0, 1, 2, 3, 4].map((i) => `${i}${'\u023A'.repeat(13_106)}`).join(' ')}abc`;
const ACCEPTED = 'Job accepted. Poll GET /jobs/{jobId} for status updates.';
const TEXT_REQUIRED = "Field 'text' is required and must not be empty";
const TEXT_TOO_LONG = "Field 'text' must not exceed 131072 bytes as JSON";
const NO_OBJECT = 'Request body must be a JSON object';
const INVALID_JSON = 'Invalid JSON in request body';

let deployment: Deployment;
let baseUrl: string;

beforeAll(async () => {
  checkEveryAnswer(await openContract());
  deployment = await openDeployment(STACK_NAME);
  baseUrl = deployment.baseUrl;
});

afterAll(async () => {
  await deployment?.aws?.stop();
});

const endOf = async (jobId: string) => (await pollUntilEnded(baseUrl, jobId, JOB_LIMIT_MS)).end;

function expectError(answer: Answer, status: number, error: string): void {
  expect({ status: answer.status, text: answer.text }).toEqual({ status, text: JSON.stringify({ error }) });
  expect(answer.headers['content-type']).toBe('application/json');
}

/** Submits a job and returns its id. With a key, so that the POST can be repeated if the API refuses it. */
async function accepted(
  text: string,
  headers: Readonly<Record<string, string>> = { 'Idempotency-Key': randomUUID() },
): Promise<string> {
  const answer = await submit(baseUrl, text, headers);
  expect(answer).toMatchObject({ status: 202 });
  return stringField(answer, 'jobId');
}

// Each response is also checked against openapi.yaml, which has the fields and headers of each status.
test('a job is accepted as PENDING, is found at its Location at once, and does not change after it has ended', async () => {
  const before = unixSeconds(Date.now());

  let acceptance = await submit(baseUrl, SAMPLE);
  // Without a key. If AWS fails such a POST, it is not repeated, but another one can be sent.
  for (let tries = 1; tries < 5 && acceptance.status >= 500; tries += 1) acceptance = await submit(baseUrl, SAMPLE);
  const jobId = stringField(acceptance, 'jobId');
  const location = acceptance.headers['location'] ?? '';
  const firstGet = await request(new URL(location, baseUrl).href);
  const end = await endOf(jobId);
  const later = await getJob(baseUrl, jobId);

  expect(acceptance.status).toBe(202);
  expect(acceptance.text).toBe(JSON.stringify({ jobId, status: 'PENDING', message: ACCEPTED }));
  expect(jobId).toMatch(UUID_V4);
  expect(location).toBe(`${new URL(baseUrl).pathname}/jobs/${jobId}`.replace('//', '/'));
  expect(firstGet).toMatchObject({ status: 200, json: { jobId, text: SAMPLE } });
  // Fast stages, or a slow GET, may have let it end.
  expect('retry-after' in firstGet.headers).toBe(!/^(DONE|ERROR)$/.test(stringField(firstGet, 'status')));
  expect(later.text).toBe(end.text);
  expect(later.headers).not.toHaveProperty('retry-after');
  // Unix seconds, not milliseconds. The clocks of two machines may differ, and the POST may have been repeated.
  expect(Math.abs(numberField(end, 'createdAt') - before)).toBeLessThan(1800);
  expect(numberField(end, 'updatedAt')).toBeGreaterThanOrEqual(numberField(end, 'createdAt'));
});

test('20 jobs that are submitted at the same time keep their own texts', async () => {
  const texts = Array.from({ length: 20 }, (_, number) => `text number ${number}`);

  const ids = await Promise.all(texts.map((text) => accepted(text)));
  const ends: Answer[] = [];
  for (const id of ids) ends.push(await endOf(id));

  expect(new Set(ids).size).toBe(20);
  expect(ends.map(({ json }) => json)).toMatchObject(texts.map((text, i) => ({ jobId: ids[i], text })));
});

// -------------------------------------------------------------------------------- the sample stages
// The only tests that depend on the list in src/stages/index.ts.

test('the sample stages take some seconds, and return what they found in the text', async () => {
  const end = await endOf(await accepted(SAMPLE));

  expect(end.json).toMatchObject({ status: 'DONE', result: SAMPLE_RESULT });
  // They pause for 5 s. The record has whole seconds.
  expect(numberField(end, 'updatedAt') - numberField(end, 'createdAt')).toBeGreaterThanOrEqual(4);
});

test('the sample stages return a result that can be stored, even for the longest text, every byte of which is kept', async () => {
  const end = await endOf(await accepted(LONGEST));

  expect(Buffer.byteLength(LONGEST)).toBe(131_072);
  expect(end.json).toMatchObject({ status: 'DONE', text: LONGEST });
});

// --------------------------------------------------------------------------------------- POST /jobs

const DEEP = 50_000;

// What a gateway might change, and one body for each message. The unit tests have many more.
test.each<[string, string | Uint8Array, string]>([
  ['an absent body', '', TEXT_REQUIRED],
  ['a blank text', JSON.stringify({ text: ' \t\r\n\u00a0\u2003\ufeff ' }), TEXT_REQUIRED],
  ['deeply nested objects', `${'{"a":'.repeat(DEEP)}1${'}'.repeat(DEEP)}`, TEXT_REQUIRED],
  ['an array of jobs', '[{"text":"hello"}]', NO_OBJECT],
  ['a raw control character', '{"text":"a\u0000b"}', INVALID_JSON],
  ['bytes that are not UTF-8', Uint8Array.of(0xff, 0xfe, 0x00, 0x80), INVALID_JSON],
  ['a text that is null', '{"text":null}', "Field 'text' must be a string"],
  ['half a surrogate pair', '{"text":"half of \\ud83d"}', "Field 'text' must be well-formed Unicode"],
])('a POST with %s is refused with 400', async (_, body, error) => {
  const answer = await post(baseUrl, body);

  expectError(answer, 400, error);
});

test.each([
  ['over the limit as JSON, not in bytes of UTF-8', '\u0001'.repeat(21_846)],
  ['of 5 MB', 'a'.repeat(5_000_000)],
])('a POST with a text %s is refused with 413', async (_, text) => {
  const answer = await submit(baseUrl, text);

  expect(answer.status).toBe(413);
  // API Gateway refuses bodies that are too large for Lambda.
  expect([TEXT_TOO_LONG, 'Request body is too large']).toContain(stringField(answer, 'error'));
});

test('a POST stores the text trimmed, and otherwise unchanged', async () => {
  const text = '"quoted" \\ \u0000 __proto__ \ud83d\ude80 <b>&amp;</b> e\u0301';

  const job = await getJob(baseUrl, await accepted(`\n\t ${text} \u00a0`));

  expect(job.json).toMatchObject({ text });
});

test('a POST does not store bytes that are not UTF-8', async () => {
  const body = Buffer.concat([Buffer.from('{"text":"a'), Uint8Array.of(0xff), Buffer.from('b"}')]);

  const answer = await post(baseUrl, body, { 'Idempotency-Key': randomUUID() });

  // API Gateway may have replaced them.
  if (answer.status === 202) {
    expect((await getJob(baseUrl, stringField(answer, 'jobId'))).json).toMatchObject({ text: 'a\ufffdb' });
  } else {
    expect(answer.status).toBe(400);
  }
});

// -------------------------------------------------------------------------------- GET /jobs/{jobId}

test('a GET of an unknown id returns 404', async () => {
  const jobId = randomUUID();

  const answer = await getJob(baseUrl, jobId);

  expectError(answer, 404, `Job '${jobId}' not found`);
  expect(answer.headers).toHaveProperty('cache-control', 'no-store');
});

test.each([
  ['an encoded slash', 'a%2Fb'],
  ['an encoded way up', '..%2F..%2Fetc%2Fpasswd'],
  ['markup', '%3Cscript%3Ealert(1)%3C%2Fscript%3E'],
  ['an encoded line break', '%0D%0ASet-Cookie:%20a=b'],
  ['a NUL', 'a%00b'],
  ['a broken escape', '%E0%A4%A'],
  ['bytes that are not UTF-8', '%ff%fe'],
  ['Unicode', '%F0%9F%9A%80'],
  ['8 KB', 'a'.repeat(8192)],
])('a GET of an id with %s finds no job', async (_, id) => {
  const answer = await getJob(baseUrl, id);

  // API Gateway may refuse such a path.
  expect([400, 403, 404, 414]).toContain(answer.status);
  expect(answer.headers).not.toHaveProperty('set-cookie');
  if (answer.status === 404) expect(stringField(answer, 'error')).toMatch(/^(?:Job '.*' not found|Not found)$/s);
});

// -------------------------------------------------------------------------- other methods and paths

const anId = randomUUID();

test.each([
  ['GET', '/jobs', 'POST'],
  ['PUT', '/jobs', 'POST'],
  ['POST', `/jobs/${anId}`, 'GET'],
  ['DELETE', `/jobs/${anId}`, 'GET'],
])('%s %s is refused', async (method, path, allowed) => {
  const answer = await request(`${baseUrl}${path}`, { method });

  // The AWS emulator ignores the ANY methods of the template, which return 405.
  if (isEmulator(baseUrl)) {
    expect(answer.status).toBe(403);
  } else {
    expect(answer).toMatchObject({
      status: 405,
      headers: { allow: allowed },
      json: { error: `Method ${method} is not allowed` },
    });
  }
});

test.each(['/', '/job', `/jobs/${anId}/result`, '/jobs/a/b/c'])('GET %s is not found', async (path) => {
  const { status } = await request(`${baseUrl}${path}`);

  // It ignores the GatewayResponses of the template too.
  expect(status).toBe(isEmulator(baseUrl) ? 403 : 404);
});

// --------------------------------------------------------------------------------- idempotency keys

test('five simultaneous POSTs with one Idempotency-Key, and a later one, create one job', async () => {
  const key = randomUUID();
  const spellings = [key, `"${key}"`];

  const answers = await Promise.all(
    [0, 1, 2, 3, 4].map((i) =>
      submit(baseUrl, `${SAMPLE}${' '.repeat(i)}`, { 'Idempotency-Key': spellings[i % 2] ?? '' }),
    ),
  );
  const [jobId = '', ...others] = new Set(answers.map((answer) => stringField(answer, 'jobId')));
  const end = await endOf(jobId);
  const late = await submit(baseUrl, SAMPLE, { 'idempotency-key': key });
  const afterwards = await getJob(baseUrl, jobId);

  expect(others).toEqual([]);
  expect(jobId).toMatch(UUID_V4);
  for (const answer of answers) {
    expect(answer).toMatchObject({ status: 202, json: { message: ACCEPTED } });
    expect(stringField(answer, 'status')).toMatch(/^(PENDING|IN_PROGRESS|DONE|ERROR)$/);
    expect(answer.headers['location']).toBe(answers[0]?.headers['location']);
  }
  expect({ status: late.status, text: late.text }).toEqual({
    status: 202,
    text: JSON.stringify({ jobId, status: stringField(end, 'status'), message: ACCEPTED }),
  });
  expect(afterwards.text).toBe(end.text);
});

test('an Idempotency-Key that was used with a different text is refused with 422', async () => {
  const key = randomUUID();
  const jobId = await accepted('the first text', { 'Idempotency-Key': key });

  const answer = await submit(baseUrl, 'another text', { 'Idempotency-Key': key });

  expectError(answer, 422, "Header 'Idempotency-Key' was already used with a different text");
  expect((await getJob(baseUrl, jobId)).json).toMatchObject({ text: 'the first text' });
});

// On a busy machine the emulator answers some calls late. The requests that failed for it were repeated above.
(API_BASE_URL === undefined ? test : test.skip)('every 5xx of the API is because AWS failed', async () => {
  const client = new CloudWatchLogsClient(clientOptions({ endpoint: deployment.aws?.endpoint ?? '' }));
  const query = { logGroupName: `/${STACK_NAME}/functions`, filterPattern: '"outcome"' };

  const failures: string[] = [];
  for await (const { events = [] } of paginateFilterLogEvents({ client }, query)) {
    const lines = events.map(({ message = '' }) => message);
    failures.push(...lines.filter((line) => /"outcome":5\d\d/.test(line) && !AWS_FAILED.test(line)));
  }

  expect(failures).toEqual([]);
});
