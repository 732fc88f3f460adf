/**
 * Injected faults. The application runs on the local AWS with test stages (testStack.ts) that crash, hang and
 * block on command, and a proxy breaks the functions' calls to AWS. All scenarios run at the same time,
 * because they spend most of their time waiting for Lambda's retries.
 */
import { randomUUID } from 'node:crypto';
import { DynamoDBClient, paginateScan } from '@aws-sdk/client-dynamodb';
import { InvokeCommand, LambdaClient } from '@aws-sdk/client-lambda';
import { DeleteMessageCommand, ReceiveMessageCommand, SQSClient } from '@aws-sdk/client-sqs';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { clientOptions, startLocalAws } from '../../scripts/local/localAws.ts';
import { CLOCK_SKEW_SECONDS } from '../../src/job.ts';
import { at, readTemplate } from '../support/template.ts';
import { type Answer, getJob, sleep, stringField, submit } from './deployment.ts';
import { type Call, FAULTS, type Fault, startFaultProxy, textAt } from './faultProxy.ts';
import { RESULTS } from './faultyStages.ts';
import { type Ending, Watcher } from './jobWatcher.ts';
import { type StageAction, startStageRecorder } from './stageRecorder.ts';
import { deployTestStack } from './testStack.ts';

/** Shorter than on AWS. As there, Lambda's first retry (after 60 s on AWS) comes after the lease has expired. */
const WORKER_TIMEOUT_SECONDS = 12;
const RETRY_DELAY_SECONDS = WORKER_TIMEOUT_SECONDS + CLOCK_SKEW_SECONDS + 2;
const MAX_EVENT_AGE_SECONDS = 80;
const DEADLINE_SECONDS = MAX_EVENT_AGE_SECONDS + WORKER_TIMEOUT_SECONDS;
/** The guaranteed bound: every attempt starts before the deadline, and its lease has expired by this time. */
const BOUND_SECONDS = MAX_EVENT_AGE_SECONDS + 2 * WORKER_TIMEOUT_SECONDS + 2 * CLOCK_SKEW_SECONDS;
/** The same plus time for the watcher to see the end. */
const LIMIT_MS = (BOUND_SECONDS + 15) * 1000;
const DEPLOY_LIMIT_MS = 120_000;
const TEST_LIMIT_MS = 2 * LIMIT_MS;

/**
 * A POST can start two processes. If too many processes start together, calls time out unintentionally.
 * Each POST therefore waits until a GET takes less than `CALM_MS`, but for no more than `CALM_TRIES` tries.
 */
const CALM_MS = 300;
const CALM_TRIES = 40;
const START_INTERVAL_MS = 250;
const STORM_JOBS = 100;
const SEED = Number(process.env['FAULTS_SEED'] ?? Date.now() % 1_000_000);

const ATTEMPTS_USED_UP = 'Processing failed: all 3 attempts ended without a result';
const PAST_DEADLINE = 'Processing failed: the job did not finish before its deadline';

/** What goes wrong with a job. */
interface Plan {
  readonly stage?: (stage: string, count: number) => StageAction | undefined;
  readonly fault?: (call: Call) => Fault | undefined;
}

/** The plans by job name. */
const plans = new Map<string, Plan>();

