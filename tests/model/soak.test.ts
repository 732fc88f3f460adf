// Half of the sequences. Jest runs this file twice, in two projects, to use two cores. The seeds are random.
import { test } from '@jest/globals';
import { checkSequences } from './checkSequences.ts';

test('no interleaving of calls, faults and clocks breaks a guarantee', async () => {
  await checkSequences({ runs: 6000, hasWildClocks: false });
}, 1_800_000);

test('no clock, however wrong, changes an outcome', async () => {
  await checkSequences({ runs: 1000, hasWildClocks: true });
}, 1_800_000);
