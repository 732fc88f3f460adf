/**
 * Injected faults. The application runs on the AWS emulator with test stages (testStack.ts) that crash, hang and
 * block on command, and a proxy breaks and delays the functions' calls to AWS. All scenarios run at the same time,
 * because they spend most of their time waiting for Lambda's retries.
 *
 * A scenario checks what happened to its own job: its deliveries, its stages' runs, its record. On a busy machine
 * a call can take longer than the SDK waits, and a job then rightly takes another attempt. `checkCourse` accepts
 * that only if the proxy or the log shows it.
 */
import { createHash } from 'node:crypto';
import { afterAll, beforeAll, expect, jest, test } from '@jest/globals';
import { at, readTemplate } from '../../scripts/template.ts';
import { MAX_OVERHEAD_MS, RESERVE_MS } from '../../src/attempt.ts';
import { MAX_ATTEMPTS } from '../../src/job.ts';
import { AWS_FAILED, checkEveryAnswer, getJob, requestOnce, sleep, stringField } from './deployment.ts';
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
import { openContract } from './openapiContract.ts';
import type { StageAction } from './stageRecorder.ts';

jest.setTimeout(2 * LIMIT_MS);

const STORM_JOBS = 100;
const SEED = Number(process.env['FAULTS_SEED'] ?? Date.now() % 1_000_000);

const ATTEMPTS_USED_UP = 'Processing failed: all 3 attempts ended without a result';
const PAST_DEADLINE = 'Processing failed: the job did not finish before its deadline';
const STAGES = ['first', 'second', 'third'];
const FULL_RESULT = Object.fromEntries(STAGES.map((stage) => [stage, { stage }]));

/** A row of the table in docs/design.md: the fault, what the client and the operator see, and within how many seconds. */
type Row = readonly [fault: string, client: string, operator: string, seconds: number];

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
  checkEveryAnswer(await openContract());
  world = await startWorld(closers);
  await runToEnd('warm-up');
  setReady();
});

afterAll(async () => {
  for (const close of closers) await close();
  const lines: string[] = [];
  for (const result of await Promise.allSettled(scenarios)) {
    if (result.status === 'rejected' || result.value === undefined) continue;
    const [fault, client, operator, seconds] = result.value;
    lines.push(`| ${fault} | ${client} | ${operator} | ${Math.ceil(seconds)} s |`);
  }
  const others = [...slowJobs].map(([name, causes]) => `${name} took another course: ${causes.join('; ')}`);
  console.info([...lines, ...others].join('\n'));
});

/** A POST with a key, repeated if AWS was too slow for it. A test below checks that none failed for another reason. */
async function postRepeatedly(name: string, plan: Plan, key: string) {
  let response = await world.post(name, plan, key);
  for (let tries = 1; tries < 5 && response.status >= 500; tries += 1) response = await world.post(name, plan, key);
  return response;
}

/** Submits a job with a key, and follows it until it ends. */
async function runToEnd(name: string, plan: Plan = {}): Promise<Ending> {
  const response = await postRepeatedly(name, plan, name);
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
  STAGES.map((stage) => world.recorder.runsOf(name).filter((run) => run.stage === stage).length);

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
  const isTimeout = errorOf(ending) !== error && errorOf(ending)?.endsWith('took too long') === true;
  // A claim that is slower than planned fails, and one whose first try did not arrive is not slow enough.
  if (isTimeout && cutShort > 0) return false;
  if (errorOf(ending) === ATTEMPTS_USED_UP || isTimeout) {
    expect(await world.recordsOf(name)).toMatchObject([{ attempt: MAX_ATTEMPTS }]);
  } else if (!isPastDeadline) {
    expect(ending.body).toMatchObject(planned);
    for (const [stage, count] of runsOf(name).entries()) expect(count).toBeGreaterThanOrEqual(runs[stage] ?? 0);
  }
  return false;
}

function rowOf(name: string, fault: string, operator: string, ending: Ending): Row {
  const claims = world.callsOf(name).filter(({ operation, status }) => operation === 'claim' && status === 200);
  const delivery = ['', ' in the second delivery', ' in the third delivery'][(claims.at(-1)?.number ?? 1) - 1] ?? '';
  const outcome = ending.status === 'DONE' ? `DONE${delivery}` : `ERROR \`${errorOf(ending)}\``;
  return [fault, `202, then ${outcome}`, operator, ending.seconds];
}