async function startWorld() {
  const aws = await startLocalAws({
    env: {
      LAMBDA_ASYNC_RETRY_BASE_SECONDS: String(RETRY_DELAY_SECONDS),
      LAMBDA_ASYNC_RETRY_MAX_SECONDS: String(RETRY_DELAY_SECONDS),
    },
  });
  const closers = [aws.stop];
  const close = async () => {
    for (const closer of closers) await closer();
  };
  try {
    const recorder = await startStageRecorder((jobName, stage, count) => {
      return plans.get(jobName)?.stage?.(stage, count) ?? 'work 50';
    });
    closers.push(recorder.close);
    const proxy = await startFaultProxy(aws.endpoint, (call) => plans.get(nameOf(call.text))?.fault?.(call));
    closers.push(proxy.close);
    const stack = await deployTestStack(aws, {
      proxyUrl: proxy.url,
      parameters: {
        WorkerTimeoutSeconds: String(WORKER_TIMEOUT_SECONDS),
        WorkerMaxEventAgeSeconds: String(MAX_EVENT_AGE_SECONDS),
      },
    });
    const options = clientOptions(aws);
    const lambda = new LambdaClient(options);
    const sqs = new SQSClient(options);
    const dynamodb = new DynamoDBClient(options);
    const watcher = new Watcher(stack.baseUrl);
    const {
      JobsTableName: TableName = '',
      WorkerFunctionName: FunctionName = '',
      FailedEventsQueueUrl: QueueUrl = '',
    } = stack.outputs;
    const failedJobIds: string[] = [];

    return {
      recorder,
      proxy,
      watcher,
      baseUrl: stack.baseUrl,

      /** `POST /jobs` for the job with this name. */
      post: (name: string, plan: Plan = {}, key?: string): Promise<Answer> => {
        plans.set(name, plan);
        return submit(stack.baseUrl, recorder.textOf(name), key === undefined ? {} : { 'Idempotency-Key': key });
      },

      /** Sends an event to the worker, as Lambda or an operator does. */
      deliver: (jobId: string) =>
        lambda.send(new InvokeCommand({ FunctionName, InvocationType: 'Event', Payload: JSON.stringify({ jobId }) })),

      /** How often a worker has tried to claim the job with this name, including the SDK's retries. */
      claimsOf: (name: string): number =>
        proxy.calls.filter(({ caller, text, isClaim }) => caller === 'worker' && isClaim && nameOf(text) === name)
          .length,

      /** Waits until the machine is ready for one more job. */
      waitUntilCalm: async (): Promise<void> => {
        for (let tries = 0; tries < CALM_TRIES; tries += 1) {
          await sleep(START_INTERVAL_MS);
          const started = Date.now();
          await getJob(stack.baseUrl, randomUUID());
          if (Date.now() - started < CALM_MS) return;
        }
      },

      /** The ids of all records in the table for the job with this name. */
      idsOf: async (name: string): Promise<string[]> => {
        const ids: string[] = [];
        for await (const { Items = [] } of paginateScan({ client: dynamodb }, { TableName, ConsistentRead: true })) {
          for (const { jobId, text } of Items) if (nameOf(text?.S ?? '') === name) ids.push(jobId?.S ?? '');
        }
        return ids;
      },

      /** The job ids of all failed events so far. */
      failedEvents: async (): Promise<readonly string[]> => {
        for (;;) {
          const { Messages = [] } = await sqs.send(new ReceiveMessageCommand({ QueueUrl, MaxNumberOfMessages: 10 }));
          if (Messages.length === 0) return failedJobIds;
          for (const { Body = '', ReceiptHandle } of Messages) {
            failedJobIds.push(textAt(JSON.parse(Body), ['requestPayload', 'jobId']) ?? Body);
            await sqs.send(new DeleteMessageCommand({ QueueUrl, ReceiptHandle }));
          }
        }
      },

      close: async () => {
        watcher.stop();
        for (const client of [lambda, sqs, dynamodb]) client.destroy();
        await close();
      },
    };
  } catch (error) {
    await close();
    throw error;
  }
}

type World = Awaited<ReturnType<typeof startWorld>>;

let world: World | undefined;
const { promise: ready, resolve: setReady } = Promise.withResolvers<World>();
const scenarios: Promise<unknown>[] = [];
let lastStart: Promise<World> = ready;
const rows: { fault: string; client: string; operator: string; seconds: number }[] = [];

/** A test that starts once the application is deployed and runs at the same time as all the others. */
function scenario(name: string, run: (world: World) => Promise<void>): void {
  const start = lastStart.then(async (world) => {
    await world.waitUntilCalm();
    return world;
  });
  lastStart = start;
  const result = start.then(run);
  // The rejection is reported by the test below.
  result.catch(() => undefined);
  scenarios.push(result);
  test(name, () => result, TEST_LIMIT_MS);
}

beforeAll(async () => {
  console.info(`FAULTS_SEED=${SEED}`);
  world = await startWorld();
  await runToEnd(world, 'warm-up', {});
  setReady(world);
}, DEPLOY_LIMIT_MS);

afterAll(async () => {
  await world?.close();
  const tableRows = rows.map(
    ({ fault, client, operator, seconds }) => `| ${[fault, client, operator, `${seconds.toFixed(0)} s`].join(' | ')} |`,
  );
  console.info(
    ['| fault | the client sees | the operator sees | within |', '|---|---|---|---|', ...tableRows].join('\n'),
  );
});

const nameOf = (text: string) => text.slice(text.lastIndexOf('/') + 1);

/** Submits a job, which must be accepted, and follows it to its end. */
async function runToEnd(world: World, name: string, plan: Plan, key?: string): Promise<Ending> {
  const response = await world.post(name, plan, key);
  expect(response).toMatchObject({ status: 202 });
  return world.watcher.follow(stringField(response, 'jobId'), LIMIT_MS);
}

function addRow(fault: string, ending: Ending, operator: string): void {
  const end = ending.status === 'DONE' ? 'DONE' : `ERROR: ${errorOf(ending)}`;
  rows.push({ fault, client: `202, then ${end}`, operator, seconds: ending.seconds });
}

