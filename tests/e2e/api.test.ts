import { randomUUID } from 'node:crypto';
import { GetItemCommand } from '@aws-sdk/client-dynamodb';
import { InvokeCommand } from '@aws-sdk/client-lambda';
import { DynamoDBDocumentClient, PutCommand } from '@aws-sdk/lib-dynamodb';
import { afterAll, beforeAll, describe, expect, jest, test } from '@jest/globals';
import { type Job, newJob, unixSeconds } from '../../src/job.ts';
import {
  type Answer,
  checkEveryAnswer,
  type Deployment,
  getJob,
  HAS_INTERNALS,
  type Internals,
  isLocalAws,
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

jest.setTimeout(300_000);

/** On an account with 10 concurrent executions, Lambda delays some of 20 jobs, by minutes in the worst case. */
const JOB_LIMIT_MS = 240_000;

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
  deployment = await openDeployment('api-test');
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

/** Submits a job and returns its id. With a key, so that the POST can be repeated if the API refuses it. */
async function accepted(
  text: string,
  headers: Readonly<Record<string, string>> = { 'Idempotency-Key': randomUUID() },
): Promise<string> {
  const answer = await submit(baseUrl, text, headers);
  expect(answer).toMatchObject({ status: 202 });
  return stringField(answer, 'jobId');
}

describe('A job', () => {
  let before: number;
  let acceptance: Answer;
  let firstGet: Answer;
  let polled: PolledJob;
  let jobId: string;

  beforeAll(async () => {
    before = unixSeconds(Date.now());
    acceptance = await submit(baseUrl, SAMPLE);
    firstGet = await request(new URL(acceptance.headers['location'] ?? '', baseUrl).href);
    jobId = stringField(acceptance, 'jobId');
    polled = await pollUntilEnded(baseUrl, jobId, JOB_LIMIT_MS);
  });

  test('is accepted as PENDING, with an id and its location', () => {
    expect(acceptance.status).toBe(202);
    expect(jobId).toMatch(UUID_V4);
    expect(acceptance.text).toBe(JSON.stringify({ jobId, status: 'PENDING', message: ACCEPTED }));
    expect(acceptance.headers).toMatchObject({
      'content-type': 'application/json',
      location: `${new URL(baseUrl).pathname}/jobs/${jobId}`.replace('//', '/'),
      'retry-after': '1',
    });
  });

  test('is found at its Location right after the 202, with a Retry-After', () => {
    expect(firstGet).toMatchObject({ status: 200, json: { jobId, text: SAMPLE } });
    expect(firstGet.headers).toMatchObject({ 'content-type': 'application/json', 'cache-control': 'no-store' });
    // Fast stages may have ended it.
    if (/^(PENDING|IN_PROGRESS)$/.test(stringField(firstGet, 'status'))) {
      expect(fieldsOf(firstGet)).toEqual(['jobId', 'status', 'text', 'createdAt', 'updatedAt']);
      expect(firstGet.headers).toHaveProperty('retry-after', '1');
    }
  });

  test('is PENDING or IN_PROGRESS, and then DONE or ERROR', () => {
    expect(polled.statuses.join()).toMatch(/^(PENDING,)?(IN_PROGRESS,)?(DONE|ERROR)$/);
    const end = polled.statuses.at(-1) === 'DONE' ? 'result' : 'errorMessage';
    expect(fieldsOf(polled.end)).toEqual(['jobId', 'status', 'text', 'createdAt', 'updatedAt', end]);
  });

  test('has its times in Unix seconds', () => {
    const createdAt = numberField(polled.end, 'createdAt');
    const updatedAt = numberField(polled.end, 'updatedAt');
    // The clocks of two machines may differ.
    expect(Math.abs(createdAt - before)).toBeLessThan(60);
    expect(Number.isInteger(createdAt) && Number.isInteger(updatedAt)).toBe(true);
    expect(updatedAt).toBeGreaterThanOrEqual(createdAt);
  });

  test('does not change after its end, and has no Retry-After', async () => {
    const later = await getJob(baseUrl, jobId);

    expect(later.text).toBe(polled.end.text);
    expect(later.headers).toMatchObject({ 'content-type': 'application/json', 'cache-control': 'no-store' });
    expect(later.headers).not.toHaveProperty('retry-after');
  });

  (HAS_INTERNALS ? test : test.skip)(`is stored as it is shown, for 7 days${NEEDS_INTERNALS}`, async () => {
    const item = await storedItem(jobId);

    expect(item?.['status']).toEqual({ S: polled.statuses.at(-1) });
    const result = item?.['result']?.S ?? item?.['errorMessage']?.S ?? '';
    expect(polled.end.text).toContain(result);
    expect(Number(item?.['expiresAt']?.N)).toBe(Number(item?.['createdAt']?.N) + 604_800);
  });

  test('keeps its own text if 20 are submitted at the same time', async () => {
    const texts = Array.from({ length: 20 }, (_, number) => `text number ${number}`);

    const ids = await Promise.all(texts.map((text) => accepted(text)));
    const ends: Answer[] = [];
    for (const id of ids) ends.push((await pollUntilEnded(baseUrl, id, JOB_LIMIT_MS)).end);

    expect(new Set(ids).size).toBe(20);
    expect(ends.map(({ json }) => json)).toMatchObject(texts.map((text, i) => ({ jobId: ids[i], text })));
  });

  test('keeps every byte of the longest text', async () => {
    expect(Buffer.byteLength(LONGEST)).toBe(131_072);

    const { end } = await pollUntilEnded(baseUrl, await accepted(LONGEST), JOB_LIMIT_MS);

    expect(end.json).toMatchObject({ text: LONGEST });
  });
});

// The only tests that depend on the list in src/stages/index.ts.
describe('The sample stages', () => {
  const endOf = async (text: string) => (await pollUntilEnded(baseUrl, await accepted(text), JOB_LIMIT_MS)).end.json;

  test('are still running right after the 202, and return the results of the Python original', async () => {
    const jobId = await accepted(SAMPLE);
    expect((await getJob(baseUrl, jobId)).headers).toHaveProperty('retry-after', '1');
    expect((await pollUntilEnded(baseUrl, jobId, JOB_LIMIT_MS)).end.json).toMatchObject({
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
  });

  test('return a result that can be stored, even for the longest text', async () => {
    expect(await endOf(LONGEST)).toMatchObject({ status: 'DONE' });
  });
});

describe('POST /jobs', () => {
  const deep = 50_000;

  test.each<[string, string | Uint8Array, string]>([
    ['an absent body', '', TEXT_REQUIRED],
    ['an absent text', '{}', TEXT_REQUIRED],
    ['an empty text', '{"text":""}', TEXT_REQUIRED],
    ['a blank text', JSON.stringify({ text: ' \t\r\n\u00a0\u2003\ufeff ' }), TEXT_REQUIRED],
    ['a text in the prototype only', '{"__proto__":{"text":"hello"}}', TEXT_REQUIRED],
    ['a text elsewhere', '{"constructor":{"prototype":{"text":"hello"}}}', TEXT_REQUIRED],
    ['deeply nested objects', `${'{"a":'.repeat(deep)}1${'}'.repeat(deep)}`, TEXT_REQUIRED],
    ['null', 'null', NO_OBJECT],
    ['an array', '["text"]', NO_OBJECT],
    ['an array of jobs', '[{"text":"hello"}]', NO_OBJECT],
    ['a number', '42', NO_OBJECT],
    ['a string', '"text"', NO_OBJECT],
    ['a boolean', 'true', NO_OBJECT],
    ['deeply nested arrays', `${'['.repeat(deep)}${']'.repeat(deep)}`, NO_OBJECT],
    ['text that is not JSON', 'hello', INVALID_JSON],
    ['an unfinished object', '{"text":"hello"', INVALID_JSON],
    ['an unfinished deep array', '['.repeat(deep), INVALID_JSON],
    ['two objects', '{"text":"hello"}{"text":"hello"}', INVALID_JSON],
    ['a form', 'text=hello', INVALID_JSON],
    ['NaN', '{"text":NaN}', INVALID_JSON],
    ['a raw control character', '{"text":"a\u0000b"}', INVALID_JSON],
    ['bytes that are not UTF-8', Uint8Array.of(0xff, 0xfe, 0x00, 0x80), INVALID_JSON],
    ['a text that is null', '{"text":null}', "Field 'text' must be a string"],
    ['a text that is a number', '{"text":1e400}', "Field 'text' must be a string"],
    ['a text that is an object', '{"text":{"toString":"hello"}}', "Field 'text' must be a string"],
    ['a text that is a list', '{"text":["hello"]}', "Field 'text' must be a string"],
    ['half a surrogate pair', '{"text":"half of \\ud83d"}', "Field 'text' must be well-formed Unicode"],
  ])('refuses %s with 400', async (_, body, error) => {
    const answer = await post(baseUrl, body);

    expect({ status: answer.status, text: answer.text }).toEqual({ status: 400, text: JSON.stringify({ error }) });
    expect(answer.headers['content-type']).toBe('application/json');
  });

  test.each([
    ['one byte over the limit', 'a'.repeat(131_073)],
    ['over the limit in bytes, not in characters', '\u00e9'.repeat(65_537)],
    ['over the limit as JSON, not in bytes of UTF-8', '\u0001'.repeat(21_846)],
    ['of 5 MB', 'a'.repeat(5_000_000)],
  ])('refuses a text %s with 413', async (_, text) => {
    const answer = await submit(baseUrl, text);

    expect(answer.status).toBe(413);
    // API Gateway refuses bodies that are too large for Lambda.
    expect([TEXT_TOO_LONG, 'Request body is too large']).toContain(stringField(answer, 'error'));
  });

  test('stores the text trimmed, and otherwise unchanged', async () => {
    const text = '"quoted" \\ \u0000 __proto__ \ud83d\ude80 <b>&amp;</b> e\u0301';

    const jobId = await accepted(`\n\t ${text} \u00a0`);

    expect((await getJob(baseUrl, jobId)).json).toMatchObject({ text });
  });

  test('accepts whitespace around a text of the maximum length', async () => {
    const text = 'a'.repeat(131_072);

    expect((await getJob(baseUrl, await accepted(` ${text}\n`))).json).toMatchObject({ text });
  });

  test('ignores unknown fields, such as a job id and a status', async () => {
    const answer = await post(
      baseUrl,
      '{"text":"hello","jobId":"mine","status":"DONE","result":{},"__proto__":{"status":"DONE"}}',
    );

    expect(answer).toMatchObject({ status: 202, json: { status: 'PENDING' } });
    expect(stringField(answer, 'jobId')).toMatch(UUID_V4);
  });

  test('does not store bytes that are not UTF-8', async () => {
    const answer = await post(
      baseUrl,
      Buffer.concat([Buffer.from('{"text":"a'), Uint8Array.of(0xff), Buffer.from('b"}')]),
    );

    // API Gateway may have replaced them.
    if (answer.status === 202) {
      expect((await getJob(baseUrl, stringField(answer, 'jobId'))).json).toMatchObject({ text: 'a\ufffdb' });
    } else {
      expect(answer.status).toBe(400);
    }
  });
});

describe('GET /jobs/{jobId}', () => {
  test('returns 404 for an unknown id', async () => {
    const jobId = randomUUID();

    const answer = await getJob(baseUrl, jobId);

    expect({ status: answer.status, text: answer.text }).toEqual({
      status: 404,
      text: JSON.stringify({ error: `Job '${jobId}' not found` }),
    });
    expect(answer.headers).toMatchObject({ 'content-type': 'application/json', 'cache-control': 'no-store' });
  });

  test.each(['unknown', '1', '__proto__', 'constructor', 'null', '-'])(
    'returns 404 for %s, which is not a UUID',
    async (id) => {
      const answer = await getJob(baseUrl, id);

      expect({ status: answer.status, json: answer.json }).toEqual({
        status: 404,
        json: { error: `Job '${id}' not found` },
      });
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
  ])('does not find an id with %s', async (_, id) => {
    const answer = await getJob(baseUrl, id);

    // API Gateway may refuse such a path.
    expect([400, 403, 404, 414]).toContain(answer.status);
    expect(answer.headers).not.toHaveProperty('set-cookie');
    if (answer.status === 404) expect(stringField(answer, 'error')).toMatch(/^(?:Job '.*' not found|Not found)$/s);
  });
});

describe('Other methods and paths', () => {
  const id = randomUUID();

  test.each([
    ['GET', '/jobs', 'POST'],
    ['PUT', '/jobs', 'POST'],
    ['DELETE', '/jobs', 'POST'],
    ['POST', `/jobs/${id}`, 'GET'],
    ['PATCH', `/jobs/${id}`, 'GET'],
    ['DELETE', `/jobs/${id}`, 'GET'],
  ])('%s %s is refused', async (method, path, allowed) => {
    const answer = await request(`${baseUrl}${path}`, { method });

    // The local AWS ignores the ANY methods of the template, which return 405.
    if (isLocalAws(baseUrl)) {
      expect(answer.status).toBe(403);
    } else {
      expect(answer).toMatchObject({
        status: 405,
        headers: { allow: allowed },
        json: { error: `Method ${method} is not allowed` },
      });
    }
  });

  test.each(['/', '/job', `/jobs/${id}/result`, '/jobs/a/b/c'])('GET %s is not found', async (path) => {
    const { status } = await request(`${baseUrl}${path}`);

    // It ignores the GatewayResponses of the template too.
    expect(status).toBe(isLocalAws(baseUrl) ? 403 : 404);
  });
});

describe('An Idempotency-Key', () => {
  test('creates one job for five simultaneous POSTs and a later one', async () => {
    const key = randomUUID();
    const spellings = [key, `"${key}"`];

    const answers = await Promise.all(
      [0, 1, 2, 3, 4].map((i) =>
        submit(baseUrl, `${SAMPLE}${' '.repeat(i)}`, { 'Idempotency-Key': spellings[i % 2] ?? '' }),
      ),
    );

    const [jobId = '', ...others] = new Set(answers.map((answer) => stringField(answer, 'jobId')));
    expect(others).toEqual([]);
    expect(jobId).toMatch(UUID_V4);
    for (const answer of answers) {
      expect(answer).toMatchObject({ status: 202, json: { message: ACCEPTED } });
      expect(stringField(answer, 'status')).toMatch(/^(PENDING|IN_PROGRESS|DONE)$/);
      expect(answer.headers['location']).toBe(answers[0]?.headers['location']);
    }

    const { end } = await pollUntilEnded(baseUrl, jobId, JOB_LIMIT_MS);
    const late = await submit(baseUrl, SAMPLE, { 'idempotency-key': key });
    expect({ status: late.status, text: late.text }).toEqual({
      status: 202,
      text: JSON.stringify({ jobId, status: 'DONE', message: ACCEPTED }),
    });
    expect((await getJob(baseUrl, jobId)).text).toBe(end.text);
  });

  test('is the same with and without quotes', async () => {
    const key = randomUUID();

    const bare = await accepted('keyed', { 'Idempotency-Key': key });
    const quoted = await accepted('keyed', { 'Idempotency-Key': `"${key}"` });

    expect(quoted).toBe(bare);
  });

  test('that was used with a different text is refused with 422', async () => {
    const key = randomUUID();
    const jobId = await accepted('the first text', { 'Idempotency-Key': key });

    const answer = await submit(baseUrl, 'another text', { 'Idempotency-Key': key });

    expect({ status: answer.status, text: answer.text }).toEqual({
      status: 422,
      text: JSON.stringify({ error: "Header 'Idempotency-Key' was used before with another text" }),
    });
    expect((await getJob(baseUrl, jobId)).json).toMatchObject({ text: 'the first text' });
  });

  test('is case-sensitive', async () => {
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
  ])('may be %s', async (_, makeKey) => {
    const answer = await submit(baseUrl, 'keyed', { 'Idempotency-Key': makeKey() });

    expect(answer.status).toBe(202);
  });

  test.each([
    ['256 characters', 'x'.repeat(256)],
    ['empty quotes', '""'],
    ['an open quote', '"abc'],
    ['a quote inside', 'a"b'],
    ['a bare space', 'a b'],
    ['two strings', '"a", "b"'],
    ['a parameter', '"a"; b=1'],
    ['an unknown escape', '"a\\nb"'],
  ])('of %s is refused with 400', async (_, key) => {
    const answer = await submit(baseUrl, SAMPLE, { 'Idempotency-Key': key });

    expect({ status: answer.status, text: answer.text }).toEqual({
      status: 400,
      text: JSON.stringify({ error: KEY_MALFORMED }),
    });
  });
});

(HAS_INTERNALS ? describe : describe.skip)(`Behind the API${NEEDS_INTERNALS}`, () => {
  /** A job that was accepted now, or some seconds ago. */
  const job = (text: string, secondsAgo = 0): Job =>
    newJob(randomUUID(), text, unixSeconds(Date.now()) - secondsAgo, { maxEventAge: 21_600, workerTimeout: 30 });

  const put = (item: object) =>
    DynamoDBDocumentClient.from(internals().dynamodb).send(
      new PutCommand({ TableName: internals().jobsTableName, Item: { ...item } }),
    );

  const invokeWorker = (payload: object, InvocationType: 'Event' | 'RequestResponse') =>
    internals().lambda.send(
      new InvokeCommand({
        FunctionName: internals().workerFunctionName,
        InvocationType,
        Payload: JSON.stringify(payload),
      }),
    );

  test('an event with an unknown job creates no record', async () => {
    const jobId = randomUUID();

    const { FunctionError } = await invokeWorker({ jobId }, 'RequestResponse');

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
    const { jobId, createdAt, ...rest } = job('never started', 21_631);
    await put({ jobId, createdAt, ...rest });

    const first = await getJob(baseUrl, jobId);

    expect(first.json).toMatchObject({ status: 'ERROR', createdAt, updatedAt: createdAt + 21_630 });
    expect(stringField(first, 'errorMessage')).toContain('deadline');
    await invokeWorker({ jobId }, 'RequestResponse');
    expect((await getJob(baseUrl, jobId)).text).toBe(first.text);
  });

  test('a record that cannot be parsed gets a 500 without details', async () => {
    const { status: _, ...rest } = job('spoiled');
    await put({ ...rest, status: 'SPOILED' });

    const answer = await requestOnce(`${baseUrl}/jobs/${rest.jobId}`);

    expect({ status: answer.status, text: answer.text }).toEqual({
      status: 500,
      text: '{"error":"Internal server error"}',
    });
  });
});

function fieldsOf({ json }: Answer): string[] {
  return typeof json === 'object' && json !== null ? Object.keys(json) : [];
}
