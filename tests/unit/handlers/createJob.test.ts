import { InvokeCommand, LambdaClient } from '@aws-sdk/client-lambda';
import { DeleteCommand, DynamoDBDocumentClient, GetCommand, PutCommand } from '@aws-sdk/lib-dynamodb';
import { beforeEach, expect, test } from '@jest/globals';
import type { APIGatewayProxyEvent } from 'aws-lambda';
import { mockClient } from 'aws-sdk-client-mock';
import { validate, version } from 'uuid';
import { documentClient, workerStarter } from '../../../src/aws.ts';
import { buildHandler, handler } from '../../../src/handlers/createJob.ts';
import { JobRepository } from '../../../src/jobRepository.ts';
import { captureConsole, metricsIn } from '../../support/consoleCapture.ts';
import { apiEvent, postJobEvent, signedIn } from '../../support/events.ts';
import { claimed, conditionFailed, JOB_ID, NOW } from '../../support/jobs.ts';
import { lambdaContext } from '../../support/lambdaContext.ts';

const MESSAGE = 'Job accepted. Poll GET /jobs/{jobId} for status updates.';
const STORED = {
  jobId: JOB_ID,
  status: 'PENDING',
  text: 'a text',
  createdAt: NOW,
  updatedAt: NOW,
  expiresAt: NOW + 604_800,
  deadline: NOW + 21_658,
  attempt: 0,
};

const dynamodb = mockClient(DynamoDBDocumentClient);
const lambda = mockClient(LambdaClient);

const log = captureConsole();

beforeEach(() => {
  dynamodb.reset();
  lambda.reset();
  dynamodb.resolves({});
  lambda.resolves({ StatusCode: 202 });
});

/** Handles a POST with a fixed id and clock. */
function post(event: APIGatewayProxyEvent, idNamespace = 'stack') {
  return buildHandler({
    repository: new JobRepository(documentClient(), 'JobsTable'),
    startWorker: workerStarter('WorkerFunction'),
    lifetimes: { maxEventAge: 21_600, workerTimeout: 30 },
    idNamespace,
    expectedJobSeconds: 5,
    corsOrigin: '',
    newId: () => JOB_ID,
    clock: () => NOW * 1000 + 999,
  })(event, lambdaContext());
}

/** The commands sent to DynamoDB, in order. */
const commands = () => dynamodb.calls().map(({ args: [command] }) => command.constructor.name);

const idOf = (body: string) => {
  const response: unknown = JSON.parse(body);
  return typeof response === 'object' && response !== null && 'jobId' in response ? String(response.jobId) : '';
};

test('an accepted job takes one write and one event that contains only its id, and gets the documented response', async () => {
  const response = await post(postJobEvent('{"text": " a text\\n"}'));

  expect(commands()).toEqual(['PutCommand']);
  expect(dynamodb.commandCalls(PutCommand)[0]?.args[0].input.Item).toEqual(STORED);
  expect(lambda.calls().map(({ args: [command] }) => command.input)).toEqual([
    { FunctionName: 'WorkerFunction', InvocationType: 'Event', Payload: `{"jobId":"${JOB_ID}"}` },
  ]);
  expect(response).toEqual({
    statusCode: 202,
    headers: { 'Content-Type': 'application/json', Location: `/Prod/jobs/${JOB_ID}`, 'Retry-After': '5' },
    body: `{"jobId":"${JOB_ID}","status":"PENDING","message":"${MESSAGE}"}`,
  });
});

test.each([
  ['without a stage', '/jobs', '/jobs'],
  ['with a trailing slash', '/Prod/jobs/', '/Prod/jobs'],
  ['under the base path of a custom domain', '/v1/jobs', '/v1/jobs'],
])('an accepted job has its path as Location (%s)', async (_where, path, location) => {
  const event = postJobEvent('{"text": "a"}');

  const response = await post({ ...event, requestContext: { ...event.requestContext, path } });

  expect(response.headers?.['Location']).toBe(`${location}/${JOB_ID}`);
});

test('an accepted job is counted, stored with its owner, and logged with its id and without its text', async () => {
  await post(signedIn(postJobEvent('{"text": "a secret of mine"}'), 'alice'));

  const stored = { ...STORED, text: 'a secret of mine', owner: 'user:alice' };
  expect(dynamodb.commandCalls(PutCommand)[0]?.args[0].input.Item).toEqual(stored);
  expect(metricsIn(log)).toEqual({ JobsAccepted: 1 });
  expect(log.join()).not.toContain('secret');
  expect(log.join()).toContain(JOB_ID);
});

test('the deployed createJob generates a UUID for every job and reads its settings from the environment', async () => {
  const before = Math.floor(Date.now() / 1000);

  const responses = [
    await handler(postJobEvent('{"text": "a"}'), lambdaContext()),
    await handler(postJobEvent('{"text": "a"}'), lambdaContext()),
  ];
  const ids = responses.map(({ body }) => idOf(body));

  expect(ids.map((id) => validate(id) && version(id))).toEqual([4, 4]);
  expect(new Set(ids).size).toBe(2);

  const item = dynamodb.commandCalls(PutCommand)[0]?.args[0].input.Item;

  expect(Number(item?.['deadline']) - Number(item?.['createdAt'])).toBe(21_658);
  expect(item?.['createdAt']).toBeGreaterThanOrEqual(before);
  expect(item?.['createdAt']).toBeLessThanOrEqual(Date.now() / 1000);
});