/** A job that is accepted and ends. */
interface JobScenario extends Course {
  readonly plan: Plan;
  /** Default: the fault. */
  readonly what?: string;
  /**
   * How often Lambda delivers the event, including deliveries that find the job ended; `any` if not only the plan
   * decides that. Default: once.
   */
  readonly deliveries?: number | 'any';
  /** Checks more, if the job took its planned course. */
  readonly check?: (job: string, ending: Ending) => Promise<void>;
}

/** A test, and a row of the table, with this fault and what the operator sees. */
function jobScenario(
  fault: string,
  operator: string,
  { plan, what = fault, deliveries = 1, check, ...course }: JobScenario,
): void {
  const job = fault.replace(/\W+/g, '-');
  const outcome = course.error === undefined ? 'DONE' : `ERROR: ${course.error}`;
  scenario(`if ${what}, the job ends as ${outcome}`, async () => {
    const ending = await runToEnd(job, plan);

    if (!(await checkCourse(job, ending, course))) return undefined;
    await check?.(job, ending);
    if (deliveries !== 'any') plannedDeliveries.set(job, deliveries);
    return rowOf(job, fault, operator, ending);
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
    return [
      'createJob is killed before its Invoke; the POST is not repeated',
      `${status}; the job ends as ERROR at its deadline, but no client knows its id`,
      'a createJob error',
      ending.seconds,
    ];
  },
);

scenario("a POST that is repeated after its job's deadline returns 202 with status ERROR", async () => {
  const name = 'repeated-too-late';
  const plan = callFails('Invoke', 'kill before');

  const first = await world.post(name, plan, name);
  await sleep((DEADLINE_SECONDS + 1) * 1000);
  const late = await postRepeatedly(name, plan, name);
  const job = await getJob(world.baseUrl, stringField(late, 'jobId'));

  expect(first.status).toBeGreaterThanOrEqual(500);
  expect(late).toMatchObject({ status: 202, json: { status: 'ERROR' } });
  expect(job.json).toMatchObject({ status: 'ERROR', errorMessage: PAST_DEADLINE });
  return [
    'createJob is killed before its Invoke; the POST is repeated after the deadline',
    `${first.status}; then 202 with status ERROR`,
    'a createJob error',
    first.seconds + DEADLINE_SECONDS + 1 + late.seconds,
  ];
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
    const otherText = await postRepeatedly(`${name}-other`, {}, name);

    expect(first.status).toBeGreaterThanOrEqual(500);
    expect(left).toMatchObject([{ jobId: ending.jobId }]);
    expect(await world.recordsOf(name)).toHaveLength(1);
    expect(otherText.status).toBe(422);
    if (!(await checkCourse(name, ending))) return undefined;
    return [`${what}; the POST is repeated`, `${first.status}; then 202, then DONE`, operator, ending.seconds];
  });
}

// ------------------------------------------------------------------------------------------ stages

for (const [fault, operator, stage, action, times, runs] of [
  ['the worker crashes in its first stage', 'a worker error', 'first', 'die', 1, [2, 1, 1]],
  ['the worker crashes in its second stage', 'a worker error', 'second', 'die', 1, [2, 2, 1]],
  ['the worker crashes in its third stage', 'a worker error', 'third', 'die', 1, [2, 2, 2]],
  ['the worker crashes twice', '2 worker errors', 'first', 'die', 2, [3, 1, 1]],
  ['a stage blocks the process until Lambda kills it', 'a worker timeout', 'first', 'block 60000', 1, [2, 1, 1]],
] as const) {
  jobScenario(fault, operator, { plan: stageActs(stage, action, times), runs, deliveries: times + 1 });
}

