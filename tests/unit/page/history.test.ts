import { expect, test } from '@jest/globals';
import { historyOf } from '../../../scripts/local/page/history.ts';
import type { JobReport } from '../../../scripts/local/page/observer.ts';

const job = { jobId: 'job', function: 'stack-WorkerFunction-1' };

const start = (time: number, requestId: string): JobReport => ({ ...job, kind: 'start', time, requestId });
const end = (time: number, requestId: string, error: string | null): JobReport => ({
  ...job,
  kind: 'end',
  time,
  requestId,
  error,
});
const line = (time: number, requestId: string, fields: object | string): JobReport => {
  const text = typeof fields === 'string' ? fields : JSON.stringify({ timestamp: new Date(time), ...fields });
  return { ...job, kind: 'line', time: time + 7, requestId, pid: 1, text };
};

test('a worker that crashes in its second stage has one finished stage, and Lambda waits until the next delivery', () => {
  const { deliveries, waits } = historyOf([
    start(1000, 'first'),
    line(1200, 'first', { message: 'Attempt started', attempt: 1 }),
    line(3200, 'first', { message: 'Stage done', stage: 'ocr', durationMs: 2000 }),
    end(4000, 'first', 'Worker process died'),
    { ...job, kind: 'retry', time: 4000, at: 64_000 },
    start(63_900, 'second'),
  ]);

  expect(deliveries[0]).toEqual({
    from: 1000,
    to: 4000,
    attempt: 1,
    refused: undefined,
    error: 'Worker process died',
    stages: [{ name: 'ocr', from: 1200, to: 3200 }],
    busySince: 3200,
  });
  expect(deliveries[1]).toMatchObject({ from: 63_900, to: undefined, attempt: undefined });
  expect(waits).toEqual([{ from: 4000, to: 63_900 }]);
});

test('a delivery whose claim is refused is not an attempt', () => {
  const { deliveries } = historyOf([
    start(1000, 'first'),
    line(1200, 'first', { message: 'Claim refused', outcome: 'ended' }),
    end(1300, 'first', null),
  ]);

  expect(deliveries).toMatchObject([{ attempt: undefined, refused: 'ended', error: undefined, to: 1300 }]);
});

test("the log entries are the functions' lines, without metrics and Node's warnings about the emulator", () => {
  const { entries, hasLapsed } = historyOf([
    line(1000, 'first', '(node:1) [DEP0169] DeprecationWarning: url.parse()'),
    line(1000, 'first', '(Use `node --trace-deprecation ...` to show where the warning was created)'),
    line(1100, 'first', { _aws: {} }),
    line(1200, 'first', 'printed by a stage'),
    line(1300, 'first', { message: 'Job lapsed' }),
  ]);

  expect(entries.map(({ time, message }) => [time, message.slice(0, 18)])).toEqual([
    [1207, 'printed by a stage'],
    [1300, '{"timestamp":"1970'],
  ]);
  expect(hasLapsed).toBe(true);
});
