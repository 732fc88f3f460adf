import { inspect } from 'node:util';
import { afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals';
import type { Outcome } from '../../src/job.ts';
import { runStages } from '../../src/runStages.ts';
import { type Stage, type StageContext, StageError } from '../../src/stages/stage.ts';
import { captureConsole } from '../support/consoleCapture.ts';

const TEXT = 'a text that must not be logged';

let log: readonly string[];
let running: Set<string>;
beforeEach(() => {
  log = captureConsole();
  running = new Set();
});
afterEach(() => {
  jest.restoreAllMocks();
});

/** Runs the stages with a clock that advances by a second each time it is read. */
function run(stages: readonly Stage[], signal = new AbortController().signal): Promise<Outcome> {
  let now = 0;
  return runStages(stages, { jobId: 'id', text: TEXT }, { signal, running, clock: () => (now += 1000) });
}

const passing = (name: string): Stage => ({ name, run: async (text) => ({ length: text.length }) });
/** A stage as it could be written in JavaScript, where the compiler does not check its result. */
const returning = (result: unknown): Stage =>
  Object.assign({ name: 'odd', run: async () => ({}) }, { run: async () => result });
const throwing = (error: unknown): Stage => ({ name: 'broken', run: () => Promise.reject(error) });
const endless: Stage = { name: 'endless', run: () => new Promise(() => undefined) };
function fail(): never {
  throw new Error('no');
}
function revokedProxy(): object {
  const { proxy, revoke } = Proxy.revocable({}, {});
  revoke();
  return proxy;
}
const lines = () => log.map((line): unknown => JSON.parse(line));

test('every stage gets the text, and its result is stored under its name', async () => {
  expect(await run([passing('one'), passing('two')])).toEqual({
    status: 'DONE',
    result: `{"one":{"length":${TEXT.length}},"two":{"length":${TEXT.length}}}`,
  });
});

test('a job without stages ends as DONE', async () => {
  expect(await run([])).toEqual({ status: 'DONE', result: '{}' });
});

test('a stage starts after the previous one has finished, and gets its result', async () => {
  const seen: unknown[] = [];
  const first: Stage = {
    name: 'first',
    async run() {
      await new Promise(setImmediate);
      return { at: new Date(0), gone: undefined };
    },
  };
  const second: Stage = {
    name: 'second',
    async run(_text, { jobId, results, signal }) {
      seen.push(jobId, { ...results }, signal.aborted);
      return {};
    },
  };
  await run([first, second]);
  // As parsed from JSON: dates are strings, and undefined members are dropped.
  expect(seen).toEqual(['id', { first: { at: '1970-01-01T00:00:00.000Z' } }, false]);
});

test('changes that a stage makes to earlier results are not stored', async () => {
  const meddling: Stage = {
    name: 'meddling',
    async run(_text, { results }) {
      Object.assign(results['one'] ?? {}, { length: 0 });
      return {};
    },
  };
  expect(await run([passing('one'), meddling])).toMatchObject({
    result: `{"one":{"length":${TEXT.length}},"meddling":{}}`,
  });
});

test('a stage can be a class', async () => {
  class Greeting implements Stage {
    readonly name = 'greeting';
    readonly #word = 'hello';
    async run(_text: string, { jobId }: StageContext) {
      return { says: `${this.#word} ${jobId}` };
    }
  }
  expect(await run([new Greeting()])).toEqual({ status: 'DONE', result: '{"greeting":{"says":"hello id"}}' });
});

describe('a result', () => {
  test.each([
    ['keys that JavaScript objects inherit', '{"constructor":{"name":"String"},"__proto__":{"a":1},"toString":null}'],
    ['large and small numbers', '{"big":1e+300,"small":5e-324,"zero":0}'],
    ['an empty key, and half a surrogate pair', '{"":[],"half":"\\ud83d"}'],
    ['deep nesting', `${'{"a":'.repeat(900)}1${'}'.repeat(900)}`],
  ])('is stored unchanged (%s)', async (_what, json) => {
    expect(await run([returning(JSON.parse(json))])).toEqual({ status: 'DONE', result: `{"odd":${json}}` });
  });

  test('is stored without undefined members, as in JSON', async () => {
    expect(await run([returning({ a: undefined, b: [undefined], c: () => 1 })])).toMatchObject({
      result: '{"odd":{"b":[null]}}',
    });
  });

  const cycle: Record<string, unknown> = {};
  cycle['self'] = { cycle };

  test.each([
    ['NaN', { deep: { score: Number.NaN } }, /JSON cannot represent NaN, the value of 'score'/],
    ['an infinity', { score: Number.NEGATIVE_INFINITY }, /JSON cannot represent -Infinity, the value of 'score'/],
    ['a BigInt', { list: [1n] }, /JSON cannot represent 1, the value of '0'/],
    ['a Map', { counts: new Map([['a', 1]]) }, /JSON cannot represent \[object Map\], the value of 'counts'/],
    ['a Set', new Set(), /JSON cannot represent \[object Set\], the value of ''/],
    ['a cycle', cycle, /circular structure.*'cycle' closes the circle/s],
    ['excessive nesting', JSON.parse(`${'{"a":'.repeat(100_000)}1${'}'.repeat(100_000)}`), /call stack/],
    ['an array', [1], /The result is not a JSON object/],
    ['a date', new Date(0), /The result is not a JSON object/],
    ['a function', () => 1, /The result is not a JSON object/],
  ])(
    'that JSON cannot represent (%s) ends the job as ERROR, and the log names the stage and the reason',
    async (_what, result, reason) => {
      expect(await run([returning(result)])).toEqual({ status: 'ERROR', errorMessage: "Stage 'odd' failed" });
      expect(lines()).toMatchObject([
        { message: 'Stage failed', stage: 'odd', outcome: 'failed', error: { message: expect.stringMatching(reason) } },
      ]);
    },
  );

  test.each([undefined, null, 5, 'text', true])('that is %j ends the job as ERROR', async (result) => {
    expect(await run([returning(result)])).toEqual({ status: 'ERROR', errorMessage: "Stage 'odd' failed" });
  });

  test('that does not fit in an item together with the text ends the job as ERROR', async () => {
    expect(await run([returning({ text: 'x'.repeat(400 * 1024) })])).toEqual({
      status: 'ERROR',
      errorMessage: 'The result cannot be stored: it is too large',
    });
  });
});

describe('an error', () => {
  test('ends the job as ERROR, and no further stage starts', async () => {
    const never = jest.fn(passing('never').run);
    expect(await run([passing('one'), throwing(new StageError('No model')), { name: 'never', run: never }])).toEqual({
      status: 'ERROR',
      errorMessage: 'No model',
    });
    expect(never).not.toHaveBeenCalled();
  });

  test('that is not a StageError is not shown to the client', async () => {
    const error = new Error('User: arn:aws:iam::123456789012:user/me is not authorized');
    expect(await run([throwing(error)])).toEqual({ status: 'ERROR', errorMessage: "Stage 'broken' failed" });
  });

  test('ends the job even if it is thrown synchronously', async () => {
    const stage: Stage = {
      name: 'synchronous',
      run() {
        throw new StageError('At once');
      },
    };
    expect(await run([stage])).toEqual({ status: 'ERROR', errorMessage: 'At once' });
    expect(running.size).toBe(0);
  });

  test('can be an instance of a subclass of StageError', async () => {
    class NotFound extends StageError {}
    expect(await run([throwing(new NotFound('No such model'))])).toMatchObject({ errorMessage: 'No such model' });
  });

  test('is shown as at most 1,000 code points of well-formed Unicode', async () => {
    expect(await run([throwing(new StageError('\ud800!'))])).toMatchObject({ errorMessage: '\ufffd!' });
    expect(await run([throwing(new StageError('😀'.repeat(1001)))])).toMatchObject({ errorMessage: '😀'.repeat(1000) });
  });

  test.each([
    ['a StageError without a message', new StageError('')],
    ['a string', 'text'],
    ['undefined', undefined],
    ['null', null],
    ['an object without a prototype', Object.create(null)],
    ['an error whose message is a number', Object.assign(new Error('x'), { message: 5 })],
    ['an error whose stack is a number', Object.assign(new Error('x'), { stack: 5 })],
    ['an error that is its own cause', Object.assign(new Error('x'), { cause: undefined })],
    ['a StageError whose message has no text', Object.assign(new StageError('x'), { message: Object.create(null) })],
    ['a proxy that throws', new Proxy(new Error('x'), { get: fail, getPrototypeOf: fail })],
    ['a revoked proxy', revokedProxy()],
    [
      'an object that cannot be read',
      {
        get message() {
          return fail();
        },
        [inspect.custom]: fail,
      },
    ],
  ])('ends the job and is logged if it is %s', async (what, error) => {
    if (what.includes('own cause') && error instanceof Error) error.cause = error;
    expect(await run([throwing(error)])).toEqual({ status: 'ERROR', errorMessage: "Stage 'broken' failed" });
    expect(lines()).toMatchObject([{ message: 'Stage failed', stage: 'broken', outcome: 'failed' }]);
  });

  test('is logged with its name, message, code, stack and causes', async () => {
    const refused = Object.assign(new Error('connect ECONNREFUSED'), { code: 'ECONNREFUSED' });
    await run([throwing(new TypeError('fetch failed', { cause: new Error('inner', { cause: refused }) }))]);
    expect(lines()).toMatchObject([
      {
        level: 'ERROR',
        error: {
          name: 'TypeError',
          message: 'fetch failed',
          stack: expect.arrayContaining([expect.stringContaining('runStages.test.ts')]),
          cause: { message: 'inner', cause: { message: 'connect ECONNREFUSED', code: 'ECONNREFUSED' } },
        },
      },
    ]);
  });
});

describe('when the signal aborts', () => {
  test('a stage that ignores it is reported as too slow, and still counts as running', async () => {
    const controller = new AbortController();
    const end = run([passing('one'), endless], controller.signal);
    await new Promise(setImmediate);
    controller.abort();
    expect(await end).toEqual({ status: 'ERROR', errorMessage: "Stage 'endless' took too long" });
    expect([...running]).toEqual(['endless']);
    expect(log.join()).toContain('timed out');
  });

  test('a stage that fails because of it is reported as too slow, and no longer counts as running', async () => {
    const controller = new AbortController();
    const abortable: Stage = {
      name: 'abortable',
      async run(_text, { signal }) {
        controller.abort();
        signal.throwIfAborted();
        return {};
      },
    };
    expect(await run([abortable], controller.signal)).toEqual({
      status: 'ERROR',
      errorMessage: "Stage 'abortable' took too long",
    });
    await new Promise(setImmediate);
    expect(running.size).toBe(0);
  });

  test('before the first stage starts, that stage is reported as too slow', async () => {
    expect(await run([endless], AbortSignal.abort())).toEqual({
      status: 'ERROR',
      errorMessage: "Stage 'endless' took too long",
    });
  });

  test('a stage counts as running until it settles, and its late rejection is handled', async () => {
    const unhandled = jest.fn();
    process.on('unhandledRejection', unhandled);
    const late = Promise.withResolvers<never>();
    const controller = new AbortController();
    const end = run([{ name: 'late', run: () => late.promise }], controller.signal);
    controller.abort();
    await end;
    expect([...running]).toEqual(['late']);
    late.reject(new Error('too late'));
    await new Promise(setImmediate);
    process.off('unhandledRejection', unhandled);
    expect(unhandled).not.toHaveBeenCalled();
    expect(running.size).toBe(0);
  });
});

test('no listener is left on the signal', async () => {
  const { signal } = new AbortController();
  const add = jest.spyOn(signal, 'addEventListener');
  const remove = jest.spyOn(signal, 'removeEventListener');
  await run([passing('one'), throwing(new Error('no'))], signal);
  expect(add).toHaveBeenCalledTimes(2);
  expect(remove.mock.calls).toEqual(add.mock.calls);
});

test('each stage is logged once with its duration and without the text', async () => {
  await run([passing('one'), throwing(new Error('no'))]);
  expect(lines()).toMatchObject([
    { level: 'INFO', message: 'Stage done', stage: 'one', outcome: 'done', durationMs: 1000 },
    { level: 'ERROR', message: 'Stage failed', stage: 'broken', outcome: 'failed', durationMs: 1000 },
  ]);
  expect(log.join()).not.toContain(TEXT);
});
