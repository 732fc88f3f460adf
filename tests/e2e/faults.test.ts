/**
 * Faults for real: the test's build of the application (testStack.ts) on the local AWS, where
 * stages die, hang and block as they are told, and a proxy breaks the functions' calls to AWS.
 * All scenarios run at once, because most of their time is waiting for Lambda to try again.
 */
import { randomUUID } from 'node:crypto';
import { DynamoDBClient, paginateScan } from '@aws-sdk/client-dynamodb';
import { InvokeCommand, LambdaClient } from '@aws-sdk/client-lambda';
import { DeleteMessageCommand, ReceiveMessageCommand, SQSClient } from '@aws-sdk/client-sqs';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { startLocalAws } from '../../scripts/local/localAws.ts';
import { CLOCK_SKEW_SECONDS } from '../../src/job.ts';
import { at, readTemplate } from '../support/template.ts';
import { type Answer, clientOptions, getJob, sleep, stringField, submit } from './deployment.ts';
import { type Call, FAULTS, type Fault, startFaultProxy, textAt } from './faultProxy.ts';
import { type Ending, Watcher } from './jobWatcher.ts';
import { type StageAction, startStageRecorder } from './stageRecorder.ts';
import { deployTestStack } from './testStack.ts';

/**
 * As on AWS, in other proportions: Lambda's first try after a failure (there 60 s) comes later than
 * the lease of a killed attempt can last (the worker's time-out + 5 s, rounded up).
 */
const WORKER_TIMEOUT_SECONDS = 17;
const RETRY_DELAY_SECONDS = WORKER_TIMEOUT_SECONDS + CLOCK_SKEW_SECONDS + 2;
const MAX_EVENT_AGE_SECONDS = 100;
/** The README's bound: no attempt begins after the deadline, and a lease lasts as long as it does. */
const BOUND_SECONDS = MAX_EVENT_AGE_SECONDS + 2 * WORKER_TIMEOUT_SECONDS + 2 * CLOCK_SKEW_SECONDS;
/** For the watcher to see it. */
const LIMIT_MS = (BOUND_SECONDS + 15) * 1000;
const DEPLOY_LIMIT_MS = 120_000;
const TEST_LIMIT_MS = 2 * LIMIT_MS;

/**
 * Each POST may start two processes, and more at once than the machine can start would time out by
 * themselves. So the next one waits until a GET is answered this quickly, or for so many of them.
 */
const CALM_MS = 300;
const CALM_TRIES = 40;
const START_INTERVAL_MS = 250;
const STORM_JOBS = 100;
const SEED = Number(process.env['FAULTS_SEED'] ?? Date.now() % 1_000_000);

const ATTEMPTS_USED_UP = 'Processing failed: all 3 attempts ended without a result';
const PAST_DEADLINE = 'Processing failed: the job did not finish before its deadline';

/** What goes wrong with a job. What is not said goes well. */
interface Plan {
  readonly stage?: (stage: string, count: number) => StageAction | undefined;
  readonly fault?: (call: Call) => Fault | undefined;
}

/** By job name. */
const plans = new Map<string, Plan>();

