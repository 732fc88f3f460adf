import { expect, jest, test } from '@jest/globals';
import fc from 'fast-check';
import { at, readTemplate } from '../../../scripts/template.ts';
import { MAX_OVERHEAD_MS } from '../../../src/attempt.ts';
import { MAX_TEXT_BYTES, sizeAsJson } from '../../../src/job.ts';
import { runStages } from '../../../src/runStages.ts';
import * as sampleStages from '../../../src/stages/samples.ts';
import type { Stage } from '../../../src/stages/stage.ts';
import { captureConsole } from '../../support/consoleCapture.ts';
import { SAMPLE, SAMPLE_RESULT } from '../../support/sample.ts';

const POSITIVE = ['great', 'good', 'excellent', 'amazing', 'love', 'best', 'happy'];
const NEGATIVE = ['bad', 'terrible', 'awful', 'hate', 'worst', 'poor', 'sad'];

const { signal } = new AbortController();
captureConsole();

const pause = jest.fn(async (_milliseconds: number, _signal: AbortSignal) => undefined);
const ocr = sampleStages.ocr(pause);
const mlInference = sampleStages.mlInference(pause);
const search = sampleStages.search(pause);
const stages = [ocr, mlInference, search];

/** Runs a stage without its pause. */
async function run(stage: Stage, text: string): Promise<Record<string, unknown>> {
  return { ...(await stage.run(text, { jobId: 'id', results: {}, signal })) };
}

test('the sample stages return the documented results for the sample text', async () => {
  const results = await Promise.all(stages.map(async (stage) => [stage.name, await run(stage, SAMPLE)]));

  expect(Object.fromEntries(results)).toEqual(SAMPLE_RESULT);
});

test('the sample stages wait 5 s in total, for which the shortest worker timeout is enough, and pass on the signal', async () => {
  pause.mockClear();

  for (const stage of stages) await run(stage, SAMPLE);

  expect(pause.mock.calls).toEqual([2000, 2000, 1000].map((milliseconds) => [milliseconds, signal]));
  expect(Number(at(readTemplate(), 'Parameters', 'WorkerTimeoutSeconds', 'MinValue')) * 1000).toBeGreaterThan(
    5000 + MAX_OVERHEAD_MS,
  );
});

test.each([sampleStages.ocr, sampleStages.mlInference, sampleStages.search])(
  'a sample stage stops when the signal aborts (%p)',
  async (create) => {
    const aborted = { jobId: 'id', results: {}, signal: AbortSignal.abort() };

    await expect(create().run('a text', aborted)).rejects.toMatchObject({ name: 'AbortError' });
  },
);

test('the sample stages always return the same plain JSON for the same text', async () => {
  await fc.assert(
    fc.asyncProperty(fc.string({ unit: 'binary' }), async (text) => {
      for (const stage of stages) {
        const result = await run(stage, text);
        expect(await run(stage, text)).toEqual(result);
        expect(JSON.parse(JSON.stringify(result))).toEqual(result);
      }
    }),
  );
});

test.each([
  ['x'.repeat(80), 'x'.repeat(80)],
  ['x'.repeat(81), `${'x'.repeat(80)}...`],
  ['😀'.repeat(80), '😀'.repeat(80)],
  [`${'😀'.repeat(80)}y`, `${'😀'.repeat(80)}...`],
])('ocr previews the first 80 code points, with an ellipsis if there are more', async (text, preview) => {
  expect(await run(ocr, text)).toMatchObject({ preview, charCount: [...text].length });
});

test('ocr counts code points and words', async () => {
  expect(await run(ocr, '\u00a0😀  two\n\twords\u3000é')).toMatchObject({ charCount: 16, wordCount: 4 });
});

test.each([
  ['good bad', 'NEUTRAL', 0.5],
  ['GOOD Bad best', 'POSITIVE', 0.7],
  ['bad bad bad good, good', 'NEGATIVE', 0.75],
  ['love '.repeat(6), 'POSITIVE', 0.9],
  ['love '.repeat(7), 'POSITIVE', 0.95],
  ['hate '.repeat(500), 'NEGATIVE', 0.95],
])('mlInference rates %j as %s with confidence %d', async (text, sentiment, confidence) => {
  expect(await run(mlInference, text)).toMatchObject({ sentiment, confidence });
});

test.each([
  ...POSITIVE.map((word) => [word, 'POSITIVE']),
  ...NEGATIVE.map((word) => [word, 'NEGATIVE']),
  ['constructor', 'NEUTRAL'],
  ['__proto__', 'NEUTRAL'],
])('mlInference rates the word %s as %s', async (word, sentiment) => {
  expect(await run(mlInference, word)).toMatchObject({ sentiment });
});

test.each([
  ['', []],
  ['one two six', []],
  ['four', ['four']],
  ['😀😀😀 😀😀😀😀', ['😀😀😀😀']],
  ['great TERRIBLE thing', ['thing']],
  ['late early late early first', ['late', 'early', 'first']],
  ['once twice Twice ONCE twice', ['twice', 'once']],
  ['Straße\u3000LAMBDA\tlambda\r\nİİİİ', ['lambda', 'straße', 'i̇i̇i̇i̇']],
  ['aaaa bbbb cccc dddd eeee ffff ffff', ['ffff', 'aaaa', 'bbbb', 'cccc', 'dddd']],
  ['constructor __proto__ __proto__', ['__proto__', 'constructor']],
  ['2024 1999 2024', ['2024', '1999']],
])('search finds the keywords of %j, which are %j', async (text, topKeywords) => {
  expect(await run(search, text)).toEqual({
    stage: 'search',
    topKeywords,
    relatedDocumentsFound: 7 * topKeywords.length,
  });
});

test.each([
  ['words that are longer by half in lower case', 'Ⱥ'.repeat(13_000)],
  ['words of four-byte characters', '😀'.repeat(6_500)],
  ['words of ASCII letters', 'w'.repeat(26_000)],
  ['words of control characters, which take six bytes each as JSON', '\u0001'.repeat(4_300)],
])('the result for the longest text fits in an item with the text (%s)', async (_what, word) => {
  const words = ['a', 'b', 'c', 'd', 'e'].map((letter) => letter + word).join(' ');
  const text = words + 'x'.repeat(MAX_TEXT_BYTES - sizeAsJson(words));

  expect(sizeAsJson(text)).toBe(MAX_TEXT_BYTES);

  const options = { signal, checkTime: () => {}, running: new Map(), clock: () => 0 };

  const end = await runStages(stages, { jobId: 'id', text }, options);

  expect(end.status).toBe('DONE');
});

test('lower case makes no character longer by more than half, in bytes of UTF-8', () => {
  const longer: string[] = [];
  for (let code = 0; code <= 0x10ffff; code++) {
    if (code >= 0xd800 && code <= 0xdfff) continue;
    const character = String.fromCodePoint(code);
    const lower = character.toLowerCase();
    if (lower !== character && Buffer.byteLength(lower) > 1.5 * Buffer.byteLength(character)) longer.push(character);
  }

  expect(longer).toEqual([]);
});
