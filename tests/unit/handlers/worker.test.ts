import { ConditionalCheckFailedException } from '@aws-sdk/client-dynamodb';
import { DynamoDBDocumentClient, GetCommand, UpdateCommand } from '@aws-sdk/lib-dynamodb';
import { afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals';
import { mockClient } from 'aws-sdk-client-mock';
import { CALL_BUDGET_MS, documentClient } from '../../../src/aws.ts';
import { buildHandler, handler } from '../../../src/handlers/worker.ts';
import { CLOCK_SKEW_SECONDS, newJob } from '../../../src/job.ts';
import { JobRepository } from '../../../src/jobRepository.ts';
import { type Stage, stages } from '../../../src/stages.ts';
import { captureConsole } from '../../support/consoleCapture.ts';
import { lambdaContext } from '../../support/lambdaContext.ts';

const NOW = 1_700_000_000;
const JOB_ID = '11111111-1111-4111-8111-111111111111';
const TEXT = 'a secret of mine';
const LEASE_EXPIRES_AT = NOW + 30 + CLOCK_SKEW_SECONDS;
const pending = newJob(JOB_ID, TEXT, NOW, { maxEventAge: 600, workerTimeout: 30 });
const claimed = {
  ...pending,
  status: 'IN_PROGRESS',
  attempt: 1,
  leaseToken: 'token',
  leaseExpiresAt: LEASE_EXPIRES_AT,
};
const RELEASE = {
  TableName: 'JobsTable',
  Key: { jobId: JOB_ID },
  UpdateExpression: 'SET leaseExpiresAt = :over, updatedAt = :now REMOVE leaseToken',
  ConditionExpression: '#status = :inProgress AND leaseToken = :token',
  ExpressionAttributeNames: { '#status': 'status' },
  ExpressionAttributeValues: { ':over': NOW + 1, ':now': NOW, ':inProgress': 'IN_PROGRESS', ':token': 'token' },
};

const dynamodb = mockClient(DynamoDBDocumentClient);
const refused = new ConditionalCheckFailedException({ message: 'no', $metadata: {} });
let log: readonly string[];

beforeEach(() => {
  log = captureConsole();
  dynamodb.reset();
  dynamodb.on(UpdateCommand).resolvesOnce({ Attributes: claimed }).resolves({});
});
afterEach(() => {
  jest.restoreAllMocks();
});

const passing: Stage = { name: 'passing', run: async () => ({ stage: 'passing' }) };
const never = jest.fn(passing.run);
beforeEach(() => {
  never.mockClear();
});

function work(
  event: unknown,
  options: { stages?: readonly Stage[]; remainingMs?: number; abortAfter?: (milliseconds: number) => AbortSignal } = {},
): Promise<void> {
  return buildHandler({
    repository: new JobRepository(documentClient(), 'JobsTable'),
    stages: options.stages ?? [passing],
    pause: async () => undefined,
    abortAfter: options.abortAfter ?? (() => new AbortController().signal),
    newToken: () => 'token',
    clock: () => NOW * 1000,
  })(event, lambdaContext(options.remainingMs ?? 30_000));
}

const inputs = () => dynamodb.calls().map(({ args: [command] }) => command.input);
const logged = (text: string) => log.filter((line) => line.includes(text));

describe('a job', () => {
  test('costs one call to claim it with its text, and one to end it with its result as a map', async () => {
    await work({ jobId: JOB_ID });
    expect(inputs()).toEqual([
      {
        TableName: 'JobsTable',
        Key: { jobId: JOB_ID },
        UpdateExpression:
          'SET #status = :inProgress, attempt = attempt + :one, updatedAt = :now, leaseToken = :token, leaseExpiresAt = :leaseExpiresAt REMOVE acceptedBy',
        ConditionExpression:
          '(#status = :pending OR (#status = :inProgress AND leaseExpiresAt <= :now)) AND attempt < maxAttempts AND deadline > :now',
        ExpressionAttributeNames: { '#status': 'status' },
        ExpressionAttributeValues: {
          ':pending': 'PENDING',
          ':inProgress': 'IN_PROGRESS',
          ':one': 1,
          ':now': NOW,
          ':token': 'token',
          ':leaseExpiresAt': LEASE_EXPIRES_AT,
        },
        ReturnValues: 'ALL_NEW',
      },
      {
        TableName: 'JobsTable',
        Key: { jobId: JOB_ID },
        UpdateExpression: 'SET #status = :status, #outcome = :outcome, updatedAt = :now',
        ConditionExpression: '#status = :inProgress AND leaseToken = :token',
        ExpressionAttributeNames: { '#status': 'status', '#outcome': 'result' },
        ExpressionAttributeValues: {
          ':status': 'DONE',
          ':outcome': { passing: { stage: 'passing' } },
          ':now': NOW,
          ':inProgress': 'IN_PROGRESS',
          ':token': 'token',
        },
      },
    ]);
  });

  test('gets the three stages of the application', async () => {
    await work({ jobId: JOB_ID }, { stages });
    expect(inputs()[1]).toMatchObject({
      ExpressionAttributeValues: {
        ':status': 'DONE',
        ':outcome': {
          ocr: { stage: 'ocr', charCount: 16, wordCount: 4, preview: TEXT },
          mlInference: { stage: 'ml_inference', sentiment: 'NEUTRAL', confidence: 0.5, tokenCount: 4 },
          search: { stage: 'search', topKeywords: ['secret', 'mine'], relatedDocumentsFound: 14 },
        },
      },
    });
  });

  test('leaves its id, its attempt and its end in the log, and nothing of its text', async () => {
    await work({ jobId: JOB_ID });
    expect(logged('Job ended').map((line): unknown => JSON.parse(line))).toMatchObject([
      { jobId: JOB_ID, attempt: 1, outcome: 'DONE', durationMs: 0, function_request_id: lambdaContext().awsRequestId },
    ]);
    expect(log.join()).not.toContain('secret');
  });

  test('whose stage throws is an ERROR with its message, and the invocation succeeds', async () => {
    const broken: Stage = { name: 'broken', run: () => Promise.reject(new Error(`No model for ${TEXT}`)) };
    await work({ jobId: JOB_ID }, { stages: [broken, { name: 'never', run: never }] });
    expect(inputs()).toHaveLength(2);
    expect(inputs()[1]).toMatchObject({
      ExpressionAttributeNames: { '#outcome': 'errorMessage' },
      ExpressionAttributeValues: { ':status': 'ERROR', ':outcome': `No model for ${TEXT}` },
    });
    expect(never).not.toHaveBeenCalled();
    expect(logged('Stage failed')).toHaveLength(1);
    expect(log.join()).not.toContain('secret');
  });

  test('whose stage outlives its time is an ERROR, recorded in the time that was kept back', async () => {
    const controller = new AbortController();
    const limits: number[] = [];
    const slow: Stage = {
      name: 'slow',
      run: () => {
        controller.abort();
        return new Promise(() => undefined);
      },
    };
    const abortAfter = (milliseconds: number) => {
      limits.push(milliseconds);
      return controller.signal;
    };
    await work({ jobId: JOB_ID }, { stages: [slow], abortAfter });
    expect(limits).toEqual([30_000 - 2 * CALL_BUDGET_MS]);
    expect(inputs()[1]).toMatchObject({
      ExpressionAttributeValues: { ':status': 'ERROR', ':outcome': "Stage 'slow' took too long" },
    });
  });

  test('that is begun too late for anything is ended at once', async () => {
    const limits: number[] = [];
    const abortAfter = (milliseconds: number) => {
      limits.push(milliseconds);
      return AbortSignal.abort();
    };
    await work({ jobId: JOB_ID }, { abortAfter, remainingMs: 1 });
    expect(limits).toEqual([0]);
  });
});

describe('a claim that is refused', () => {
  test.each([
    ['is done', { ...pending, status: 'DONE', result: {} }, 'ended'],
    ['failed', { ...pending, status: 'ERROR', errorMessage: 'no' }, 'ended'],
    ['is unknown', undefined, 'unknown'],
    ['has expired', { ...pending, expiresAt: NOW }, 'unknown'],
  ])('because the job %s runs nothing, writes nothing and succeeds', async (_why, Item, outcome) => {
    dynamodb.reset();
    dynamodb
      .on(UpdateCommand)
      .rejects(refused)
      .on(GetCommand)
      .resolves(Item === undefined ? {} : { Item });
    await work({ jobId: JOB_ID }, { stages: [{ name: 'never', run: never }] });
    expect(never).not.toHaveBeenCalled();
    expect(dynamodb.commandCalls(UpdateCommand)).toHaveLength(1);
    expect(logged('Claim refused').map((line): unknown => JSON.parse(line))).toMatchObject([
      { jobId: JOB_ID, outcome },
    ]);
  });

  test('because another attempt holds the job fails, so that Lambda brings the event back', async () => {
    dynamodb.reset();
    dynamodb.on(UpdateCommand).rejects(refused);
    dynamodb.on(GetCommand).resolves({ Item: { ...claimed, leaseToken: 'theirs' } });
    await expect(work({ jobId: JOB_ID }, { stages: [{ name: 'never', run: never }] })).rejects.toThrow(
      'The job is held by another attempt; this event has to come back',
    );
    expect(never).not.toHaveBeenCalled();
    expect(dynamodb.commandCalls(UpdateCommand)).toHaveLength(1);
    expect(logged('Claim refused').map((line): unknown => JSON.parse(line))).toMatchObject([
      { level: 'WARN', jobId: JOB_ID, outcome: 'held' },
    ]);
    expect(logged('Invocation failed')).toEqual([]);
  });

  test('although it was its own, sent twice, runs the job', async () => {
    dynamodb.reset();
    dynamodb.on(UpdateCommand).rejectsOnce(refused).resolves({});
    dynamodb.on(GetCommand).resolves({ Item: claimed });
    await work({ jobId: JOB_ID });
    expect(inputs()[2]).toMatchObject({ ExpressionAttributeValues: { ':status': 'DONE' } });
  });
});

describe('a fault around the stages', () => {
  test('fails the invocation when the job cannot be claimed', async () => {
    dynamodb.reset();
    dynamodb.rejects(new Error('No route'));
    await expect(work({ jobId: JOB_ID })).rejects.toThrow('No route');
    expect(logged('No route')).toHaveLength(1);
  });

  test('gives the lease back when the claim failed, for it may have landed', async () => {
    dynamodb.reset();
    dynamodb.on(UpdateCommand).rejectsOnce(new Error('No answer')).resolves({});
    await expect(work({ jobId: JOB_ID })).rejects.toThrow('No answer');
    expect(inputs()[1]).toEqual(RELEASE);
  });

  test('gives the lease back and fails the invocation when the end cannot be stored', async () => {
    dynamodb.reset();
    dynamodb.on(UpdateCommand).resolvesOnce({ Attributes: claimed }).rejectsOnce(new Error('No route')).resolves({});
    await expect(work({ jobId: JOB_ID })).rejects.toThrow('No route');
    expect(inputs()[2]).toEqual(RELEASE);
    expect(logged('No route')).toHaveLength(1);
    expect(log.join()).not.toContain('secret');
  });

  test('keeps the lease when a stage may still be at work, until the invocation can no longer be alive', async () => {
    dynamodb.reset();
    dynamodb.on(UpdateCommand).resolvesOnce({ Attributes: claimed }).rejects(new Error('No route'));
    const endless: Stage = { name: 'endless', run: () => new Promise(() => undefined) };
    await expect(work({ jobId: JOB_ID }, { stages: [endless], abortAfter: () => AbortSignal.abort() })).rejects.toThrow(
      'No route',
    );
    expect(inputs()).toHaveLength(2);
  });

  test('fails the invocation by its own cause when the lease cannot be given back either', async () => {
    dynamodb.reset();
    dynamodb
      .on(UpdateCommand)
      .resolvesOnce({ Attributes: claimed })
      .rejectsOnce(new Error('No route'))
      .rejects(new Error('Still no route'));
    await expect(work({ jobId: JOB_ID })).rejects.toThrow(/^No route$/);
    expect(logged('No route')).toHaveLength(1);
  });

  test('of an end that comes too late fails the invocation, and leaves what is there', async () => {
    dynamodb.reset();
    dynamodb.on(UpdateCommand).resolvesOnce({ Attributes: claimed }).rejects(refused);
    dynamodb.on(GetCommand).resolves({ Item: { ...pending, status: 'ERROR', errorMessage: 'lapsed' } });
    await expect(work({ jobId: JOB_ID })).rejects.toThrow(`Job ${JOB_ID} is no longer held by this attempt`);
    expect(inputs()[3]).toEqual(RELEASE);
  });
});

test.each([undefined, null, 'id', 5, {}, { jobId: 5 }, { jobid: JOB_ID }, [JOB_ID]])(
  'an event that is %j fails, so that Lambda keeps it where an operator finds it',
  async (event) => {
    await expect(work(event)).rejects.toThrow('Event must be {"jobId": "<id>"}');
    expect(dynamodb.calls()).toEqual([]);
  },
);

test('the deployed handler stops its stages by Lambda’s own deadline', async () => {
  dynamodb.reset();
  dynamodb.on(UpdateCommand).resolvesOnce({ Attributes: claimed }).resolves({});
  await handler({ jobId: JOB_ID }, lambdaContext(2 * CALL_BUDGET_MS));
  expect(inputs()[1]).toMatchObject({
    TableName: 'JobsTable',
    ExpressionAttributeValues: { ':status': 'ERROR', ':outcome': "Stage 'ocr' took too long" },
  });
  const token: unknown = dynamodb.commandCalls(UpdateCommand)[0]?.args[0].input.ExpressionAttributeValues?.[':token'];
  expect(token).toMatch(/^[0-9a-f-]{36}$/);
});
