import { afterAll, beforeAll, beforeEach, describe, expect, jest, test } from '@jest/globals';
import fc from 'fast-check';
import { type End, isExpired, type Job, type Lease, lapseOf, MAX_TEXT_BYTES, newJob, phaseOf } from '../../src/job.ts';
import { JobRepository } from '../../src/jobRepository.ts';
import { runStages } from '../../src/runStages.ts';
import { stages } from '../../src/stages.ts';
import { captureConsole } from '../support/consoleCapture.ts';
import { type JobsTable, startJobsTable, type Wire } from '../support/jobsTable.ts';

// The machine may be busy with other things.
jest.setTimeout(60_000);

const NOW = 1_700_000_000;
const DONE: End = { status: 'DONE', result: { ocr: { stage: 'ocr', charCount: 6 } } };
const FAILED: End = { status: 'ERROR', errorMessage: 'No model for this' };
const MINE: Lease = { token: 'mine', expiresAt: NOW + 35 };
const OTHERS: Lease = { token: 'theirs', expiresAt: NOW + 65 };

/** A network on which every answer is lost once, so that each request goes out twice. */
const sendingTwice: Wire = async (_command, send) => {
  await send().catch(() => undefined);
  return send();
};

/** A network on which something happens just before the first request of this kind. */
function justBefore(command: string, event: () => Promise<unknown>): Wire {
  let hasHappened = false;
  return async (name, send) => {
    if (name === command && !hasHappened) {
      hasHappened = true;
      await event();
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

const through = (wire: Wire) => new JobRepository(table.connect(wire), table.name);
const read = () => table.read(job.jobId);

/** The job as it stands after these fields were changed behind the repository's back. */
async function given(changes: Record<string, unknown> = {}): Promise<Record<string, unknown>> {
  const item = { ...job, ...changes };
  await table.put(item);
  return item;
}
const givenClaimed = (changes: Record<string, unknown> = {}) =>
  given({ status: 'IN_PROGRESS', attempt: 1, leaseToken: MINE.token, leaseExpiresAt: MINE.expiresAt, ...changes });

describe('create', () => {
  test('puts a new job in, with the POST that accepted it', async () => {
    expect(await repository.create(job, 'post')).toBe(true);
    expect(await read()).toEqual({ ...job, acceptedBy: new Set(['post']) });
  });

  test('accepts a pending job of the same text once more, and leaves it as it is', async () => {
    await repository.create(job, 'first');
    expect(await repository.create({ ...job, createdAt: NOW + 9, updatedAt: NOW + 9 }, 'second')).toBe(true);
    expect(await read()).toEqual({ ...job, acceptedBy: new Set(['first', 'second']) });
  });

  test('refuses a job of another text', async () => {
    await repository.create(job, 'first');
    expect(await repository.create({ ...job, text: 'another' }, 'second')).toBe(false);
    expect(await read()).toEqual({ ...job, acceptedBy: new Set(['first']) });
  });

  test.each([
    { status: 'IN_PROGRESS', leaseExpiresAt: NOW + 35 },
    { status: 'DONE', result: {} },
    { status: 'ERROR', errorMessage: 'no' },
  ])('refuses a job that is $status', async (state) => {
    const item = await given(state);
    expect(await repository.create(job, 'second')).toBe(false);
    expect(await read()).toEqual(item);
  });

  test('takes an expired job that is still there for gone, in any state', async () => {
    for (const status of ['PENDING', 'IN_PROGRESS', 'DONE', 'ERROR']) {
      await given({ status, text: 'old', expiresAt: NOW, attempt: 2, leaseToken: 'old', result: {} });
      expect(await repository.create(job, 'post')).toBe(true);
      expect(await read()).toEqual({ ...job, acceptedBy: new Set(['post']) });
    }
  });

  test('does not replace a job in its last second', async () => {
    await given({ status: 'DONE', result: {}, expiresAt: NOW + 1 });
    expect(await repository.create(job, 'post')).toBe(false);
  });

  test('sent twice, accepts once', async () => {
    expect(await through(sendingTwice).create(job, 'post')).toBe(true);
    expect(await read()).toEqual({ ...job, acceptedBy: new Set(['post']) });
  });
});

describe('withdraw', () => {
  test('takes a job back that nobody else accepted', async () => {
    await repository.create(job, 'post');
    await repository.withdraw(job.jobId, 'post', NOW);
    expect(await read()).toBeUndefined();
  });

  test('leaves a job that another POST accepted too', async () => {
    await repository.create(job, 'first');
    await repository.create(job, 'second');
    await repository.withdraw(job.jobId, 'first', NOW);
    expect(await read()).toEqual({ ...job, acceptedBy: new Set(['second']) });
    await repository.withdraw(job.jobId, 'second', NOW);
    expect(await read()).toBeUndefined();
  });

  test('leaves a job alone that another POST accepted and this one did not', async () => {
    await repository.create(job, 'first');
    await repository.withdraw(job.jobId, 'second', NOW);
    expect(await read()).toEqual({ ...job, acceptedBy: new Set(['first']) });
  });

  test('leaves a job that another POST accepts between its two steps', async () => {
    await repository.create(job, 'first');
    const wire = justBefore('DeleteItemCommand', () => repository.create(job, 'second'));
    await through(wire).withdraw(job.jobId, 'first', NOW);
    expect(await read()).toEqual({ ...job, acceptedBy: new Set(['second']) });
  });

  test('leaves a job that a worker claims between its two steps', async () => {
    await repository.create(job, 'post');
    const wire = justBefore('DeleteItemCommand', () => repository.claim(job.jobId, MINE, NOW));
    expect(await through(wire).withdraw(job.jobId, 'post', NOW)).toMatchObject({ status: 'IN_PROGRESS' });
    expect(await read()).toMatchObject({ status: 'IN_PROGRESS', leaseToken: 'mine' });
  });

  test('answers the job that a worker has claimed', async () => {
    await repository.create(job, 'post');
    await repository.claim(job.jobId, MINE, NOW);
    expect(await repository.withdraw(job.jobId, 'post', NOW)).toMatchObject({
      status: 'IN_PROGRESS',
      leaseToken: 'mine',
    });
  });

  test('answers nothing about a job that is withdrawn, or created again meanwhile', async () => {
    expect(await repository.withdraw(job.jobId, 'post', NOW)).toBeUndefined();
    const wire = justBefore('GetItemCommand', () => repository.create(job, 'next'));
    expect(await through(wire).withdraw(job.jobId, 'post', NOW)).toBeUndefined();
    expect(await repository.withdraw(job.jobId, 'next', NOW)).toBeUndefined();
    expect(await read()).toBeUndefined();
  });

  test.each([
    { status: 'IN_PROGRESS', leaseExpiresAt: NOW + 35 },
    { status: 'DONE', result: {} },
    { status: 'ERROR', errorMessage: 'no' },
  ])('changes nothing about a job that is $status', async (state) => {
    const item = await given({ ...state, acceptedBy: new Set(['post']) });
    await repository.withdraw(job.jobId, 'post', NOW);
    expect(await read()).toEqual(item);
  });

  test('of an unknown job makes no record', async () => {
    await repository.withdraw(job.jobId, 'post', NOW);
    expect(await read()).toBeUndefined();
  });

  test('sent twice, withdraws once', async () => {
    await repository.create(job, 'first');
    await repository.create(job, 'second');
    await through(sendingTwice).withdraw(job.jobId, 'first', NOW);
    expect(await read()).toEqual({ ...job, acceptedBy: new Set(['second']) });
    await through(sendingTwice).withdraw(job.jobId, 'second', NOW);
    expect(await read()).toBeUndefined();
  });
});

describe('find', () => {
  test('gives the job, and nothing of the record beyond it', async () => {
    await repository.create(job, 'post');
    expect(await repository.find(job.jobId, NOW)).toEqual(job);
  });

  test('gives nothing for an unknown job, nor for one that has expired', async () => {
    expect(await repository.find(job.jobId, NOW)).toBeUndefined();
    const item = await given({ expiresAt: NOW + 1 });
    expect(await repository.find(job.jobId, NOW)).toBeDefined();
    expect(await repository.find(job.jobId, NOW + 1)).toBeUndefined();
    expect(await read()).toEqual(item);
  });

  test('reads with strong consistency', async () => {
    const consistency: unknown[] = [];
    const client = table.connect();
    client.middlewareStack.add((next) => (args) => {
      if ('ConsistentRead' in args.input) consistency.push(args.input.ConsistentRead);
      return next(args);
    });
    await new JobRepository(client, table.name).find(job.jobId, NOW);
    expect(consistency).toEqual([true]);
  });

  test('writes the end of a job that nobody ever claimed, at its deadline', async () => {
    await given({ acceptedBy: new Set(['post']) });
    const later = job.deadline + 1000;
    const ended = { ...job, status: 'ERROR', updatedAt: job.deadline, errorMessage: lapseOf(job).errorMessage };
    expect(await repository.find(job.jobId, later)).toEqual(ended);
    expect(await read()).toMatchObject(ended);
  });

  test('writes the end of a job whose attempts are used up, when the last lease was over', async () => {
    await givenClaimed({ attempt: 3 });
    expect(await repository.find(job.jobId, MINE.expiresAt - 1)).toMatchObject({ status: 'IN_PROGRESS' });
    expect(await repository.find(job.jobId, MINE.expiresAt + 50)).toMatchObject({
      status: 'ERROR',
      updatedAt: MINE.expiresAt,
      errorMessage: 'Processing failed: all 3 attempts ended without a result',
    });
  });

  test('says the same of a lapsed job to readers whose clocks differ', async () => {
    await givenClaimed({ attempt: 3 });
    const first = await repository.find(job.jobId, MINE.expiresAt);
    expect(await repository.find(job.jobId, NOW)).toEqual(first);
    expect(await repository.find(job.jobId, NOW + 100_000)).toEqual(first);
  });

  test('does not end a job that its attempt ends between reading and writing', async () => {
    await givenClaimed({ attempt: 3 });
    const wire = justBefore('UpdateItemCommand', () => repository.end(job.jobId, MINE, DONE, NOW + 34));
    expect(await through(wire).find(job.jobId, NOW + 35)).toMatchObject({ ...DONE, updatedAt: NOW + 34 });
  });

  test('does not end a job that a worker claims between reading and writing', async () => {
    const lease = { token: 'first', expiresAt: job.deadline + 20 };
    await given();
    const wire = justBefore('UpdateItemCommand', () => repository.claim(job.jobId, lease, job.deadline - 1));
    expect(await through(wire).find(job.jobId, job.deadline)).toMatchObject({ status: 'IN_PROGRESS', attempt: 1 });
  });

  test('does not end the attempt that begins between reading and writing', async () => {
    const lease = { token: 'next', expiresAt: job.deadline + 20 };
    await givenClaimed();
    const wire = justBefore('UpdateItemCommand', () => repository.claim(job.jobId, lease, job.deadline - 1));
    expect(await through(wire).find(job.jobId, job.deadline)).toMatchObject({ status: 'IN_PROGRESS', attempt: 2 });
  });

  test('answers as of what is there when the job is deleted between reading and writing', async () => {
    await given({ acceptedBy: new Set(['post']) });
    const wire = justBefore('UpdateItemCommand', () => repository.withdraw(job.jobId, 'post', NOW));
    expect(await through(wire).find(job.jobId, job.deadline)).toBeUndefined();
    expect(await read()).toBeUndefined();
  });

  test('of a lapsed job, sent twice, ends it once', async () => {
    await givenClaimed({ attempt: 3 });
    const found = await through(sendingTwice).find(job.jobId, NOW + 35);
    expect(found).toMatchObject({ status: 'ERROR', updatedAt: MINE.expiresAt });
    expect(await repository.find(job.jobId, NOW + 35)).toEqual(found);
  });

  test('throws on a damaged record, and leaves it to be looked at', async () => {
    const item = await given({ createdAt: 'yesterday' });
    await expect(repository.find(job.jobId, NOW)).rejects.toThrow('Job record has no valid createdAt');
    expect(await read()).toEqual(item);
  });
});

describe('claim', () => {
  test('begins the first attempt, and answers the job with its text', async () => {
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
    expect(claim).toEqual({ outcome: 'claimed', job: claimed });
    expect(await read()).toEqual(claimed);
  });

  test('begins another attempt once the lease is over, not a second before', async () => {
    const item = await givenClaimed();
    expect(await repository.claim(job.jobId, OTHERS, MINE.expiresAt - 1)).toMatchObject({ outcome: 'held' });
    expect(await read()).toEqual(item);
    expect(await repository.claim(job.jobId, OTHERS, MINE.expiresAt)).toMatchObject({
      outcome: 'claimed',
      job: { attempt: 2, leaseToken: 'theirs', leaseExpiresAt: OTHERS.expiresAt },
    });
  });

  test('begins no attempt beyond the last, and ends the job', async () => {
    await givenClaimed({ attempt: 3 });
    expect(await repository.claim(job.jobId, OTHERS, MINE.expiresAt)).toMatchObject({
      outcome: 'ended',
      job: { status: 'ERROR', attempt: 3 },
    });
  });

  test('begins no attempt from the deadline on, and ends the job', async () => {
    await given();
    expect(await repository.claim(job.jobId, MINE, job.deadline)).toMatchObject({
      outcome: 'ended',
      job: { status: 'ERROR', attempt: 0 },
    });
  });

  test.each([DONE, FAILED])('leaves a job that is $status as it is', async (end) => {
    const item = await given({ ...end, attempt: 1, leaseToken: 'mine', leaseExpiresAt: NOW - 1 });
    expect(await repository.claim(job.jobId, MINE, NOW)).toMatchObject({ outcome: 'ended', job: end });
    expect(await read()).toEqual(item);
  });

  test('of an unknown job makes no record', async () => {
    expect(await repository.claim(job.jobId, MINE, NOW)).toEqual({ outcome: 'unknown' });
    expect(await read()).toBeUndefined();
  });

  test('of an expired job finds nothing', async () => {
    await given({ ...DONE, expiresAt: NOW });
    expect(await repository.claim(job.jobId, MINE, NOW)).toEqual({ outcome: 'unknown' });
  });

  test('of a job that is given back just after the refusal fails, so that its event comes back', async () => {
    await givenClaimed();
    const wire = justBefore('GetItemCommand', () => repository.release(job.jobId, MINE, NOW + 1));
    expect(await through(wire).claim(job.jobId, OTHERS, NOW + 1)).toMatchObject({ outcome: 'held' });
  });

  test('sent twice, begins one attempt', async () => {
    await given();
    expect(await through(sendingTwice).claim(job.jobId, MINE, NOW)).toMatchObject({
      outcome: 'claimed',
      job: { attempt: 1, leaseToken: 'mine' },
    });
    expect(await read()).toMatchObject({ attempt: 1 });
  });

  test('is won by one of two at the same moment', async () => {
    await given();
    const claims = await Promise.all([MINE, OTHERS].map((lease) => repository.claim(job.jobId, lease, NOW)));
    expect(claims.map(({ outcome }) => outcome).sort()).toEqual(['claimed', 'held']);
    expect(await read()).toMatchObject({ attempt: 1 });
  });

  test('throws when DynamoDB does', async () => {
    const wire: Wire = () => Promise.reject(new Error('No route'));
    await expect(through(wire).claim(job.jobId, MINE, NOW)).rejects.toThrow('No route');
  });
});

describe('end', () => {
  test.each([DONE, FAILED])('stores $status once, with its moment, as a map', async (end) => {
    const item = await givenClaimed();
    expect(await repository.end(job.jobId, MINE, end, NOW + 5)).toEqual(end);
    expect(await read()).toEqual({ ...item, ...end, updatedAt: NOW + 5 });
  });

  test('is refused to an attempt whose lease was taken over', async () => {
    const item = await givenClaimed({ attempt: 2, leaseToken: OTHERS.token });
    expect(await repository.end(job.jobId, MINE, DONE, NOW + 5)).toBeUndefined();
    expect(await read()).toEqual(item);
  });

  test('is refused to an attempt that gave its lease back', async () => {
    await givenClaimed();
    await repository.release(job.jobId, MINE, NOW + 4);
    expect(await repository.end(job.jobId, MINE, DONE, NOW + 5)).toBeUndefined();
    expect(await read()).toMatchObject({ status: 'IN_PROGRESS' });
  });

  test('is refused once a reader has ended the job', async () => {
    await givenClaimed({ attempt: 3 });
    const seen = await repository.find(job.jobId, MINE.expiresAt);
    for (const end of [DONE, FAILED]) {
      expect(await repository.end(job.jobId, MINE, end, NOW + 34)).toBeUndefined();
      expect(await repository.find(job.jobId, NOW + 34)).toEqual(seen);
    }
  });

  test('never replaces another end of the same attempt', async () => {
    const item = await givenClaimed();
    await repository.end(job.jobId, MINE, DONE, NOW + 5);
    expect(await repository.end(job.jobId, MINE, FAILED, NOW + 6)).toBeUndefined();
    expect(await read()).toEqual({ ...item, ...DONE, updatedAt: NOW + 5 });
  });

  test.each([DONE, FAILED])('sent twice, stores $status once', async (end) => {
    await givenClaimed();
    expect(await through(sendingTwice).end(job.jobId, MINE, end, NOW + 5)).toEqual(end);
    expect(await read()).toMatchObject({ ...end, updatedAt: NOW + 5 });
  });

  test('of an unknown job makes no record', async () => {
    expect(await repository.end(job.jobId, MINE, DONE, NOW)).toBeUndefined();
    expect(await read()).toBeUndefined();
  });

  test('of a pending job is refused', async () => {
    const item = await given({ leaseToken: MINE.token });
    expect(await repository.end(job.jobId, MINE, DONE, NOW)).toBeUndefined();
    expect(await read()).toEqual(item);
  });

  test('of an ended job whose lease has another token is not taken for its own', async () => {
    await givenClaimed({ attempt: 2, leaseToken: OTHERS.token });
    await repository.end(job.jobId, OTHERS, DONE, NOW + 5);
    expect(await repository.end(job.jobId, MINE, DONE, NOW + 6)).toBeUndefined();
  });

  test('with a result too large for the table is an ERROR that says so', async () => {
    const item = await givenClaimed();
    const end: End = { status: 'DONE', result: { big: { stage: 'big', text: 'x'.repeat(400 * 1024) } } };
    const stored = {
      status: 'ERROR',
      errorMessage: 'The result cannot be stored: it is too large or too deeply nested',
    };
    expect(await repository.end(job.jobId, MINE, end, NOW + 5)).toEqual(stored);
    expect(await read()).toEqual({ ...item, ...stored, updatedAt: NOW + 5 });
  });

  test('throws when DynamoDB does', async () => {
    const wire: Wire = () => Promise.reject(new Error('No route'));
    for (const end of [DONE, FAILED]) {
      await expect(through(wire).end(job.jobId, MINE, end, NOW)).rejects.toThrow('No route');
    }
  });

  test('throws on what DynamoDB finds invalid about an ERROR, and does not try for ever', async () => {
    await givenClaimed();
    const end: End = { status: 'ERROR', errorMessage: 'x'.repeat(400 * 1024) };
    await expect(repository.end(job.jobId, MINE, end, NOW)).rejects.toThrow(/size/);
  });
});

describe('release', () => {
  test('gives the lease back as of the next second, and its token', async () => {
    const { leaseToken, ...item } = await givenClaimed();
    expect(leaseToken).toBe(MINE.token);
    await repository.release(job.jobId, MINE, NOW + 5);
    expect(await read()).toEqual({ ...item, leaseExpiresAt: NOW + 6, updatedAt: NOW + 5 });
    expect(await repository.claim(job.jobId, OTHERS, NOW + 6)).toMatchObject({
      outcome: 'claimed',
      job: { attempt: 2 },
    });
  });

  test('of the last attempt ends the job for its next reader', async () => {
    await givenClaimed({ attempt: 3 });
    await repository.release(job.jobId, MINE, NOW + 5);
    expect(await repository.find(job.jobId, NOW + 6)).toMatchObject({ status: 'ERROR', updatedAt: NOW + 6 });
  });

  test('makes the same invocation’s claim, when that arrives late, a refused one', async () => {
    await givenClaimed();
    await repository.release(job.jobId, MINE, NOW);
    expect(await repository.claim(job.jobId, MINE, NOW)).toMatchObject({ outcome: 'held', job: { attempt: 1 } });
  });

  test('does not touch the lease of another attempt', async () => {
    const item = await givenClaimed({ attempt: 2, leaseToken: OTHERS.token });
    await repository.release(job.jobId, MINE, NOW + 5);
    expect(await read()).toEqual(item);
  });

  test.each([DONE, FAILED])('does not touch a job that is $status', async (end) => {
    const item = await givenClaimed(end);
    await repository.release(job.jobId, MINE, NOW + 5);
    expect(await read()).toEqual(item);
  });

  test('of an unknown job makes no record', async () => {
    await repository.release(job.jobId, MINE, NOW);
    expect(await read()).toBeUndefined();
  });

  test('sent twice, gives back once', async () => {
    await givenClaimed();
    await through(sendingTwice).release(job.jobId, MINE, NOW + 5);
    expect(await read()).toMatchObject({ attempt: 1, leaseExpiresAt: NOW + 6 });
  });

  test('throws when DynamoDB does', async () => {
    const wire: Wire = () => Promise.reject(new Error('No route'));
    await expect(through(wire).release(job.jobId, MINE, NOW)).rejects.toThrow('No route');
  });
});

describe('the repository and the rules of src/job.ts', () => {
  const times = fc.integer({ min: NOW - 3, max: NOW + 3 });
  const state = fc.oneof(
    fc.constant({ status: 'PENDING' as const }),
    fc.record({
      status: fc.constant('IN_PROGRESS' as const),
      leaseExpiresAt: times,
      leaseToken: fc.constant('theirs'),
    }),
    fc.record({ status: fc.constant('IN_PROGRESS' as const), leaseExpiresAt: times }),
    fc.constant({ status: 'DONE' as const, result: {} }),
    fc.constant({ status: 'ERROR' as const, errorMessage: 'no' }),
  );
  const jobs: fc.Arbitrary<Job> = fc
    .record({ attempt: fc.integer({ min: 0, max: 4 }), deadline: times, expiresAt: times, state })
    .map(({ state, ...fields }) => ({
      jobId: 'random',
      text: 'a text',
      createdAt: NOW - 9,
      updatedAt: NOW - 9,
      maxAttempts: 3,
      ...fields,
      ...state,
    }));

  test('agree on which job may be claimed, for any record and time', async () => {
    await fc.assert(
      fc.asyncProperty(jobs, async (record) => {
        await table.put(record);
        const { outcome } = await repository.claim(record.jobId, MINE, NOW);
        expect(outcome === 'claimed').toBe(phaseOf(record, NOW) === 'claimable');
      }),
      { numRuns: 150 },
    );
  });

  test('agree on what a reader sees, for any record and time', async () => {
    await fc.assert(
      fc.asyncProperty(jobs, async (record) => {
        await table.put(record);
        const found = await repository.find(record.jobId, NOW);
        if (isExpired(record, NOW)) expect(found).toBeUndefined();
        else if (phaseOf(record, NOW) === 'lapsed') {
          const { endedAt, errorMessage } = lapseOf(record);
          expect(found).toMatchObject({ status: 'ERROR', updatedAt: endedAt, errorMessage });
        } else expect(found).toEqual(record);
        // Whatever was shown as ended stays so, for every clock.
        if (found !== undefined && phaseOf(found, NOW) === 'ended') {
          await repository.claim(record.jobId, MINE, NOW - 3);
          await repository.end(record.jobId, { token: 'theirs', expiresAt: NOW }, DONE, NOW);
          await repository.release(record.jobId, { token: 'theirs', expiresAt: NOW }, NOW);
          await repository.withdraw(record.jobId, 'post', NOW);
          expect(await repository.find(record.jobId, NOW - 3)).toEqual(found);
        }
      }),
      { numRuns: 100 },
    );
  });
});

describe('a text of the greatest length', () => {
  test.each([
    ['distinct words that lower-casing lengthens by half', 'Ⱥ'.repeat(13_000)],
    ['words of four-byte characters', '😀'.repeat(6_500)],
    ['plain words', 'w'.repeat(26_000)],
  ])('is stored with its result, for %s', async (_what, word) => {
    const words = ['a', 'b', 'c', 'd', 'e'].map((letter) => letter + word).join(' ');
    const text = words + 'x'.repeat(MAX_TEXT_BYTES - Buffer.byteLength(words));
    expect(Buffer.byteLength(text)).toBe(MAX_TEXT_BYTES);
    job = { ...job, text };
    await repository.create(job, '8e03978e-40d5-43dd-bc93-6894a57f9324');
    const claim = await repository.claim(job.jobId, MINE, NOW);
    expect(claim).toMatchObject({ outcome: 'claimed', job: { text } });
    const tools = {
      jobId: job.jobId,
      pause: async () => undefined,
      signal: new AbortController().signal,
      clock: () => 0,
    };
    const end = await runStages(stages, text, tools);
    expect(end.status).toBe('DONE');
    expect(await repository.end(job.jobId, MINE, end, NOW)).toEqual(end);
    expect(await repository.find(job.jobId, NOW)).toMatchObject(end);
  });
});
