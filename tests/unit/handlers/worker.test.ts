import { DynamoDBDocumentClient, GetCommand, UpdateCommand } from '@aws-sdk/lib-dynamodb';
import { beforeEach, expect, jest, test } from '@jest/globals';
import type { Context } from 'aws-lambda';
import { mockClient } from 'aws-sdk-client-mock';
import { RESERVE_MS } from '../../../src/attempt.ts';
import { documentClient } from '../../../src/aws.ts';
import { buildHandler, handler, type WorkerDependencies } from '../../../src/handlers/worker.ts';
import { JobRepository } from '../../../src/jobRepository.ts';
import { stages as listedStages } from '../../../src/stages/index.ts';
import type { Stage } from '../../../src/stages/stage.ts';
import { captureConsole, metricsIn } from '../../support/consoleCapture.ts';
import { claimed, conditionFailed, done, JOB_ID, NOW } from '../../support/jobs.ts';
import { lambdaContext } from '../../support/lambdaContext.ts';

const dynamodb = mockClient(DynamoDBDocumentClient);

const log = captureConsole();

beforeEach(() => {
  dynamodb.reset();
  dynamodb.on(UpdateCommand).resolvesOnce({ Attributes: claimed }).resolves({});
});

const passing: Stage = { name: 'passing', run: async () => ({}) };
/** A context that has this much time left at each look, and none later. */
const contextWith = (...remainingMs: number[]) => ({
  ...lambdaContext(),
  getRemainingTimeInMillis: () => remainingMs.shift() ?? 0,
});
const abortable: Stage = {
  name: 'abortable',
  run: (_text, { signal }) =>
    new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason))),
};
const endless: Stage = { name: 'endless', run: () => new Promise(() => undefined) };
const logged = (text: string) => log.filter((line) => line.includes(text)).map((line): unknown => JSON.parse(line));

/** Handles an event. The stages' time is up as soon as one of them waits for something. */
function work(
  event: unknown,
  stage: Stage,
  { context = lambdaContext(), ...others }: Partial<WorkerDependencies> & { context?: Context } = {},
): Promise<void> {
  return buildHandler({
    repository: new JobRepository(documentClient(), 'JobsTable'),
    stages: [stage],
    workerTimeout: 30,
    startTimer(_milliseconds, onTime) {
      const timer = setImmediate(onTime);
      return () => clearImmediate(timer);
    },
    newToken: () => 'token',
    clock: () => NOW * 1000,
    endProcess: async () => undefined,
    ...others,
  })(event, context);
}

test('an event runs its job and logs the job id and the request id', async () => {
  await work({ jobId: JOB_ID }, passing);

  expect(logged('Job ended')).toMatchObject([
    { jobId: JOB_ID, attempt: 1, outcome: 'DONE', function_request_id: lambdaContext().awsRequestId },
  ]);
});

test.each([
  [1, { TimeInQueue: 0, JobsDone: 1, TimeToEnd: 0 }],
  [2, { Retries: 1, JobsDone: 1, TimeToEnd: 0 }],
])('an event is counted as attempt %i of its job', async (number, metrics) => {
  dynamodb.reset();
  dynamodb.on(UpdateCommand).resolves({ Attributes: { ...claimed, attempt: number } });

  await work({ jobId: JOB_ID }, passing);

  expect(metricsIn(log)).toEqual(metrics);
});

test.each([
  ['gone', undefined, undefined, { ClaimsRefused: 1 }],
  ['ended', done, undefined, { ClaimsRefused: 1 }],
  [
    'held',
    { ...claimed, leaseToken: 'theirs' },
    new Error('Another attempt holds the job; Lambda will deliver this event again'),
    { ClaimsRefused: 1, ClaimsHeld: 1 },
  ],
])(
  'an event runs and writes nothing if its job is %s, and fails only if Lambda must deliver it again',
  async (...row) => {
    const [outcome, Item, failure, metrics] = row;
    const run = jest.fn(passing.run);
    dynamodb.reset();
    dynamodb.on(UpdateCommand).rejects(conditionFailed);
    dynamodb.on(GetCommand).resolves(Item === undefined ? {} : { Item });

    const error: unknown = await work({ jobId: JOB_ID }, { name: 'never', run }).catch((thrown) => thrown);

    expect(error).toEqual(failure);
    expect(run).not.toHaveBeenCalled();
    expect(dynamodb.commandCalls(UpdateCommand)).toHaveLength(1);
    expect(metricsIn(log)).toEqual(metrics);
    expect(logged('Claim refused')).toMatchObject([{ level: 'WARN', outcome }]);
    expect(logged('Invocation failed')).toEqual([]);
  },
);

test('an event fails if DynamoDB cannot be reached, and logs the cause once', async () => {
  dynamodb.reset();
  dynamodb.rejects(new Error('No route'));

  await expect(work({ jobId: JOB_ID }, passing)).rejects.toThrow('No route');
  expect(logged('No route')).toMatchObject([{ message: 'Invocation failed', jobId: JOB_ID }]);
});

test.each([undefined, null, 'id', 5, {}, { jobId: 5 }, { jobid: JOB_ID }, [JOB_ID]])(
  'an event that is %j fails, so Lambda keeps it for an operator',
  async (event) => {
    await expect(work(event, passing)).rejects.toThrow('Event must be {"jobId": "<id>"}');
    expect(dynamodb.calls()).toEqual([]);
  },
);

