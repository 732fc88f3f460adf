import fc from 'fast-check';
import { Cloud } from './interceptedClient.ts';
import { sequences } from './moves.ts';
import { World } from './simulatedWorld.ts';

const cloud = new Cloud();
const ready = cloud.createTable();
let worlds = 0;

interface Search {
  /** How many sequences, unless MODEL_RUNS says otherwise. */
  readonly runs: number;
  /** Where it begins, unless MODEL_SEED says otherwise; anywhere when neither does. */
  readonly seed?: number;
  /** Whether clocks may be wrong by an hour. */
  readonly isWild: boolean;
}

/**
 * Tries sequences of moves, and throws the smallest counter-example that it finds with its seed and
 * path, and what happened in it line by line. MODEL_SEED and MODEL_PATH try that one again.
 */
export async function checkSequences({ runs, seed, isWild }: Search): Promise<void> {
  await ready;
  const { MODEL_RUNS, MODEL_SEED, MODEL_PATH, MODEL_SHRINK } = process.env;
  const chosenSeed = MODEL_SEED === undefined ? seed : Number(MODEL_SEED);
  await fc.assert(
    fc.asyncProperty(sequences({ isWild }), async (moves) => {
      worlds += 1;
      const world = new World(cloud, worlds, isWild);
      await fc.asyncModelRun(() => ({ model: world, real: world }), moves);
      await world.settle();
    }),
    {
      numRuns: Number(MODEL_RUNS ?? runs),
      endOnFailure: MODEL_SHRINK === 'no',
      ...(chosenSeed === undefined ? {} : { seed: chosenSeed }),
      ...(MODEL_PATH === undefined ? {} : { path: MODEL_PATH }),
    },
  );
}