const errorOf = ({ body }: Ending) => textAt(body, ['errorMessage']);

/** How often each stage of a job has started. */
const runsOf = ({ recorder }: World, name: string) =>
  ['first', 'second', 'third'].map((stage) => recorder.runsOf(name).filter((run) => run.stage === stage).length);

const FULL_RESULT = { first: { stage: 'first' }, second: { stage: 'second' }, third: { stage: 'third' } };

// ------------------------------------------------------------------------------------------ stages

for (const [index, crashing] of ['first', 'second', 'third'].entries()) {
  scenario(`a job whose worker crashes in its ${crashing} stage runs again and ends as DONE`, async (world) => {
    const name = `crash-in-${crashing}`;
    const ending = await runToEnd(world, name, {
      stage: (stage, count) => (stage === crashing && count === 1 ? 'die' : undefined),
    });
    expect(ending).toMatchObject({ status: 'DONE', body: { result: FULL_RESULT } });
    expect(runsOf(world, name)).toEqual([2, index >= 1 ? 2 : 1, index >= 2 ? 2 : 1]);
    addRow(`the worker crashes in its ${crashing} stage`, ending, 'a worker error');
  });
}

scenario('a job whose worker crashes twice ends as DONE in its third attempt', async (world) => {
  const ending = await runToEnd(world, 'crash-twice', {
    stage: (stage, count) => (stage === 'first' && count <= 2 ? 'die' : undefined),
  });
  expect(ending).toMatchObject({ status: 'DONE', body: { result: FULL_RESULT } });
  expect(runsOf(world, 'crash-twice')).toEqual([3, 1, 1]);
  addRow('the worker crashes twice', ending, '2 worker errors');
});

scenario(
  'a stage that takes too long but obeys its signal ends its job as ERROR, and the process stays alive',
  async (world) => {
    const ending = await runToEnd(world, 'too-long', {
      stage: (stage) => (stage === 'second' ? 'work 60000' : undefined),
    });
    expect(ending).toMatchObject({ status: 'ERROR', body: { errorMessage: "Stage 'second' took too long" } });
    expect(ending.seconds).toBeLessThan(WORKER_TIMEOUT_SECONDS);
    await sleep((RETRY_DELAY_SECONDS + 3) * 1000);
    expect(runsOf(world, 'too-long')).toEqual([1, 1, 0]);
    expect(world.claimsOf('too-long')).toBe(1);
    addRow('a stage takes too long', ending, 'a log line for the stage');
  },
);

for (const action of ['ignore 60000', 'never'] as const) {
  scenario(
    `a stage that ignores its signal ('${action}') ends its job as ERROR, and the process is ended`,
    async (world) => {
      const name = `unstoppable-${action.replace(' ', '-')}`;
      const ending = await runToEnd(world, name, { stage: (stage) => (stage === 'second' ? action : undefined) });
      expect(ending).toMatchObject({ status: 'ERROR', body: { errorMessage: "Stage 'second' took too long" } });
      expect(ending.seconds).toBeLessThan(WORKER_TIMEOUT_SECONDS);
      await sleep((RETRY_DELAY_SECONDS + 3) * 1000);
      // The stage ended with its process. The event was delivered again and found the job ended.
      expect(world.recorder.runsOf(name).filter(({ endedAt }) => endedAt === undefined)).toEqual([]);
      expect(runsOf(world, name)).toEqual([1, 1, 0]);
      expect(world.claimsOf(name)).toBe(2);
      expect((await getJob(world.baseUrl, ending.jobId)).json).toEqual(ending.body);
      addRow(`a stage takes too long and ignores its signal (${action})`, ending, 'a worker error');
    },
  );
}

scenario(
  'a stage that ignores its signal does not run alongside the next attempt, even if the end cannot be written',
  async (world) => {
    const ending = await runToEnd(world, 'unstoppable-and-cut-off', {
      stage: (stage, count) => (stage === 'first' && count === 1 ? 'ignore 60000' : undefined),
      fault: faultAt('refuse', { caller: 'worker', operation: 'UpdateItem' }, [2, 3]),
    });
    expect(ending).toMatchObject({ status: 'DONE', body: { result: FULL_RESULT } });
    expect(runsOf(world, 'unstoppable-and-cut-off')).toEqual([2, 1, 1]);
    const [first, second] = world.recorder.runsOf('unstoppable-and-cut-off');
    expect(first?.endedAt).toBeLessThan(second?.startedAt ?? 0);
    addRow('a stage ignores its signal, and the end cannot be written', ending, 'a worker error');
  },
);

