/**
 * Injected faults. The application runs on the AWS emulator with test stages (testStack.ts) that crash, hang and
 * block on command, and a proxy breaks and delays the functions' calls to AWS. All scenarios run at the same time,
 * because they spend most of their time waiting for Lambda's retries.
 *
 * A scenario checks what happened to its own job: its deliveries, its stages' runs, its record. On a busy machine
 * a call can take longer than the SDK waits, and a job then rightly takes another attempt. `checkCourse` accepts
 * that only if the proxy or the log shows it.
 */
import { afterAll, beforeAll, expect, jest, test } from '@jest/globals';
import { MAX_OVERHEAD_MS, RESERVE_MS } from '../../src/attempt.ts';
import { MAX_ATTEMPTS } from '../../src/job.ts';
import { at, readTemplate } from '../support/template.ts';
import { AWS_FAILED, getJob, requestOnce, sleep, stringField } from './deployment.ts';
import { FAULTS, textAt } from './faultProxy.ts';
import {
  BOUND_SECONDS,
  callFails,
  DEADLINE_SECONDS,
  eventually,
  LIMIT_MS,
  type Plan,
  RETRY_DELAY_SECONDS,
  stageActs,
  startWorld,
  type World,
} from './faultWorld.ts';
import { RESULTS } from './faultyStages.ts';
import type { Ending } from './jobWatcher.ts';
import type { StageAction } from './stageRecorder.ts';

jest.setTimeout(2 * LIMIT_MS);

const STORM_JOBS = 100;
const SEED = Number(process.env['FAULTS_SEED'] ?? Date.now() % 1_000_000);

const ATTEMPTS_USED_UP = 'Processing failed: all 3 attempts ended without a result';
const PAST_DEADLINE = 'Processing failed: the job did not finish before its deadline';
const FULL_RESULT = { first: { stage: 'first' }, second: { stage: 'second' }, third: { stage: 'third' } };

/** A row of the table in docs/design.md. */
interface Row {
  readonly fault: string;
  readonly client: string;
  readonly operator: string;
  readonly seconds: number;
}

let world: World;
const closers: (() => unknown)[] = [];
const { promise: ready, resolve: setReady } = Promise.withResolvers<void>();
const scenarios: Promise<Row | undefined>[] = [];
const ended: { readonly name: string; readonly ending: Ending; readonly seenAt: number }[] = [];
const plannedDeliveries = new Map<string, number>();
/** The jobs that took another course, and what was slow. */
const slowJobs = new Map<string, readonly string[]>();

/** A test that starts once the application is deployed and runs at the same time as all the others. */
function scenario(name: string, run: () => Promise<Row | undefined>): void {
  const result = ready.then(run);
  // The rejection is reported by the test below.
  result.catch(() => undefined);
  scenarios.push(result);
  test(name, async () => void (await result));
}

beforeAll(async () => {
  console.info(`FAULTS_SEED=${SEED}`);
  world = await startWorld(closers);
  await runToEnd('warm-up');
  setReady();
});

