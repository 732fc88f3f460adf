import { ConditionalCheckFailedException } from '@aws-sdk/client-dynamodb';
import { InvokeCommand, LambdaClient } from '@aws-sdk/client-lambda';
import { DynamoDBDocumentClient, GetCommand, PutCommand, UpdateCommand } from '@aws-sdk/lib-dynamodb';
import { afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals';
import type { APIGatewayProxyEvent } from 'aws-lambda';
import { mockClient } from 'aws-sdk-client-mock';
import { validate, version } from 'uuid';
import { documentClient, workerStarter } from '../../../src/aws.ts';
import { buildHandler, handler } from '../../../src/handlers/createJob.ts';
import { JobRepository } from '../../../src/jobRepository.ts';
import { captureConsole } from '../../support/consoleCapture.ts';
import { apiEvent, errorOf, postJobs } from '../../support/events.ts';
import { lambdaContext } from '../../support/lambdaContext.ts';

const NOW = 1_700_000_000;
const JOB_ID = '11111111-1111-4111-8111-111111111111';
const TOKEN = '22222222-2222-4222-8222-222222222222';
const MESSAGE = 'Job accepted. Poll GET /jobs/{jobId} for status updates.';
const STORED = {
  jobId: JOB_ID,
  status: 'PENDING',
  text: 'a text',
  createdAt: NOW,
  updatedAt: NOW,
  expiresAt: NOW + 604_800,
  deadline: NOW + 21_630,
  attempt: 0,
  maxAttempts: 3,
};

const dynamodb = mockClient(DynamoDBDocumentClient);
const lambda = mockClient(LambdaClient);
const refused = new ConditionalCheckFailedException({ message: 'no', $metadata: {} });

let log: readonly string[];

beforeEach(() => {
  log = captureConsole();
  dynamodb.reset();
  lambda.reset();
  dynamodb.resolves({});
  lambda.resolves({ StatusCode: 202 });
});
afterEach(() => {
  jest.restoreAllMocks();
});

/** The handler's answer, with the ids and the clock of this test. */
function post(event: APIGatewayProxyEvent, idNamespace = 'stack') {
  const ids = [JOB_ID, TOKEN];
  // A job with an idempotency key needs no new id for itself.
  const hasKey = Object.keys(event.headers).some((name) => name.toLowerCase() === 'idempotency-key');
  if (hasKey) ids.shift();
  return buildHandler({
    repository: new JobRepository(documentClient(), 'JobsTable'),
    startWorker: workerStarter('WorkerFunction'),
    lifetimes: { maxEventAge: 21_600, workerTimeout: 30 },
    idNamespace,
    newId: () => ids.shift() ?? 'one id too many',
    clock: () => NOW * 1000 + 999,
  })(event, lambdaContext());
}

/** The commands that went out to DynamoDB, in their order. */
const commands = () => dynamodb.calls().map(({ args: [command] }) => command.constructor.name);

const idOf = (body: string) => {
  const answer: unknown = JSON.parse(body);
  return typeof answer === 'object' && answer !== null && 'jobId' in answer ? String(answer.jobId) : '';
};

describe('a job that is accepted', () => {
  test('is answered to the letter', async () => {
    expect(await post(postJobs('{"text": " a text\\n"}'))).toEqual({
      statusCode: 202,
      headers: { 'Content-Type': 'application/json', Location: `/Prod/jobs/${JOB_ID}`, 'Retry-After': '1' },
      body: `{"jobId":"${JOB_ID}","status":"PENDING","message":"${MESSAGE}"}`,
    });
  });

  test('costs one write, on condition that it is not there, and one event with its id alone', async () => {
    await post(postJobs('{"text": " a text\\n"}'));
    expect(dynamodb.calls().map(({ args: [command] }) => command.input)).toEqual([
      {
        TableName: 'JobsTable',
        Item: { ...STORED, acceptedBy: new Set([TOKEN]) },
        ConditionExpression: 'attribute_not_exists(jobId) OR expiresAt <= :now',
        ExpressionAttributeValues: { ':now': NOW },
      },
    ]);
    expect(lambda.calls().map(({ args: [command] }) => command.input)).toEqual([
      { FunctionName: 'WorkerFunction', InvocationType: 'Event', Payload: `{"jobId":"${JOB_ID}"}` },
    ]);
  });

  test('is answered the same when the body came in base64', async () => {
    const body = Buffer.from('{"text": "a text"}').toString('base64');
    expect(await post(postJobs(body, { isBase64Encoded: true }))).toMatchObject({ statusCode: 202 });
    expect(dynamodb.commandCalls(PutCommand)[0]?.args[0].input.Item).toMatchObject({ text: 'a text' });
  });

  test.each([
    ['behind a stage', '/Prod/jobs', '/Prod/jobs'],
    ['without a stage', '/jobs', '/jobs'],
    ['with a slash at the end', '/Prod/jobs/', '/Prod/jobs'],
    ['behind a domain’s base path', '/v1/jobs', '/v1/jobs'],
  ])('has its own path as Location %s', async (_where, path, location) => {
    const event = postJobs('{"text": "a"}');
    const answer = await post({ ...event, requestContext: { ...event.requestContext, path } });
    expect(answer.headers?.['Location']).toBe(`${location}/${JOB_ID}`);
  });

  test('leaves no text in the log', async () => {
    await post(postJobs('{"text": "a secret of mine"}'));
    expect(log.join()).not.toContain('secret');
    expect(log.join()).toContain(JOB_ID);
  });
});

describe('the deployed handler', () => {
  test('gives every job a UUID of its own, and takes its settings from the environment', async () => {
    const answers = [
      await handler(postJobs('{"text": "a"}'), lambdaContext()),
      await handler(postJobs('{"text": "a"}'), lambdaContext()),
    ];
    const ids = answers.map(({ body }) => idOf(body));
    expect(ids.map((id) => validate(id) && version(id))).toEqual([4, 4]);
    expect(new Set(ids).size).toBe(2);
    const item = dynamodb.commandCalls(PutCommand)[0]?.args[0].input.Item;
    expect(Number(item?.['deadline']) - Number(item?.['createdAt'])).toBe(21_630);
  });
});

describe('a job whose worker cannot be started', () => {
  test('is withdrawn, and the client asked to try again', async () => {
    lambda.on(InvokeCommand).rejects(new Error('Rate exceeded'));
    expect(await post(postJobs('{"text": "a"}'))).toEqual({
      statusCode: 503,
      headers: { 'Content-Type': 'application/json', 'Retry-After': '1' },
      body: '{"error":"The job could not be started; please try again"}',
    });
    expect(commands()).toEqual(['PutCommand', 'UpdateCommand', 'DeleteCommand']);
    expect(log.filter((line) => line.includes('Rate exceeded'))).toHaveLength(1);
  });

  test('is accepted all the same when a worker has it: only the answer was lost', async () => {
    lambda.on(InvokeCommand).rejects(new Error('socket hang up'));
    dynamodb.on(UpdateCommand).rejects(refused);
    dynamodb
      .on(GetCommand)
      .resolves({ Item: { ...STORED, status: 'IN_PROGRESS', attempt: 1, leaseExpiresAt: NOW + 35 } });
    const answer = await post(postJobs('{"text": "a text"}'));
    expect(answer).toMatchObject({
      statusCode: 202,
      headers: { Location: `/Prod/jobs/${JOB_ID}`, 'Retry-After': '1' },
    });
    expect(JSON.parse(answer.body)).toEqual({ jobId: JOB_ID, status: 'IN_PROGRESS', message: MESSAGE });
  });

  test('and cannot be withdrawn either is not accepted, and each failure is logged once', async () => {
    lambda.on(InvokeCommand).rejects(new Error('Rate exceeded'));
    dynamodb.on(UpdateCommand).rejects(new Error('No route'));
    expect(await post(postJobs('{"text": "a secret of mine"}'))).toMatchObject({ statusCode: 503 });
    expect(log.filter((line) => line.includes('Rate exceeded'))).toHaveLength(1);
    expect(log.filter((line) => line.includes('No route'))).toHaveLength(1);
    expect(log.join()).not.toContain('secret');
  });
});

test('a job that cannot be stored is a 500 that tells nothing of the inside, and no event', async () => {
  dynamodb.rejects(new Error('Table JobsTable not found for a secret of mine'));
  const answer = await post(postJobs('{"text": "a"}'));
  expect(answer).toEqual({
    statusCode: 500,
    headers: { 'Content-Type': 'application/json' },
    body: '{"error":"Internal server error"}',
  });
  expect(lambda.calls()).toEqual([]);
  expect(log.filter((line) => /"outcome": ?500/.test(line))).toHaveLength(1);
});

describe('an idempotency key', () => {
  const keyed = (value: string, text = 'a text') =>
    postJobs(JSON.stringify({ text }), { headers: { 'Idempotency-Key': value } });

  test('makes a UUID that is the same for the same key, bare or quoted', async () => {
    const [one, two, other] = [await post(keyed('key')), await post(keyed('"key"')), await post(keyed('another'))].map(
      ({ body }) => idOf(body),
    );
    expect(validate(one) && version(one ?? '')).toBe(4);
    expect(two).toBe(one);
    expect(other).not.toBe(one);
  });

  test('makes another id in another deployment', async () => {
    expect(idOf((await post(keyed('key'))).body)).not.toBe(idOf((await post(keyed('key'), 'another stack')).body));
  });

  test('with the same text is answered with the job as it is, and no second event', async () => {
    dynamodb.on(PutCommand).rejects(refused).on(UpdateCommand).rejects(refused);
    dynamodb.on(GetCommand).resolves({ Item: { ...STORED, status: 'DONE', result: {} } });
    const answer = await post(keyed('key'));
    const jobId = idOf(answer.body);
    expect(answer).toEqual({
      statusCode: 202,
      headers: { 'Content-Type': 'application/json', Location: `/Prod/jobs/${jobId}`, 'Retry-After': '1' },
      body: JSON.stringify({ jobId, status: 'DONE', message: MESSAGE }),
    });
    expect(lambda.calls()).toEqual([]);
  });

  test('with another text is refused', async () => {
    dynamodb.on(PutCommand).rejects(refused).on(UpdateCommand).rejects(refused);
    dynamodb.on(GetCommand).resolves({ Item: STORED });
    expect(await post(keyed('key', 'another text'))).toEqual({
      statusCode: 422,
      headers: { 'Content-Type': 'application/json' },
      body: '{"error":"Header \'Idempotency-Key\' was used before with another text"}',
    });
    expect(lambda.calls()).toEqual([]);
  });

  test('of a job that another POST just withdrew is to be tried again', async () => {
    dynamodb.on(PutCommand).rejects(refused).on(UpdateCommand).rejects(refused).on(GetCommand).resolves({});
    expect(await post(keyed('key'))).toMatchObject({ statusCode: 503, headers: { 'Retry-After': '1' } });
  });

  test('that is malformed is refused before anything is stored', async () => {
    const answer = await post(keyed('two words'));
    expect(answer.statusCode).toBe(400);
    expect(errorOf(answer)).toMatch(/^Header 'Idempotency-Key' must be/);
    expect(dynamodb.calls()).toEqual([]);
  });
});

describe('a request that is refused', () => {
  test.each([
    [400, 'Invalid JSON in request body', '{"text": "a secret'],
    [400, "Field 'text' is required and must not be empty", '{"text": "  "}'],
    [400, "Field 'text' is required and must not be empty", null],
    [400, 'Request body must be a JSON object', '["a secret"]'],
    [400, "Field 'text' must be a string", '{"text": 5}'],
    [400, "Field 'text' must be well-formed Unicode", '{"text": "\\ud800"}'],
    [413, "Field 'text' must not exceed 131072 bytes of UTF-8", JSON.stringify({ text: 'x'.repeat(131_073) })],
  ])('is answered with %i %s, calls nothing and logs nothing of it', async (statusCode, error, body) => {
    expect(await post(postJobs(body))).toEqual({
      statusCode,
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify({ error }),
    });
    expect([...dynamodb.calls(), ...lambda.calls()]).toEqual([]);
    expect(log.join()).not.toContain('secret');
  });

  test('for its method says which one there is', async () => {
    const answer = await post(apiEvent({ httpMethod: 'GET', path: '/jobs', resource: '/jobs' }));
    expect(answer).toMatchObject({ statusCode: 405, headers: { Allow: 'POST' } });
  });
});
