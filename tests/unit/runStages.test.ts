import { getEventListeners } from 'node:events';
import { runInNewContext } from 'node:vm';
import { beforeEach, expect, jest, test } from '@jest/globals';
import type { Outcome } from '../../src/job.ts';
import { runStages } from '../../src/runStages.ts';
import { type Stage, type StageContext, StageError } from '../../src/stages/stage.ts';
import { captureConsole } from '../support/consoleCapture.ts';

const TEXT = 'a text that must not be logged';

let running: Map<string, Promise<unknown>>;
const log = captureConsole();

beforeEach(() => {
  running = new Map();
});

/** Runs the stages with a clock that advances by a second each time it is read. */
function run(
  stages: readonly Stage[],
  {
    signal = new AbortController().signal,
    checkTime = () => {},
  }: { signal?: AbortSignal; checkTime?: () => void } = {},
): Promise<Outcome> {
  let now = 0;
  return runStages(stages, { jobId: 'id', text: TEXT }, { signal, checkTime, running, clock: () => (now += 1000) });
}

const passing = (name: string): Stage => ({ name, run: async (text) => ({ length: text.length }) });
/** A stage as it could be written in JavaScript, where the compiler does not check its result. */
const returning = (result: unknown): Stage =>
  Object.assign({ name: 'odd', run: async () => ({}) }, { run: async () => result });
const throwing = (error: unknown): Stage => ({ name: 'broken', run: () => Promise.reject(error) });
function fail(): never {
  throw new Error('no');
}
function revokedProxy(): object {
  const { proxy, revoke } = Proxy.revocable({}, {});
  revoke();
  return proxy;
}
const SHARED = {};
const lines = () => log.map((line): unknown => JSON.parse(line));

test('every stage gets the text, and its result is stored under its name', async () => {
  const outcome = await run([passing('one'), passing('two')]);

  expect(outcome).toEqual({
    status: 'DONE',
    result: `{"one":{"length":${TEXT.length}},"two":{"length":${TEXT.length}}}`,
  });
});

test('a stage starts after the previous one has finished, and gets its result as parsed from JSON', async () => {
  const seen: unknown[] = [];
  const first: Stage = {
    name: '__proto__',
    async run() {
      await new Promise(setImmediate);
      return { at: new Date(0), gone: undefined };
    },
  };
  const second: Stage = {
    name: 'second',
    async run(_text, { jobId, results, signal }) {
      seen.push(jobId, Object.entries(results), signal.aborted);
      seen.push('toString' in results, results['constructor']);
      return {};
    },
  };

  await run([first, second]);

  // Results of earlier stages have no inherited properties, and a stage may have any name.
  expect(seen).toEqual(['id', [['__proto__', { at: '1970-01-01T00:00:00.000Z' }]], false, false, undefined]);
});

test('changes that a stage makes to earlier results are not stored', async () => {
  const meddling: Stage = {
    name: 'meddling',
    async run(_text, { results }) {
      Object.assign(results['one'] ?? {}, { length: 0 });
      return {};
    },
  };

  const outcome = await run([passing('one'), meddling]);

  expect(outcome).toMatchObject({ result: `{"one":{"length":${TEXT.length}},"meddling":{}}` });
});

test('a stage can be a class', async () => {
  class Greeting implements Stage {
    readonly name = 'greeting';
    readonly #word = 'hello';
    async run(_text: string, { jobId }: StageContext) {
      return { says: `${this.#word} ${jobId}` };
    }
  }

  const outcome = await run([new Greeting()]);

  expect(outcome).toEqual({ status: 'DONE', result: '{"greeting":{"says":"hello id"}}' });
});

test.each([
  ['keys that JavaScript objects inherit', '{"constructor":{"name":"String"},"__proto__":{"a":1},"toString":null}'],
  ['large and small numbers', '{"big":1e+300,"small":5e-324,"zero":0}'],
  ['an empty key, and half a surrogate pair', '{"":[],"half":"\\ud83d"}'],
  ['deep nesting', `${'{"a":'.repeat(900)}1${'}'.repeat(900)}`],
])('a result is stored unchanged (%s)', async (_what, json) => {
  const outcome = await run([returning(JSON.parse(json))]);

  expect(outcome).toEqual({ status: 'DONE', result: `{"odd":${json}}` });
});

class Summary {
  readonly #source = 'private';
  words = 2;
  get source() {
    return this.#source;
  }
}