afterAll(async () => {
  for (const close of closers) await close();
  const rows = [['fault', 'the client sees', 'the operator sees', 'within']];
  for (const result of await Promise.allSettled(scenarios)) {
    if (result.status === 'rejected' || result.value === undefined) continue;
    const { fault, client, operator, seconds } = result.value;
    rows.push([fault, client, operator, `${Math.ceil(seconds)} s`]);
  }
  const widths = [0, 1, 2, 3].map((column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
  rows.splice(
    1,
    0,
    widths.map((width) => '-'.repeat(width)),
  );
  const lines = rows.map((row) => `| ${row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join(' | ')} |`);
  const others = [...slowJobs].map(([name, causes]) => `${name} took another course: ${causes.join('; ')}`);
  console.info([...lines, ...others].join('\n'));
});

/**
 * Submits a job with a key, repeats the POST if AWS was too slow for it, and follows the job until it ends. A test
 * below checks that no POST failed for another reason.
 */
async function runToEnd(name: string, plan: Plan = {}): Promise<Ending> {
  let response = await world.post(name, plan, name);
  for (let tries = 1; tries < 5 && response.status >= 500; tries += 1) {
    response = await world.post(name, plan, name);
  }
  expect(response).toMatchObject({ status: 202 });
  return follow(name, stringField(response, 'jobId'));
}

async function follow(name: string, jobId: string): Promise<Ending> {
  const ending = await world.watcher.follow(jobId, LIMIT_MS);
  ended.push({ name, ending, seenAt: Date.now() });
  return ending;
}

const errorOf = ({ body }: Ending) => textAt(body, ['errorMessage']);

/** How often each stage of a job has started. */
const runsOf = (name: string) =>
  Object.keys(FULL_RESULT).map((stage) => world.recorder.runsOf(name).filter((run) => run.stage === stage).length);

/** What happens to a job if nothing is slow but what its plan delays. */
interface Course {
  /** The message, if the job ends as ERROR. */
  readonly error?: string;
  /** If the job ends as DONE. Default: the results of all stages. */
  readonly result?: object;
  /** How often each stage starts. Default: once. */
  readonly runs?: readonly number[];
  /** How many attempts leave the stages too little time. Default: none. */
  readonly cutShort?: number;
}

/**
 * Checks that a job took its planned course. Returns false if AWS was too slow for that. Then the job must have
 * ended as planned in a later attempt, or because its attempts or its time were used up.
 */
async function checkCourse(name: string, ending: Ending, course: Course = {}): Promise<boolean> {
  const { error, result = FULL_RESULT, runs = [1, 1, 1], cutShort = 0 } = course;
  const planned = error === undefined ? { status: 'DONE', result } : { status: 'ERROR', errorMessage: error };
  const slowness = await world.slownessOf(name);
  if ((await world.attemptsCutShort(ending.jobId)) > cutShort) slowness.push('too little time for the stages');
  const isPastDeadline = errorOf(ending) === PAST_DEADLINE;
  if (isPastDeadline && world.wasDeliveredLate(name)) slowness.push('a delivery came too late');
  if (slowness.length === 0) {
    expect(ending.body).toMatchObject(planned);
    expect(runsOf(name)).toEqual(runs);
    return true;
  }
  slowJobs.set(name, slowness);
  // The last attempt ends the job even if its stages had too little time.
  const isCutShort = errorOf(ending) !== error && errorOf(ending)?.endsWith('took too long') === true;
  if (errorOf(ending) === ATTEMPTS_USED_UP || isCutShort) {
    expect(await world.recordsOf(name)).toMatchObject([{ attempt: MAX_ATTEMPTS }]);
  } else if (!isPastDeadline) {
    expect(ending.body).toMatchObject(planned);
    for (const [stage, count] of runsOf(name).entries()) expect(count).toBeGreaterThanOrEqual(runs[stage] ?? 0);
  }
  return false;
}

function rowOf(name: string, [fault, operator]: readonly [string, string], ending: Ending): Row {
  const claims = world.callsOf(name).filter(({ operation, status }) => operation === 'claim' && status === 200);
  const delivery = ['', ' in the second delivery', ' in the third delivery'][(claims.at(-1)?.number ?? 1) - 1] ?? '';
  const end = ending.status === 'DONE' ? `DONE${delivery}` : `ERROR \`${errorOf(ending)}\``;
  return { fault, client: `202, then ${end}`, operator, seconds: ending.seconds };
}

/** A job that is accepted and ends. */
interface JobScenario extends Course {
  readonly plan: Plan;
  /** How often Lambda delivers the event, including deliveries that find the job ended, if only the plan decides that. */
  readonly deliveries?: number;
  /** The table's row: the fault, and what the operator sees. */
  readonly row: readonly [string, string];
  /** Checks more, if the job took its planned course. */
  readonly check?: (job: string, ending: Ending) => Promise<void>;
}

function jobScenario(test: string, { plan, deliveries, row, check, ...course }: JobScenario): void {
  const job = row[0].replace(/\W+/g, '-');
  scenario(test, async () => {
    const ending = await runToEnd(job, plan);

    if (!(await checkCourse(job, ending, course))) return undefined;
    await check?.(job, ending);
    if (deliveries !== undefined) plannedDeliveries.set(job, deliveries);
    return rowOf(job, row, ending);
  });
}

// -------------------------------------------------------------------------------- createJob killed
// First, because two of these take the longest.

scenario(
  'a job whose createJob was killed and whose POST is not repeated ends at its deadline without running',
  async () => {
    const name = 'created-and-left';

    const { status } = await world.post(name, {
      fault: ({ caller, operation }) => {
        if (operation === 'Invoke') return 'kill before';
        // The getJob that ends the job gets no response.
        return caller === 'getJob' && operation === 'lapse' ? 'lose' : undefined;
      },
    });
    const [{ jobId = '' } = {}] = await world.recordsOf(name);
    const ending = await follow(name, jobId);

    expect(status).toBeGreaterThanOrEqual(500);
    expect(errorOf(ending)).toBe(PAST_DEADLINE);
    expect(runsOf(name)).toEqual([0, 0, 0]);
    return {
      fault: 'createJob is killed before its Invoke; the POST is not repeated',
      client: `${status}; the job ends as ERROR at its deadline, but no client knows its id`,
      operator: 'a createJob error',
      seconds: ending.seconds,
    };
  },
);

scenario("a POST that is repeated after its job's deadline returns 202 with status ERROR", async () => {
  const name = 'repeated-too-late';
  const plan = callFails('Invoke', 'kill before');

  const first = await world.post(name, plan, name);
  await sleep((DEADLINE_SECONDS + 1) * 1000);
  const late = await world.post(name, plan, name);
  const job = await getJob(world.baseUrl, stringField(late, 'jobId'));

  expect(first.status).toBeGreaterThanOrEqual(500);
  expect(late).toMatchObject({ status: 202, json: { status: 'ERROR' } });
  expect(job.json).toMatchObject({ status: 'ERROR', errorMessage: PAST_DEADLINE });
  return {
    fault: 'createJob is killed before its Invoke; the POST is repeated after the deadline',
    client: `${first.status}; then 202 with status ERROR`,
    operator: 'a createJob error',
    seconds: first.seconds + DEADLINE_SECONDS + 1 + late.seconds,
  };
});

for (const [operation, fault, what, operator] of [
  ['Invoke', 'kill before', 'createJob is killed before its Invoke', 'a createJob error'],
  ['Invoke', 'kill after', 'createJob is killed after its Invoke', 'a createJob error'],
  ['PutItem', 'lose', 'the put of a POST with a key: lose', 'an error in the log'],
  ['Invoke', 'lose', 'the Invoke of a POST with a key: lose', 'an error in the log'],
] as const) {
  scenario(`a POST with a key that fails succeeds when it is repeated (${what})`, async () => {
    const name = `repeated-${operation}-${fault.replace(' ', '-')}`;
    const plan = callFails(operation, fault);

    const first = await world.post(name, plan, name);
    const left = await world.recordsOf(name);
    const ending = await runToEnd(name, plan);
    const otherText = await world.post(`${name}-other`, {}, name);

    expect(first.status).toBeGreaterThanOrEqual(500);
    expect(left).toMatchObject([{ jobId: ending.jobId }]);
    expect(await world.recordsOf(name)).toHaveLength(1);
    expect(otherText.status).toBe(422);
    if (!(await checkCourse(name, ending))) return undefined;
    const client = `${first.status}; then 202, then DONE`;
    return { fault: `${what}; the POST is repeated`, client, operator, seconds: ending.seconds };
  });
}

// ------------------------------------------------------------------------------------------ stages

for (const [stage, ...runs] of [
  ['first', 2, 1, 1],
  ['second', 2, 2, 1],
  ['third', 2, 2, 2],
] as const) {
  jobScenario(`a job whose worker crashes in its ${stage} stage runs again and ends as DONE`, {
    plan: stageActs(stage, 'die', 1),
    runs,
    deliveries: 2,
    row: [`the worker crashes in its ${stage} stage`, 'a worker error'],
  });
}

jobScenario('a job whose worker crashes twice ends as DONE in its third attempt', {
  plan: stageActs('first', 'die', 2),
  runs: [3, 1, 1],
  deliveries: 3,
  row: ['the worker crashes twice', '2 worker errors'],
});

jobScenario('a job whose stage blocks the process until Lambda kills it runs again and ends as DONE', {
  plan: stageActs('first', 'block 60000', 1),
  runs: [2, 1, 1],
  deliveries: 2,
  row: ['a stage blocks the process until Lambda kills it', 'a worker timeout'],
});

for (const [action, ...row] of [
  ['die', 'the worker crashes in every attempt', '3 worker errors, a failed event'],
  ['block 60000', 'a stage blocks the process in every attempt', '3 worker timeouts, a failed event'],
] as const) {
  jobScenario(`a job whose worker fails in every attempt ('${action}') ends as ERROR, and its event is kept`, {
    plan: stageActs('first', action),
    error: ATTEMPTS_USED_UP,
    runs: [3, 0, 0],
    deliveries: 4,
    row,
    check: async (job, { jobId }) => {
      expect(await eventually(() => world.hasFailedEvent(jobId))).toBe(true);

      // Sending the event again does not change the job.
      await world.deliver(jobId);
      expect(await eventually(() => world.deliveriesOf(job) === 4)).toBe(true);
      expect(runsOf(job)).toEqual([3, 0, 0]);
    },
  });
}

jobScenario('a stage that takes too long but obeys its signal ends its job as ERROR, and the process stays alive', {
  plan: stageActs('second', 'work 60000'),
  error: "Stage 'second' took too long",
  runs: [1, 1, 0],
  deliveries: 1,
  row: ['a stage takes too long', 'a log line'],
});

jobScenario('a stage that takes 300 ms to stop ends its job as ERROR, and the process stays alive', {
  plan: stageActs('second', 'linger 300'),
  error: "Stage 'second' took too long",
  runs: [1, 1, 0],
  deliveries: 1,
  row: ['a stage takes too long, and then 300 ms to stop', 'a log line'],
});

jobScenario('a stage that blocks the process past its time, but returns, ends its job as ERROR', {
  plan: stageActs('first', 'block 9000'),
  error: "Stage 'first' took too long",
  runs: [1, 0, 0],
  deliveries: 1,
  row: ['a stage blocks the process past its time, and returns', 'a log line'],
});

for (const [action, ...row] of [
  ['ignore 60000', 'a stage takes too long and ignores its signal', 'a worker error'],
  ['never', 'a stage never settles', 'a worker error'],
] as const) {
  jobScenario(`a stage that ignores its signal ('${action}') ends its job as ERROR, and the process is ended`, {
    plan: stageActs('second', action),
    error: "Stage 'second' took too long",
    runs: [1, 1, 0],
    deliveries: 2,
    row,
    check: async (job) => {
      // Ending the process is an error, so Lambda delivers the event again.
      expect(await eventually(() => world.deliveriesOf(job) === 2)).toBe(true);
      expect(world.recorder.runsOf(job).filter(({ endedAt }) => endedAt === undefined)).toEqual([]);
    },
  });
}

jobScenario('a stage that ignores its signal does not run alongside the next attempt if the final write fails', {
  plan: { ...stageActs('first', 'ignore 60000', 1), ...callFails('final write', 'refuse') },
  runs: [2, 1, 1],
  deliveries: 2,
  row: ['a stage ignores its signal, and the final write fails', 'a worker error'],
});

jobScenario('a StageError ends the job as ERROR with its message, and the stage does not run again', {
  plan: stageActs('third', 'throw'),
  error: 'Stage third was told to throw',
  deliveries: 1,
  row: ['a stage throws a `StageError`', 'a log line with the error'],
});

jobScenario('any other error in a stage ends the job as ERROR, and the client does not see its message', {
  plan: stageActs('first', 'fail'),
  error: "Stage 'first' failed",
  runs: [1, 0, 0],
  deliveries: 1,
  row: ['a stage throws any other error', 'a log line with the error'],
});

jobScenario('a result that does not fit in an item ends its job as ERROR', {
  plan: stageActs('first', 'large'),
  error: 'The result cannot be stored: it is too large',
  deliveries: 1,
  row: ['a stage returns a result that is too large', 'a log line'],
});

for (const [action, fault] of [
  ['odd keys', 'a stage returns keys such as `__proto__`'],
  ['deep', 'a stage returns 500 nested objects'],
] as const) {
  jobScenario(`a job with an unusual result (${action}) ends as DONE, and GET returns the result unchanged`, {
    plan: stageActs('first', action),
    result: {},
    deliveries: 1,
    row: [fault, 'nothing'],
    check: async (_job, { jobId }) => {
      expect((await getJob(world.baseUrl, jobId)).text).toContain(`"result":{"first":${RESULTS[action]},`);
    },
  });
}

// ---------------------------------------------------------------------------------------- slowness

/** How long start and claim may take before a timeout is no longer the stages' fault. */
const ROOM_MS = MAX_OVERHEAD_MS - RESERVE_MS;

jobScenario('a stage that takes too long after a claim that was a little slow had its full time, and ends its job', {
  plan: {
    ...stageActs('second', 'work 60000'),
    fault: ({ operation, number }) => (operation === 'claim' && number === 1 ? sleep(ROOM_MS / 3) : undefined),
  },
  error: "Stage 'second' took too long",
  runs: [1, 1, 0],
  deliveries: 1,
  row: ['a claim is a little slow, and a stage then takes too long', 'a log line'],
});

jobScenario('a stage that times out after a slow claim did not have its full time, and gets another attempt', {
  plan: {
    ...stageActs('first', 'work 60000', 1),
    fault: ({ operation, number, tryNumber }) => {
      if (operation !== 'claim' || number > 1) return undefined;
      // The SDK gives up on the first try after 2 s.
      return tryNumber === 1 ? 'hang' : sleep(Math.max(0, ROOM_MS - 1500));
    },
  },
  runs: [2, 1, 1],
  deliveries: 2,
  cutShort: 1,
  row: ['a claim is slow, and a stage then takes too long', 'a worker error'],
});

jobScenario('a third attempt that times out after a slow claim ends its job as ERROR, because there is no other one', {
  plan: {
    stage: (stage, count) => (stage === 'first' ? (count < MAX_ATTEMPTS ? 'die' : 'work 60000') : undefined),
    fault: ({ operation, number, tryNumber }) => {
      if (operation !== 'claim' || number < MAX_ATTEMPTS) return undefined;
      return tryNumber === 1 ? 'hang' : sleep(Math.max(0, ROOM_MS - 1500));
    },
  },
  error: "Stage 'first' took too long",
  runs: [3, 0, 0],
  deliveries: 3,
  row: ['two crashes; in the third attempt a claim is slow, and a stage takes too long', '2 worker errors'],
});

jobScenario('a job whose start is so slow that the SDK sends its event twice runs once', {
  plan: {
    fault: ({ operation, tryNumber }) => (operation === 'Invoke' && tryNumber === 1 ? 'delay' : undefined),
  },
  row: ['the Invoke is slow, and the SDK sends it twice', 'a refused claim in the log'],
  check: async (job) => {
    expect(await eventually(() => world.deliveriesOf(job) >= 2)).toBe(true);
  },
});

// -------------------------------------------------------------------------------------- deliveries

scenario('an event that is delivered twice at once, and again after the final write, runs its job once', async () => {
  const name = 'twice';

  const ending = await runToEnd(name, { stage: () => 'work 700', ...callFails('Invoke', 'twice') });
  await world.deliver(ending.jobId);
  const wasDelivered = await eventually(() => world.deliveriesOf(name) >= 3);
  // Lambda retries the delivery that found the job held.
  await sleep((RETRY_DELAY_SECONDS + 3) * 1000);

  expect(wasDelivered).toBe(true);
  expect(await world.hasFailedEvent(ending.jobId)).toBe(false);
  if (!(await checkCourse(name, ending))) return undefined;
  const fault = 'an event is delivered twice concurrently, and again after DONE';
  return rowOf(name, [fault, 'refused claims in the log'], ending);
});

scenario('a job whose event Lambda gave up on is DONE after an operator sends the event again', async () => {
  const name = 'redriven';
  let isDown = true;
  const idOf = async () => (await world.recordsOf(name))[0]?.jobId ?? '';

  const end = runToEnd(name, {
    fault: ({ operation }) => (isDown && operation === 'claim' ? 'refuse' : undefined),
  });
  await eventually(async () => world.hasFailedEvent(await idOf()));
  const before = await getJob(world.baseUrl, await idOf());
  isDown = false;
  await world.deliver(await idOf());
  const ending = await end;

  expect(before.json).toMatchObject({ status: 'PENDING' });
  if (!(await checkCourse(name, ending))) return undefined;
  const fault = 'DynamoDB refuses every claim; the event is sent again later';
  return rowOf(name, [fault, '3 worker errors, a failed event'], ending);
});

// ---------------------------------------------------------------------------------- calls that fail

jobScenario('a job ends as DONE although the response to the first try of every call is lost', {
  plan: {
    fault: ({ caller, operation, tryNumber }) =>
      caller === 'getJob' || operation === 'Invoke' || tryNumber > 1 ? undefined : 'lose',
  },
  deliveries: 1,
  row: ['the response to each first try is lost', 'nothing'],
});

const startedAgain = Promise.withResolvers<undefined>();

jobScenario('a final write that reaches DynamoDB after the next attempt has started is refused', {
  plan: {
    stage: (stage, count) => {
      if (stage !== 'first' || count !== 2) return undefined;
      startedAgain.resolve(undefined);
      return 'work 1000';
    },
    ...callFails('final write', startedAgain.promise),
  },
  runs: [2, 2, 2],
  deliveries: 2,
  row: ['the final write arrives during the next attempt', 'a worker error'],
  check: async (job) => {
    const late = world.callsOf(job).filter(({ operation, number }) => operation === 'final write' && number === 1);
    expect(late.map(({ status }) => status)).toEqual([400, 400]);
  },
});

/** Each makes a call fail, because it happens to every try. */
for (const fault of ['refuse', 'hang', 'lose', 'lose silently'] as const) {
  const slug = fault.replace(' ', '-');
  const isCarriedOut = fault.startsWith('lose');

  jobScenario(`a job whose claim fails ('${fault}') runs in the next delivery`, {
    plan: callFails('claim', fault),
    deliveries: 2,
    row: [`the claim: ${fault}`, 'a worker error'],
    check: async (job) => {
      expect(await world.recordsOf(job)).toMatchObject([{ attempt: isCarriedOut ? 2 : 1 }]);
    },
  });

  jobScenario(`a job whose final write fails ('${fault}') still ends as DONE`, {
    plan: callFails('final write', fault),
    runs: isCarriedOut ? [1, 1, 1] : [2, 2, 2],
    deliveries: 2,
    row: [`the final write: ${fault}`, 'a worker error'],
  });

  scenario(`a GET whose read fails ('${fault}') returns 500, and the next GET returns the job`, async () => {
    let isDown = false;
    const ending = await runToEnd(`get-${slug}`, {
      fault: ({ caller }) => (isDown && caller === 'getJob' ? fault : undefined),
    });

    isDown = true;
    const started = Date.now();
    const response = await requestOnce(`${world.baseUrl}/jobs/${ending.jobId}`);
    const seconds = (Date.now() - started) / 1000;
    isDown = false;
    const next = await getJob(world.baseUrl, ending.jobId);

    expect(response).toMatchObject({ status: 500, json: { error: 'Internal server error' } });
    expect(next.json).toEqual(ending.body);
    const client = '500; the next GET returns the job';
    return { fault: `the read of a GET: ${fault}`, client, operator: 'an error in the log', seconds };
  });

  for (const [operation, what, status, headers] of [
    ['PutItem', 'put', 500, {}],
    ['Invoke', 'Invoke', 503, { 'retry-after': '1' }],
  ] as const) {
    const orAccepted = operation === 'Invoke' && isCarriedOut ? ', or returns 202 if a worker was faster' : '';

    scenario(
      `a POST without a key whose ${operation} fails ('${fault}') returns ${status} and leaves no job${orAccepted}`,
      async () => {
        const name = `${operation}-${slug}`;
        const row = `the ${what} of a POST without a key: ${fault}`;

        const response = await world.post(name, callFails(operation, fault));
        const slowness = await world.slownessOf(name);

        if (response.status === 202 && (orAccepted !== '' || slowness.length > 0)) {
          const ending = await follow(name, stringField(response, 'jobId'));
          return (await checkCourse(name, ending)) ? rowOf(name, [row, 'nothing'], ending) : undefined;
        }
        expect(response.status).toBeGreaterThanOrEqual(500);
        if (slowness.length > 0) {
          slowJobs.set(name, slowness);
          return undefined;
        }
        expect(response).toMatchObject({ status, headers });
        // The event of a lost Invoke finds no job.
        if (orAccepted !== '') expect(await eventually(() => world.deliveriesOf(name) > 0)).toBe(true);
        expect(await world.recordsOf(name)).toEqual([]);
        expect(runsOf(name)).toEqual([0, 0, 0]);
        const client = `${status}, and no job is left`;
        return { fault: row, client, operator: 'an error in the log', seconds: response.seconds };
      },
    );
  }
}

/** Which exception of guarantee 4 lets a failed POST without a key leave its job. Undefined if none does. */
async function excuseFor(name: string): Promise<string | undefined> {
  const calls = world.callsOf(name).filter(({ caller }) => caller === 'createJob');
  if (calls.some(({ fault }) => fault === 'kill before' || fault === 'kill after')) return 'createJob was killed';
  if (calls.some(({ operation, fault }) => operation === 'PutItem' && fault === 'delay')) return 'its put was late';
  const deletes = calls.filter(({ operation }) => operation === 'DeleteItem');
  const isDecided = deletes.some(({ status, isAnswered }) => status === 200 || (status === 400 && isAnswered));
  if (deletes.length > 0 && !isDecided) return 'its delete failed';
  const [slowness] = await world.slownessOf(name);
  return slowness;
}

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
  fault: ({ caller, operation, number, tryNumber }) =>
    chance(name, caller, operation, number, tryNumber) < STORM_ODDS[caller]
      ? pick(FAULTS, chance(name, caller, operation, number, tryNumber, 'what'))
      : undefined,
});