for (const [fault, operator, action] of [
  ['the worker crashes in every attempt', '3 worker errors, a failed event', 'die'],
  ['a stage blocks the process in every attempt', '3 worker timeouts, a failed event', 'block 60000'],
] as const) {
  jobScenario(fault, operator, {
    plan: stageActs('first', action),
    error: ATTEMPTS_USED_UP,
    runs: [3, 0, 0],
    deliveries: 4,
    check: async (job, { jobId }) => {
      expect(await eventually(() => world.hasFailedEvent(jobId))).toBe(true);

      // Sending the event again does not change the job.
      await world.deliver(jobId);
      expect(await eventually(() => world.deliveriesOf(job) === 4)).toBe(true);
      expect(runsOf(job)).toEqual([3, 0, 0]);
    },
  });
}

/** A stage that ends its job as ERROR. The process stays alive. */
const endsJob = (stage: string, action: StageAction, error = `Stage '${stage}' took too long`) => ({
  plan: stageActs(stage, action),
  error,
  runs: STAGES.map((name) => (STAGES.indexOf(name) <= STAGES.indexOf(stage) ? 1 : 0)),
});

const TOO_LARGE = 'The result cannot be stored: it is too large';
jobScenario('a stage takes too long', 'a log line', endsJob('second', 'work 60000'));
jobScenario('a stage takes too long, and then 300 ms to stop', 'a log line', endsJob('second', 'linger 300'));
jobScenario('a stage blocks the process past its time, and returns', 'a log line', endsJob('first', 'block 9000'));
jobScenario('a stage returns a result that is too large', 'a log line', endsJob('third', 'large', TOO_LARGE));
const LOGGED = 'a log line with the error';
jobScenario('a stage throws a `StageError`', LOGGED, endsJob('third', 'throw', 'Stage third was told to throw'));
jobScenario('a stage throws any other error', LOGGED, endsJob('first', 'fail', "Stage 'first' failed"));

for (const [fault, action] of [
  ['a stage takes too long and ignores its signal', 'ignore 60000'],
  ['a stage never settles', 'never'],
] as const) {
  jobScenario(fault, 'a worker error', {
    ...endsJob('second', action),
    deliveries: 2,
    check: async (job) => {
      // The process is ended. That is an error, so Lambda delivers the event again.
      expect(await eventually(() => world.deliveriesOf(job) === 2)).toBe(true);
      expect(world.recorder.runsOf(job).filter(({ endedAt }) => endedAt === undefined)).toEqual([]);
    },
  });
}

jobScenario('a stage ignores its signal, and the final write fails', 'a worker error', {
  plan: { ...stageActs('first', 'ignore 60000', 1), ...callFails('final write', 'refuse') },
  runs: [2, 1, 1],
  deliveries: 2,
});

for (const [fault, action] of [
  ['a stage returns keys such as `__proto__`', 'odd keys'],
  ['a stage returns 500 nested objects', 'deep'],
] as const) {
  jobScenario(fault, 'nothing', {
    plan: stageActs('first', action),
    result: {},
    check: async (_job, { jobId }) => {
      expect((await getJob(world.baseUrl, jobId)).text).toContain(`"result":{"first":${RESULTS[action]},`);
    },
  });
}

// ---------------------------------------------------------------------------------------- slowness

/** How long start and claim may take before a timeout is no longer the stages' fault. */
const ROOM_MS = MAX_OVERHEAD_MS - RESERVE_MS;

jobScenario('a claim is a little slow, and a stage then takes too long', 'a log line', {
  ...endsJob('second', 'work 60000'),
  plan: {
    ...stageActs('second', 'work 60000'),
    fault: ({ operation, number }) => (operation === 'claim' && number === 1 ? `wait ${ROOM_MS / 3}` : undefined),
  },
});

/** The claim in this attempt is so slow that the stages have less than their full time. */
const claimIsSlow = (attempt: number): Plan => ({
  fault: ({ operation, number, tryNumber }) => {
    if (operation !== 'claim' || number !== attempt) return undefined;
    // The SDK gives up on the first try after 2 s.
    return tryNumber === 1 ? 'hang' : `wait ${Math.max(0, ROOM_MS - 1500)}`;
  },
});

jobScenario('a claim is slow, and a stage then takes too long', 'a worker error', {
  plan: { ...stageActs('first', 'work 60000', 1), ...claimIsSlow(1) },
  runs: [2, 1, 1],
  deliveries: 2,
  cutShort: 1,
});