test.each([
  ['an instance of a class with public fields', { summary: new Summary() }, '{"summary":{"words":2}}'],
  ['an object without a prototype', Object.assign(Object.create(null), { a: Object.create(null) }), '{"a":{}}'],
  ['objects of another realm', runInNewContext('({ a: {}, b: [] })'), '{"a":{},"b":[]}'],
  ['values with toJSON', { at: new Date(0), url: new URL('a:b') }, '{"at":"1970-01-01T00:00:00.000Z","url":"a:b"}'],
  ['undefined members and elements', { a: undefined, b: [undefined], c: { d: undefined } }, '{"b":[null],"c":{}}'],
  ['the same object twice', { list: [SHARED, SHARED], again: SHARED }, '{"list":[{},{}],"again":{}}'],
])('a result can have %s', async (_what, result, json) => {
  const end = await run([returning(result)]);

  expect(end).toEqual({ status: 'DONE', result: `{"odd":${json}}` });
});

class Secretive {
  readonly #state = 'private';
  get state() {
    return this.#state;
  }
}
const cycle: Record<string, unknown> = {};
cycle['a secret'] = { cycle };

test.each([
  ['NaN', Number.NaN, 'NaN'],
  ['an infinity', Number.NEGATIVE_INFINITY, '-Infinity'],
  ['a BigInt', 1n, 'a value of type BigInt'],
  ['a function', () => 1, 'a value of type Function'],
  ['a symbol', Symbol('a secret'), 'a value of type Symbol'],
  ['a Promise, after a forgotten await', Promise.resolve('a secret'), 'a value of type Promise'],
  ['an invalid Date', new Date(Number.NaN), 'a value of type Date'],
  ['an object whose toJSON returns undefined', { toJSON: () => undefined }, 'a value of type Object'],
  ['an Error', Object.assign(new Error('a secret'), { code: 'a secret' }), 'a value of type Error'],
  ['a Response', new Response('a secret'), 'a value of type Response'],
  ['a typed array', new Float32Array(1), 'a value of type Float32Array'],
  ['a Map', new Map([['a', 1]]), 'a value of type Map'],
  ['an instance of a class without public fields', new Secretive(), 'a value of type Object'],
  ['a cycle', cycle, 'a cycle'],
])(
  'a result with a value that JSON cannot represent (%s) ends the job as ERROR, and the log names the stage and the type',
  async (...row) => {
    const [, value, kind] = row;

    const ends = [await run([returning({ 'a secret': value })]), await run([returning({ list: [0, value] })])];

    expect(ends).toEqual(Array(2).fill({ status: 'ERROR', errorMessage: "Stage 'odd' failed" }));
    const line = { message: 'Stage failed', stage: 'odd', error: { message: `JSON cannot represent ${kind}` } };
    expect(lines()).toMatchObject([line, line]);
    expect(log.join()).not.toContain('secret');
  },
);

test.each([
  ['excessive nesting', JSON.parse(`${'{"a":'.repeat(100_000)}1${'}'.repeat(100_000)}`), /call stack/],
  ['an array', [1], /^The result is not a JSON object$/],
  ['a string', 'text', /^The result is not a JSON object$/],
  ['null', null, /^The result is not a JSON object$/],
  ['undefined', undefined, /^The result is not a JSON object$/],
  ['a function', () => 1, /^JSON cannot represent a value of type Function$/],
])('a result that is not a JSON object (%s) ends the job as ERROR, and the log has the reason', async (...row) => {
  const [, result, reason] = row;

  const end = await run([returning(result)]);

  expect(end).toEqual({ status: 'ERROR', errorMessage: "Stage 'odd' failed" });
  expect(lines()).toMatchObject([{ stage: 'odd', error: { message: expect.stringMatching(reason) } }]);
});

test('a result that does not fit in an item together with the text ends the job as ERROR', async () => {
  const outcome = await run([returning({ text: 'x'.repeat(399 * 1024 - TEXT.length) })]);

  expect(outcome).toEqual({ status: 'ERROR', errorMessage: 'The result cannot be stored: it is too large' });
});

test('a StageError or a subclass of it ends the job with its message, and no further stage starts', async () => {
  const never = jest.fn(passing('never').run);

  class NotFound extends StageError {}
  const outcome = await run([passing('one'), throwing(new NotFound('No model')), { name: 'never', run: never }]);

  expect(outcome).toEqual({ status: 'ERROR', errorMessage: 'No model' });
  expect(never).not.toHaveBeenCalled();
});

test('an error that is thrown synchronously ends the job', async () => {
  const outcome = await run([{ name: 'synchronous', run: fail }]);

  expect(outcome).toEqual({ status: 'ERROR', errorMessage: "Stage 'synchronous' failed" });
  expect(running.size).toBe(0);
});

