import { DynamoDBDocumentClient, UpdateCommand } from '@aws-sdk/lib-dynamodb';
import { beforeEach, expect, jest, test } from '@jest/globals';
import { mockClient } from 'aws-sdk-client-mock';
import { RESERVE_MS, runAttempt } from '../../src/attempt.ts';
import { documentClient } from '../../src/aws.ts';
import { CLOCK_SKEW_SECONDS } from '../../src/job.ts';
import { JobRepository } from '../../src/jobRepository.ts';
import type { Stage } from '../../src/stages/stage.ts';
import { captureConsole } from '../support/consoleCapture.ts';
import { claimed, conditionFailed, JOB_ID, LIFETIMES, NOW } from '../support/jobs.ts';

const dynamodb = mockClient(DynamoDBDocumentClient);
let running: Map<string, Promise<unknown>>;
let timers: { milliseconds: number; onTime: () => void; isStopped: boolean }[];

const log = captureConsole();

beforeEach(() => {
  running = new Map();
  timers = [];
  dynamodb.reset();
  dynamodb.on(UpdateCommand).resolvesOnce({ Attributes: claimed }).resolves({});
});

const passing: Stage = { name: 'passing', run: async () => ({ count: 1 }) };
const broken: Stage = { name: 'broken', run: () => Promise.reject(new Error('No model')) };
const endless: Stage = { name: 'endless', run: () => new Promise(() => undefined) };

/** @param remainingMs the invocation's remaining time: at its start, after the claim, and at each later look */
function attempt(
  stages: readonly Stage[] = [passing],
  remainingMs: readonly number[] = [30_000],
): Promise<'ended' | 'held'> {
  const remaining = [...remainingMs];
  const last = remaining.at(-1) ?? 0;
  return runAttempt(
    {
      repository: new JobRepository(documentClient(), 'JobsTable'),
      stages,
      workerTimeout: LIFETIMES.workerTimeout,
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

/** The outcome that the final write stores. */
const outcomeWritten = () => {
  const values = dynamodb.commandCalls(UpdateCommand).at(-1)?.args[0].input.ExpressionAttributeValues;
  return [values?.[':ended'], values?.[':value']];
};
const logged = (text: string) => log.filter((line) => line.includes(text)).map((line): unknown => JSON.parse(line));

test('a job is claimed with one call and ended with one call', async () => {
  const result = await attempt();

  expect(result).toBe('ended');
  // jobRepository.test.ts tests the conditions on a real engine.
  expect(dynamodb.calls().map(({ args: [command] }) => command.input)).toMatchObject([
    { ExpressionAttributeValues: { ':now': NOW, ':token': 'token', ':leaseExpiresAt': NOW + 30 + CLOCK_SKEW_SECONDS } },
    { ExpressionAttributeValues: { ':token': 'token', ':ended': 'DONE', ':value': '{"passing":{"count":1}}' } },
  ]);
});

test('an attempt logs its start before its stages run, and its outcome, but not the text', async () => {
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

test('the time limit for the stages is the time left after the claim, minus the time reserved for the final write', async () => {
  await attempt([passing], [30_000, 29_000]);

  expect(timers).toMatchObject([{ milliseconds: 29_000 - RESERVE_MS, isStopped: true }]);
});

test.each([
  ['start-up and claim took no more than 3 s', 1, 27_000],
  ['it was the third attempt, because there is no other one', 3, RESERVE_MS + 1],
])('a timeout ends the job as ERROR if %s', async (_why, number, remainingMs) => {
  dynamodb.reset();
  const Attributes = { ...claimed, attempt: number };
  dynamodb.on(UpdateCommand).resolvesOnce({ Attributes }).resolves({});

  const result = await attemptThatTimesOut([30_000, remainingMs]);

  expect(result).toBe('ended');
  expect(outcomeWritten()).toEqual(['ERROR', "Stage 'endless' took too long"]);
  expect([...running.keys()]).toEqual(['endless']);
});

test('a timeout fails the attempt if start-up and claim took more than 3 s', async () => {
  await expect(attemptThatTimesOut([30_000, 26_999])).rejects.toThrow(
    'The stages timed out after only 22499 ms; another attempt is needed',
  );
  expect(dynamodb.calls()).toHaveLength(1);
  expect(timers).toMatchObject([{ isStopped: true }]);
});

test('the clock is read before a stage starts, because a stage that blocks the process also blocks the timer', async () => {
  const next = { name: 'next', run: jest.fn(passing.run) };

  await attempt([passing, next], [30_000, 30_000, 30_000, RESERVE_MS]);

  expect(outcomeWritten()).toEqual(['ERROR', "Stage 'passing' took too long"]);
  expect(next.run).not.toHaveBeenCalled();
});

test('no stage starts if start-up and claim took all of the time', async () => {
  const first = { name: 'first', run: jest.fn(passing.run) };

  const failure = attempt([first], [30_000, RESERVE_MS]);

  await expect(failure).rejects.toThrow('The stages timed out after only 0 ms; another attempt is needed');
  expect(first.run).not.toHaveBeenCalled();
});

test.each([
  ['the stages finish in time', passing, ['DONE', '{"passing":{"count":1}}']],
  ['a stage fails by itself', broken, ['ERROR', "Stage 'broken' failed"]],
])('the job ends although start-up and claim were slow if %s', async (_why, stage, outcome) => {
  const result = await attempt([stage], [30_000, 5000]);

  expect(result).toBe('ended');
  expect(outcomeWritten()).toEqual(outcome);
});

test.each([
  ['the final write fails', new Error('No route'), 'No route'],
  ['it no longer holds the job when it writes the outcome', conditionFailed, 'This attempt no longer holds the job'],
])('an attempt fails if %s', async (_why, error, message) => {
  dynamodb.reset();
  dynamodb.on(UpdateCommand).resolvesOnce({ Attributes: claimed }).rejects(error);

  await expect(attempt()).rejects.toThrow(message);
  expect(logged('Job ended')).toEqual([]);
});