scenario('a stage that times out after a slow claim gets another attempt', async (world) => {
  const ending = await runToEnd(world, 'slow-claim', {
    stage: (stage, count) => (stage === 'first' && count === 1 ? 'work 60000' : undefined),
    fault: faultAt('hang', { caller: 'worker', operation: 'UpdateItem' }, [1]),
  });
  expect(ending).toMatchObject({ status: 'DONE', body: { result: FULL_RESULT } });
  expect(runsOf(world, 'slow-claim')).toEqual([2, 1, 1]);
  addRow('the claim is slow, and a stage then takes too long', ending, 'a worker error');
});

scenario('a StageError ends the job as ERROR with its message, and the stage does not run again', async (world) => {
  const ending = await runToEnd(world, 'throws', { stage: (stage) => (stage === 'third' ? 'throw' : undefined) });
  expect(ending).toMatchObject({ status: 'ERROR', body: { errorMessage: 'Stage third was told to throw' } });
  await sleep(RETRY_DELAY_SECONDS * 1000);
  expect(runsOf(world, 'throws')).toEqual([1, 1, 1]);
  addRow('a stage throws a StageError', ending, 'a log line with the error');
});

scenario('any other error in a stage ends the job as ERROR, and the client does not see its message', async (world) => {
  const ending = await runToEnd(world, 'fails', { stage: (stage) => (stage === 'first' ? 'fail' : undefined) });
  expect(ending).toMatchObject({ status: 'ERROR', body: { errorMessage: "Stage 'first' failed" } });
  addRow('a stage throws any other error', ending, 'a log line with the error and its causes');
});

for (const action of ['odd keys', 'deep'] as const) {
  scenario(`an unusual result (${action}) is returned unchanged`, async (world) => {
    const name = `result-${action.replace(' ', '-')}`;
    const ending = await runToEnd(world, name, { stage: (stage) => (stage === 'first' ? action : undefined) });
    expect(ending.status).toBe('DONE');
    expect((await getJob(world.baseUrl, ending.jobId)).text).toContain(`"result":{"first":${RESULTS[action]},`);
  });
}

scenario('a result that does not fit in an item ends its job as ERROR', async (world) => {
  const ending = await runToEnd(world, 'large', { stage: (stage) => (stage === 'first' ? 'large' : undefined) });
  expect(ending).toMatchObject({
    status: 'ERROR',
    body: { errorMessage: 'The result cannot be stored: it is too large' },
  });
});

scenario('a job whose stage blocks the process until Lambda kills it runs again and ends as DONE', async (world) => {
  const ending = await runToEnd(world, 'blocks-once', {
    stage: (stage, count) => (stage === 'first' && count === 1 ? 'block 60000' : undefined),
  });
  expect(ending).toMatchObject({ status: 'DONE', body: { result: FULL_RESULT } });
  expect(runsOf(world, 'blocks-once')).toEqual([2, 1, 1]);
  addRow('a stage blocks the process until Lambda kills it', ending, 'a worker timeout');
});

for (const action of ['die', 'block 60000'] as const) {
  scenario(
    `a job whose worker fails in every attempt ('${action}') ends as ERROR, and its event is kept`,
    async (world) => {
      const name = `every-attempt-${action.replace(' ', '-')}`;
      const ending = await runToEnd(world, name, { stage: () => action });
      expect(ending).toMatchObject({ status: 'ERROR', body: { errorMessage: ATTEMPTS_USED_UP } });
      expect(await world.failedEvents()).toContain(ending.jobId);

      // Sending the event again does not change the job.
      await world.deliver(ending.jobId);
      await sleep(3000);
      expect(runsOf(world, name)).toEqual([3, 0, 0]);
      expect((await getJob(world.baseUrl, ending.jobId)).json).toEqual(ending.body);
      addRow(`the worker fails in every attempt (${action})`, ending, '3 worker errors, a failed event');
    },
  );
}

// -------------------------------------------------------------------------------------- deliveries

scenario('an event that is delivered twice concurrently, and again after the end, runs its job once', async (world) => {
  const ending = await runToEnd(world, 'twice', {
    stage: () => 'work 700',
    fault: ({ operation }) => (operation === 'Invoke' ? 'twice' : undefined),
  });
  expect(ending).toMatchObject({ status: 'DONE' });
  await world.deliver(ending.jobId);
  // The delivery that found the job held is retried and finds the job ended.
  await sleep((RETRY_DELAY_SECONDS + 3) * 1000);
  expect(runsOf(world, 'twice')).toEqual([1, 1, 1]);
  expect((await getJob(world.baseUrl, ending.jobId)).json).toEqual(ending.body);
  expect(await world.failedEvents()).not.toContain(ending.jobId);
  addRow('an event is delivered twice concurrently, and again after the end', ending, 'refused claims in the log');
});

