import { randomUUID } from 'node:crypto';
import { paginateFilterLogEvents } from '@aws-sdk/client-cloudwatch-logs';
import { GetItemCommand } from '@aws-sdk/client-dynamodb';
import { InvokeCommand } from '@aws-sdk/client-lambda';
import { DynamoDBDocumentClient, PutCommand } from '@aws-sdk/lib-dynamodb';
import { afterAll, beforeAll, describe, expect, jest, test } from '@jest/globals';
import { type Job, newJob, unixSeconds } from '../../src/job.ts';
import {
  type Answer,
  API_BASE_URL,
  AWS_FAILED,
  checkEveryAnswer,
  type Deployment,
  getJob,
  HAS_INTERNALS,
  type Internals,
  isEmulator,
  numberField,
  openDeployment,
  type PolledJob,
  pollUntilEnded,
  post,
  request,
  requestOnce,
  stringField,
  submit,
} from './deployment.ts';
import { openContract } from './openapiContract.ts';

// Outer limits, for a busy machine. On an account with 10 concurrent executions, Lambda delays some of 20 jobs by minutes.
jest.setTimeout(1_200_000);
const JOB_LIMIT_MS = 600_000;

const STACK_NAME = 'api-test';
const UUID_V4 = /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;
const SAMPLE = 'AWS Lambda is a great serverless compute service';
/** Lower case lengthens these five words, which makes the result of the sample stages as large as possible. */
const LONGEST = `${[0, 1, 2, 3, 4].map((i) => `${i}${'\u023A'.repeat(13_106)}`).join(' ')}abc`;
const ACCEPTED = 'Job accepted. Poll GET /jobs/{jobId} for status updates.';
const TEXT_REQUIRED = "Field 'text' is required and must not be empty";
const TEXT_TOO_LONG = "Field 'text' must not exceed 131072 bytes as JSON";
const NO_OBJECT = 'Request body must be a JSON object';
const INVALID_JSON = 'Invalid JSON in request body';
const KEY_MALFORMED = "Header 'Idempotency-Key' must be one string of 1 to 255 printable ASCII characters";

let deployment: Deployment;
let baseUrl: string;

beforeAll(async () => {
  checkEveryAnswer(await openContract());
  deployment = await openDeployment(STACK_NAME);
  baseUrl = deployment.baseUrl;
});

afterAll(async () => {
  await deployment?.stop();
});

const NEEDS_INTERNALS = ' (needs JOBS_TABLE_NAME, WORKER_FUNCTION_NAME and credentials)';

function internals(): Internals {
  if (deployment.internals === undefined) throw new Error('This deployment has no internals');
  return deployment.internals;
}

async function storedItem(jobId: string) {
  const { Item } = await internals().dynamodb.send(
    new GetItemCommand({ TableName: internals().jobsTableName, Key: { jobId: { S: jobId } }, ConsistentRead: true }),
  );
  return Item;
}

/** The ids of records that cannot be parsed. */
const spoiled: string[] = [];

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

