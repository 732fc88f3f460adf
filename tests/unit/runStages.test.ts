import { afterEach, beforeEach, expect, jest, test } from '@jest/globals';
import { runStages } from '../../src/runStages.ts';
import type { Stage } from '../../src/stages.ts';
import { captureConsole } from '../support/consoleCapture.ts';

const TEXT = 'a text that nobody else may read';

let log: readonly string[];
beforeEach(() => {
  log = captureConsole();
});
afterEach(() => {
  jest.restoreAllMocks();
});

/** Runs the stages with a clock that gains a second with every look at it. */
function run(stages: readonly Stage[], signal = new AbortController().signal) {
  let now = 0;
  return runStages(stages, TEXT, { jobId: 'id', pause: async () => undefined, signal, clock: () => (now += 1000) });
}

const passing = (name: string): Stage => ({ name, run: async (text) => ({ stage: name, length: text.length }) });
const throwing = (error: unknown): Stage => ({ name: 'broken', run: () => Promise.reject(error) });
const endless: Stage = { name: 'endless', run: () => new Promise(() => undefined) };

test('every stage gets the text, and its answer stands under its name', async () => {
  expect(await run([passing('one'), passing('two')])).toEqual({
    status: 'DONE',
    result: { one: { stage: 'one', length: TEXT.length }, two: { stage: 'two', length: TEXT.length } },
  });
});

test('a job without stages is done', async () => {
  expect(await run([])).toEqual({ status: 'DONE', result: {} });
});

test('a stage begins when the one before it is done', async () => {
  const seen: string[] = [];
  const slow: Stage = {
    name: 'slow',
    async run() {
      seen.push('slow begins');
      await new Promise(setImmediate);
      seen.push('slow is done');
      return { stage: 'slow' };
    },
  };
  const next: Stage = {
    name: 'next',
    async run() {
      seen.push('next begins');
      return { stage: 'next' };
    },
  };
  await run([slow, next]);
  expect(seen).toEqual(['slow begins', 'slow is done', 'next begins']);
});

test('a stage gets the job’s id, the pause and the signal', async () => {
  const { signal } = new AbortController();
  const pause = async () => undefined;
  const tools: unknown[] = [];
  const stage: Stage = {
    name: 'curious',
    async run(_text, given) {
      tools.push(given.jobId, given.pause, given.signal);
      return { stage: 'curious' };
    },
  };
  await runStages([stage], TEXT, { jobId: 'id', pause, signal, clock: () => 0 });
  expect(tools).toEqual(['id', pause, signal]);
});

test('the first stage that throws ends the job with its message, and no other begins', async () => {
  const never = jest.fn(passing('never').run);
  expect(await run([passing('one'), throwing(new Error('No model for this')), { name: 'never', run: never }])).toEqual({
    status: 'ERROR',
    errorMessage: 'No model for this',
  });
  expect(never).not.toHaveBeenCalled();
});

test.each([Number.NaN, 1e300])(
  'an answer that cannot be stored (%d) ends the job, and not its attempt',
  async (value) => {
    expect(await run([{ name: 'odd', run: async () => ({ stage: 'odd', value }) }])).toEqual({
      status: 'ERROR',
      errorMessage: "Stage 'odd' answered what cannot be stored",
    });
  },
);

test('a stage that throws before its first await ends the job just so', async () => {
  const stage: Stage = {
    name: 'sudden',
    run() {
      throw new Error('At once');
    },
  };
  expect(await run([stage])).toEqual({ status: 'ERROR', errorMessage: 'At once' });
});

test.each([
  ['an error without a message', new Error('')],
  ['a string', 'text'],
  ['nothing', undefined],
  ['null', null],
])('%s that is thrown ends the job with a message all the same', async (_what, error) => {
  expect(await run([throwing(error)])).toEqual({ status: 'ERROR', errorMessage: "Stage 'broken' failed" });
});