test('a job whose worker cannot be started is deleted, and the client is asked to try again', async () => {
  lambda.on(InvokeCommand).rejects(new Error('Rate exceeded'));

  const response = await post(postJobEvent('{"text": "a"}'));

  expect(response).toEqual({
    statusCode: 503,
    headers: { 'Content-Type': 'application/json', 'Retry-After': '1' },
    body: '{"error":"The job could not be started; please try again"}',
  });
  expect(commands()).toEqual(['PutCommand', 'DeleteCommand']);
  expect(log.filter((line) => line.includes('Rate exceeded'))).toHaveLength(1);
  expect(metricsIn(log)).toEqual({});
});

test('a job whose worker cannot be started is accepted if a worker has claimed it, because only the response was lost', async () => {
  lambda.on(InvokeCommand).rejects(new Error('socket hang up'));
  dynamodb.on(DeleteCommand).rejects(conditionFailed);

  const response = await post(postJobEvent('{"text": "a text"}'));

  expect(response).toMatchObject({
    statusCode: 202,
    headers: { Location: `/Prod/jobs/${JOB_ID}`, 'Retry-After': '5' },
  });
  expect(JSON.parse(response.body)).toEqual({ jobId: JOB_ID, status: 'IN_PROGRESS', message: MESSAGE });
  expect(metricsIn(log)).toEqual({ JobsAccepted: 1 });
});

test('a job that cannot be stored gets a 500 without details, and no worker is started', async () => {
  dynamodb.rejects(new Error('Table JobsTable not found'));

  const response = await post(postJobEvent('{"text": "a"}'));

  expect(response).toEqual({
    statusCode: 500,
    headers: { 'Content-Type': 'application/json' },
    body: '{"error":"Internal server error"}',
  });
  expect(commands()).toEqual(['PutCommand', 'DeleteCommand']);
  expect(lambda.calls()).toEqual([]);
  expect(log.filter((line) => /"outcome": ?500/.test(line))).toHaveLength(1);
});

const keyed = (value: string, text = 'a text') =>
  postJobEvent(JSON.stringify({ text }), { headers: { 'Idempotency-Key': value } });

test('an idempotency key yields one UUID, bare or in quotes, and others for other keys, callers and deployments', async () => {
  const responses = [
    await post(keyed('key')),
    await post(keyed('"key"')),
    await post(keyed('another')),
    await post(keyed('key'), 'another stack'),
    await post(signedIn(keyed('key'), 'alice')),
    await post(signedIn(keyed('key'), 'bob')),
  ];

  const ids = responses.map(({ body }) => idOf(body));
  expect(ids.map((id) => validate(id) && version(id))).toEqual(ids.map(() => 4));
  expect(ids[1]).toBe(ids[0]);
  expect(new Set(ids).size).toBe(5);
});

test('an idempotency key with the same text gets the status of the existing job and starts no second one', async () => {
  dynamodb.on(PutCommand).rejects(conditionFailed);
  dynamodb.on(GetCommand).resolves({ Item: { ...STORED, status: 'DONE', result: '{}' } });
  const response = await post(keyed('key'));
  const jobId = idOf(response.body);

  expect(response).toEqual({
    statusCode: 202,
    headers: { 'Content-Type': 'application/json', Location: `/Prod/jobs/${jobId}` },
    body: JSON.stringify({ jobId, status: 'DONE', message: MESSAGE }),
  });
  expect(lambda.calls()).toEqual([]);
  expect(metricsIn(log)).toEqual({});
});

test('a repeated POST gets the Retry-After that a GET would get', async () => {
  dynamodb.on(PutCommand).rejects(conditionFailed);
  dynamodb.on(GetCommand).resolves({ Item: { ...claimed, text: 'a text', createdAt: NOW - 12 } });

  const response = await post(keyed('key'));

  expect(response).toMatchObject({ statusCode: 202, headers: { 'Retry-After': '3' } });
});

test('an idempotency key with a different text is rejected', async () => {
  dynamodb.on(PutCommand).rejects(conditionFailed);
  dynamodb.on(GetCommand).resolves({ Item: STORED });

  const response = await post(keyed('key', 'another text'));

  expect(response).toEqual({
    statusCode: 422,
    headers: { 'Content-Type': 'application/json' },
    body: '{"error":"Header \'Idempotency-Key\' was already used with a different text"}',
  });
  expect(lambda.calls()).toEqual([]);
});

test('an idempotency key keeps the job if its worker cannot be started', async () => {
  lambda.on(InvokeCommand).rejects(new Error('Rate exceeded'));

  const response = await post(keyed('key'));

  expect(response).toMatchObject({ statusCode: 503, headers: { 'Retry-After': '1' } });
  expect(commands()).toEqual(['PutCommand']);
});

test.each([
  [400, 'Invalid JSON in request body', '{"text": "a secret', 'key'],
  [400, "Field 'text' is required and must not be empty", null, 'key'],
  [400, "Header 'Idempotency-Key' must be one string of 1 to 255 printable ASCII characters", '{"text": "a"}', ''],
  [413, "Field 'text' must not exceed 131072 bytes as JSON", JSON.stringify({ text: 'x'.repeat(131_073) }), 'key'],
])(
  'a rejected request gets %i %s, makes no AWS call, and its body is not logged',
  async (statusCode, error, body, key) => {
    const response = await post(postJobEvent(body, { headers: { 'Idempotency-Key': key } }));

    expect(response).toEqual({
      statusCode,
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify({ error }),
    });
    expect([...dynamodb.calls(), ...lambda.calls()]).toEqual([]);
    expect(log.join()).not.toContain('secret');
  },
);

test('a request with another method is told which one is allowed', async () => {
  const response = await post(apiEvent({ httpMethod: 'GET', path: '/jobs', resource: '/jobs' }));

  expect(response).toMatchObject({ statusCode: 405, headers: { Allow: 'POST' } });
});