describe('a job', () => {
  let before: number;
  let acceptance: Answer;
  let firstGet: Answer;
  let polled: PolledJob;
  let jobId: string;

  beforeAll(async () => {
    before = unixSeconds(Date.now());
    // Without a key. If AWS fails such a POST, it is not repeated, but another one can be sent.
    for (let tries = 0; tries === 0 || (tries < 5 && acceptance.status >= 500); tries += 1) {
      acceptance = await submit(baseUrl, SAMPLE);
    }
    firstGet = await request(new URL(acceptance.headers['location'] ?? '', baseUrl).href);
    jobId = stringField(acceptance, 'jobId');
    polled = await pollUntilEnded(baseUrl, jobId, JOB_LIMIT_MS);
  });

  test('a job is accepted as PENDING, with an id and its location', () => {
    expect(acceptance.status).toBe(202);
    expect(jobId).toMatch(UUID_V4);
    expect(acceptance.text).toBe(JSON.stringify({ jobId, status: 'PENDING', message: ACCEPTED }));
    expect(acceptance.headers).toMatchObject({
      'content-type': 'application/json',
      location: `${new URL(baseUrl).pathname}/jobs/${jobId}`.replace('//', '/'),
      'retry-after': expect.stringMatching(/^[1-9]\d*$/),
    });
  });

  test('a job is found at its Location right after the 202, with a Retry-After until it has ended', () => {
    expect(firstGet).toMatchObject({ status: 200, json: { jobId, text: SAMPLE } });
    expect(firstGet.headers).toMatchObject({ 'content-type': 'application/json', 'cache-control': 'no-store' });
    // Fast stages, or a slow GET, may have let it end.
    const hasEnded = /^(DONE|ERROR)$/.test(stringField(firstGet, 'status'));
    expect('retry-after' in firstGet.headers).toBe(!hasEnded);
    if (!hasEnded) expect(fieldsOf(firstGet)).toEqual(['jobId', 'status', 'text', 'createdAt', 'updatedAt']);
  });

  test('a job is PENDING or IN_PROGRESS, and then DONE or ERROR', () => {
    expect(polled.statuses.join()).toMatch(/^(PENDING,)?(IN_PROGRESS,)?(DONE|ERROR)$/);
    const end = polled.statuses.at(-1) === 'DONE' ? 'result' : 'errorMessage';
    expect(fieldsOf(polled.end)).toEqual(['jobId', 'status', 'text', 'createdAt', 'updatedAt', end]);
  });

  test('a job has its times in Unix seconds', () => {
    const createdAt = numberField(polled.end, 'createdAt');
    const updatedAt = numberField(polled.end, 'updatedAt');
    // Not milliseconds, and in UTC. The clocks of two machines may differ, and the POST may have been repeated.
    expect(Math.abs(createdAt - before)).toBeLessThan(1800);
    expect(Number.isInteger(createdAt) && Number.isInteger(updatedAt)).toBe(true);
    expect(updatedAt).toBeGreaterThanOrEqual(createdAt);
  });

  test('a job does not change after it has ended, and has no Retry-After', async () => {
    const later = await getJob(baseUrl, jobId);

    expect(later.text).toBe(polled.end.text);
    expect(later.headers).toMatchObject({ 'content-type': 'application/json', 'cache-control': 'no-store' });
    expect(later.headers).not.toHaveProperty('retry-after');
  });

  (HAS_INTERNALS ? test : test.skip)(`a job is stored as it is shown, for 7 days${NEEDS_INTERNALS}`, async () => {
    const item = await storedItem(jobId);

    expect(item?.['status']).toEqual({ S: polled.statuses.at(-1) });
    const result = item?.['result']?.S ?? item?.['errorMessage']?.S ?? '';
    expect(polled.end.text).toContain(result);
    expect(Number(item?.['expiresAt']?.N)).toBe(Number(item?.['createdAt']?.N) + 604_800);
  });

  test('20 jobs that are submitted at the same time keep their own texts', async () => {
    const texts = Array.from({ length: 20 }, (_, number) => `text number ${number}`);

    const ids = await Promise.all(texts.map((text) => accepted(text)));
    const ends: Answer[] = [];
    for (const id of ids) ends.push(await endOf(id));

    expect(new Set(ids).size).toBe(20);
    expect(ends.map(({ json }) => json)).toMatchObject(texts.map((text, i) => ({ jobId: ids[i], text })));
  });

  test('a job keeps every byte of the longest text', async () => {
    expect(Buffer.byteLength(LONGEST)).toBe(131_072);

    const end = await endOf(await accepted(LONGEST));

    expect(end.json).toMatchObject({ text: LONGEST });
  });
});

// -------------------------------------------------------------------------------- the sample stages
// The only tests that depend on the list in src/stages/index.ts.

test('the sample stages take some seconds, and return what they found in the text', async () => {
  const end = await endOf(await accepted(SAMPLE));

  expect(end.json).toMatchObject({
    status: 'DONE',
    result: {
      ocr: { stage: 'ocr', charCount: 48, wordCount: 8, preview: SAMPLE },
      mlInference: { stage: 'ml_inference', sentiment: 'POSITIVE', confidence: 0.65, tokenCount: 8 },
      search: {
        stage: 'search',
        topKeywords: ['lambda', 'serverless', 'compute', 'service'],
        relatedDocumentsFound: 28,
      },
    },
  });
  // They pause for 5 s. The record has whole seconds.
  expect(numberField(end, 'updatedAt') - numberField(end, 'createdAt')).toBeGreaterThanOrEqual(4);
});

test('the sample stages return a result that can be stored, even for the longest text', async () => {
  const end = await endOf(await accepted(LONGEST));

  expect(end.json).toMatchObject({ status: 'DONE' });
});

// --------------------------------------------------------------------------------------- POST /jobs

const DEEP = 50_000;