scenario('a job whose event Lambda gave up on is DONE after an operator sends the event again', async (world) => {
  let isDown = true;
  const started = Date.now();
  const response = await world.post('redriven', {
    fault: ({ caller, operation }) =>
      isDown && caller === 'worker' && operation === 'UpdateItem' ? 'refuse' : undefined,
  });
  const jobId = stringField(response, 'jobId');
  const ended = world.watcher.follow(jobId, LIMIT_MS);
  while (!(await world.failedEvents()).includes(jobId)) {
    if (Date.now() - started > LIMIT_MS) throw new Error(`The event of ${jobId} was not kept`);
    await sleep(1000);
  }
  expect((await getJob(world.baseUrl, jobId)).json).toMatchObject({ status: 'PENDING' });

  isDown = false;
  await world.deliver(jobId);
  const ending = await ended;
  expect(ending).toMatchObject({ status: 'DONE', body: { result: FULL_RESULT } });
  addRow(
    'DynamoDB refuses every claim, and an operator sends the event again later',
    ending,
    '3 worker errors, a failed event',
  );
});

// ---------------------------------------------------------------------------------------- DynamoDB

/** A fault for the requests of this caller and operation that have these numbers. */
const faultAt =
  (fault: Fault, at: Pick<Call, 'caller' | 'operation'>, counts: readonly number[]): NonNullable<Plan['fault']> =>
  ({ caller, operation, count }) =>
    caller === at.caller && operation === at.operation && counts.includes(count) ? fault : undefined;

/** The faults that make a call fail if they happen to the SDK's retry too. */
const FAILING = ['refuse', 'hang', 'lose', 'lose silently'] as const;

scenario('a job ends as DONE although the response to the first try of every call is lost', async (world) => {
  const ending = await runToEnd(world, 'first-tries-lost', {
    fault: ({ caller, operation, count }) =>
      caller === 'getJob' || operation === 'Invoke' || count % 2 === 0 ? undefined : 'lose',
  });
  expect(ending).toMatchObject({ status: 'DONE', body: { result: FULL_RESULT } });
  expect(runsOf(world, 'first-tries-lost')).toEqual([1, 1, 1]);
  addRow('the response to the first try of every call is lost', ending, 'nothing');
});

for (const fault of FAILING) {
  const slug = fault.replace(' ', '-');

  scenario(`a POST without a key whose PutItem fails ('${fault}') returns 500 and leaves no job`, async (world) => {
    const name = `put-${slug}`;
    const started = Date.now();
    const response = await world.post(name, {
      fault: faultAt(fault, { caller: 'createJob', operation: 'PutItem' }, [1, 2]),
    });
    expect(response).toMatchObject({ status: 500, json: { error: 'Internal server error' } });
    expect(await world.idsOf(name)).toEqual([]);
    rows.push({
      fault: `the put of a POST: ${fault}`,
      client: '500, and no job is left',
      operator: 'an error in the log',
      seconds: (Date.now() - started) / 1000,
    });
  });

  scenario(`a job whose claim fails ('${fault}') runs in the next attempt`, async (world) => {
    const name = `claim-${slug}`;
    const ending = await runToEnd(world, name, {
      fault: faultAt(fault, { caller: 'worker', operation: 'UpdateItem' }, [1, 2]),
    });
    expect(ending).toMatchObject({ status: 'DONE', body: { result: FULL_RESULT } });
    expect(ending.seconds).toBeGreaterThan(RETRY_DELAY_SECONDS);
    expect(runsOf(world, name)).toEqual([1, 1, 1]);
    addRow(`the claim: ${fault}`, ending, 'a worker error');
  });

  scenario(`a job whose end cannot be written ('${fault}') still ends as DONE`, async (world) => {
    const name = `end-${slug}`;
    const ending = await runToEnd(world, name, {
      fault: faultAt(fault, { caller: 'worker', operation: 'UpdateItem' }, [2, 3]),
    });
    expect(ending).toMatchObject({ status: 'DONE', body: { result: FULL_RESULT } });
    const isStored = fault.startsWith('lose');
    if (isStored) await sleep((RETRY_DELAY_SECONDS + 3) * 1000);
    expect(runsOf(world, name)).toEqual(isStored ? [1, 1, 1] : [2, 2, 2]);
    addRow(`the end: ${fault}`, ending, 'a worker error');
  });

  scenario(`a GET whose read fails ('${fault}') returns 500, and the next GET returns the job`, async (world) => {
    const name = `get-${slug}`;
    let isDown = false;
    const ending = await runToEnd(world, name, {
      fault: ({ caller }) => (isDown && caller === 'getJob' ? fault : undefined),
    });
    isDown = true;
    const started = Date.now();
    const response = await getJob(world.baseUrl, ending.jobId);
    isDown = false;
    expect(response).toMatchObject({ status: 500, json: { error: 'Internal server error' } });
    expect((await getJob(world.baseUrl, ending.jobId)).json).toEqual(ending.body);
    rows.push({
      fault: `the read of a GET: ${fault}`,
      client: '500; the next GET returns the job',
      operator: 'an error in the log',
      seconds: (Date.now() - started) / 1000,
    });
  });
}

