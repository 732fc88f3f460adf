import { DynamoDBDocumentClient, GetCommand, UpdateCommand } from '@aws-sdk/lib-dynamodb';
import { beforeEach, expect, test } from '@jest/globals';
import type { APIGatewayProxyEvent } from 'aws-lambda';
import { mockClient } from 'aws-sdk-client-mock';
import { documentClient } from '../../../src/aws.ts';
import { buildHandler, handler } from '../../../src/handlers/getJob.ts';
import { JobRepository } from '../../../src/jobRepository.ts';
import { captureConsole, metricsIn } from '../../support/consoleCapture.ts';
import { errorOf, getJobEvent, signedIn } from '../../support/events.ts';
import { claimed, done, failed, JOB_ID, NOW, pending } from '../../support/jobs.ts';
import { lambdaContext } from '../../support/lambdaContext.ts';

const dynamodb = mockClient(DynamoDBDocumentClient);

const log = captureConsole();

beforeEach(() => {
  dynamodb.reset();
  dynamodb.resolves({});
});

const get = (jobId: string, now = NOW) => getBy(getJobEvent(jobId), now);

const getBy = (event: APIGatewayProxyEvent, now = NOW) =>
  buildHandler({
    repository: new JobRepository(documentClient(), 'JobsTable'),
    corsOrigin: '',
    clock: () => now * 1000 + 999,
  })(event, lambdaContext());

const HEAD = `{"jobId":"${JOB_ID}","status"`;
const BODY = `"text":"a secret of mine","createdAt":${NOW},"updatedAt":${NOW}`;
const COMMON = { 'Content-Type': 'application/json', 'Cache-Control': 'no-store' };

test.each([
  [pending, `${HEAD}:"PENDING",${BODY}}`, { ...COMMON, 'Retry-After': '1' }],
  [claimed, `${HEAD}:"IN_PROGRESS",${BODY}}`, { ...COMMON, 'Retry-After': '1' }],
  [done, `${HEAD}:"DONE",${BODY},"result":{"ocr":{"charCount":6}}}`, COMMON],
  [failed, `${HEAD}:"ERROR",${BODY},"errorMessage":"No model for this"}`, COMMON],
])(
  'a job that is $status takes one strongly consistent read, and is returned as documented',
  async (job, body, headers) => {
    dynamodb.on(GetCommand).resolves({ Item: { ...job, extra: 1 } });

    const response = await get(JOB_ID);

    expect(response).toEqual({ statusCode: 200, headers, body });
    expect(dynamodb.calls().map(({ args: [command] }) => command.input)).toEqual([
      { TableName: 'JobsTable', Key: { jobId: JOB_ID }, ConsistentRead: true },
    ]);
  },
);

test('a job that is older gets a longer Retry-After', async () => {
  dynamodb.on(GetCommand).resolves({ Item: claimed });

  const response = await get(JOB_ID, NOW + 20);

  expect(response).toMatchObject({ headers: { 'Retry-After': '5' } });
});

test('a job that has lapsed is ended and counted before it is returned', async () => {
  const lapsed = { ...failed, updatedAt: pending.deadline };
  dynamodb.on(GetCommand).resolvesOnce({ Item: pending }).resolves({ Item: lapsed });

  const response = await get(JOB_ID, pending.deadline);

  expect(dynamodb.commandCalls(UpdateCommand)).toHaveLength(1);
  expect(metricsIn(log)).toEqual({ JobsFailed: 1, TimeToEnd: pending.deadline - NOW });
  expect(response).toMatchObject({ statusCode: 200, headers: COMMON });
  expect(JSON.parse(response.body)).toMatchObject({ status: 'ERROR', updatedAt: pending.deadline });
});