scenario(
  `of ${STORM_JOBS} jobs with random faults, each accepted one ends, and a failed POST leaves none`,
  async () => {
    const endings: Ending[] = [];
    const failed: string[] = [];
    /** Half of the clients use a key and repeat a failed POST. The others have no key and give up. */
    const hasKey = (name: string) => chance(name, 'key') < 0.5;
    const submitAndFollow = async (name: string) => {
      for (let tries = 0; tries < (hasKey(name) ? 6 : 1); tries += 1) {
        const response = await world.post(name, stormPlan(name), hasKey(name) ? `key-${SEED}-${name}` : undefined);
        if (response.status === 202) {
          endings.push(await follow(name, stringField(response, 'jobId')));
          return;
        }
        expect(response.status).toBeGreaterThanOrEqual(500);
      }
      failed.push(name);
    };

    const names = Array.from({ length: STORM_JOBS }, (_, index) => `storm-${index}`);
    const results = await Promise.allSettled(names.map(submitAndFollow));

    const left: string[] = [];
    for (const name of failed.filter((name) => !hasKey(name))) {
      const hasRun = world.recorder.runsOf(name).length > 0;
      if (hasRun || (await world.recordsOf(name)).length > 0) left.push(`${name}: ${await excuseFor(name)}`);
    }
    const broken = names.flatMap(world.callsOf).filter(({ fault }) => fault !== undefined);
    const byEnd = Map.groupBy(endings, (ending) => errorOf(ending) ?? ending.status);
    console.info(
      [
        `storm: ${endings.length} accepted and ended, ${failed.length} failed, ${broken.length} calls broken`,
        ...[...byEnd].map(([end, endings]) => `  ${endings.length} x ${end}`),
        `  slowest ${Math.max(...endings.map(({ seconds }) => seconds)).toFixed(0)} s`,
        ...left.map((line) => `  left a job: ${line}`),
      ].join('\n'),
    );
    expect(results.filter(({ status }) => status === 'rejected')).toEqual([]);
    expect(left.filter((line) => line.endsWith('undefined'))).toEqual([]);
    expect(endings.length).toBeGreaterThan(STORM_JOBS / 2);
    return undefined;
  },
);

