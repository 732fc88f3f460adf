import { afterAll, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import {
  fitsItem,
  isExpired,
  type Job,
  type Lease,
  lapseOf,
  MAX_TEXT_BYTES,
  newJob,
  type Outcome,
  phaseOf,
} from '../../src/job.ts';
import { JobRepository, parseJob } from '../../src/jobRepository.ts';
import { captureConsole } from '../support/consoleCapture.ts';
import { LIFETIMES, NOW } from '../support/jobs.ts';
import { type JobsTable, startJobsTable, type Wire } from '../support/jobsTable.ts';

const DONE: Outcome = { status: 'DONE', result: '{"ocr":{"charCount":6}}' };
const FAILED: Outcome = { status: 'ERROR', errorMessage: 'No model for this' };
const MINE: Lease = { token: 'mine', expiresAt: NOW + 35 };
const OTHERS: Lease = { token: 'theirs', expiresAt: NOW + 65 };
const CLAIMED = { status: 'IN_PROGRESS', attempt: 1, leaseToken: MINE.token, leaseExpiresAt: MINE.expiresAt };

/** Loses the first response to each request. The SDK then sends the request again. */
const sendTwice: Wire = async (_command, send) => {
  await send().catch(() => undefined);
  return send();
};

/** Runs `action` just before the first request of this kind. */
function justBefore(command: string, action: () => Promise<unknown>): Wire {
  let hasRun = false;
  return async (name, send) => {
    if (name === command && !hasRun) {
      hasRun = true;
      await action();
    }
    return send();
  };
}

let table: JobsTable;
let repository: JobRepository;
let job: Job;
let count = 0;

captureConsole();

beforeAll(async () => {
  table = await startJobsTable();
  repository = new JobRepository(table.connect(), table.name);
});
afterAll(() => table.stop());

beforeEach(() => {
  job = newJob(`job-${++count}`, 'a text', NOW, LIFETIMES);
});

const repositoryVia = (wire: Wire) => new JobRepository(table.connect(wire), table.name);
const read = () => table.read(job.jobId);

/** Stores the job with these changes, bypassing the repository. */
async function given(changes: Record<string, unknown> = {}): Promise<Record<string, unknown>> {
  const item = { ...job, ...changes };
  await table.put(item);
  return item;
}
const givenClaimed = (changes: object = {}) => given({ ...CLAIMED, ...changes });

/** A job of each status, on both sides of each limit at the time NOW. */
const jobsAtEveryLimit = (): Job[] =>
  [
    { status: 'PENDING' },
    { status: 'IN_PROGRESS', leaseToken: OTHERS.token, leaseExpiresAt: NOW },
    { status: 'IN_PROGRESS', leaseToken: OTHERS.token, leaseExpiresAt: NOW + 1 },
    DONE,
    FAILED,
  ].flatMap((state) => {
    const record = { ...job, createdAt: NOW - 9, expiresAt: NOW + 1, deadline: NOW + 1, attempt: 2, ...state };
    const limits = [{}, { deadline: NOW }, { attempt: 3 }, { deadline: NOW, attempt: 3 }, { expiresAt: NOW }];
    return limits.map((limit) => parseJob({ ...record, ...limit }));
  });

/** Checks what `act` returns for each of these jobs. */
async function expectForEveryJob(act: (record: Job) => Promise<unknown>, expected: (record: Job) => unknown) {
  for (const record of jobsAtEveryLimit()) {
    await table.put(record);
    expect({ record, result: await act(record) }).toEqual({ record, result: expected(record) });
  }
}

/** What a reader at NOW must see of a job. */
function seenAtNow(record: Job): Job | undefined {
  if (isExpired(record, NOW)) return undefined;
  if (phaseOf(record, NOW) !== 'lapsed') return record;
  const { endedAt, errorMessage } = lapseOf(record);
  return parseJob({ ...record, status: 'ERROR', updatedAt: endedAt, errorMessage });
}

describe('the conditions of the repository and the rules of src/job.ts agree', () => {
  test('create stores a job unless the id belongs to a job that has not expired, which it does not change', async () => {
    await expectForEveryJob(
      async () => [await repository.create(job), await read()],
      (record) => (isExpired(record, NOW) ? [true, job] : [false, record]),
    );
  });

  test('deletePending deletes a pending job, and does not change any other', async () => {
    await expectForEveryJob(
      async () => [await repository.deletePending(job.jobId), await read()],
      (record) => (record.status === 'PENDING' ? [true, undefined] : [false, record]),
    );
  });

  test('find returns every job that has not expired, and first ends a job that has lapsed', async () => {
    await expectForEveryJob(() => repository.find(job.jobId, NOW), seenAtNow);
  });

  test('claim starts an attempt of a claimable job, and says why it starts none of any other', async () => {
    await expectForEveryJob(
      async () => {
        const { kind } = await repository.claim(job.jobId, MINE, NOW);
        return [kind, await repository.find(job.jobId, NOW)];
      },
      (record) => {
        const phase = phaseOf(record, NOW);
        const lease = { status: 'IN_PROGRESS', leaseToken: MINE.token, leaseExpiresAt: MINE.expiresAt };
        const claimed = parseJob({ ...record, ...lease, attempt: record.attempt + 1, updatedAt: NOW });
        if (phase === 'claimable') return ['claimed', seenAtNow(claimed)];
        if (isExpired(record, NOW)) return ['gone', undefined];
        return [phase === 'held' ? 'held' : 'ended', seenAtNow(record)];
      },
    );
  });

  test('no call changes an outcome that a reader has seen, even if clocks differ', async () => {
    await expectForEveryJob(
      async () => {
        const seen = await repository.find(job.jobId, NOW);
        if (seen === undefined || phaseOf(seen, NOW) !== 'ended') return 'no outcome';
        await repository.claim(job.jobId, MINE, NOW - 3);
        for (const outcome of [DONE, FAILED]) await repository.end(job.jobId, OTHERS, outcome, NOW + 9);
        await repository.deletePending(job.jobId);
        return repository.find(job.jobId, NOW - 3);
      },
      (record) => {
        const seen = seenAtNow(record);
        return seen !== undefined && phaseOf(seen, NOW) === 'ended' ? seen : 'no outcome';
      },
    );
  });
});

test('claim starts the first attempt, and returns the job with its text', async () => {
  await given();
  const claim = await repository.claim(job.jobId, MINE, NOW + 3);

  const lease = { status: 'IN_PROGRESS', leaseToken: 'mine', leaseExpiresAt: MINE.expiresAt };
  const claimed = { ...job, ...lease, attempt: 1, updatedAt: NOW + 3 };
  expect(claim).toEqual({ kind: 'claimed', job: claimed });
  expect(await read()).toEqual(claimed);
});

test('claim returns held if the lease expires just after the condition failed', async () => {
  await givenClaimed();
  const wire = justBefore('GetItemCommand', () => givenClaimed({ leaseExpiresAt: NOW }));

  const result = await repositoryVia(wire).claim(job.jobId, OTHERS, NOW);

  expect(result).toEqual({ kind: 'held' });
});

test.each<[string, Record<string, unknown>, () => Promise<unknown>, () => number, () => object | undefined]>([
  [
    'its attempt ends it',
    { ...CLAIMED, attempt: 3 },
    () => repository.end(job.jobId, MINE, DONE, NOW + 34),
    () => MINE.expiresAt,
    () => ({ ...DONE, updatedAt: NOW + 34 }),
  ],
  [
    'its first attempt starts',
    {},
    () => repository.claim(job.jobId, { token: 'next', expiresAt: job.deadline + 20 }, job.deadline - 1),
    () => job.deadline,
    () => ({ status: 'IN_PROGRESS', attempt: 1 }),
  ],
  [
    'its next attempt starts',
    CLAIMED,
    () => repository.claim(job.jobId, { token: 'next', expiresAt: job.deadline + 20 }, job.deadline - 1),
    () => job.deadline,
    () => ({ status: 'IN_PROGRESS', attempt: 2 }),
  ],
  [
    'the next job with the same id replaces it',
    {},
    () => repository.create(newJob(job.jobId, 'another', job.expiresAt, LIFETIMES)),
    () => job.expiresAt - 1,
    () => newJob(job.jobId, 'another', job.expiresAt, LIFETIMES),
  ],
  ['it is deleted', {}, () => repository.deletePending(job.jobId), () => job.deadline, () => undefined],
])('find does not end a lapsed job if, just before its write, %s', async (_what, state, meanwhile, now, expected) => {
  await given(state);
  const wire = justBefore('UpdateItemCommand', meanwhile);

  const found = await repositoryVia(wire).find(job.jobId, now());

  const seen = expected();
  expect(found).toEqual(seen && expect.objectContaining(seen));
});

test.each([DONE, FAILED])('end stores $status and its time', async (outcome) => {
  const item = await givenClaimed();

  const isStored = await repository.end(job.jobId, MINE, outcome, NOW + 5);

  expect(isStored).toBe(true);
  expect(await read()).toEqual({ ...item, ...outcome, updatedAt: NOW + 5 });
});

test.each([
  ['another attempt has claimed the job', { attempt: 2, leaseToken: OTHERS.token }, DONE],
  ['the job is pending', { status: 'PENDING' }, DONE],
  ['the job is DONE and the outcome is ERROR', DONE, FAILED],
  ['the job is ERROR and the outcome is DONE', FAILED, DONE],
])('end changes nothing if %s', async (_why, state, outcome) => {
  const item = await givenClaimed(state);

  const isStored = await repository.end(job.jobId, MINE, outcome, NOW + 6);

  expect(isStored).toBe(false);
  expect(await read()).toEqual(item);
});

test.each<[string, () => Promise<unknown>, unknown]>([
  ['deletePending succeeds', () => repository.deletePending(job.jobId), true],
  ['find returns undefined', () => repository.find(job.jobId, NOW), undefined],
  ['claim returns gone', () => repository.claim(job.jobId, MINE, NOW), { kind: 'gone' }],
  ['end returns false', () => repository.end(job.jobId, MINE, DONE, NOW), false],
])('%s for an unknown job, and creates no record', async (_what, call, expected) => {
  const result = await call();

  expect(result).toEqual(expected);
  expect(await read()).toBeUndefined();
});

test.each<[string, object | undefined, (repository: JobRepository) => Promise<unknown>, unknown, object | undefined]>([
  ['create stores the job once', undefined, (twice) => twice.create(job), false, { status: 'PENDING' }],
  ['deletePending succeeds', {}, (twice) => twice.deletePending(job.jobId), true, undefined],
  [
    'find ends a lapsed job once',
    { ...CLAIMED, attempt: 3 },
    (twice) => twice.find(job.jobId, NOW + 90),
    expect.objectContaining({ status: 'ERROR', updatedAt: MINE.expiresAt }),
    { status: 'ERROR', updatedAt: MINE.expiresAt },
  ],
  [
    'claim starts one attempt',
    {},
    (twice) => twice.claim(job.jobId, MINE, NOW),
    { kind: 'claimed', job: expect.objectContaining({ attempt: 1 }) },
    { attempt: 1, leaseToken: MINE.token },
  ],
  ['end stores DONE', CLAIMED, (twice) => twice.end(job.jobId, MINE, DONE, NOW + 5), true, DONE],
  ['end stores ERROR', CLAIMED, (twice) => twice.end(job.jobId, MINE, FAILED, NOW + 5), true, FAILED],
])('%s if the SDK sends each request twice', async (_what, state, call, expected, stored) => {
  if (state !== undefined) await given({ ...state });

  const result = await call(repositoryVia(sendTwice));

  expect(result).toEqual(expected);
  expect(await read()).toEqual(stored && expect.objectContaining(stored));
});

test('the longest text is stored with the largest result that fitsItem allows', async () => {
  job = { ...job, text: 'x'.repeat(MAX_TEXT_BYTES), jobId: '11111111-1111-4111-8111-111111111111' };
  const lease = { token: '22222222-2222-4222-8222-222222222222', expiresAt: NOW + 35 };
  const result = 'y'.repeat(399 * 1024 - MAX_TEXT_BYTES);
  await repository.create(job);
  await repository.claim(job.jobId, lease, NOW);

  const isStored = await repository.end(job.jobId, lease, { status: 'DONE', result }, NOW);

  expect(isStored).toBe(true);
  expect([fitsItem(job, result), fitsItem(job, `${result}y`)]).toEqual([true, false]);
});

const pending = newJob('id', 'a text', 1000, LIFETIMES);
const inProgress = { ...pending, status: 'IN_PROGRESS', attempt: 1, leaseExpiresAt: 1035, leaseToken: 'token' };
const done = { ...pending, status: 'DONE', result: '{"ocr":{}}' };
const failed = { ...pending, status: 'ERROR', errorMessage: 'no' };

test.each([pending, inProgress, done, failed])('parseJob parses a record that is $status', (item) => {
  expect(parseJob(item)).toEqual(item);
});

test('parseJob keeps the owner, which must be a string', () => {
  expect(parseJob({ ...pending, owner: 'user:alice' })).toEqual({ ...pending, owner: 'user:alice' });
  expect(() => parseJob({ ...pending, owner: 5 })).toThrow('Job record has no valid owner');
});

test('parseJob drops unknown attributes and those of an earlier status', () => {
  expect(parseJob({ ...pending, extra: 1 })).toEqual(pending);
  expect(parseJob({ ...done, leaseToken: 'token', leaseExpiresAt: 1035, errorMessage: 'no' })).toEqual(done);
});

test.each([undefined, null, 'text', 5, []])('parseJob rejects %j, which is not a record', (item) => {
  expect(() => parseJob(item)).toThrow('Job record has no valid jobId');
});

test.each([
  ...(['jobId', 'text', 'status', 'createdAt', 'updatedAt', 'expiresAt', 'deadline', 'attempt'] as const).map(
    (name) => [name, pending] as const,
  ),
  ['leaseToken', inProgress],
  ['leaseExpiresAt', inProgress],
  ['result', done],
  ['errorMessage', failed],
])('parseJob throws an error that names %s if it is absent or has another type', (name, item) => {
  const isString = typeof new Map<string, unknown>(Object.entries(item)).get(name) === 'string';

  for (const value of [null, undefined, ['x'], { ocr: {} }, 1.5, Number.NaN, 2 ** 53, isString ? 5 : '5']) {
    expect(() => parseJob({ ...item, [name]: value })).toThrow(`Job record has no valid ${name}`);
  }
});

test.each(['ENDED', 'pending', ''])('parseJob rejects the status %j', (status) => {
  expect(() => parseJob({ ...pending, status })).toThrow('Job record has no valid status');
});

test('parseJob does not quote the record in its errors', () => {
  expect(() => parseJob({ ...pending, text: 'a secret', status: 'a secret' })).toThrow(
    /^Job record has no valid status$/,
  );
});
