import { afterAll, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import {
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
import { runStages } from '../../src/runStages.ts';
import { captureConsole } from '../support/consoleCapture.ts';
import { type JobsTable, startJobsTable, type Wire } from '../support/jobsTable.ts';

const NOW = 1_700_000_000;
const DONE: Outcome = { status: 'DONE', result: '{"ocr":{"charCount":6}}' };
const FAILED: Outcome = { status: 'ERROR', errorMessage: 'No model for this' };
const MINE: Lease = { token: 'mine', expiresAt: NOW + 35 };
const OTHERS: Lease = { token: 'theirs', expiresAt: NOW + 65 };

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

beforeAll(async () => {
  captureConsole();
  table = await startJobsTable();
  repository = new JobRepository(table.connect(), table.name);
});
afterAll(() => table.stop());

beforeEach(() => {
  job = newJob(`job-${++count}`, 'a text', NOW, { maxEventAge: 600, workerTimeout: 30 });
});

const repositoryVia = (wire: Wire) => new JobRepository(table.connect(wire), table.name);
const read = () => table.read(job.jobId);

/** Stores the job with these changes, bypassing the repository. */
async function given(changes: Record<string, unknown> = {}): Promise<Record<string, unknown>> {
  const item = { ...job, ...changes };
  await table.put(item);
  return item;
}
const givenClaimed = (changes: Record<string, unknown> = {}) =>
  given({ status: 'IN_PROGRESS', attempt: 1, leaseToken: MINE.token, leaseExpiresAt: MINE.expiresAt, ...changes });

describe('create', () => {
  test('create stores a new job', async () => {
    const isCreated = await repository.create(job);

    expect(isCreated).toBe(true);
    expect(await read()).toEqual(job);
  });

  test.each([
    { status: 'PENDING' },
    { status: 'IN_PROGRESS', leaseToken: 'theirs', leaseExpiresAt: NOW + 35 },
    { status: 'DONE', result: '{}' },
    { status: 'ERROR', errorMessage: 'no' },
  ])('create returns false if the id belongs to a job that is $status, and does not change that job', async (state) => {
    const item = await given(state);

    const isCreated = await repository.create({ ...job, createdAt: NOW + 9, text: 'another' });

    expect(isCreated).toBe(false);
    expect(await read()).toEqual(item);
  });

  test('create replaces an expired job of any status that DynamoDB has not deleted yet', async () => {
    for (const status of ['PENDING', 'IN_PROGRESS', 'DONE', 'ERROR']) {
      await given({ status, text: 'old', expiresAt: NOW, attempt: 2, leaseToken: 'old', result: '{}' });
      expect(await repository.create(job)).toBe(true);
      expect(await read()).toEqual(job);
    }
  });

  test('create does not replace a job a second before it expires', async () => {
    await given({ status: 'DONE', result: '{}', expiresAt: NOW + 1 });

    const isCreated = await repository.create(job);

    expect(isCreated).toBe(false);
  });

  test('create stores the job once if sent twice', async () => {
    const isCreated = await repositoryVia(sendTwice).create(job);

    expect(isCreated).toBe(false);
    expect(await read()).toEqual(job);
  });
});

describe('deletePending', () => {
  test('deletePending deletes a pending job', async () => {
    await repository.create(job);

    const isDeleted = await repository.deletePending(job.jobId);

    expect(isDeleted).toBe(true);
    expect(await read()).toBeUndefined();
  });

  test.each([
    { status: 'IN_PROGRESS', leaseToken: 'theirs', leaseExpiresAt: NOW + 35 },
    { status: 'DONE', result: '{}' },
    { status: 'ERROR', errorMessage: 'no' },
  ])('deletePending does not delete a job that is $status', async (state) => {
    const item = await given(state);

    const isDeleted = await repository.deletePending(job.jobId);

    expect(isDeleted).toBe(false);
    expect(await read()).toEqual(item);
  });

  test('deletePending succeeds if the job does not exist, and creates no record', async () => {
    const isDeleted = await repository.deletePending(job.jobId);

    expect(isDeleted).toBe(true);
    expect(await read()).toBeUndefined();
  });

  test('deletePending succeeds if sent twice', async () => {
    await repository.create(job);

    const isDeleted = await repositoryVia(sendTwice).deletePending(job.jobId);

    expect(isDeleted).toBe(true);
    expect(await read()).toBeUndefined();
  });
});

describe('find', () => {
  test('find returns the job without other attributes of the record', async () => {
    await given({ extra: 1 });

    const found = await repository.find(job.jobId, NOW);

    expect(found).toEqual(job);
  });

  test('find returns undefined for an unknown job and for an expired one', async () => {
    expect(await repository.find(job.jobId, NOW)).toBeUndefined();

    const item = await given({ expiresAt: NOW + 1 });

    expect(await repository.find(job.jobId, NOW)).toBeDefined();
    expect(await repository.find(job.jobId, NOW + 1)).toBeUndefined();
    expect(await read()).toEqual(item);
  });

  test('find reads with strong consistency', async () => {
    const consistency: unknown[] = [];
    const client = table.connect();
    client.middlewareStack.add((next) => (args) => {
      if ('ConsistentRead' in args.input) consistency.push(args.input.ConsistentRead);
      return next(args);
    });

    await new JobRepository(client, table.name).find(job.jobId, NOW);

    expect(consistency).toEqual([true]);
  });

  test('find ends a job that was never claimed, as of its deadline', async () => {
    await given();
    const later = job.deadline + 1000;
    const ended = { ...job, status: 'ERROR', updatedAt: job.deadline, errorMessage: lapseOf(job).errorMessage };

    const found = await repository.find(job.jobId, later);

    expect(found).toEqual(ended);
    expect(await read()).toEqual(ended);
  });

  test('find ends a job whose attempts are used up, as of the expiry of its last lease, and removes the token', async () => {
    await givenClaimed({ attempt: 3 });

    expect(await repository.find(job.jobId, MINE.expiresAt - 1)).toMatchObject({ status: 'IN_PROGRESS' });
    expect(await repository.find(job.jobId, MINE.expiresAt + 50)).toMatchObject({
      status: 'ERROR',
      updatedAt: MINE.expiresAt,
      errorMessage: 'Processing failed: all 3 attempts ended without a result',
    });
    expect(await read()).not.toHaveProperty('leaseToken');
  });

  test('find returns the same lapsed job to readers whose clocks differ', async () => {
    await givenClaimed({ attempt: 3 });

    const first = await repository.find(job.jobId, MINE.expiresAt);

    expect(await repository.find(job.jobId, NOW)).toEqual(first);
    expect(await repository.find(job.jobId, NOW + 100_000)).toEqual(first);
  });

  test('find does not end a job that its attempt ends in the meantime', async () => {
    await givenClaimed({ attempt: 3 });
    const wire = justBefore('UpdateItemCommand', () => repository.end(job.jobId, MINE, DONE, NOW + 34));

    const found = await repositoryVia(wire).find(job.jobId, NOW + 35);

    expect(found).toMatchObject({ ...DONE, updatedAt: NOW + 34 });
  });

  test('find does not end a job that a worker claims in the meantime', async () => {
    const lease = { token: 'first', expiresAt: job.deadline + 20 };
    await given();
    const wire = justBefore('UpdateItemCommand', () => repository.claim(job.jobId, lease, job.deadline - 1));

    const found = await repositoryVia(wire).find(job.jobId, job.deadline);

    expect(found).toMatchObject({ status: 'IN_PROGRESS', attempt: 1 });
  });

  test('find does not end an attempt that starts in the meantime', async () => {
    const lease = { token: 'next', expiresAt: job.deadline + 20 };
    await givenClaimed();
    const wire = justBefore('UpdateItemCommand', () => repository.claim(job.jobId, lease, job.deadline - 1));

    const found = await repositoryVia(wire).find(job.jobId, job.deadline);

    expect(found).toMatchObject({ status: 'IN_PROGRESS', attempt: 2 });
  });

  test('find does not end the next job with the same id', async () => {
    await given();
    const next = {
      ...job,
      createdAt: job.expiresAt,
      deadline: job.expiresAt + 630,
      expiresAt: job.expiresAt + 604_800,
    };
    const wire = justBefore('UpdateItemCommand', () => repository.create(next));

    const found = await repositoryVia(wire).find(job.jobId, job.expiresAt - 1);

    expect(found).toEqual(next);
  });

  test('find returns undefined if the job is deleted in the meantime', async () => {
    await given();
    const wire = justBefore('UpdateItemCommand', () => repository.deletePending(job.jobId));

    const found = await repositoryVia(wire).find(job.jobId, job.deadline);

    expect(found).toBeUndefined();
    expect(await read()).toBeUndefined();
  });

  test('find ends a lapsed job once if the write is sent twice', async () => {
    await givenClaimed({ attempt: 3 });

    const found = await repositoryVia(sendTwice).find(job.jobId, NOW + 35);

    expect(found).toMatchObject({ status: 'ERROR', updatedAt: MINE.expiresAt });
    expect(await repository.find(job.jobId, NOW + 35)).toEqual(found);
  });

  test('find throws if the record is malformed, and does not change it', async () => {
    const item = await given({ createdAt: 'yesterday' });

    await expect(repository.find(job.jobId, NOW)).rejects.toThrow('Job record has no valid createdAt');
    expect(await read()).toEqual(item);
  });
});

describe('claim', () => {
  test('claim starts the first attempt, and returns the job with its text', async () => {
    await given();
    const claim = await repository.claim(job.jobId, MINE, NOW + 3);
    const claimed = {
      ...job,
      status: 'IN_PROGRESS',
      attempt: 1,
      updatedAt: NOW + 3,
      leaseToken: 'mine',
      leaseExpiresAt: MINE.expiresAt,
    };

    expect(claim).toEqual({ kind: 'claimed', job: claimed });
    expect(await read()).toEqual(claimed);
  });

  test('claim starts another attempt once the lease has expired, and not a second earlier', async () => {
    const item = await givenClaimed();

    expect(await repository.claim(job.jobId, OTHERS, MINE.expiresAt - 1)).toEqual({ kind: 'held' });
    expect(await read()).toEqual(item);
    expect(await repository.claim(job.jobId, OTHERS, MINE.expiresAt)).toMatchObject({
      kind: 'claimed',
      job: { attempt: 2, leaseToken: 'theirs', leaseExpiresAt: OTHERS.expiresAt },
    });
  });

  test('claim starts no attempt after the last one, and ends the job', async () => {
    await givenClaimed({ attempt: 3 });

    const result = await repository.claim(job.jobId, OTHERS, MINE.expiresAt);

    expect(result).toEqual({ kind: 'ended' });
    expect(await read()).toMatchObject({ status: 'ERROR', attempt: 3 });
  });

  test('claim starts no attempt at or after the deadline, and ends the job', async () => {
    await given();

    const result = await repository.claim(job.jobId, MINE, job.deadline);

    expect(result).toEqual({ kind: 'ended' });
    expect(await read()).toMatchObject({ status: 'ERROR', attempt: 0 });
  });

  test.each([DONE, FAILED])('claim does not change a job that is $status', async (end) => {
    const item = await given({ ...end, attempt: 1, leaseToken: 'mine', leaseExpiresAt: NOW - 1 });

    const result = await repository.claim(job.jobId, MINE, NOW);

    expect(result).toEqual({ kind: 'ended' });
    expect(await read()).toEqual(item);
  });

  test('claim creates no record for an unknown job', async () => {
    const result = await repository.claim(job.jobId, MINE, NOW);

    expect(result).toEqual({ kind: 'gone' });
    expect(await read()).toBeUndefined();
  });

  test('claim returns gone for an expired job', async () => {
    await given({ ...DONE, expiresAt: NOW });

    const result = await repository.claim(job.jobId, MINE, NOW);

    expect(result).toEqual({ kind: 'gone' });
  });

  test('claim returns held if the lease expires just after the condition failed', async () => {
    await givenClaimed();
    const wire = justBefore('GetItemCommand', () => givenClaimed({ leaseExpiresAt: NOW }));

    const result = await repositoryVia(wire).claim(job.jobId, OTHERS, NOW);

    expect(result).toEqual({ kind: 'held' });
  });

  test('claim starts one attempt if sent twice', async () => {
    await given();

    const result = await repositoryVia(sendTwice).claim(job.jobId, MINE, NOW);

    expect(result).toMatchObject({ kind: 'claimed', job: { attempt: 1, leaseToken: 'mine' } });
    expect(await read()).toMatchObject({ attempt: 1 });
  });

  test('claim succeeds for only one of two workers that claim at the same time', async () => {
    await given();

    const claims = await Promise.all([MINE, OTHERS].map((lease) => repository.claim(job.jobId, lease, NOW)));

    expect(claims.map(({ kind }) => kind).sort()).toEqual(['claimed', 'held']);
    expect(await read()).toMatchObject({ attempt: 1 });
  });

  test('claim throws if DynamoDB cannot be reached', async () => {
    const wire: Wire = () => Promise.reject(new Error('No route'));

    await expect(repositoryVia(wire).claim(job.jobId, MINE, NOW)).rejects.toThrow('No route');
  });
});

describe('end', () => {
  test.each([DONE, FAILED])('end stores $status and its time', async (end) => {
    const item = await givenClaimed();

    const isStored = await repository.end(job.jobId, MINE, end, NOW + 5);

    expect(isStored).toBe(true);
    expect(await read()).toEqual({ ...item, ...end, updatedAt: NOW + 5 });
  });

  test('end stores a result unchanged, whatever its keys', async () => {
    const result = '{"s":{"constructor":{"name":"String"},"__proto__":1,"big":1e300,"deep":{"constructor":1},"":""}}';
    await givenClaimed();

    await repository.end(job.jobId, MINE, { status: 'DONE', result }, NOW + 5);

    const found = await repository.find(job.jobId, NOW);

    expect(found).toMatchObject({ status: 'DONE', result });
  });

  test('end returns false if another attempt has claimed the job', async () => {
    const item = await givenClaimed({ attempt: 2, leaseToken: OTHERS.token });

    const isStored = await repository.end(job.jobId, MINE, DONE, NOW + 5);

    expect(isStored).toBe(false);
    expect(await read()).toEqual(item);
  });

  test('end returns false once a reader has ended the job', async () => {
    await givenClaimed({ attempt: 3 });

    const seen = await repository.find(job.jobId, MINE.expiresAt);

    for (const end of [DONE, FAILED]) {
      expect(await repository.end(job.jobId, MINE, end, NOW + 34)).toBe(false);
      expect(await repository.find(job.jobId, NOW + 34)).toEqual(seen);
    }
  });

  test.each([
    [DONE, FAILED],
    [FAILED, DONE],
  ])('end never replaces $status with the other outcome', async (first, second) => {
    const item = await givenClaimed();

    await repository.end(job.jobId, MINE, first, NOW + 5);

    const isStored = await repository.end(job.jobId, MINE, second, NOW + 6);

    expect(isStored).toBe(false);
    expect(await read()).toEqual({ ...item, ...first, updatedAt: NOW + 5 });
  });

  test.each([DONE, FAILED])('end stores $status if sent twice', async (end) => {
    await givenClaimed();

    const isStored = await repositoryVia(sendTwice).end(job.jobId, MINE, end, NOW + 5);

    expect(isStored).toBe(true);
    expect(await read()).toMatchObject({ ...end, updatedAt: NOW + 5 });
  });

  test('end creates no record for an unknown job', async () => {
    const isStored = await repository.end(job.jobId, MINE, DONE, NOW);

    expect(isStored).toBe(false);
    expect(await read()).toBeUndefined();
  });

  test('end returns false for a pending job', async () => {
    const item = await given({ leaseToken: MINE.token });

    const isStored = await repository.end(job.jobId, MINE, DONE, NOW);

    expect(isStored).toBe(false);
    expect(await read()).toEqual(item);
  });

  test('end throws if DynamoDB cannot be reached', async () => {
    const wire: Wire = () => Promise.reject(new Error('No route'));

    await expect(repositoryVia(wire).end(job.jobId, MINE, DONE, NOW)).rejects.toThrow('No route');
  });
});

describe('the conditions of the repository and the rules of src/job.ts', () => {
  const times = fc.integer({ min: NOW - 3, max: NOW + 3 });
  const state = fc.oneof(
    fc.constant({ status: 'PENDING' as const }),
    fc.record({
      status: fc.constant('IN_PROGRESS' as const),
      leaseToken: fc.constant('theirs'),
      leaseExpiresAt: times,
    }),
    fc.constant({ status: 'DONE' as const, result: '{}' }),
    fc.constant({ status: 'ERROR' as const, errorMessage: 'no' }),
  );
  const jobs: fc.Arbitrary<Job> = fc
    .record({ attempt: fc.integer({ min: 0, max: 4 }), deadline: times, expiresAt: times, state })
    .map(({ state, ...fields }) => ({
      jobId: 'random',
      text: 'a text',
      createdAt: NOW - 9,
      updatedAt: NOW - 9,
      ...fields,
      ...state,
    }));

  test('the conditions of the repository and the rules of src/job.ts agree on which jobs can be claimed', async () => {
    await fc.assert(
      fc.asyncProperty(jobs, async (record) => {
        await table.put(record);
        const { kind } = await repository.claim(record.jobId, MINE, NOW);
        expect(kind === 'claimed').toBe(phaseOf(record, NOW) === 'claimable');
      }),
      { numRuns: 150 },
    );
  });

  test('the conditions of the repository and the rules of src/job.ts agree on which jobs can be replaced', async () => {
    await fc.assert(
      fc.asyncProperty(jobs, async (record) => {
        await table.put(record);
        expect(await repository.create({ ...job, jobId: record.jobId })).toBe(isExpired(record, NOW));
      }),
      { numRuns: 50 },
    );
  });

  test('the conditions of the repository and the rules of src/job.ts agree on what readers see', async () => {
    await fc.assert(
      fc.asyncProperty(jobs, async (record) => {
        await table.put(record);
        const found = await repository.find(record.jobId, NOW);
        if (isExpired(record, NOW)) expect(found).toBeUndefined();
        else if (phaseOf(record, NOW) === 'lapsed') {
          const { endedAt, errorMessage } = lapseOf(record);
          expect(found).toMatchObject({ status: 'ERROR', updatedAt: endedAt, errorMessage });
        } else expect(found).toEqual(record);
        // Once a reader has seen an outcome, it never changes, whatever the clocks say.
        if (found !== undefined && phaseOf(found, NOW) === 'ended') {
          await repository.claim(record.jobId, MINE, NOW - 3);
          await repository.end(record.jobId, { token: 'theirs', expiresAt: NOW }, DONE, NOW);
          await repository.deletePending(record.jobId);
          expect(await repository.find(record.jobId, NOW - 3)).toEqual(found);
        }
      }),
      { numRuns: 100 },
    );
  });
});

describe('the longest text', () => {
  test('the longest text is stored with the largest result that fitsItem allows', async () => {
    const text = 'x'.repeat(MAX_TEXT_BYTES);
    job = { ...job, text, jobId: '11111111-1111-4111-8111-111111111111' };
    const lease = { token: '22222222-2222-4222-8222-222222222222', expiresAt: NOW + 35 };
    await repository.create(job);
    await repository.claim(job.jobId, lease, NOW);
    const fill = (bytes: number) => ({ name: 'fill', run: async () => ({ x: 'y'.repeat(bytes) }) });
    const { signal } = new AbortController();
    const options = { signal, checkTime: () => {}, running: new Map(), clock: () => 0 };
    // {"fill":{"x":"..."}}
    const largest = 399 * 1024 - MAX_TEXT_BYTES - 17;

    expect(await runStages([fill(largest + 1)], job, options)).toEqual({
      status: 'ERROR',
      errorMessage: 'The result cannot be stored: it is too large',
    });

    const end = await runStages([fill(largest)], job, options);

    expect(end.status).toBe('DONE');
    expect(await repository.end(job.jobId, lease, end, NOW)).toBe(true);
  });
});

describe('parseJob', () => {
  const pending = newJob('id', 'a text', 1000, { maxEventAge: 600, workerTimeout: 30 });
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
    ['jobId', pending],
    ['text', pending],
    ['status', pending],
    ['leaseToken', inProgress],
    ['result', done],
    ['errorMessage', failed],
  ])('parseJob throws an error that names %s if it is not a string', (name, item) => {
    for (const value of [5, null, undefined, ['x'], { ocr: {} }]) {
      expect(() => parseJob({ ...item, [name]: value })).toThrow(`Job record has no valid ${name}`);
    }
  });

  test.each([
    ['createdAt', pending],
    ['updatedAt', pending],
    ['expiresAt', pending],
    ['deadline', pending],
    ['attempt', pending],
    ['leaseExpiresAt', inProgress],
  ])('parseJob throws an error that names %s if it is not a whole number', (name, item) => {
    for (const value of ['1', 1.5, Number.NaN, 2 ** 53, null, undefined]) {
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
});