// ----------------------------------------------------------------------------------- all scenarios

/** Settles when every scenario is over and Lambda's last retries have come. */
const settled = ready.then(() => Promise.allSettled(scenarios)).then(() => sleep((RETRY_DELAY_SECONDS + 3) * 1000));

test('no job changed after it had ended, and no status moved backwards, however often it was read', async () => {
  await settled;

  const wereReread = await eventually(() => [...world.watcher.rereads.values()].every((rereads) => rereads > 0));

  expect(wereReread).toBe(true);
  expect(world.watcher.violations).toEqual([]);
});

test('no two stages of a job ran at the same time, and no stage started after its job had ended', async () => {
  await settled;

  const late = ended.flatMap(({ name, seenAt }) =>
    world.recorder.runsOf(name).filter(({ startedAt }) => startedAt > seenAt),
  );

  expect(world.recorder.overlaps).toEqual([]);
  expect(late).toEqual([]);
});

test('every accepted job ended within the guaranteed bound, as its record says', async () => {
  await settled;

  const tooLate = ended.filter(({ ending }) => ending.recordedSeconds > BOUND_SECONDS);

  expect(tooLate).toEqual([]);
});

test('Lambda delivered each event as often as planned, and not again after an invocation that succeeded', async () => {
  await settled;

  const undisturbed: [string, number][] = [];
  for (const [name, deliveries] of plannedDeliveries) {
    if ((await world.slownessOf(name)).length === 0) undisturbed.push([name, deliveries]);
  }
  const delivered = undisturbed.map(([name]) => [name, world.deliveriesOf(name)]);

  expect(delivered).toEqual(undisturbed);
});