async function openWorld() {
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

      /** `POST /jobs` for the job of this name. */
      post: (name: string, plan: Plan = {}, key?: string): Promise<Answer> => {
        plans.set(name, plan);
        return submit(stack.baseUrl, recorder.textOf(name), key === undefined ? {} : { 'Idempotency-Key': key });
      },

      /** Sends the worker's event, like Lambda itself or an operator would. */
      deliver: (jobId: string) =>
        lambda.send(new InvokeCommand({ FunctionName, InvocationType: 'Event', Payload: JSON.stringify({ jobId }) })),

      /** Waits until the machine has time for one more job. */
      calm: async (): Promise<void> => {
        for (let tries = 0; tries < CALM_TRIES; tries += 1) {
          await sleep(START_INTERVAL_MS);
          const started = Date.now();
          await getJob(stack.baseUrl, randomUUID());
          if (Date.now() - started < CALM_MS) return;
        }
      },

      /** The ids of the records that the table has for the job of this name. */
      idsOf: async (name: string): Promise<string[]> => {
        const ids: string[] = [];
        for await (const { Items = [] } of paginateScan({ client: dynamodb }, { TableName, ConsistentRead: true })) {
          for (const { jobId, text } of Items) if (nameOf(text?.S ?? '') === name) ids.push(jobId?.S ?? '');
        }
        return ids;
      },

      /** The ids in the failed events that have arrived by now. */
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

type World = Awaited<ReturnType<typeof openWorld>>;

let world: World | undefined;
const { promise: opened, resolve: open } = Promise.withResolvers<World>();
const scenarios: Promise<unknown>[] = [];
let lastStart: Promise<World> = opened;
const table: { fault: string; client: string; operator: string; seconds: number }[] = [];

/** A test that runs together with all the others, once the application is there. */
function scenario(name: string, run: (world: World) => Promise<void>): void {
  const start = lastStart.then(async (world) => {
    await world.calm();
    return world;
  });
  lastStart = start;
  const result = start.then(run);
  // The test below is the one that fails.
  result.catch(() => undefined);
  scenarios.push(result);
  test(name, () => result, TEST_LIMIT_MS);
}

beforeAll(async () => {
  console.info(`FAULTS_SEED=${SEED}`);
  world = await openWorld();
  await runToEnd(world, 'warm-up', {});
  open(world);
}, DEPLOY_LIMIT_MS);

afterAll(async () => {
  await world?.close();
  const lines = table.map(
    ({ fault, client, operator, seconds }) => `| ${[fault, client, operator, `${seconds.toFixed(0)} s`].join(' | ')} |`,
  );
  console.info(['| fault | the client sees | the operator sees | within |', '|---|---|---|---|', ...lines].join('\n'));
});

const nameOf = (text: string) => text.slice(text.lastIndexOf('/') + 1);

/** Posts a job that is to be accepted, and follows it to its end. */
async function runToEnd(world: World, name: string, plan: Plan, key?: string): Promise<Ending> {
  const answer = await world.post(name, plan, key);
  expect(answer).toMatchObject({ status: 202 });
  return world.watcher.follow(stringField(answer, 'jobId'), LIMIT_MS);
}

function note(fault: string, ending: Ending, operator: string): void {
  const outcome = ending.status === 'DONE' ? 'DONE' : `ERROR: ${errorOf(ending)}`;
  table.push({ fault, client: `202, then ${outcome}`, operator, seconds: ending.seconds });
}

const errorOf = ({ body }: Ending) => textAt(body, ['errorMessage']);

/** How often each stage of a job has begun. */
const runsOf = ({ recorder }: World, name: string) =>
  ['first', 'second', 'third'].map((stage) => recorder.runsOf(name).filter((run) => run.stage === stage).length);

const WHOLE_RESULT = { first: { stage: 'first' }, second: { stage: 'second' }, third: { stage: 'third' } };

// ------------------------------------------------------------------------------------ the stages

for (const [index, victim] of ['first', 'second', 'third'].entries()) {
  scenario(`a job whose worker is killed in its ${victim} stage is run again, and done`, async (world) => {
    const name = `killed-in-${victim}`;
    const ending = await runToEnd(world, name, {
      stage: (stage, count) => (stage === victim && count === 1 ? 'die' : undefined),
    });
    expect(ending).toMatchObject({ status: 'DONE', body: { result: WHOLE_RESULT } });
    expect(runsOf(world, name)).toEqual([2, index >= 1 ? 2 : 1, index >= 2 ? 2 : 1]);
    note(`worker killed in the ${victim} stage`, ending, 'an error of the worker');
  });
}

for (const action of ['work 60000', 'ignore 30000'] as const) {
  scenario(`a stage that is told '${action}' and outlives the worker ends its job as ERROR, at once`, async (world) => {
    const name = `too-long-${action.replace(' ', '-')}`;
    const ending = await runToEnd(world, name, { stage: (stage) => (stage === 'second' ? action : undefined) });
    expect(ending).toMatchObject({ status: 'ERROR', body: { errorMessage: "Stage 'second' took too long" } });
    expect(ending.seconds).toBeLessThan(WORKER_TIMEOUT_SECONDS);
    expect(runsOf(world, name)).toEqual([1, 1, 0]);
    note(`stage outlives the worker (${action})`, ending, 'a log line of the stage');
  });
}

scenario('a stage that throws ends its job as ERROR with its message, and is not run again', async (world) => {
  const ending = await runToEnd(world, 'throws', { stage: (stage) => (stage === 'third' ? 'throw' : undefined) });
  expect(ending).toMatchObject({ status: 'ERROR', body: { errorMessage: 'Stage third was told to throw' } });
  await sleep(RETRY_DELAY_SECONDS * 1000);
  expect(runsOf(world, 'throws')).toEqual([1, 1, 1]);
  note('stage throws', ending, 'a log line of the stage');
});

scenario('a job whose stage blocks its process until Lambda kills it is run again, and done', async (world) => {
  const ending = await runToEnd(world, 'blocks-once', {
    stage: (stage, count) => (stage === 'first' && count === 1 ? 'block 60000' : undefined),
  });
  expect(ending).toMatchObject({ status: 'DONE', body: { result: WHOLE_RESULT } });
  expect(runsOf(world, 'blocks-once')).toEqual([2, 1, 1]);
  note('stage blocks the process, Lambda kills it', ending, 'a time-out of the worker');
});

for (const action of ['die', 'block 60000'] as const) {
  scenario(
    `a job whose worker is lost to '${action}' at every attempt ends as ERROR, and its event is kept`,
    async (world) => {
      const name = `every-attempt-${action.replace(' ', '-')}`;
      const ending = await runToEnd(world, name, { stage: () => action });
      expect(ending).toMatchObject({ status: 'ERROR', body: { errorMessage: ATTEMPTS_USED_UP } });
      expect(await world.failedEvents()).toContain(ending.jobId);

      // An operator who sends it again changes nothing.
      await world.deliver(ending.jobId);
      await sleep(3000);
      expect(runsOf(world, name)).toEqual([3, 0, 0]);
      expect((await getJob(world.baseUrl, ending.jobId)).json).toEqual(ending.body);
      note(`worker lost at every attempt (${action})`, ending, '3 errors of the worker, a failed event');
    },
  );
}

// ---------------------------------------------------------------------------------- the delivery

scenario('an event that is delivered twice at once, and again after DONE, runs its job once', async (world) => {
  const ending = await runToEnd(world, 'twice', {
    stage: () => 'work 700',
    fault: ({ operation }) => (operation === 'Invoke' ? 'twice' : undefined),
  });
  expect(ending).toMatchObject({ status: 'DONE' });
  await world.deliver(ending.jobId);
  // The delivery that found the job held comes back, and sees it ended.
  await sleep((RETRY_DELAY_SECONDS + 3) * 1000);
  expect(runsOf(world, 'twice')).toEqual([1, 1, 1]);
  expect((await getJob(world.baseUrl, ending.jobId)).json).toEqual(ending.body);
  expect(await world.failedEvents()).not.toContain(ending.jobId);
  note('event delivered twice at once, and again after DONE', ending, 'a refused claim in the log');
});

scenario('an event that was given up on, and is sent again once the cause is gone, finishes its job', async (world) => {
  let isDown = true;
  const started = Date.now();
  const answer = await world.post('redriven', {
    fault: ({ caller, operation }) =>
      isDown && caller === 'worker' && operation === 'UpdateItem' ? 'refuse' : undefined,
  });
  const jobId = stringField(answer, 'jobId');
  const ended = world.watcher.follow(jobId, LIMIT_MS);
  while (!(await world.failedEvents()).includes(jobId)) {
    if (Date.now() - started > LIMIT_MS) throw new Error(`The event of ${jobId} was not kept`);
    await sleep(1000);
  }
  expect((await getJob(world.baseUrl, jobId)).json).toMatchObject({ status: 'PENDING' });

  isDown = false;
  await world.deliver(jobId);
  const ending = await ended;
  expect(ending).toMatchObject({ status: 'DONE', body: { result: WHOLE_RESULT } });
  note(
    'DynamoDB refuses every claim; the event is sent again after that',
    ending,
    '3 errors of the worker, a failed event',
  );
});

// -------------------------------------------------------------------------------------- DynamoDB

/** A fault of these requests of one kind, by their number. */
const faultAt =
  (fault: Fault, at: Pick<Call, 'caller' | 'operation'>, counts: readonly number[]): NonNullable<Plan['fault']> =>
  ({ caller, operation, count }) =>
    caller === at.caller && operation === at.operation && counts.includes(count) ? fault : undefined;

/** With the SDK's own second try, each of these is one call that fails. */
const BROKEN = ['refuse', 'hang', 'lose', 'lose silently'] as const;

scenario('a first try that is lost after it was done, at every call to AWS, is healed by the second', async (world) => {
  const ending = await runToEnd(world, 'first-tries-lost', {
    fault: ({ caller, operation, count }) =>
      caller === 'getJob' || operation === 'Invoke' || count % 2 === 0 ? undefined : 'lose',
  });
  expect(ending).toMatchObject({ status: 'DONE', body: { result: WHOLE_RESULT } });
  expect(runsOf(world, 'first-tries-lost')).toEqual([1, 1, 1]);
  note('the answer to each first try is lost', ending, 'nothing');
});

for (const fault of BROKEN) {
  const slug = fault.replace(' ', '-');

  scenario(`a POST whose PutItem meets '${fault}' answers 500, and leaves no job`, async (world) => {
    const name = `put-${slug}`;
    const started = Date.now();
    const answer = await world.post(name, {
      fault: faultAt(fault, { caller: 'createJob', operation: 'PutItem' }, [1, 2]),
    });
    expect(answer).toMatchObject({ status: 500, json: { error: 'Internal server error' } });
    expect(await world.idsOf(name)).toEqual([]);
    table.push({
      fault: `PutItem: ${fault}`,
      client: '500',
      operator: 'an error in the log',
      seconds: (Date.now() - started) / 1000,
    });
  });

  scenario(`a job whose claim meets '${fault}' is run by the next attempt`, async (world) => {
    const name = `claim-${slug}`;
    const ending = await runToEnd(world, name, {
      fault: faultAt(fault, { caller: 'worker', operation: 'UpdateItem' }, [1, 2]),
    });
    expect(ending).toMatchObject({ status: 'DONE', body: { result: WHOLE_RESULT } });
    expect(ending.seconds).toBeGreaterThan(RETRY_DELAY_SECONDS);
    expect(runsOf(world, name)).toEqual([1, 1, 1]);
    note(`claim: ${fault}`, ending, 'an error of the worker');
  });

  scenario(`a job whose end meets '${fault}' has one end`, async (world) => {
    const name = `end-${slug}`;
    const ending = await runToEnd(world, name, {
      fault: faultAt(fault, { caller: 'worker', operation: 'UpdateItem' }, [2, 3]),
    });
    expect(ending).toMatchObject({ status: 'DONE', body: { result: WHOLE_RESULT } });
    const isStored = fault.startsWith('lose');
    if (isStored) await sleep((RETRY_DELAY_SECONDS + 3) * 1000);
    expect(runsOf(world, name)).toEqual(isStored ? [1, 1, 1] : [2, 2, 2]);
    note(`end: ${fault}`, ending, 'an error of the worker');
  });

  scenario(`a GET that meets '${fault}' answers 500, and the next one is right`, async (world) => {
    const name = `get-${slug}`;
    let isDown = false;
    const ending = await runToEnd(world, name, {
      fault: ({ caller }) => (isDown && caller === 'getJob' ? fault : undefined),
    });
    isDown = true;
    const started = Date.now();
    const answer = await getJob(world.baseUrl, ending.jobId);
    isDown = false;
    expect(answer).toMatchObject({ status: 500, json: { error: 'Internal server error' } });
    expect((await getJob(world.baseUrl, ending.jobId)).json).toEqual(ending.body);
    table.push({
      fault: `GetItem of a GET: ${fault}`,
      client: '500; the next GET is right',
      operator: 'an error in the log',
      seconds: (Date.now() - started) / 1000,
    });
  });
}

scenario('an end that reaches DynamoDB after its lease was given back is refused', async (world) => {
  const name = 'late-end';
  const released = Promise.withResolvers<void>();
  const ending = await runToEnd(world, name, {
    fault: ({ caller, operation, count }) => {
      if (caller !== 'worker' || operation !== 'UpdateItem') return undefined;
      if (count === 4) released.resolve();
      return count === 2 || count === 3 ? released.promise.then(() => sleep(1000)) : undefined;
    },
  });
  expect(ending).toMatchObject({ status: 'DONE', body: { result: WHOLE_RESULT } });
  expect(ending.seconds).toBeGreaterThan(RETRY_DELAY_SECONDS);
  expect(runsOf(world, name)).toEqual([2, 2, 2]);
  note('end: reaches DynamoDB after the worker has given up', ending, 'an error of the worker');
});

// ------------------------------------------------------------------------------------ the Invoke

for (const fault of BROKEN) {
  scenario(
    `a POST whose Invoke meets '${fault}' answers 503 and leaves no job, or 202 and the job ends`,
    async (world) => {
      const name = `invoke-${fault.replace(' ', '-')}`;
      const started = Date.now();
      const answer = await world.post(name, {
        fault: faultAt(fault, { caller: 'createJob', operation: 'Invoke' }, [1, 2]),
      });
      if (answer.status === 202) {
        // Only the answer was lost, and a worker was quicker than the withdrawal.
        expect(fault).toMatch(/^lose/);
        const ending = await world.watcher.follow(stringField(answer, 'jobId'), LIMIT_MS);
        expect(ending).toMatchObject({ status: 'DONE' });
        expect(runsOf(world, name)).toEqual([1, 1, 1]);
        note(`Invoke: ${fault}`, ending, 'nothing');
        return;
      }
      expect(answer).toMatchObject({ status: 503, headers: { 'retry-after': '1' } });
      const seconds = (Date.now() - started) / 1000;
      expect(await world.idsOf(name)).toEqual([]);
      await sleep(10_000);
      expect(runsOf(world, name)).toEqual([0, 0, 0]);
      table.push({ fault: `Invoke: ${fault}`, client: '503', operator: 'an error in the log', seconds });
    },
  );
}

// -------------------------------------------------------------------------- createJob dies itself

for (const fault of ['kill before', 'kill after'] as const) {
  scenario(
    `a POST whose createJob dies by '${fault}' of its Invoke is healed by the same idempotency key`,
    async (world) => {
      const name = `created-${fault.replace(' ', '-')}`;
      const plan = { fault: faultAt(fault, { caller: 'createJob', operation: 'Invoke' }, [1]) };
      const first = await world.post(name, plan, name);
      expect(first.status).toBeGreaterThanOrEqual(500);
      const ids = await world.idsOf(name);
      expect(ids).toHaveLength(1);

      const ending = await runToEnd(world, name, plan, name);
      expect([ending.jobId]).toEqual(ids);
      expect(ending).toMatchObject({ status: 'DONE', body: { result: WHOLE_RESULT } });
      expect(runsOf(world, name)).toEqual([1, 1, 1]);
      expect(await world.post(`${name}-other`, {}, name)).toMatchObject({ status: 422 });
      table.push({
        fault: `createJob: ${fault} its Invoke; the POST is repeated with its key`,
        client: `${first.status}; then 202, then DONE`,
        operator: 'an error of createJob',
        seconds: ending.seconds,
      });
    },
  );
}

scenario(
  'a job whose createJob died before its Invoke, and that nobody repeats, never runs, and ends at its deadline',
  async (world) => {
    const name = 'created-and-left';
    const answer = await world.post(name, {
      fault: (call) => {
        if (call.caller === 'createJob' && call.operation === 'Invoke') return 'kill before';
        // The reader that ends the job does not hear that it did.
        return call.caller === 'getJob' && call.operation === 'UpdateItem' ? 'lose' : undefined;
      },
    });
    expect(answer.status).toBeGreaterThanOrEqual(500);
    const [jobId = ''] = await world.idsOf(name);
    const ending = await world.watcher.follow(jobId, LIMIT_MS);
    expect(ending).toMatchObject({ status: 'ERROR', body: { errorMessage: PAST_DEADLINE } });
    expect(runsOf(world, name)).toEqual([0, 0, 0]);
    table.push({
      fault: 'createJob: kill before its Invoke; the POST is not repeated',
      client: `${answer.status}; the id, which nobody was told, shows PENDING, then ERROR`,
      operator: 'an error of createJob',
      seconds: ending.seconds,
    });
  },
);

scenario(
  'a 202 holds where three POSTs with one key meet, and the two that made the job withdraw it',
  async (world) => {
    const name = 'three-posts';
    const happened = new Map<string, PromiseWithResolvers<void>>();
    const event = (what: string) => {
      const known = happened.get(what) ?? Promise.withResolvers<void>();
      happened.set(what, known);
      return known;
    };
    const broken = (cause: Promise<void>) => cause.then(() => Promise.reject(new Error('The connection broke')));
    const plan: Plan = {
      fault: ({ caller, operation, count }) => {
        if (caller !== 'createJob') return undefined;
        event(`${operation} ${count}`).resolve();
        switch (`${operation} ${count}`) {
          // The first POST can't start the worker, and withdraws the job once the second has met it.
          case 'Invoke 1':
            return broken(event('UpdateItem 1').promise);
          // The second POST's acceptance comes too late, and its read when the third has put the job again.
          case 'UpdateItem 1':
            return event('first answer').promise;
          case 'GetItem 1':
            return event('Invoke 3').promise;
          // The third POST can't start the worker either, and withdraws the job once the second has its answer.
          case 'Invoke 3':
            return broken(event('second answer').promise);
          case 'Invoke 2':
          case 'Invoke 4':
            return 'refuse';
          default:
            return undefined;
        }
      },
    };
    const postAs = async (which: string) => {
      const answer = await world.post(name, plan, name);
      event(`${which} answer`).resolve();
      return answer;
    };
    const first = postAs('first');
    await Promise.race([event('PutItem 1').promise, first]);
    const second = postAs('second');
    await Promise.race([event('GetItem 1').promise, second]);
    const third = postAs('third');

    const answers = await Promise.all([first, second, third]);
    const accepted = answers.filter(({ status }) => status === 202);
    for (const answer of accepted) await world.watcher.follow(stringField(answer, 'jobId'), LIMIT_MS);
    if (accepted.length === 0) expect(await world.idsOf(name)).toEqual([]);
    for (const answer of answers) expect([202, 503]).toContain(answer.status);
  },
);

// ------------------------------------------------------------------------------ all of it at once

/** A number from 0 to 1 that the seed and the words decide, whatever the order of things. */
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
  `${STORM_JOBS} jobs under all of these faults at once: each 202 ends, and what was not accepted is not there`,
  async (world) => {
    const accepted = new Map<string, Ending>();
    const refused: string[] = [];
    const endings: Promise<void>[] = [];

    const postOne = async (name: string) => {
      // Half of the clients repeat with a key what was not accepted; the others give up.
      const isPatient = chance(name, 'patient') < 0.5;
      for (let tries = 0; tries < (isPatient ? 6 : 1); tries += 1) {
        const answer = await world.post(name, stormPlan(name), isPatient ? `key-${SEED}-${name}` : undefined);
        if (answer.status === 202) {
          const ended = world.watcher.follow(stringField(answer, 'jobId'), LIMIT_MS);
          endings.push(ended.then((ending) => void accepted.set(name, ending)));
          return;
        }
        expect(answer.status).toBeGreaterThanOrEqual(500);
      }
      refused.push(name);
    };
    const posts: Promise<void>[] = [];
    for (let index = 0; index < STORM_JOBS; index += 1) {
      await world.calm();
      posts.push(postOne(`storm-${index}`));
    }
    await Promise.all(posts);
    const outcomes = await Promise.allSettled(endings);
    expect(outcomes.filter(({ status }) => status === 'rejected')).toEqual([]);

    // What is left of the refused ones, other than by these exceptions: createJob died, or could not
    // reach the table to take the job back; or its PutItem was done after it had given up, and then
    // the job never runs.
    const left: string[] = [];
    const excused: string[] = [];
    for (const name of refused) {
      const hasRun = world.recorder.runsOf(name).length > 0;
      if (!hasRun && (await world.idsOf(name)).length === 0) continue;
      const faults = world.proxy.calls.filter(
        ({ caller, text, fault }) => caller === 'createJob' && nameOf(text) === name && fault !== undefined,
      );
      const wasKilled = faults.some(({ fault }) => fault === 'kill before' || fault === 'kill after');
      const wasCutOff =
        faults.filter(({ operation }) => operation === 'UpdateItem' || operation === 'DeleteItem').length >= 2;
      const wasLate = faults.some(({ operation, fault }) => operation === 'PutItem' && fault === 'delay');
      (wasKilled || wasCutOff || (wasLate && !hasRun) ? excused : left).push(
        `${name}: ${faults.map(({ operation, count, fault }) => `${operation} ${count} ${fault}`).join(', ')}`,
      );
    }
    const calls = world.proxy.calls.filter(
      ({ text, fault }) => nameOf(text).startsWith('storm-') && fault !== undefined,
    );
    const byStatus = Map.groupBy(accepted.values(), ({ status, body }) => textAt(body, ['errorMessage']) ?? status);
    console.info(
      [
        `storm: ${accepted.size} accepted and ended, ${refused.length} refused, ${calls.length} calls broken`,
        ...[...byStatus].map(([outcome, of]) => `  ${of.length} x ${outcome}`),
        `  slowest ${Math.max(...[...accepted.values()].map(({ seconds }) => seconds)).toFixed(0)} s`,
        ...excused.map((line) => `  left behind, as is allowed: ${line}`),
      ].join('\n'),
    );
    expect(left).toEqual([]);
    expect(accepted.size).toBeGreaterThan(STORM_JOBS / 2);
  },
);