test('a message is kept well-formed and at most 1000 code points long', async () => {
  expect(await run([throwing(new Error('\ud800!'))])).toMatchObject({ errorMessage: '\ufffd!' });
  expect(await run([throwing(new Error('😀'.repeat(1001)))])).toMatchObject({ errorMessage: '😀'.repeat(1000) });
});

test('a stage that does not heed the signal is ended by it', async () => {
  const controller = new AbortController();
  const end = run([passing('one'), endless], controller.signal);
  await new Promise(setImmediate);
  controller.abort();
  expect(await end).toEqual({ status: 'ERROR', errorMessage: "Stage 'endless' took too long" });
});

test('a stage that fails because of the signal took too long, whatever it throws', async () => {
  const controller = new AbortController();
  const heeding: Stage = {
    name: 'heeding',
    async run(_text, { signal }) {
      controller.abort();
      signal.throwIfAborted();
      return { stage: 'heeding' };
    },
  };
  expect(await run([heeding], controller.signal)).toEqual({
    status: 'ERROR',
    errorMessage: "Stage 'heeding' took too long",
  });
});

test('a signal that was aborted before ends the first stage', async () => {
  expect(await run([endless], AbortSignal.abort())).toEqual({
    status: 'ERROR',
    errorMessage: "Stage 'endless' took too long",
  });
});

test('what a stage throws after the signal ended it is nobody’s concern', async () => {
  const unhandled = jest.fn();
  process.on('unhandledRejection', unhandled);
  const late = Promise.withResolvers<never>();
  const controller = new AbortController();
  const end = run([{ name: 'late', run: () => late.promise }], controller.signal);
  controller.abort();
  await end;
  late.reject(new Error('too late'));
  await new Promise(setImmediate);
  process.off('unhandledRejection', unhandled);
  expect(unhandled).not.toHaveBeenCalled();
});

test('stages leave no listener on the signal', async () => {
  const { signal } = new AbortController();
  const add = jest.spyOn(signal, 'addEventListener');
  const remove = jest.spyOn(signal, 'removeEventListener');
  await run([passing('one'), throwing(new Error('no'))], signal);
  expect(add).toHaveBeenCalledTimes(2);
  expect(remove.mock.calls).toEqual(add.mock.calls);
});

test('each stage is logged once with its duration, and neither the text nor a message is', async () => {
  await run([passing('one'), throwing(new TypeError(`Cannot read ${TEXT}`))]);
  const [done, failed] = log.map((line): unknown => JSON.parse(line));
  expect(done).toMatchObject({ level: 'INFO', message: 'Stage done', stage: 'one', outcome: 'done', durationMs: 1000 });
  expect(failed).toMatchObject({
    level: 'ERROR',
    message: 'Stage failed',
    stage: 'broken',
    outcome: 'threw',
    durationMs: 1000,
    error: { name: 'TypeError', stack: expect.arrayContaining([expect.stringMatching(/^at .*runStages\.test\.ts/)]) },
  });
  expect(log.join()).not.toContain(TEXT);
});

test('the log tells a stage that was stopped from one that threw', async () => {
  await run([endless], AbortSignal.abort());
  expect(log.join()).toContain('timed out');
});

test('what is thrown and no error is logged by its type, and one without a stack by its name', async () => {
  const bare = new RangeError('no');
  delete bare.stack;
  await run([throwing(TEXT)]);
  await run([throwing(bare)]);
  expect(log.map((line): unknown => JSON.parse(line))).toMatchObject([
    { error: { name: 'string' } },
    { error: { name: 'RangeError', stack: [] } },
  ]);
  expect(log.join()).not.toContain(TEXT);
});

test('a message that looks like a stack leaves nothing of itself in the log', async () => {
  await run([throwing(new Error(`Cannot read:\n    at ${TEXT}`))]);
  expect(log.join()).not.toContain(TEXT);
  expect(log.join()).toContain('runStages.test.ts');
});
