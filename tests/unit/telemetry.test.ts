import { expect, test } from '@jest/globals';
import { newJob } from '../../src/job.ts';
import { count, logError, recordAttempt, recordEnd, withTelemetry } from '../../src/telemetry.ts';
import { captureConsole, metricsIn } from '../support/consoleCapture.ts';
import { LIFETIMES } from '../support/jobs.ts';
import { lambdaContext } from '../support/lambdaContext.ts';

const job = newJob('id', 'a text', 1000, LIFETIMES);

const log = captureConsole();

test('an invocation sends all its metrics in one log line', async () => {
  await withTelemetry(lambdaContext(), async () => {
    count('JobsAccepted');
    count('ClaimsRefused');
  });

  const Metrics = ['JobsAccepted', 'ClaimsRefused'].map((Name) => ({ Name, Unit: 'Count' }));
  expect(log).toHaveLength(1);
  expect(JSON.parse(log.join())).toMatchObject({
    service: 'test',
    JobsAccepted: 1,
    ClaimsRefused: 1,
    _aws: { CloudWatchMetrics: [{ Namespace: 'AsyncJobs', Dimensions: [['service']], Metrics }] },
  });
});

test.each([
  ['an invocation that counts nothing sends no metrics', () => {}, {}],
  [
    'a first attempt records the time in the queue',
    () => recordAttempt({ ...job, attempt: 1 }, 1007),
    { TimeInQueue: 7 },
  ],
  ['a later attempt counts as a retry', () => recordAttempt({ ...job, attempt: 2 }, 1007), { Retries: 1 }],
  ['DONE is counted with the time since creation', () => recordEnd('DONE', job, 1012), { JobsDone: 1, TimeToEnd: 12 }],
  [
    'ERROR is counted with the time since creation',
    () => recordEnd('ERROR', job, 1012),
    { JobsFailed: 1, TimeToEnd: 12 },
  ],
  ['a time in the queue is never negative', () => recordAttempt({ ...job, attempt: 1 }, 999), { TimeInQueue: 0 }],
  ['a time since creation is never negative', () => recordEnd('DONE', job, 998), { JobsDone: 1, TimeToEnd: 0 }],
])('%s', async (_what, work, metrics) => {
  await withTelemetry(lambdaContext(), async () => work());

  expect(metricsIn(log)).toEqual(metrics);
  expect(log).toHaveLength(Math.min(1, Object.keys(metrics).length));
});

test('a failed invocation is logged once, with its cause, and still sends its metrics', async () => {
  const work = withTelemetry(lambdaContext(), async () => {
    count('ClaimsRefused');
    throw new Error('no route');
  });

  await expect(work).rejects.toThrow('no route');
  expect(log).toHaveLength(2);
  expect(JSON.parse(log[0] ?? '')).toMatchObject({ level: 'ERROR', outcome: 'failed', error: { message: 'no route' } });
  expect(metricsIn(log)).toEqual({ ClaimsRefused: 1 });
});

/** What the log has of an error. */
function logged(error: unknown): unknown {
  logError('It failed', error, { outcome: 'failed' });
  const line: unknown = JSON.parse(log.join());
  expect(line).toMatchObject({ level: 'ERROR', message: 'It failed', outcome: 'failed' });
  return line;
}

const errorOf = (error: unknown) => Object.entries(Object(logged(error))).find(([name]) => name === 'error')?.[1];

test('the log of an error has exactly name, message, code, stack and causes', () => {
  const refused = Object.assign(new Error('connect ECONNREFUSED'), { code: 'ECONNREFUSED', address: '127.0.0.1' });
  const error = new TypeError('fetch failed', { cause: new Error('inner', { cause: refused }) });

  const entry = errorOf(error);

  const stack = expect.stringMatching(/^ {4}at .*telemetry\.test\.ts/);
  expect(entry).toEqual({
    name: 'TypeError',
    message: 'fetch failed',
    stack,
    cause: {
      name: 'Error',
      message: 'inner',
      stack,
      cause: { name: 'Error', message: 'connect ECONNREFUSED', code: 'ECONNREFUSED', stack },
    },
  });
});