scenario('an end that reaches DynamoDB after the next attempt has started is refused', async (world) => {
  const name = 'late-end';
  const claimedAgain = Promise.withResolvers<void>();
  const ending = await runToEnd(world, name, {
    stage: (stage, count) => (stage === 'first' && count === 2 ? 'work 1000' : undefined),
    fault: ({ caller, operation, count }) => {
      if (caller !== 'worker' || operation !== 'UpdateItem') return undefined;
      if (count === 4) claimedAgain.resolve();
      return count === 2 || count === 3 ? claimedAgain.promise.then(() => sleep(1000)) : undefined;
    },
  });
  expect(ending).toMatchObject({ status: 'DONE', body: { result: FULL_RESULT } });
  expect(ending.seconds).toBeGreaterThan(RETRY_DELAY_SECONDS);
  expect(runsOf(world, name)).toEqual([2, 2, 2]);
  addRow('the end reaches DynamoDB during the next attempt', ending, 'a worker error');
});

// ------------------------------------------------------------------------------------------ Invoke

for (const fault of FAILING) {
  scenario(
    `a POST without a key whose Invoke fails ('${fault}') returns 503 and leaves no job, or returns 202`,
    async (world) => {
      const name = `invoke-${fault.replace(' ', '-')}`;
      const started = Date.now();
      const response = await world.post(name, {
        fault: faultAt(fault, { caller: 'createJob', operation: 'Invoke' }, [1, 2]),
      });
      if (response.status === 202) {
        // Only the response was lost, and a worker claimed the job before it could be deleted.
        expect(fault).toMatch(/^lose/);
        const ending = await world.watcher.follow(stringField(response, 'jobId'), LIMIT_MS);
        expect(ending).toMatchObject({ status: 'DONE' });
        expect(runsOf(world, name)).toEqual([1, 1, 1]);
        addRow(`the Invoke of a POST: ${fault}`, ending, 'nothing');
        return;
      }
      expect(response).toMatchObject({ status: 503, headers: { 'retry-after': '1' } });
      const seconds = (Date.now() - started) / 1000;
      expect(await world.idsOf(name)).toEqual([]);
      await sleep(10_000);
      expect(runsOf(world, name)).toEqual([0, 0, 0]);
      const client = '503, and no job is left';
      rows.push({ fault: `the Invoke of a POST: ${fault}`, client, operator: 'an error in the log', seconds });
    },
  );
}

for (const [operation, status] of [
  ['PutItem', 500],
  ['Invoke', 503],
] as const) {
  scenario(`a POST with a key whose ${operation} fails succeeds when it is repeated`, async (world) => {
    const name = `repeated-${operation}`;
    const plan = { fault: faultAt('lose', { caller: 'createJob', operation }, [1, 2]) };
    const first = await world.post(name, plan, name);
    expect(first).toMatchObject({ status });
    expect(await world.idsOf(name)).toHaveLength(1);
    const ending = await runToEnd(world, name, plan, name);
    expect([ending.jobId]).toEqual(await world.idsOf(name));
    expect(ending).toMatchObject({ status: 'DONE', body: { result: FULL_RESULT } });
    expect(runsOf(world, name)).toEqual([1, 1, 1]);
    rows.push({
      fault: `the ${operation} of a POST with a key fails; the POST is repeated`,
      client: `${status}; then 202, then DONE`,
      operator: 'an error in the log',
      seconds: ending.seconds,
    });
  });
}

// -------------------------------------------------------------------------------- createJob killed

for (const fault of ['kill before', 'kill after'] as const) {
  scenario(
    `a POST with a key whose createJob is killed ('${fault}' its Invoke) succeeds when it is repeated`,
    async (world) => {
      const name = `created-${fault.replace(' ', '-')}`;
      const plan = { fault: faultAt(fault, { caller: 'createJob', operation: 'Invoke' }, [1]) };
      const first = await world.post(name, plan, name);
      expect(first.status).toBeGreaterThanOrEqual(500);
      const ids = await world.idsOf(name);
      expect(ids).toHaveLength(1);

      const ending = await runToEnd(world, name, plan, name);
      expect([ending.jobId]).toEqual(ids);
      expect(ending).toMatchObject({ status: 'DONE', body: { result: FULL_RESULT } });
      expect(runsOf(world, name)).toEqual([1, 1, 1]);
      expect(await world.post(`${name}-other`, {}, name)).toMatchObject({ status: 422 });
      rows.push({
        fault: `createJob: ${fault} its Invoke; the POST is repeated with its key`,
        client: `${first.status}; then 202, then DONE`,
        operator: 'a createJob error',
        seconds: ending.seconds,
      });
    },
  );
}

