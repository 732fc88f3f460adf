import { describe, expect, test } from '@jest/globals';
import {
  CLOCK_SKEW_SECONDS,
  fitsItem,
  isEnded,
  isExpired,
  type Job,
  lapseOf,
  MAX_ATTEMPTS,
  newJob,
  newLease,
  phaseOf,
  retryAfter,
  sizeAsJson,
  unixSeconds,
} from '../../src/job.ts';
import { LIFETIMES } from '../support/jobs.ts';

const pending = newJob('id', 'a text', 1000, LIFETIMES);
const held: Job = { ...pending, status: 'IN_PROGRESS', attempt: 1, leaseExpiresAt: 1100, leaseToken: 'token' };
const done: Job = { ...pending, status: 'DONE', attempt: 1, result: '{}' };
const failed: Job = { ...pending, status: 'ERROR', attempt: 1, errorMessage: 'no' };

test('a new job is PENDING with no attempts, and its deadline allows for a slow POST, the maximum event age and one attempt', () => {
  expect(pending).toEqual({
    jobId: 'id',
    status: 'PENDING',
    text: 'a text',
    createdAt: 1000,
    updatedAt: 1000,
    expiresAt: 1000 + 604_800,
    deadline: 1000 + 28 + 600 + 30,
    attempt: 0,
  });
});

test.each([
  ['', 0],
  ['plain', 5],
  ['"quoted" \\', 13],
  ['\u0001', 6],
  ['\n', 2],
  ['é', 2],
  ['😀', 4],
])('%j takes %i bytes as JSON', (text, bytes) => {
  expect(sizeAsJson(text)).toBe(bytes);
});

test('text, owner and result fit in an item if they take at most 399 KiB together', () => {
  const result = 'x'.repeat(399 * 1024 - 2);

  expect(fitsItem({ text: 'é' }, result)).toBe(true);
  expect(fitsItem({ text: 'éx' }, result)).toBe(false);
  expect(fitsItem({ text: 'é', owner: 'x' }, result)).toBe(false);
});

test.each([
  [0, 0],
  [1999, 1],
  [2000, 2],
])('%i ms are %i whole seconds', (milliseconds, seconds) => {
  expect(unixSeconds(milliseconds)).toBe(seconds);
});

test.each([
  [-5, 1],
  [0, 1],
  [7, 1],
  [8, 2],
  [119, 29],
  [120, 30],
  [100_000, 30],
])('a client that reads a job of %i s is told to wait %i s', (age, seconds) => {
  expect(retryAfter(pending, pending.createdAt + age)).toBe(seconds);
});

test.each([
  [5, 6],
  [30, 16],
  [150, 23],
])(
  'a client that obeys Retry-After reads a job of %i s %i times, and sees its outcome at most a quarter of that late',
  (age, reads) => {
    let now = pending.createdAt;
    let count = 1;
    for (; now < pending.createdAt + age; count += 1) now += retryAfter(pending, now) ?? Number.NaN;

    expect(count).toBe(reads);
    expect(now - pending.createdAt - age).toBeLessThanOrEqual(Math.max(1, age / 4));
  },
);

test.each([
  [10_000, 10 + CLOCK_SKEW_SECONDS],
  [10_001, 11 + CLOCK_SKEW_SECONDS],
])('the lease of an invocation that is killed at %i ms expires at %i s', (killedAt, expiresAt) => {
  expect(newLease('token', killedAt)).toEqual({ token: 'token', expiresAt });
});

test('no client has to read a job again that has ended', () => {
  expect(retryAfter(done, 2000)).toBeUndefined();
  expect(retryAfter(failed, 2000)).toBeUndefined();
});

test('only DONE and ERROR are final', () => {
  expect([pending, held, done, failed].map(isEnded)).toEqual([false, false, true, true]);
});

test('a job is expired from expiresAt on', () => {
  expect(isExpired(pending, pending.expiresAt - 1)).toBe(false);
  expect(isExpired(pending, pending.expiresAt)).toBe(true);
});

describe('the phase of a job', () => {
  test('the phase of a job is claimable while it is pending and before its deadline', () => {
    expect(phaseOf(pending, 1000)).toBe('claimable');
    expect(phaseOf(pending, pending.deadline - 1)).toBe('claimable');
    expect(phaseOf(pending, pending.deadline)).toBe('lapsed');
  });

  test('the phase of a job is held while a lease is live, even after the deadline and on the last attempt', () => {
    expect(phaseOf(held, 1099)).toBe('held');
    expect(phaseOf({ ...held, deadline: 1000, attempt: MAX_ATTEMPTS }, 1099)).toBe('held');
  });

  test('the phase of a job is claimable again once the lease has expired', () => {
    expect(phaseOf(held, 1100)).toBe('claimable');
  });

  test('the phase of a job is lapsed once the lease of the last attempt has expired', () => {
    expect(phaseOf({ ...held, attempt: MAX_ATTEMPTS - 1 }, 1100)).toBe('claimable');
    expect(phaseOf({ ...held, attempt: MAX_ATTEMPTS }, 1100)).toBe('lapsed');
  });

  test('the phase of a job is ended if it is DONE or ERROR, regardless of attempts and deadline', () => {
    for (const job of [done, failed]) {
      expect(phaseOf(job, 1000)).toBe('ended');
      expect(phaseOf({ ...job, attempt: MAX_ATTEMPTS }, job.deadline + 1)).toBe('ended');
    }
  });
});

describe('a lapse', () => {
  test('a job lapses at its deadline if it was never claimed', () => {
    expect(lapseOf(pending)).toEqual({
      endedAt: pending.deadline,
      errorMessage: 'Processing failed: the job did not finish before its deadline',
    });
  });

  test('a job lapses at its deadline if its attempt crashed earlier', () => {
    expect(lapseOf(held).endedAt).toBe(pending.deadline);
  });

  test('a job lapses when its lease expires if that is after the deadline', () => {
    expect(lapseOf({ ...held, leaseExpiresAt: pending.deadline + 7 }).endedAt).toBe(pending.deadline + 7);
  });

  test('a job lapses when the last lease expires if all attempts are used up, with a message that says so', () => {
    expect(lapseOf({ ...held, attempt: 3 })).toEqual({
      endedAt: 1100,
      errorMessage: 'Processing failed: all 3 attempts ended without a result',
    });
  });

  test('a job lapses in the first second in which its phase is lapsed', () => {
    for (const job of [pending, held, { ...held, attempt: 3 }, { ...held, leaseExpiresAt: pending.deadline + 7 }]) {
      const { endedAt } = lapseOf(job);
      expect(phaseOf(job, endedAt - 1)).not.toBe('lapsed');
      expect(phaseOf(job, endedAt)).toBe('lapsed');
    }
  });
});