// What a gateway might change, and one body for each message. The unit tests have many more.
test.each<[string, string | Uint8Array, string]>([
  ['an absent body', '', TEXT_REQUIRED],
  ['a blank text', JSON.stringify({ text: ' \t\r\n\u00a0\u2003\ufeff ' }), TEXT_REQUIRED],
  ['a text in the prototype only', '{"__proto__":{"text":"hello"}}', TEXT_REQUIRED],
  ['a text elsewhere', '{"constructor":{"prototype":{"text":"hello"}}}', TEXT_REQUIRED],
  ['deeply nested objects', `${'{"a":'.repeat(DEEP)}1${'}'.repeat(DEEP)}`, TEXT_REQUIRED],
  ['an array of jobs', '[{"text":"hello"}]', NO_OBJECT],
  ['text that is not JSON', 'hello', INVALID_JSON],
  ['a raw control character', '{"text":"a\u0000b"}', INVALID_JSON],
  ['bytes that are not UTF-8', Uint8Array.of(0xff, 0xfe, 0x00, 0x80), INVALID_JSON],
  ['a text that is null', '{"text":null}', "Field 'text' must be a string"],
  ['half a surrogate pair', '{"text":"half of \\ud83d"}', "Field 'text' must be well-formed Unicode"],
])('a POST with %s is refused with 400', async (_, body, error) => {
  const answer = await post(baseUrl, body);

  expectError(answer, 400, error);
});