scenario(
  'a job whose createJob was killed and whose POST is not repeated ends at its deadline without running',
  async (world) => {
    const name = 'created-and-left';
    const response = await world.post(name, {
      fault: (call) => {
        if (call.caller === 'createJob' && call.operation === 'Invoke') return 'kill before';
        // The getJob that ends the job loses the response to its first try.
        return call.caller === 'getJob' && call.operation === 'UpdateItem' ? 'lose' : undefined;
      },
    });
    expect(response.status).toBeGreaterThanOrEqual(500);
    const [jobId = ''] = await world.idsOf(name);
    const ending = await world.watcher.follow(jobId, LIMIT_MS);
    expect(ending).toMatchObject({ status: 'ERROR', body: { errorMessage: PAST_DEADLINE } });
    expect(runsOf(world, name)).toEqual([0, 0, 0]);
    rows.push({
      fault: 'createJob: kill before its Invoke; the POST is not repeated',
      client: `${response.status}; no client knows the id; GET would show PENDING, then ERROR`,
      operator: 'a createJob error',
      seconds: ending.seconds,
    });
  },
);

scenario("a POST that is repeated after its job's deadline returns 202 with status ERROR", async (world) => {
  const name = 'repeated-too-late';
  const plan = { fault: faultAt('kill before', { caller: 'createJob', operation: 'Invoke' }, [1]) };
  const started = Date.now();
  const first = await world.post(name, plan, name);
  expect(first.status).toBeGreaterThanOrEqual(500);
  await sleep((DEADLINE_SECONDS + 1) * 1000);
  const late = await world.post(name, plan, name);
  expect(late).toMatchObject({ status: 202, json: { status: 'ERROR' } });
  expect((await getJob(world.baseUrl, stringField(late, 'jobId'))).json).toMatchObject({
    status: 'ERROR',
    errorMessage: PAST_DEADLINE,
  });
  rows.push({
    fault: 'createJob: kill before its Invoke; the POST is repeated after the deadline',
    client: `${first.status}; then 202 with status ERROR`,
    operator: 'a createJob error',
    seconds: (Date.now() - started) / 1000,
  });
});

// ----------------------------------------------------------------------------------- random faults