test('the log of an error has none of what libraries attach to their errors, and does not use toJSON', () => {
  const config = { data: '{"text": "a secret"}', headers: { Authorization: 'Bearer a secret' } };
  const axiosError = Object.assign(new Error('Request failed with status code 500'), {
    name: 'AxiosError',
    code: 'ERR_BAD_RESPONSE',
    config,
    response: { data: 'a secret' },
    toJSON: () => ({ message: 'a secret', config }),
  });
  const exitError = Object.assign(new Error('Command failed: convert'), {
    code: 1,
    stdout: 'a secret',
    cmd: 'a secret',
  });
  axiosError.cause = Object.assign(exitError, { [Symbol('a secret')]: 'a secret' });

  const entry = errorOf(axiosError);

  expect(entry).toMatchObject({
    name: 'AxiosError',
    message: 'Request failed with status code 500',
    code: 'ERR_BAD_RESPONSE',
    cause: { message: 'Command failed: convert', code: 1 },
  });
  expect(log.join()).not.toContain('secret');
});

test('the log of an error is cut to 100 characters of name and code, 2,000 of the message and 4,000 of the stack', () => {
  const large = 'x'.repeat(16 * 1024 * 1024);
  const error = Object.assign(new Error(large), { name: large, code: large, buffer: Buffer.alloc(100_000) });
  error.stack = `Error: ${large}\n    at one\n${large}`;

  const entry = errorOf(error);

  expect(entry).toEqual({
    name: 'x'.repeat(100),
    message: 'x'.repeat(2000),
    code: 'x'.repeat(100),
    stack: `    at one\n${'x'.repeat(4000)}`.slice(0, 4000),
  });
});

test('the log of an error has at most four causes, even if an error is its own cause', () => {
  const error = new Error('outer');
  error.cause = error;

  logged(error);

  expect(log.join().match(/"message": ?"outer"/g)).toHaveLength(1 + 4);
});

test('the log of an error has the first error of an AggregateError as its cause', () => {
  const error = new AggregateError([new Error('first'), new Error('second')], 'All promises were rejected');

  const entry = errorOf(error);

  expect(entry).toMatchObject({ message: 'All promises were rejected', cause: { message: 'first' } });
  expect(log.join()).not.toContain('second');
});

const broken = () => {
  throw new Error('a getter');
};
const revoked = Proxy.revocable({}, {});
revoked.revoke();

test.each([
  ['a string', 'text', { message: 'text' }],
  ['a long string', 'x'.repeat(3000), { message: 'x'.repeat(2000) }],
  ['a symbol', Symbol('thrown'), { message: 'Symbol(thrown)' }],
  ['null', null, { message: 'null' }],
  ['a plain object', { message: 'text', secret: 1 }, { message: 'text' }],
  ['an object without a prototype', Object.create(null), {}],
  ['a function', Object.assign(() => {}, { message: 'text' }), { name: '', message: 'text' }],
  ['an object whose cause is null', { message: 'text', cause: null }, { message: 'text' }],
  ['an object whose cause is a string', { cause: 'text' }, { cause: { message: 'text' } }],
  ['an object whose fields have unusual types', { name: {}, message: 5, code: {}, stack: 5, errors: 5 }, {}],
  ['an object without a message', { message: '', stack: 'Error\n    at one' }, { message: '', stack: '    at one' }],
  [
    'an error with a changed message',
    { message: 'new', stack: 'Error\n    at one' },
    { message: 'new', stack: '    at one' },
  ],
  ['a message of two lines', { message: 'a\nb', stack: 'a\nb\n    at one' }, { message: 'a\nb', stack: '    at one' }],
  ['an object whose stack has no frames', { stack: 'Error: text' }, { stack: 'Error: text' }],
  ['an object whose getters throw', new Proxy(new Error('x'), { get: broken }), {}],
  ['a revoked proxy', revoked.proxy, {}],
])('the log shows an error that is %s', (_what, error, entry) => {
  const found = errorOf(error);

  expect(found).toEqual(entry);
});