test.each([
  ['one byte over the limit', 'a'.repeat(131_073)],
  ['over the limit in bytes, not in characters', '\u00e9'.repeat(65_537)],
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

test('a POST accepts whitespace around a text of the maximum length', async () => {
  const text = 'a'.repeat(131_072);

  const job = await getJob(baseUrl, await accepted(` ${text}\n`));

  expect(job.json).toMatchObject({ text });
});

test('a POST ignores unknown fields, such as a job id and a status', async () => {
  const body = '{"text":"hello","jobId":"mine","status":"DONE","result":{},"__proto__":{"status":"DONE"}}';

  const answer = await post(baseUrl, body, { 'Idempotency-Key': randomUUID() });

  expect(answer).toMatchObject({ status: 202, json: { status: 'PENDING' } });
  expect(stringField(answer, 'jobId')).toMatch(UUID_V4);
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

test.each(['unknown', '1', '__proto__', 'constructor', 'null', '-'])(
  'a GET of %s, which is not a UUID, returns 404',
  async (id) => {
    const answer = await getJob(baseUrl, id);

    expectError(answer, 404, `Job '${id}' not found`);
  },
);

test.each([
  ['quotes', "a'b%22c`"],
  ['an encoded slash', 'a%2Fb'],
  ['an encoded way up', '..%2F..%2Fetc%2Fpasswd'],
  ['a doubly encoded slash', 'a%252Fb'],
  ['markup', '%3Cscript%3Ealert(1)%3C%2Fscript%3E'],
  ['an encoded line break', '%0D%0ASet-Cookie:%20a=b'],
  ['a NUL', 'a%00b'],
  ['a broken escape', '%E0%A4%A'],
  ['bytes that are not UTF-8', '%ff%fe'],
  ['Unicode', '%F0%9F%9A%80'],
  ['a UUID with more after it', `${randomUUID()}%0A`],
  ['a UUID in braces', `%7B${randomUUID()}%7D`],
  ['8 KB', 'a'.repeat(8192)],
  ['a table expression', '%3A1%20OR%20attribute_exists(jobId)'],
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
  ['DELETE', '/jobs', 'POST'],
  ['POST', `/jobs/${anId}`, 'GET'],
  ['PATCH', `/jobs/${anId}`, 'GET'],
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

test('an Idempotency-Key is the same with and without quotes', async () => {
  const key = randomUUID();

  const bare = await accepted('keyed', { 'Idempotency-Key': key });
  const quoted = await accepted('keyed', { 'Idempotency-Key': `"${key}"` });

  expect(quoted).toBe(bare);
});

test('an Idempotency-Key that was used with a different text is refused with 422', async () => {
  const key = randomUUID();
  const jobId = await accepted('the first text', { 'Idempotency-Key': key });

  const answer = await submit(baseUrl, 'another text', { 'Idempotency-Key': key });

  expectError(answer, 422, "Header 'Idempotency-Key' was already used with a different text");
  expect((await getJob(baseUrl, jobId)).json).toMatchObject({ text: 'the first text' });
});

test('an Idempotency-Key is case-sensitive', async () => {
  const key = `Key-${randomUUID()}`;

  const [one, other] = await Promise.all(
    [key, key.toLowerCase()].map((spelling) => accepted('spelled', { 'Idempotency-Key': spelling })),
  );

  expect(one).not.toBe(other);
});

test.each([
  ['a single character', () => 'k'],
  ['255 characters', () => randomUUID().padEnd(255, 'x')],
  ['quoted spaces, quotes and backslashes', () => `"${randomUUID()} \\"a\\\\b\\" "`],
])('an Idempotency-Key may be %s', async (_, makeKey) => {
  const answer = await submit(baseUrl, 'keyed', { 'Idempotency-Key': makeKey() });

  expect(answer.status).toBe(202);
});

test.each([
  ['256 characters', 'x'.repeat(256)],
  ['empty quotes', '""'],
  ['two strings', '"a", "b"'],
])('an Idempotency-Key of %s is refused with 400', async (_, key) => {
  const answer = await submit(baseUrl, SAMPLE, { 'Idempotency-Key': key });

  expectError(answer, 400, KEY_MALFORMED);
});

(HAS_INTERNALS ? describe : describe.skip)(`Behind the API${NEEDS_INTERNALS}`, () => {
  /** A job that was accepted now, or some seconds ago. */
  const job = (text: string, secondsAgo = 0): Job =>
    newJob(randomUUID(), text, unixSeconds(Date.now()) - secondsAgo, { maxEventAge: 21_600, workerTimeout: 30 });

  const put = (item: object) =>
    DynamoDBDocumentClient.from(internals().dynamodb).send(
      new PutCommand({ TableName: internals().jobsTableName, Item: { ...item } }),
    );

  const invokeWorker = (payload: object) =>
    internals().lambda.send(
      new InvokeCommand({ FunctionName: internals().workerFunctionName, Payload: JSON.stringify(payload) }),
    );

  test('an event with an unknown job creates no record', async () => {
    const jobId = randomUUID();

    const { FunctionError } = await invokeWorker({ jobId });

    expect(FunctionError).toBeUndefined();
    expect(await storedItem(jobId)).toBeUndefined();
  });

  test('an expired job is not found, although its record still exists', async () => {
    const { jobId, ...rest } = job('forgotten', 604_801);
    await put({ jobId, ...rest });

    const answer = await getJob(baseUrl, jobId);

    expect(answer).toMatchObject({ status: 404, json: { error: `Job '${jobId}' not found` } });
  });

  test('a job that was not started before its deadline ends as ERROR at that deadline', async () => {
    const { jobId, createdAt, deadline, ...rest } = job('never started', 30_000);
    await put({ jobId, createdAt, deadline, ...rest });

    const first = await getJob(baseUrl, jobId);
    await invokeWorker({ jobId });
    const afterwards = await getJob(baseUrl, jobId);

    expect(first.json).toMatchObject({ status: 'ERROR', createdAt, updatedAt: deadline });
    expect(stringField(first, 'errorMessage')).toContain('deadline');
    expect(afterwards.text).toBe(first.text);
  });

  test('a GET of a record that cannot be parsed returns a 500 without details', async () => {
    const { jobId, ...rest } = job('spoiled');
    spoiled.push(jobId);
    await put({ jobId, ...rest, status: 'SPOILED' });

    const answer = await requestOnce(`${baseUrl}/jobs/${jobId}`);

    expectError(answer, 500, 'Internal server error');
  });

  // On a busy machine the emulator answers some calls late. The requests that failed for it were repeated above.
  (API_BASE_URL === undefined ? test : test.skip)('every other 5xx is because AWS failed', async () => {
    const client = internals().logs;
    const filterPattern = '"outcome"';

    const failures: string[] = [];
    for await (const page of paginateFilterLogEvents(
      { client },
      { logGroupName: `/${STACK_NAME}/functions`, filterPattern },
    )) {
      const lines = (page.events ?? []).map(({ message = '' }) => message);
      failures.push(
        ...lines.filter((line) => /"outcome":5\d\d/.test(line) && !spoiled.some((id) => line.includes(id))),
      );
    }

    expect(failures.filter((line) => !AWS_FAILED.test(line))).toEqual([]);
  });
});

function fieldsOf({ json }: Answer): string[] {
  return typeof json === 'object' && json !== null ? Object.keys(json) : [];
}
