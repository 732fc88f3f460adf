import { randomUUID } from 'node:crypto';
import { GetItemCommand } from '@aws-sdk/client-dynamodb';
import { InvokeCommand } from '@aws-sdk/client-lambda';
import { DynamoDBDocumentClient, PutCommand } from '@aws-sdk/lib-dynamodb';
import { afterAll, beforeAll, describe, expect, jest, test } from '@jest/globals';
import { type Job, newJob, unixSeconds } from '../../src/job.ts';
import {
  type Answer,
  type Backstage,
  type Course,
  checkEveryAnswer,
  type Deployment,
  getJob,
  HAS_BACKSTAGE,
  isLocalAws,
  numberField,
  openDeployment,
  pollUntilEnded,
  post,
  request,
  stringField,
  submit,
} from './deployment.ts';
import { openContract } from './openapiContract.ts';

jest.setTimeout(120_000);

/** Longer than a job waits when many are there at once. */
const JOB_LIMIT_MS = 60_000;

const UUID_V4 = /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;
const SAMPLE = 'AWS Lambda is a great serverless compute service';
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

const NEEDS_BACKSTAGE = ' (needs JOBS_TABLE_NAME, WORKER_FUNCTION_NAME and credentials)';

function backstage(): Backstage {
  if (deployment.backstage === undefined) throw new Error('This deployment has no backstage');
  return deployment.backstage;
}

async function storedItem(jobId: string) {
  const { Item } = await backstage().dynamodb.send(
    new GetItemCommand({ TableName: backstage().jobsTableName, Key: { jobId: { S: jobId } }, ConsistentRead: true }),
  );
  return Item;
}

/** The id of a job with this text that the API has accepted. */
async function accepted(text: string, headers: Readonly<Record<string, string>> = {}): Promise<string> {
  const answer = await submit(baseUrl, text, headers);
  expect(answer).toMatchObject({ status: 202 });
  return stringField(answer, 'jobId');
}