/**
 * Handles an event. Returns what had happened when the process was ended, or undefined if it was not, and the timer
 * of the wait for the stage.
 */
async function run(stage: Stage, leftMs = 4400, onWait?: () => void) {
  let state: { writes: number; log: string } | undefined;
  const timers: { milliseconds: number; isStopped: boolean }[] = [];
  await work({ jobId: JOB_ID }, stage, {
    context: contextWith(30_000, 30_000, 30_000, leftMs),
    startTimer(milliseconds, onTime) {
      const timer = { milliseconds, isStopped: false };
      const isWaiting = timers.push(timer) === 2;
      const immediate = setImmediate((isWaiting && onWait) || onTime);
      return () => {
        timer.isStopped = true;
        clearImmediate(immediate);
      };
    },
    async endProcess() {
      state = { writes: dynamodb.commandCalls(UpdateCommand).length, log: log.join('\n') };
    },
  }).catch(() => undefined);
  return { state, wait: timers[1] };
}

test('a stage that does not settle ends the process after the outcome is stored and all logs and metrics are written', async () => {
  const { state, wait } = await run(endless);

  expect(wait).toEqual({ milliseconds: 1000, isStopped: true });
  expect(state?.writes).toBe(2);
  expect(state?.log).toContain('Job ended');
  expect(state?.log).toContain('"JobsFailed":1');
  expect(logged('ending the process')).toMatchObject([{ level: 'ERROR', jobId: JOB_ID, stage: 'endless' }]);
});

test('a stage that does not settle ends the process even if the outcome cannot be stored', async () => {
  dynamodb.reset();
  dynamodb.on(UpdateCommand).resolvesOnce({ Attributes: claimed }).rejects(new Error('No route'));

  const { state } = await run(endless);

  expect(state?.log).toContain('No route');
});

test('a stage that settles when its signal aborts does not end the process', async () => {
  const { state } = await run(abortable);

  expect(state).toBeUndefined();
  expect(dynamodb.commandCalls(UpdateCommand)).toHaveLength(2);
});

test('a stage that ignores its signal, and settles while the worker waits for it, does not end the process', async () => {
  const { promise, resolve } = Promise.withResolvers<object>();

  const { state, wait } = await run({ name: 'stopping', run: () => promise }, 4400, () => resolve({}));

  expect(state).toBeUndefined();
  expect(wait).toEqual({ milliseconds: 1000, isStopped: true });
  expect(logged('ending the process')).toEqual([]);
});

test.each([
  [1600, 600],
  [1000, 0],
  [200, 0],
])('with %i ms left until Lambda kills the worker, a stage gets %i ms to settle', async (leftMs, milliseconds) => {
  const outcome = await run(endless, leftMs);

  expect(outcome).toMatchObject({ wait: { milliseconds, isStopped: true }, state: { writes: 2 } });
});

test("the deployed worker limits the stages to Lambda's remaining time", async () => {
  for (const stage of listedStages) jest.spyOn(stage, 'run').mockImplementation(abortable.run);

  // With no time left for the stages, the attempt has to be repeated.
  await expect(handler({ jobId: JOB_ID }, lambdaContext(RESERVE_MS))).rejects.toThrow('another attempt is needed');
});

test('the deployed worker claims with the current time and a new token', async () => {
  const before = Math.floor(Date.now() / 1000);
  dynamodb.reset();
  dynamodb.on(UpdateCommand).rejects(new Error('No route'));

  for (let call = 0; call < 2; call += 1) {
    await expect(handler({ jobId: JOB_ID }, lambdaContext())).rejects.toThrow('No route');
  }

  const claims = dynamodb.commandCalls(UpdateCommand).map(({ args: [{ input }] }) => input);

  for (const { TableName, ExpressionAttributeValues: values } of claims) {
    expect(TableName).toBe('JobsTable');
    expect(values?.[':now']).toBeGreaterThanOrEqual(before);
    expect(values?.[':now']).toBeLessThanOrEqual(Date.now() / 1000);
  }
  expect(new Set(claims.map(({ ExpressionAttributeValues: values }) => values?.[':token'])).size).toBe(2);
});

test('the deployed worker ends its process with exit code 1', async () => {
  const exit = jest.spyOn(process, 'exit').mockImplementation((code) => {
    throw new Error(`exit ${code}`);
  });
  // Jest's own streams never call back. workerProcess.test.ts tests a real process.
  for (const stream of [process.stdout, process.stderr]) {
    jest.spyOn(stream, 'write').mockImplementation((_text: unknown, done: unknown) => {
      if (typeof done === 'function') done();
      return true;
    });
  }
  for (const stage of listedStages) jest.spyOn(stage, 'run').mockImplementation(endless.run);

  await expect(handler({ jobId: JOB_ID }, contextWith(RESERVE_MS + 1, RESERVE_MS + 1, RESERVE_MS + 1))).rejects.toThrow(
    'exit 1',
  );
  expect(exit).toHaveBeenCalledTimes(1);
});

test('the deployed worker runs a timer during each stage, which keeps the process alive', async () => {
  const timers = () => process.getActiveResourcesInfo().filter((resource) => resource === 'Timeout').length;
  const before = timers();
  const during: number[] = [];
  for (const stage of listedStages) {
    jest.spyOn(stage, 'run').mockImplementation(async () => {
      during.push(timers());
      return {};
    });
  }

  await handler({ jobId: JOB_ID }, lambdaContext());

  expect(during).toEqual(listedStages.map(() => before + 1));
  expect(timers()).toBe(before);
});