jobScenario('two attempts crash; in the third a claim is slow, and a stage takes too long', '2 worker errors', {
  plan: {
    stage: (stage, count) => (stage === 'first' ? (count < MAX_ATTEMPTS ? 'die' : 'work 60000') : undefined),
    ...claimIsSlow(MAX_ATTEMPTS),
  },
  error: "Stage 'first' took too long",
  runs: [3, 0, 0],
  deliveries: 3,
});

jobScenario('the Invoke is slow, and the SDK sends it twice', 'a refused claim in the log', {
  plan: { fault: ({ operation, tryNumber }) => (operation === 'Invoke' && tryNumber === 1 ? 'delay' : undefined) },
  deliveries: 'any',
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
  if (!(await checkCourse(name, ending))) return undefined;
  expect(await world.hasFailedEvent(ending.jobId)).toBe(false);
  const fault = 'an event is delivered twice concurrently, and again after DONE';
  return rowOf(name, fault, 'refused claims in the log', ending);
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
  return rowOf(name, fault, '3 worker errors, a failed event', ending);
});

// ---------------------------------------------------------------------------------- calls that fail

jobScenario('the response to each first try is lost', 'nothing', {
  plan: {
    fault: ({ caller, operation, tryNumber }) =>
      caller === 'getJob' || operation === 'Invoke' || tryNumber > 1 ? undefined : 'lose',
  },
});

const startedAgain = Promise.withResolvers<undefined>();

jobScenario('the final write arrives during the next attempt', 'a worker error', {
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
  check: async (job) => {
    // It is refused.
    const late = world.callsOf(job).filter(({ operation, number }) => operation === 'final write' && number === 1);
    expect(late.map(({ status }) => status)).toEqual([400, 400]);
  },
});

/** Each makes a call fail, because it happens to every try. */
for (const fault of ['refuse', 'hang', 'lose', 'lose silently'] as const) {
  const slug = fault.replace(' ', '-');
  const isCarriedOut = fault.startsWith('lose');

  jobScenario(`the claim: ${fault}`, 'a worker error', {
    what: `the claim fails ('${fault}')`,
    plan: callFails('claim', fault),
    deliveries: 2,
    check: async (job) => {
      expect(await world.recordsOf(job)).toMatchObject([{ attempt: isCarriedOut ? 2 : 1 }]);
    },
  });

  jobScenario(`the final write: ${fault}`, 'a worker error', {
    what: `the final write fails ('${fault}')`,
    plan: callFails('final write', fault),
    runs: isCarriedOut ? [1, 1, 1] : [2, 2, 2],
    deliveries: 2,
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
    return [`the read of a GET: ${fault}`, '500; the next GET returns the job', 'an error in the log', seconds];
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
          return (await checkCourse(name, ending)) ? rowOf(name, row, 'nothing', ending) : undefined;
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
        return [row, `${status}, and no job is left`, 'an error in the log', response.seconds];
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
const chance = (...words: readonly (string | number)[]) =>
  createHash('sha256')
    .update([SEED, ...words].join(' '))
    .digest()
    .readUInt32LE() /
  2 ** 32;

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
    /** Half of the clients use a key and repeat a failed POST. The others have no key and give up. */
    const hasKey = (name: string) => chance(name, 'key') < 0.5;
    const failed: string[] = [];
    const submitAndFollow = async (name: string) => {
      for (let tries = 0; tries < (hasKey(name) ? 6 : 1); tries += 1) {
        const response = await world.post(name, stormPlan(name), hasKey(name) ? `key-${SEED}-${name}` : undefined);
        if (response.status === 202) return void (await follow(name, stringField(response, 'jobId')));
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
    console.info([`storm: ${failed.length} of ${STORM_JOBS} jobs were not accepted`, ...left].join('\n'));
    expect(results.filter(({ status }) => status === 'rejected')).toEqual([]);
    expect(left.filter((line) => line.endsWith('undefined'))).toEqual([]);
    expect(failed.length).toBeLessThan(STORM_JOBS / 2);
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
