import { expect, test } from '@jest/globals';
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

test.each<[string, Job, number, string]>([
  ['PENDING and before its deadline', pending, pending.deadline - 1, 'claimable'],
  ['PENDING and past its deadline', pending, pending.deadline, 'lapsed'],
  ['IN_PROGRESS with a live lease', held, 1099, 'held'],
  ['IN_PROGRESS with a live lease, past its deadline', { ...held, deadline: 1000 }, 1099, 'held'],
  ['IN_PROGRESS with a live lease, on its last attempt', { ...held, attempt: MAX_ATTEMPTS }, 1099, 'held'],
  ['IN_PROGRESS with an expired lease and one attempt left', { ...held, attempt: MAX_ATTEMPTS - 1 }, 1100, 'claimable'],
  ['IN_PROGRESS with an expired lease and no attempt left', { ...held, attempt: MAX_ATTEMPTS }, 1100, 'lapsed'],
  ['IN_PROGRESS with an expired lease, past its deadline', { ...held, deadline: 1100 }, 1100, 'lapsed'],
  ['DONE', done, 1000, 'ended'],
  ['ERROR, past its deadline, on its last attempt', { ...failed, attempt: MAX_ATTEMPTS }, pending.deadline, 'ended'],
])('the phase of a job is correct if it is %s', (_what, job, now, phase) => {
  expect(phaseOf(job, now)).toBe(phase);
});

const DEADLINE_MISSED = 'Processing failed: the job did not finish before its deadline';
const NO_ATTEMPT_LEFT = 'Processing failed: all 3 attempts ended without a result';

test.each<[string, Job, number, string]>([
  ['at its deadline if it was never claimed', pending, pending.deadline, DEADLINE_MISSED],
  ['at its deadline if its attempt crashed earlier', held, pending.deadline, DEADLINE_MISSED],
  ['when its lease expires after the deadline', { ...held, leaseExpiresAt: 1665 }, 1665, DEADLINE_MISSED],
  ['when the last lease expires', { ...held, attempt: MAX_ATTEMPTS }, 1100, NO_ATTEMPT_LEFT],
])('a job lapses %s, in the first second in which its phase is lapsed', (_when, job, endedAt, errorMessage) => {
  expect(lapseOf(job)).toEqual({ endedAt, errorMessage });
  expect([phaseOf(job, endedAt - 1), phaseOf(job, endedAt)]).toEqual([expect.not.stringMatching('lapsed'), 'lapsed']);
});