describe('The sample job', () => {
  let before: number;
  let acceptance: Answer;
  let atOnce: Answer;
  let course: Course;
  let jobId: string;

  beforeAll(async () => {
    before = unixSeconds(Date.now());
    acceptance = await submit(baseUrl, SAMPLE);
    atOnce = await request(new URL(acceptance.headers['location'] ?? '', baseUrl).href);
    jobId = stringField(acceptance, 'jobId');
    course = await pollUntilEnded(baseUrl, jobId, JOB_LIMIT_MS);
  });

  test('is accepted as PENDING, under an id of its own, with the way to it', () => {
    expect(acceptance.status).toBe(202);
    expect(jobId).toMatch(UUID_V4);
    expect(acceptance.text).toBe(JSON.stringify({ jobId, status: 'PENDING', message: ACCEPTED }));
    expect(acceptance.headers).toMatchObject({
      'content-type': 'application/json',
      location: `${new URL(baseUrl).pathname}/jobs/${jobId}`.replace('//', '/'),
      'retry-after': '1',
    });
  });

  test('is found at its Location right after the 202, with a request to come back', () => {
    expect(atOnce).toMatchObject({ status: 200, json: { jobId, text: SAMPLE } });
    expect(stringField(atOnce, 'status')).toMatch(/^(PENDING|IN_PROGRESS)$/);
    expect(fieldsOf(atOnce)).toEqual(['jobId', 'status', 'text', 'createdAt', 'updatedAt']);
    expect(atOnce.headers).toMatchObject({
      'content-type': 'application/json',
      'cache-control': 'no-store',
      'retry-after': '1',
    });
  });

  test('is seen on its way, and then as DONE', () => {
    expect(course.statuses[0]).toMatch(/^(PENDING|IN_PROGRESS)$/);
    expect(course.statuses.at(-1)).toBe('DONE');
  });

  test('ends with its exact result, in the order of the fields', () => {
    expect(course.end.json).toStrictEqual({
      jobId,
      status: 'DONE',
      text: SAMPLE,
      createdAt: expect.any(Number),
      updatedAt: expect.any(Number),
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
    expect(fieldsOf(course.end)).toEqual(['jobId', 'status', 'text', 'createdAt', 'updatedAt', 'result']);
  });

  test('has its times in Unix seconds', () => {
    const createdAt = numberField(course.end, 'createdAt');
    const updatedAt = numberField(course.end, 'updatedAt');
    // The clocks of two machines may differ.
    expect(Math.abs(createdAt - before)).toBeLessThan(60);
    expect(Number.isInteger(createdAt) && Number.isInteger(updatedAt)).toBe(true);
    expect(updatedAt - createdAt).toBeGreaterThanOrEqual(4);
  });

  test('stays as it ended, and asks for no further poll', async () => {
    const later = await getJob(baseUrl, jobId);

    expect(later.text).toBe(course.end.text);
    expect(later.headers).toMatchObject({ 'content-type': 'application/json', 'cache-control': 'no-store' });
    expect(later.headers).not.toHaveProperty('retry-after');
  });

  (HAS_BACKSTAGE ? test : test.skip)(
    `is stored with its result as JSON text, for 7 days${NEEDS_BACKSTAGE}`,
    async () => {
      const item = await storedItem(jobId);

      expect(item?.['status']).toEqual({ S: 'DONE' });
      expect(JSON.parse(item?.['result']?.S ?? '')).toMatchObject({ search: { relatedDocumentsFound: 28 } });
      expect(Number(item?.['expiresAt']?.N)).toBe(Number(item?.['createdAt']?.N) + 604_800);
    },
  );
});

describe('A job', () => {
  test('gets its own result when there are 20 at once', async () => {
    const moods = [
      { words: 'good day', expected: { sentiment: 'POSITIVE', confidence: 0.65, tokenCount: 3 } },
      { words: 'bad sad day', expected: { sentiment: 'NEGATIVE', confidence: 0.7, tokenCount: 4 } },
      { words: 'good and bad', expected: { sentiment: 'NEUTRAL', confidence: 0.5, tokenCount: 4 } },
    ];
    const jobs = Array.from({ length: 7 }, (_, round) =>
      moods.map((mood, i) => ({ keyword: `job${round}-${i}`, ...mood })),
    )
      .flat()
      .slice(0, 20)
      .map((job) => ({ ...job, text: `${job.keyword} ${job.words}` }));

    const ids = await Promise.all(jobs.map(({ text }) => accepted(text)));
    const ends: Answer[] = [];
    for (const id of ids) ends.push((await pollUntilEnded(baseUrl, id, JOB_LIMIT_MS)).end);

    expect(new Set(ids).size).toBe(20);
    expect(ends.map(({ json }) => json)).toMatchObject(
      jobs.map(({ text, expected, keyword }, i) => ({
        jobId: ids[i],
        status: 'DONE',
        text,
        result: {
          ocr: { preview: text, charCount: text.length, wordCount: expected.tokenCount },
          mlInference: expected,
          search: { topKeywords: [keyword], relatedDocumentsFound: 7 },
        },
      })),
    );
  });

  test('of the longest text ends as DONE, and keeps every byte of it', async () => {
    // Five words that lower-case to longer ones: the largest result that there is.
    const text = `${[0, 1, 2, 3, 4].map((i) => `${i}${'\u023A'.repeat(13_106)}`).join(' ')}abc`;
    expect(Buffer.byteLength(text)).toBe(131_072);

    const { end } = await pollUntilEnded(baseUrl, await accepted(text), JOB_LIMIT_MS);

    expect(end.json).toMatchObject({ status: 'DONE', text });
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
    ['no JSON', 'hello', INVALID_JSON],
    ['an unfinished object', '{"text":"hello"', INVALID_JSON],
    ['an unfinished deep array', '['.repeat(deep), INVALID_JSON],
    ['two objects', '{"text":"hello"}{"text":"hello"}', INVALID_JSON],
    ['a form', 'text=hello', INVALID_JSON],
    ['NaN', '{"text":NaN}', INVALID_JSON],
    ['a raw control character', '{"text":"a\u0000b"}', INVALID_JSON],
    ['bytes that are no UTF-8', Uint8Array.of(0xff, 0xfe, 0x00, 0x80), INVALID_JSON],
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

    expect({ status: answer.status, text: answer.text }).toEqual({
      status: 413,
      text: JSON.stringify({ error: TEXT_TOO_LONG }),
    });
  });

  test('stores the text trimmed, and otherwise as it is', async () => {
    const text = '"quoted" \\ \u0000 __proto__ \ud83d\ude80 <b>&amp;</b> e\u0301';

    const jobId = await accepted(`\n\t ${text} \u00a0`);

    expect((await getJob(baseUrl, jobId)).json).toMatchObject({ text });
  });

  test('takes white space round a text of the longest length', async () => {
    const text = 'a'.repeat(131_072);

    expect((await getJob(baseUrl, await accepted(` ${text}\n`))).json).toMatchObject({ text });
  });

  test('ignores fields that it does not know, a job id and a status among them', async () => {
    const answer = await post(
      baseUrl,
      '{"text":"hello","jobId":"mine","status":"DONE","result":{},"__proto__":{"status":"DONE"}}',
    );

    expect(answer).toMatchObject({ status: 202, json: { status: 'PENDING' } });
    expect(stringField(answer, 'jobId')).toMatch(UUID_V4);
  });

  test('keeps no bytes that are no UTF-8 inside a text', async () => {
    const answer = await post(
      baseUrl,
      Buffer.concat([Buffer.from('{"text":"a'), Uint8Array.of(0xff), Buffer.from('b"}')]),
    );

    // Whatever stands in front of the function may have replaced them.
    if (answer.status === 202) {
      expect((await getJob(baseUrl, stringField(answer, 'jobId'))).json).toMatchObject({ text: 'a\ufffdb' });
    } else {
      expect(answer.status).toBe(400);
    }
  });
});

describe('GET /jobs/{jobId}', () => {
  test('answers 404 for an id that is unknown', async () => {
    const jobId = randomUUID();

    const answer = await getJob(baseUrl, jobId);

    expect({ status: answer.status, text: answer.text }).toEqual({
      status: 404,
      text: JSON.stringify({ error: `Job '${jobId}' not found` }),
    });
    expect(answer.headers).toMatchObject({ 'content-type': 'application/json', 'cache-control': 'no-store' });
  });

  test.each(['unknown', '1', '__proto__', 'constructor', 'null', '-'])(
    'answers 404 for %s, which is no UUID',
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
    ['bytes that are no UTF-8', '%ff%fe'],
    ['Unicode', '%F0%9F%9A%80'],
    ['a UUID with more behind it', `${randomUUID()}%0A`],
    ['a UUID in braces', `%7B${randomUUID()}%7D`],
    ['8 KB', 'a'.repeat(8192)],
    ['a table expression', '%3A1%20OR%20attribute_exists(jobId)'],
  ])('does not find, nor stumble over, an id with %s', async (_, id) => {
    const answer = await getJob(baseUrl, id);

    // What stands in front of the function may refuse such a path before it.
    expect([400, 403, 404, 414]).toContain(answer.status);
    expect(answer.headers).not.toHaveProperty('set-cookie');
    if (answer.status === 404) expect(stringField(answer, 'error')).toMatch(/^Job '.*' not found$/s);
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

    // The local AWS leaves out the template's ANY methods, which answer with 405.
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

    // Nor does it know the template's GatewayResponses.
    expect(status).toBe(isLocalAws(baseUrl) ? 403 : 404);
  });
});

describe('An Idempotency-Key', () => {
  test('makes one job of five POSTs at once, and of a late one that sees it ended', async () => {
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
      expect(stringField(answer, 'status')).toMatch(/^(PENDING|IN_PROGRESS)$/);
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

  test('quoted and bare is the same key', async () => {
    const key = randomUUID();

    const bare = await accepted('keyed', { 'Idempotency-Key': key });
    const quoted = await accepted('keyed', { 'Idempotency-Key': `"${key}"` });

    expect(quoted).toBe(bare);
  });

  test('that was used with another text is refused with 422', async () => {
    const key = randomUUID();
    const jobId = await accepted('the first text', { 'Idempotency-Key': key });

    const answer = await submit(baseUrl, 'another text', { 'Idempotency-Key': key });

    expect({ status: answer.status, text: answer.text }).toEqual({
      status: 422,
      text: JSON.stringify({ error: "Header 'Idempotency-Key' was used before with another text" }),
    });
    expect((await getJob(baseUrl, jobId)).json).toMatchObject({ text: 'the first text' });
  });

  test('of another spelling makes another job', async () => {
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

(HAS_BACKSTAGE ? describe : describe.skip)(`Behind the API${NEEDS_BACKSTAGE}`, () => {
  /** A job that was accepted just now, or so many seconds ago. */
  const job = (text: string, secondsAgo = 0): Job =>
    newJob(randomUUID(), text, unixSeconds(Date.now()) - secondsAgo, { maxEventAge: 21_600, workerTimeout: 30 });

  const put = (item: object) =>
    DynamoDBDocumentClient.from(backstage().dynamodb).send(
      new PutCommand({ TableName: backstage().jobsTableName, Item: { ...item } }),
    );

  const invokeWorker = (payload: object, InvocationType: 'Event' | 'RequestResponse') =>
    backstage().lambda.send(
      new InvokeCommand({
        FunctionName: backstage().workerFunctionName,
        InvocationType,
        Payload: JSON.stringify(payload),
      }),
    );

  test('a job whose result cannot be stored ends as ERROR, says so, and stays so', async () => {
    // Fits the table once, as text, but not a second time, as keywords.
    const { jobId, ...rest } = job(['a', 'b', 'c', 'd', 'e'].map((letter) => letter.repeat(79_800)).join(' '));
    await put({ jobId, ...rest });

    await invokeWorker({ jobId }, 'Event');
    const { end } = await pollUntilEnded(baseUrl, jobId, JOB_LIMIT_MS);

    expect(end.json).toMatchObject({
      status: 'ERROR',
      errorMessage: 'The result cannot be stored: it is too large',
    });
    expect(fieldsOf(end)).toEqual(['jobId', 'status', 'text', 'createdAt', 'updatedAt', 'errorMessage']);
    expect(end.headers).not.toHaveProperty('retry-after');
    await invokeWorker({ jobId }, 'RequestResponse');
    expect((await getJob(baseUrl, jobId)).text).toBe(end.text);
  });

  test("an unknown job in the worker's event makes no record", async () => {
    const jobId = randomUUID();

    const { FunctionError } = await invokeWorker({ jobId }, 'RequestResponse');

    expect(FunctionError).toBeUndefined();
    expect(await storedItem(jobId)).toBeUndefined();
  });

  test('a job whose time is over is not found, although its record is still there', async () => {
    const { jobId, ...rest } = job('forgotten', 604_801);
    await put({ jobId, ...rest });

    const answer = await getJob(baseUrl, jobId);

    expect(answer).toMatchObject({ status: 404, json: { error: `Job '${jobId}' not found` } });
  });

  test('a job that nobody started before its deadline is seen as ERROR, at that deadline', async () => {
    const { jobId, createdAt, ...rest } = job('never started', 21_631);
    await put({ jobId, createdAt, ...rest });

    const first = await getJob(baseUrl, jobId);

    expect(first.json).toMatchObject({ status: 'ERROR', createdAt, updatedAt: createdAt + 21_630 });
    expect(stringField(first, 'errorMessage')).toContain('deadline');
    await invokeWorker({ jobId }, 'RequestResponse');
    expect((await getJob(baseUrl, jobId)).text).toBe(first.text);
  });

  test('a record that cannot be read is a 500 that tells nothing of it', async () => {
    const { status: _, ...rest } = job('spoiled');
    await put({ ...rest, status: 'SPOILED' });

    const answer = await getJob(baseUrl, rest.jobId);

    expect({ status: answer.status, text: answer.text }).toEqual({
      status: 500,
      text: '{"error":"Internal server error"}',
    });
  });
});

function fieldsOf({ json }: Answer): string[] {
  return typeof json === 'object' && json !== null ? Object.keys(json) : [];
}
