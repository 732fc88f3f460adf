import { expect, jest, test } from '@jest/globals';
import { JobRepository } from '../../src/jobRepository.ts';
import { checkSequences, newWorld } from './checkSequences.ts';
import { outcomes } from './history.ts';

// Fixed, so every run tries the same sequences. `npm run test:soak` tries new ones.
const SEED = 5;

test('no interleaving of calls, faults and clocks breaks a guarantee', async () => {
  await checkSequences({ runs: 300, seed: SEED, hasWildClocks: false });
});

test('no clock, however wrong, changes an outcome', async () => {
  await checkSequences({ runs: 100, seed: SEED + 1, hasWildClocks: true });
});

// Random sequences seldom reach the next cases.

test('a POST whose job expires before the response is not checked against the next job with the same key', async () => {
  const world = await newWorld({ hasWildClocks: false });
  await world.accept('A', 'k', 'a');
  await world.runOut(await world.deliver(0));
  const jobId = world.jobs[0]?.jobId ?? '';
  await world.advanceToExpiry(jobId, -6000);
  const late = await world.post('A', 'k', 'a', 0);
  await world.reply(late, 'served');
  await world.reply(late, 'carried out');
  await world.advance(7000, 'dropped');
  await world.accept('A', 'k', 'a');
  await world.runOut(late);
  await world.settle();
});

test('a stage that settles soon after the final write does not end its process', async () => {
  const world = await newWorld({ hasWildClocks: false });
  await world.accept('A', 'k', 'a');
  const worker = await world.deliver(0, { ignoresSignal: true });
  await world.reply(worker, 'served');
  await world.advance(25_600, 'dropped');

  await world.reply(worker, 'served');
  await world.advance(900, 'dropped');
  await world.endStage(worker, false);

  expect(worker).toMatchObject({ isDone: true, isDead: false });
  expect(world.queue).toEqual([]);
});

test('code that waits for something that the model does not control is reported at once', async () => {
  jest.spyOn(JobRepository.prototype, 'claim').mockReturnValue(new Promise(() => undefined));

  const search = checkSequences({ runs: 20, seed: SEED, hasWildClocks: false });

  await expect(search).rejects.toMatchObject({
    message: expect.stringMatching(/seed: -?\d+, path: .*\n.*deliver\(/),
    cause: {
      message: expect.stringMatching(
        /^worker 1 waits for something other than a call or a stage\n.* POST 1: .*\n.* worker 1: job \d/s,
      ),
    },
  });
});

test('the sequences reach every outcome', () => {
  const missing = [
    'POST 202',
    'POST 422',
    'POST 500',
    'POST 503',
    'POST killed',
    'GET 404',
    'GET for another caller 404',
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
    'event dropped',
    'process reused',
    'process ended',
    'stage stopped in time',
    'stage blocked past its time',
  ].filter((outcome) => !outcomes.has(outcome));

  expect(missing).toEqual([]);
});
