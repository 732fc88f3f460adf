import { expect, test } from '@jest/globals';
import { withOutcomes } from '../../../scripts/aws/attempts.ts';
import type { LogEntry } from '../../../scripts/aws/logEntry.ts';

/** Log entries in the order of the lines, a second apart. */
function entriesOf(...lines: readonly (object | string)[]): LogEntry[] {
  return lines.map((line, index) => ({
    time: 1000 * index,
    stream: 'stream',
    message: typeof line === 'string' ? line : JSON.stringify(line),
    fields: new Map<string, unknown>(typeof line === 'string' ? [] : Object.entries(line)),
  }));
}

const started = (attempt: number, id = 'r1') => ({ message: 'Attempt started', attempt, function_request_id: id });
const ended = (attempt: number, id = 'r1') => ({ message: 'Job ended', attempt, function_request_id: id });
const report = (status: string, requestId = 'r1') => ({ type: 'platform.report', record: { requestId, status } });

/** The messages, with those that were added in capitals. */
const messages = (entries: readonly LogEntry[]) =>
  withOutcomes(entries).map(({ fields, message }) =>
    fields.get('level') === 'NOTE'
      ? message.toUpperCase()
      : String(fields.get('message') ?? fields.get('type') ?? message),
  );

test('an attempt that logged its outcome gets no entry', () => {
  const failed = { message: 'Invocation failed', attempt: 1, function_request_id: 'r1' };

  const all = messages(entriesOf(started(1), failed, report('error'), started(2), ended(2), report('success')));

  expect(all.filter((message) => message.startsWith('ATTEMPT'))).toEqual([]);
});

test.each([
  ["Lambda's JSON line says so", report('timeout'), 'ATTEMPT 1 TIMED OUT'],
  ["Lambda's text line says so", 'REPORT RequestId: r1 Duration: 30000 ms Status: timeout', 'ATTEMPT 1 TIMED OUT'],
  ['the runtime says so', '2026-01-01T00:00:00Z r1 Task timed out after 30.00 seconds', 'ATTEMPT 1 TIMED OUT'],
])('an attempt without an outcome timed out if %s', (_how, line, expected) => {
  expect(messages(entriesOf(started(1), line)).at(-1)).toBe(expected);
});

test.each([
  ['an error', report('error')],
  ['no status', 'REPORT RequestId: r1\tDuration: 1 ms'],
])("an attempt without an outcome crashed if Lambda's report has %s", (_how, line) => {
  expect(messages(entriesOf(started(1), line)).at(-1)).toBe('ATTEMPT 1 CRASHED');
});

test('each attempt is judged by its own lines, although all attempts have the same request id on AWS', () => {
  const entries = entriesOf(started(1), report('timeout'), started(2), report('error'), started(3), ended(3));

  expect(messages(entries)).toEqual([
    ...['Attempt started', 'platform.report', 'ATTEMPT 1 TIMED OUT'],
    ...['Attempt started', 'platform.report', 'ATTEMPT 2 CRASHED'],
    ...['Attempt started', 'Job ended'],
  ]);
});

test('an attempt crashed if a later one started or a reader ended the job, even without a line of Lambda', () => {
  const lapsed = { message: 'Job lapsed', function_request_id: 'r9' };

  const all = messages(entriesOf(started(1, 'r1'), started(2, 'r2'), lapsed));

  expect(all).toEqual([
    ...['Attempt started', 'ATTEMPT 1 CRASHED'],
    ...['Attempt started', 'ATTEMPT 2 CRASHED'],
    'Job lapsed',
  ]);
});

test('the last attempt may still be running if nothing shows that it is over', () => {
  expect(messages(entriesOf(started(1))).at(-1)).toBe('ATTEMPT 1 IS STILL RUNNING, OR HAS JUST CRASHED');
});
