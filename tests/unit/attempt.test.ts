import { ConditionalCheckFailedException } from '@aws-sdk/client-dynamodb';
import { DynamoDBDocumentClient, GetCommand, UpdateCommand } from '@aws-sdk/lib-dynamodb';
import { afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals';
import { mockClient } from 'aws-sdk-client-mock';
import { RESERVE_MS, runAttempt } from '../../src/attempt.ts';
import { documentClient } from '../../src/aws.ts';
import { CLOCK_SKEW_SECONDS, newJob } from '../../src/job.ts';
import { JobRepository } from '../../src/jobRepository.ts';
import type { Stage } from '../../src/stages/stage.ts';
import { captureConsole } from '../support/consoleCapture.ts';

const NOW = 1_700_000_000;
const JOB_ID = '11111111-1111-4111-8111-111111111111';
const TEXT = 'a secret of mine';
const TIMEOUT_SECONDS = 30;
const LEASE_EXPIRES_AT = NOW + TIMEOUT_SECONDS + CLOCK_SKEW_SECONDS;
const pending = newJob(JOB_ID, TEXT, NOW, { maxEventAge: 600, workerTimeout: TIMEOUT_SECONDS });
const claimed = {
  ...pending,
  status: 'IN_PROGRESS',
  attempt: 1,
  leaseToken: 'token',
  leaseExpiresAt: LEASE_EXPIRES_AT,
};

const dynamodb = mockClient(DynamoDBDocumentClient);
const conditionFailed = new ConditionalCheckFailedException({ message: 'no', $metadata: {} });
let log: readonly string[];
let running: Map<string, Promise<unknown>>;
let timers: { milliseconds: number; onTime: () => void; isStopped: boolean }[];

beforeEach(() => {
  log = captureConsole();
  running = new Map();
  timers = [];
  dynamodb.reset();
  dynamodb.on(UpdateCommand).resolvesOnce({ Attributes: claimed }).resolves({});
});
afterEach(() => {
  jest.restoreAllMocks();
});

const passing: Stage = { name: 'passing', run: async () => ({ count: 1 }) };
const endless: Stage = { name: 'endless', run: () => new Promise(() => undefined) };

/** @param remainingMs the invocation's remaining time: at its start, after the claim, and at each later look */
function attempt(
  stages: readonly Stage[] = [passing],
  remainingMs: readonly number[] = [TIMEOUT_SECONDS * 1000],
): Promise<'ended' | 'held'> {
  const remaining = [...remainingMs];
  const last = remaining.at(-1) ?? 0;
  return runAttempt(
    {
      repository: new JobRepository(documentClient(), 'JobsTable'),
      stages,
      workerTimeout: TIMEOUT_SECONDS,
      startTimer(milliseconds, onTime) {
        const timer = { milliseconds, onTime, isStopped: false };
        timers.push(timer);
        return () => {
          timer.isStopped = true;
        };
      },
      newToken: () => 'token',
      clock: () => NOW * 1000,
    },
    JOB_ID,
    () => remaining.shift() ?? last,
    running,
  );
}

/** Runs an attempt whose stage is still running when its time is up. */
async function attemptThatTimesOut(remainingMs: readonly number[]): Promise<'ended' | 'held'> {
  const result = attempt([endless], remainingMs);
  while (timers.length === 0) await new Promise(setImmediate);
  timers[0]?.onTime();
  return result;
}

const inputs = () => dynamodb.calls().map(({ args: [command] }) => command.input);
const logged = (text: string) => log.filter((line) => line.includes(text)).map((line): unknown => JSON.parse(line));

describe('a job', () => {
  test('a job is claimed with one call and ended with one call', async () => {
    const result = await attempt();

    expect(result).toBe('ended');
    // jobRepository.test.ts tests the conditions on a real engine.
    expect(inputs()).toMatchObject([
      { ExpressionAttributeValues: { ':now': NOW, ':token': 'token', ':leaseExpiresAt': LEASE_EXPIRES_AT } },
      { ExpressionAttributeValues: { ':token': 'token', ':ended': 'DONE', ':value': '{"passing":{"count":1}}' } },
    ]);
  });

  test('a job logs the start of its attempt before its stages run, and its outcome, but not its text', async () => {
    let logBefore = '';
    const stage: Stage = {
      name: 'curious',
      async run() {
        logBefore = log.join();
        return {};
      },
    };

    await attempt([stage]);

    expect(logBefore).toContain('Attempt started');
    expect(logged('Attempt started')).toMatchObject([{ attempt: 1, outcome: 'claimed' }]);
    expect(logged('Job ended')).toMatchObject([{ attempt: 1, outcome: 'DONE', durationMs: 0 }]);
    expect(log.join()).not.toContain('secret');
  });

  test('a job ends as ERROR if a stage fails', async () => {
    const broken: Stage = { name: 'broken', run: () => Promise.reject(new Error('No model')) };

    const result = await attempt([broken]);

    expect(result).toBe('ended');
    expect(inputs()[1]).toMatchObject({
      ExpressionAttributeNames: { '#attribute': 'errorMessage' },
      ExpressionAttributeValues: { ':ended': 'ERROR', ':value': "Stage 'broken' failed" },
    });
  });
});

describe('the time limit for the stages', () => {
  test('the time limit for the stages is the time left after the claim, minus the time reserved for the final write', async () => {
    await attempt([passing], [30_000, 29_000]);

    expect(timers).toMatchObject([{ milliseconds: 29_000 - RESERVE_MS, isStopped: true }]);
  });

  test('a timeout ends the job as ERROR if start-up and claim took no more than 3 s', async () => {
    const result = await attemptThatTimesOut([30_000, 27_000]);

    expect(result).toBe('ended');
    expect(inputs()[1]).toMatchObject({
      ExpressionAttributeValues: { ':ended': 'ERROR', ':value': "Stage 'endless' took too long" },
    });
    expect([...running.keys()]).toEqual(['endless']);
  });

  test('a timeout fails the attempt if start-up and claim took more than 3 s', async () => {
    await expect(attemptThatTimesOut([30_000, 26_999])).rejects.toThrow(
      'The stages timed out after only 22499 ms; another attempt is needed',
    );
    expect(inputs()).toHaveLength(1);
    expect(timers).toMatchObject([{ isStopped: true }]);
  });

  test('a timeout in the third attempt ends the job as ERROR in any case, because there is no other attempt', async () => {
    dynamodb.reset();
    dynamodb
      .on(UpdateCommand)
      .resolvesOnce({ Attributes: { ...claimed, attempt: 3 } })
      .resolves({});

    const result = await attemptThatTimesOut([30_000, RESERVE_MS + 1]);

    expect(result).toBe('ended');
    expect(inputs()[1]).toMatchObject({
      ExpressionAttributeValues: { ':ended': 'ERROR', ':value': "Stage 'endless' took too long" },
    });
  });

  test('the clock is read before a stage starts, because a stage that blocks the process also blocks the timer', async () => {
    const next = { name: 'next', run: jest.fn(passing.run) };

    await attempt([passing, next], [30_000, 30_000, 30_000, RESERVE_MS]);

    expect(inputs()[1]).toMatchObject({
      ExpressionAttributeValues: { ':ended': 'ERROR', ':value': "Stage 'passing' took too long" },
    });
    expect(next.run).not.toHaveBeenCalled();
  });

  test('no stage starts if start-up and claim took all of the time', async () => {
    const first = { name: 'first', run: jest.fn(passing.run) };

    const failure = attempt([first], [30_000, RESERVE_MS]);

    await expect(failure).rejects.toThrow('The stages timed out after only 0 ms; another attempt is needed');
    expect(first.run).not.toHaveBeenCalled();
  });

  test('the time limit for the stages can be short if the stages finish in time', async () => {
    const result = await attempt([passing], [30_000, 5000]);

    expect(result).toBe('ended');
    expect(inputs()[1]).toMatchObject({ ExpressionAttributeValues: { ':ended': 'DONE' } });
  });

  test('the time limit for the stages can be short if a stage fails by itself', async () => {
    const broken: Stage = { name: 'broken', run: () => Promise.reject(new Error('No model')) };

    const result = await attempt([broken], [30_000, 5000]);

    expect(result).toBe('ended');
    expect(inputs()[1]).toMatchObject({ ExpressionAttributeValues: { ':ended': 'ERROR' } });
  });
});

describe('a refused claim', () => {
  const never = jest.fn(passing.run);

  test.each([
    ['is done', { ...pending, status: 'DONE', result: '{}' }, 'ended'],
    ['failed', { ...pending, status: 'ERROR', errorMessage: 'no' }, 'ended'],
    ['does not exist', undefined, 'gone'],
    ['has expired', { ...pending, expiresAt: NOW }, 'gone'],
  ])('a refused claim runs no stage and writes nothing if the job %s', async (_why, Item, outcome) => {
    dynamodb.reset();
    dynamodb
      .on(UpdateCommand)
      .rejects(conditionFailed)
      .on(GetCommand)
      .resolves(Item === undefined ? {} : { Item });

    const result = await attempt([{ name: 'never', run: never }]);

    expect(result).toBe('ended');
    expect(never).not.toHaveBeenCalled();
    expect(dynamodb.commandCalls(UpdateCommand)).toHaveLength(1);
    expect(logged('Claim refused')).toMatchObject([{ level: 'WARN', outcome }]);
  });

  test('a claim is held if another attempt has a live lease', async () => {
    dynamodb.reset();
    dynamodb.on(UpdateCommand).rejects(conditionFailed);
    dynamodb.on(GetCommand).resolves({ Item: { ...claimed, leaseToken: 'theirs' } });

    const result = await attempt([{ name: 'never', run: never }]);

    expect(result).toBe('held');
    expect(never).not.toHaveBeenCalled();
    expect(logged('Claim refused')).toMatchObject([{ level: 'WARN', outcome: 'held' }]);
  });

  test('an attempt still runs the job if the SDK sent the claim twice', async () => {
    dynamodb.reset();
    dynamodb.on(UpdateCommand).rejectsOnce(conditionFailed).resolves({});
    dynamodb.on(GetCommand).resolves({ Item: claimed });

    const result = await attempt();

    expect(result).toBe('ended');
    expect(inputs()[2]).toMatchObject({ ExpressionAttributeValues: { ':ended': 'DONE' } });
  });
});

describe('the attempt fails', () => {
  test('the attempt fails if the claim cannot be written', async () => {
    dynamodb.reset();
    dynamodb.rejects(new Error('No route'));

    await expect(attempt()).rejects.toThrow('No route');
    expect(inputs()).toHaveLength(1);
  });

  test('the attempt fails if the final write fails', async () => {
    dynamodb.reset();
    dynamodb.on(UpdateCommand).resolvesOnce({ Attributes: claimed }).rejects(new Error('No route'));

    await expect(attempt()).rejects.toThrow('No route');
    expect(inputs()).toHaveLength(2);
  });

  test('the attempt fails if it no longer holds the job when it writes the outcome', async () => {
    dynamodb.reset();
    dynamodb.on(UpdateCommand).resolvesOnce({ Attributes: claimed }).rejects(conditionFailed);

    await expect(attempt()).rejects.toThrow('This attempt no longer holds the job');
    expect(logged('Job ended')).toEqual([]);
  });
});