/** A pseudo-random number from 0 to 1 that depends only on the seed and the words. */
function chance(...words: readonly (string | number)[]): number {
  let hash = SEED ^ 0x9e3779b9;
  for (const character of words.join(' ')) hash = Math.imul(hash ^ character.charCodeAt(0), 0x01000193);
  hash = Math.imul(hash ^ (hash >>> 15), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return ((hash ^ (hash >>> 16)) >>> 0) / 2 ** 32;
}

const pick = <T>(choices: readonly T[], at: number): T | undefined => choices[Math.floor(at * choices.length)];

const STORM_ACTIONS: readonly StageAction[] = ['die', 'die', 'block 30000', 'ignore 8000', 'work 30000', 'throw'];
const STORM_ODDS = { stage: 0.12, createJob: 0.3, worker: 0.15, getJob: 0.02 };

const stormPlan = (name: string): Plan => ({
  stage: (stage, count) =>
    chance(name, stage, count) < STORM_ODDS.stage ? pick(STORM_ACTIONS, chance(name, stage, count, 'what')) : undefined,
  fault: ({ caller, operation, count }) =>
    chance(name, caller, operation, count) < STORM_ODDS[caller]
      ? pick(FAULTS, chance(name, caller, operation, count, 'what'))
      : undefined,
});

scenario(
  `of ${STORM_JOBS} jobs with random faults, each accepted one ends, and a failed POST leaves none`,
  async (world) => {
    const accepted = new Map<string, Ending>();
    const failed: string[] = [];
    const endings: Promise<void>[] = [];

    /** Half of the clients use a key and repeat a failed POST. The others have no key and give up. */
    const hasKey = (name: string) => chance(name, 'key') < 0.5;
    const submitUntilAccepted = async (name: string) => {
      for (let tries = 0; tries < (hasKey(name) ? 6 : 1); tries += 1) {
        const response = await world.post(name, stormPlan(name), hasKey(name) ? `key-${SEED}-${name}` : undefined);
        if (response.status === 202) {
          const ended = world.watcher.follow(stringField(response, 'jobId'), LIMIT_MS);
          endings.push(ended.then((ending) => void accepted.set(name, ending)));
          return;
        }
        expect(response.status).toBeGreaterThanOrEqual(500);
      }
      failed.push(name);
    };
    const posts: Promise<void>[] = [];
    for (let index = 0; index < STORM_JOBS; index += 1) {
      await world.waitUntilCalm();
      posts.push(submitUntilAccepted(`storm-${index}`));
    }
    await Promise.all(posts);
    const settled = await Promise.allSettled(endings);
    expect(settled.filter(({ status }) => status === 'rejected')).toEqual([]);

    // A failed POST without a key may leave a job only if createJob was killed, if createJob could not
    // delete it, or if the put arrived after the delete.
    const left: string[] = [];
    const excused: string[] = [];
    for (const name of failed.filter((name) => !hasKey(name))) {
      const hasRun = world.recorder.runsOf(name).length > 0;
      if (!hasRun && (await world.idsOf(name)).length === 0) continue;
      const faults = world.proxy.calls.filter(
        ({ caller, text, fault }) => caller === 'createJob' && nameOf(text) === name && fault !== undefined,
      );
      const wasKilled = faults.some(({ fault }) => fault === 'kill before' || fault === 'kill after');
      const wasCutOff = faults.filter(({ operation }) => operation === 'DeleteItem').length >= 2;
      const wasLate = faults.some(({ operation, fault }) => operation === 'PutItem' && fault === 'delay');
      (wasKilled || wasCutOff || wasLate ? excused : left).push(
        `${name}: ${faults.map(({ operation, count, fault }) => `${operation} ${count} ${fault}`).join(', ')}`,
      );
    }
    const calls = world.proxy.calls.filter(
      ({ text, fault }) => nameOf(text).startsWith('storm-') && fault !== undefined,
    );
    const byStatus = Map.groupBy(accepted.values(), ({ status, body }) => textAt(body, ['errorMessage']) ?? status);
    console.info(
      [
        `storm: ${accepted.size} accepted and ended, ${failed.length} failed, ${calls.length} calls broken`,
        ...[...byStatus].map(([end, endings]) => `  ${endings.length} x ${end}`),
        `  slowest ${Math.max(...[...accepted.values()].map(({ seconds }) => seconds)).toFixed(0)} s`,
        ...excused.map((line) => `  left a job, as documented: ${line}`),
      ].join('\n'),
    );
    expect(left).toEqual([]);
    expect(accepted.size).toBeGreaterThan(STORM_JOBS / 2);
  },
);

// ----------------------------------------------------------------------------------- all scenarios

test(
  'no end changed, no status moved backwards, and no two stages of a job ran at the same time',
  async () => {
    const world = await ready;
    await Promise.allSettled(scenarios);
    // Time for every ended job to be read once more.
    await sleep(10_000);
    expect(world.watcher.violations).toEqual([]);
    expect([...world.watcher.rereads].filter(([, rereads]) => rereads === 0)).toEqual([]);
    expect(world.recorder.overlaps).toEqual([]);
  },
  TEST_LIMIT_MS,
);

// The deployed roles are those of the template, because SAM adds no permissions to a function that has a role.
test.each([
  ['createJob', 'CreateJobFunction', 'CreateJobRole'],
  ['worker', 'WorkerFunction', 'WorkerRole'],
  ['getJob', 'GetJobFunction', 'GetJobRole'],
] as const)(
  '%s is allowed exactly the calls that it makes to the table and the worker',
  async (caller, functionName, role) => {
    const world = await ready;
    await Promise.allSettled(scenarios);
    const made = world.proxy.calls
      .filter((call) => call.caller === caller)
      .map(({ operation }) => (operation === 'Invoke' ? 'lambda:InvokeFunction' : `dynamodb:${operation}`));

    const template = readTemplate();
    expect(at(template, 'Resources', functionName, 'Properties', 'Role')).toEqual({ 'Fn::GetAtt': [role, 'Arn'] });
    const policies = JSON.stringify(at(template, 'Resources', role, 'Properties', 'Policies'));
    const ours = /"Action":(\[[^\]]*\]|"[^"]*"),"Resource":\{"Fn::GetAtt":\["(?:JobsTable|WorkerFunction)","Arn"\]\}/g;
    const allowed = [...policies.matchAll(ours)].flatMap(([, actions]) => actions?.match(/\w+:\w+/g) ?? []);

    expect([...new Set(made)].sort()).toEqual(allowed.sort());
  },
  TEST_LIMIT_MS,
);
