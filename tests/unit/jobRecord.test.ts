import { expect, test } from '@jest/globals';
import { newJob } from '../../src/job.ts';
import { parseJob } from '../../src/jobRecord.ts';

const pending = newJob('id', 'a text', 1000, { maxEventAge: 600, workerTimeout: 30 });
const inProgress = { ...pending, status: 'IN_PROGRESS', attempt: 1, leaseExpiresAt: 1035, leaseToken: 'token' };
const done = { ...pending, status: 'DONE', leaseToken: 'token', result: { ocr: { stage: 'ocr', preview: 'a text' } } };
const failed = { ...pending, status: 'ERROR', leaseToken: 'token', errorMessage: 'no' };

test.each([
  ['PENDING', pending],
  ['IN_PROGRESS', inProgress],
  ['IN_PROGRESS with its lease given back', { ...pending, status: 'IN_PROGRESS', leaseExpiresAt: 1001 }],
  ['DONE', done],
  ['ERROR', failed],
  ['ERROR without an attempt', { ...pending, status: 'ERROR', errorMessage: 'no' }],
])('a record that is %s becomes a job of the same fields', (_state, item) => {
  expect(parseJob(item)).toEqual(item);
});

test('attributes that are none of a job stay outside, and so does what another state left behind', () => {
  expect(parseJob({ ...pending, acceptedBy: new Set(['x']), extra: 1 })).toEqual(pending);
  expect(parseJob({ ...done, leaseExpiresAt: 1035, errorMessage: 'no' })).toEqual(done);
});

test('a result may hold any JSON', () => {
  const stage = { stage: 's', list: [1, 'a', null, true, [{ deep: {} }]], none: null };
  expect(parseJob({ ...done, result: { s: stage, t: { stage: 't' } } })).toMatchObject({ result: { s: stage } });
});

test.each([new Set(['a']), new Uint8Array(1), Number.NaN, 2 ** 53, undefined])(
  'a result that holds %p is no JSON that the table can hold',
  (value) => {
    expect(() => parseJob({ ...done, result: { s: { stage: 's', value } } })).toThrow('Job record has no valid result');
  },
);

test.each([undefined, null, 'text', 5, []])('%j is no record', (item) => {
  expect(() => parseJob(item)).toThrow('Job record is not an object');
});

test.each([
  ['jobId', pending],
  ['text', pending],
  ['leaseToken', inProgress],
  ['errorMessage', failed],
])('a record whose %s is no string is refused by that name', (name, item) => {
  for (const value of [5, null, ['x']]) {
    expect(() => parseJob({ ...item, [name]: value })).toThrow(`Job record has no valid ${name}`);
  }
});

test.each([
  ['createdAt', pending],
  ['updatedAt', pending],
  ['expiresAt', pending],
  ['deadline', pending],
  ['attempt', pending],
  ['maxAttempts', pending],
  ['leaseExpiresAt', inProgress],
])('a record whose %s is no whole number is refused by that name', (name, item) => {
  for (const value of ['1', 1.5, Number.NaN, 2 ** 53, null, undefined]) {
    expect(() => parseJob({ ...item, [name]: value })).toThrow(`Job record has no valid ${name}`);
  }
});

test.each(['ENDED', 'pending', '', 1, null, undefined])('a record whose status is %j is refused', (status) => {
  expect(() => parseJob({ ...pending, status })).toThrow('Job record has no valid status');
});

test.each([
  ['absent', undefined],
  ['null', null],
  ['a JSON string', '{"ocr":{"stage":"ocr"}}'],
  ['a list', [{ stage: 'ocr' }]],
  ['a map of what is no map', { ocr: 'text' }],
  ['a map of lists', { ocr: [] }],
  ['without a stage', { ocr: { preview: 'text' } }],
  ['with a stage that is no string', { ocr: { stage: 1 } }],
  ['with what is no JSON', { ocr: { stage: 'ocr', big: 1n } }],
  ['with what is no JSON further down', { ocr: { stage: 'ocr', list: [{ big: [1n] }] } }],
])('a DONE record whose result is %s is refused', (_what, result) => {
  expect(() => parseJob({ ...done, result })).toThrow('Job record has no valid result');
});

test('what is wrong with a record is told without its content', () => {
  expect(() => parseJob({ ...pending, text: 'a secret', status: 'a secret' })).toThrow(
    /^Job record has no valid status$/,
  );
});