// ---------------------------------------------------------------------------------- in all of this

test(
  'no end changed, no status went back, and no stage of a job ran while another one did',
  async () => {
    const world = await opened;
    await Promise.allSettled(scenarios);
    // Every job that has ended is read once more.
    await sleep(10_000);
    expect(world.watcher.violations).toEqual([]);
    expect([...world.watcher.rereads].filter(([, rereads]) => rereads === 0)).toEqual([]);
    expect(world.recorder.overlaps).toEqual([]);
  },
  TEST_LIMIT_MS,
);

// The roles stand in the template as they are deployed: SAM adds nothing to a function that has one.
test.each([
  ['createJob', 'CreateJobFunction', 'CreateJobRole'],
  ['worker', 'WorkerFunction', 'WorkerRole'],
  ['getJob', 'GetJobFunction', 'GetJobRole'],
] as const)(
  '%s is allowed the calls that it makes, and no other',
  async (caller, functionName, role) => {
    const world = await opened;
    await Promise.allSettled(scenarios);
    const made = world.proxy.calls
      .filter((call) => call.caller === caller)
      .map(({ operation }) => (operation === 'Invoke' ? 'lambda:InvokeFunction' : `dynamodb:${operation}`));

    const template = readTemplate();
    expect(at(template, 'Resources', functionName, 'Properties', 'Role')).toEqual({ 'Fn::GetAtt': [role, 'Arn'] });
    const policies = JSON.stringify(at(template, 'Resources', role, 'Properties', 'Policies'));
    const allowed = [...policies.matchAll(/"((?:dynamodb|lambda):[^"]+)"/g)].map(([, action]) => action);

    expect([...new Set(made)].sort()).toEqual(allowed.sort());
  },
  TEST_LIMIT_MS,
);