test('no POST and no delivery failed because of a bug', async () => {
  await settled;

  const failures = await world.failures('ERROR');

  const expected = /timed out after only|no longer holds the job|Another attempt holds the job/;
  expect(failures.length).toBeGreaterThan(0);
  expect(failures.filter((line) => !AWS_FAILED.test(line) && !expected.test(line))).toEqual([]);
});

// The deployed roles are those of the template, because SAM adds no permissions to a function that has a role.
test.each([
  ['createJob', 'CreateJobFunction', 'CreateJobRole'],
  ['worker', 'WorkerFunction', 'WorkerRole'],
  ['getJob', 'GetJobFunction', 'GetJobRole'],
] as const)(
  '%s is allowed exactly the calls that it makes to the table and the worker',
  async (caller, functionName, role) => {
    await settled;
    const template = readTemplate();
    const policies = JSON.stringify(at(template, 'Resources', role, 'Properties', 'Policies'));
    const ours = /"Action":(\[[^\]]*\]|"[^"]*"),"Resource":\{"Fn::GetAtt":\["(?:JobsTable|WorkerFunction)","Arn"\]\}/g;

    const made = world.proxy.calls.filter((call) => call.caller === caller).map(({ action }) => action);
    const allowed = [...policies.matchAll(ours)].flatMap(([, actions]) => actions?.match(/\w+:\w+/g) ?? []);

    expect(at(template, 'Resources', functionName, 'Properties', 'Role')).toEqual({ 'Fn::GetAtt': [role, 'Arn'] });
    expect([...new Set(made)].sort()).toEqual(allowed.sort());
  },
);
