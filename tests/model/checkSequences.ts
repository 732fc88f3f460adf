import fc from 'fast-check';
import { InterceptedDynamodb } from './interceptedClient.ts';
import { sequences } from './moves.ts';
import { SimulatedWorld } from './simulatedWorld.ts';

const dynamodb = new InterceptedDynamodb();
const ready = dynamodb.createTable();
let worlds = 0;

interface Search {
  /** The number of sequences. MODEL_RUNS overrides it. */
  readonly runs: number;
  /** Random by default. MODEL_SEED overrides it. */
  readonly seed?: number;
  /** Whether clocks may be wrong by up to an hour. */
  readonly hasWildClocks: boolean;
}

/** Creates a world in which nothing has happened yet. */
export async function newWorld({ hasWildClocks }: Pick<Search, 'hasWildClocks'>): Promise<SimulatedWorld> {
  await ready;
  worlds += 1;
  return new SimulatedWorld(dynamodb, worlds, hasWildClocks);
}

/**
 * Runs random sequences of moves. If one breaks a guarantee, throws an error with the shortest sequence
 * that does, its seed and path, and a trace. MODEL_SEED and MODEL_PATH run that sequence again.
 */
export async function checkSequences({ runs, seed, hasWildClocks }: Search): Promise<void> {
  const { MODEL_RUNS, MODEL_SEED, MODEL_PATH, MODEL_SHRINK } = process.env;
  const chosenSeed = MODEL_SEED === undefined ? seed : Number(MODEL_SEED);
  await fc.assert(
    fc.asyncProperty(sequences({ hasWildClocks }), async (moves) => {
      const world = await newWorld({ hasWildClocks });
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