test('the client sees at most 1,000 code points of an error message, as well-formed Unicode', async () => {
  expect(await run([throwing(new StageError('\ud800!'))])).toMatchObject({ errorMessage: '\ufffd!' });
  expect(await run([throwing(new StageError('😀'.repeat(2_000_000)))])).toMatchObject({
    errorMessage: '😀'.repeat(1000),
  });
});

test.each([
  ['not a StageError', new Error('User: arn:aws:iam::123456789012:user/me is not authorized')],
  ['a StageError without a message', new StageError('')],
  ['null', null],
  ['an object without a prototype', Object.create(null)],
  ['a StageError whose message has no text', Object.assign(new StageError('x'), { message: Object.create(null) })],
  ['a proxy that throws', new Proxy(new Error('x'), { get: fail, getPrototypeOf: fail })],
  ['a revoked proxy', revokedProxy()],
])('an error is logged, and the client does not see its message if it is %s', async (_what, error) => {
  const outcome = await run([throwing(error)]);

  expect(outcome).toEqual({ status: 'ERROR', errorMessage: "Stage 'broken' failed" });
  expect(lines()).toMatchObject([{ message: 'Stage failed', stage: 'broken', outcome: 'failed' }]);
});

test('a stage that fails because its signal aborts is reported as too slow, and no longer counts as running', async () => {
  const controller = new AbortController();
  const abortable: Stage = {
    name: 'abortable',
    async run(_text, { signal }) {
      controller.abort();
      signal.throwIfAborted();
      return {};
    },
  };

  const outcome = await run([abortable], { signal: controller.signal });

  expect(outcome).toEqual({ status: 'ERROR', errorMessage: "Stage 'abortable' took too long" });

  await new Promise(setImmediate);

  expect(running.size).toBe(0);
});

test('if the signal aborts before the first stage starts, that stage is reported as too slow and does not start', async () => {
  const first = { name: 'first', run: jest.fn(passing('first').run) };

  const end = await run([first], { signal: AbortSignal.abort() });

  expect(end).toEqual({ status: 'ERROR', errorMessage: "Stage 'first' took too long" });
  expect(first.run).not.toHaveBeenCalled();
});

test('a stage that ignores its signal is reported as too slow, counts as running until it settles, and may reject late', async () => {
  const unhandled = jest.fn();
  process.on('unhandledRejection', unhandled);
  const late = Promise.withResolvers<never>();
  const controller = new AbortController();
  const end = run([passing('one'), { name: 'late', run: () => late.promise }], { signal: controller.signal });
  await new Promise(setImmediate);
  controller.abort();

  expect(await end).toEqual({ status: 'ERROR', errorMessage: "Stage 'late' took too long" });
  expect([...running.keys()]).toEqual(['late']);
  expect(log.join()).toContain('timed out');

  late.reject(new Error('too late'));
  await new Promise(setImmediate);
  process.off('unhandledRejection', unhandled);

  expect(unhandled).not.toHaveBeenCalled();
  expect(running.size).toBe(0);
});

const blocked = () => {
  const controller = new AbortController();
  return { signal: controller.signal, checkTime: () => controller.abort() };
};

test('a stage that blocked the process past its time is reported as too slow, and the next one does not start', async () => {
  const next = { name: 'next', run: jest.fn(passing('next').run) };

  const end = await run([passing('blocking'), next], blocked());

  expect(end).toEqual({ status: 'ERROR', errorMessage: "Stage 'blocking' took too long" });
  expect(next.run).not.toHaveBeenCalled();
  expect(lines()).toMatchObject([{ message: 'Stage failed', stage: 'blocking', outcome: 'timed out' }]);
});

test.each([
  ['the result of the last stage counts', [passing('last')], { status: 'DONE' }],
  [
    'the error of a stage counts',
    [throwing(new StageError('No model')), passing('next')],
    { errorMessage: 'No model' },
  ],
])('%s although it blocked the process past its time', async (_what, stages, outcome) => {
  const end = await run(stages, blocked());

  expect(end).toMatchObject(outcome);
});

test('each stage is logged once with its duration and without the text, and leaves no listener on the signal', async () => {
  const { signal } = new AbortController();

  await run([passing('one'), throwing(new Error('no'))], { signal });

  expect(lines()).toMatchObject([
    { level: 'INFO', message: 'Stage done', stage: 'one', outcome: 'done', durationMs: 1000 },
    { level: 'ERROR', message: 'Stage failed', stage: 'broken', outcome: 'failed', durationMs: 1000 },
  ]);
  expect(log.join()).not.toContain(TEXT);
  expect(getEventListeners(signal, 'abort')).toEqual([]);
});
