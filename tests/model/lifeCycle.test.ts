import { expect, test } from '@jest/globals';
import { checkSequences } from './checkSequences.ts';
import { outcomes } from './simulatedWorld.ts';

// The same sequences every time; `npm run test:soak` tries others.
const SEED = 3;

test('no interleaving of calls, faults and clocks breaks a guarantee', async () => {
  await checkSequences({ runs: 300, seed: SEED, isWild: false });
}, 120_000);

test('no clock, however wrong, changes an end', async () => {
  await checkSequences({ runs: 100, seed: SEED + 1, isWild: true });
}, 120_000);

test('the sequences come to every outcome there is', () => {
  expect([...outcomes].filter(([, times]) => times > 0).map(([outcome]) => outcome)).toEqual(
    expect.arrayContaining([
      'POST 202',
      'POST 422',
      'POST 503',
      'POST killed',
      'GET 404',
      'GET 200 PENDING',
      'GET 200 IN_PROGRESS',
      'GET 200 DONE',
      'GET 200 ERROR the stage broke',
      "GET 200 ERROR Stage 'first' took too long",
      'GET 200 ERROR Processing failed: the job did not finish before its deadline',
      'GET 200 ERROR Processing failed: all 3 attempts ended without a result',
      'worker done',
      'worker failed',
      'worker killed',
    ]),
  );
});