test('a job is returned with its stored result, however deeply nested', async () => {
  // Encoding a value of this depth overflows the stack.
  const result = `{"s":${'{"a":'.repeat(20_000)}1${'}'.repeat(20_000)}}`;
  dynamodb.on(GetCommand).resolves({ Item: { ...done, result } });

  const response = await get(JOB_ID);

  expect(response.statusCode).toBe(200);
  expect(response.body).toBe(`${HEAD}:"DONE",${BODY},"result":${result}}`);
});

const owned = { ...pending, owner: 'user:alice' };

test('a job is returned to its owner, without the owner', async () => {
  dynamodb.on(GetCommand).resolves({ Item: owned });

  const response = await getBy(signedIn(getJobEvent(JOB_ID), 'alice'));

  expect(response).toMatchObject({ statusCode: 200, body: `${HEAD}:"PENDING",${BODY}}` });
});

test.each([
  ['another user', owned, signedIn(getJobEvent(JOB_ID), 'bob')],
  ['a caller who has not signed in', owned, getJobEvent(JOB_ID)],
  ['a signed-in user, if the job has no owner', pending, signedIn(getJobEvent(JOB_ID), 'bob')],
])('a job does not exist for %s', async (_who, job, event) => {
  dynamodb.on(GetCommand).resolvesOnce({}).resolves({ Item: job });
  const unknown = await getBy(event);

  const response = await getBy(event);

  expect(response).toEqual(unknown);
  expect(response.statusCode).toBe(404);
});

test.each([JOB_ID, 'ABCDEFAB-CDEF-4ABC-8DEF-ABCDEFABCDEF'])(
  'the unknown id %s gets 404 after one read',
  async (jobId) => {
    const response = await get(jobId);

    expect(response).toEqual({ statusCode: 404, headers: COMMON, body: `{"error":"Job '${jobId}' not found"}` });
    expect(dynamodb.commandCalls(GetCommand)).toHaveLength(1);
  },
);

test('an id that is missing from the event gets 404', async () => {
  const response = await getBy({ ...getJobEvent(JOB_ID), pathParameters: null });

  expect(errorOf(response)).toBe("Job '' not found");
});

test.each([
  ['empty', ''],
  ['quoted', `"${JOB_ID}"`],
  ['followed by a line break', `${JOB_ID}\n`],
  ['without hyphens', JOB_ID.replaceAll('-', '')],
  ['with an invalid UUID version', '11111111-1111-0111-8111-111111111111'],
  ['__proto__', '__proto__'],
  ['8 KB long', 'x'.repeat(8192)],
])('an id that is not a UUID (%s) gets 404 without a read', async (_what, jobId) => {
  const response = await get(jobId);

  expect(response).toMatchObject({ statusCode: 404, headers: COMMON });
  expect(errorOf(response)).toBe(`Job '${jobId}' not found`);
  expect(dynamodb.calls()).toEqual([]);
});

test.each([
  ['a failed read', () => dynamodb.on(GetCommand).rejects(new Error('No route'))],
  ['a malformed record', () => dynamodb.on(GetCommand).resolves({ Item: { ...pending, createdAt: 'yesterday' } })],
])('%s becomes a 500 without details and one log line with the cause and the id', async (_what, arrange) => {
  arrange();

  const response = await get(JOB_ID);

  expect(response).toMatchObject({ statusCode: 500, body: '{"error":"Internal server error"}' });
  expect(log).toHaveLength(1);
  expect(log[0]).toMatch(/No route|Job record has no valid createdAt/);
  expect(log[0]).toContain(JOB_ID);
  expect(log[0]).not.toContain('secret');
});

test('a request with another method gets 405', async () => {
  const event = { ...getJobEvent(JOB_ID), httpMethod: 'DELETE' };

  const response = await handler(event, lambdaContext());

  expect(response).toMatchObject({ statusCode: 405, headers: { Allow: 'GET' } });
});

test('the deployed getJob reads the table that its environment names', async () => {
  await handler(getJobEvent(JOB_ID), lambdaContext());

  expect(dynamodb.commandCalls(GetCommand)[0]?.args[0].input.TableName).toBe('JobsTable');
});
