import fc from 'fast-check';
import { InterceptedDynamodb } from './interceptedClient.ts';
import { sequences } from './moves.ts';
import { SimulatedWorld } from './simulatedWorld.ts';

const dynamodb = new InterceptedDynamodb();
const ready = dynamodb.createTable();
let worlds = 0;

interface Search {
  /** How many sequences, unless MODEL_RUNS is set. */
  readonly runs: number;
  /** The seed, unless MODEL_SEED is set; random if neither is. */
  readonly seed?: number;
  /** Whether clocks may be wrong by an hour. */
  readonly isWild: boolean;
}

/** A world in which nothing has happened yet. */
export async function newWorld({ isWild }: Pick<Search, 'isWild'>): Promise<SimulatedWorld> {
  await ready;
  worlds += 1;
  return new SimulatedWorld(dynamodb, worlds, isWild);
}

/**
 * Tries sequences of moves. If one breaks a guarantee, throws the smallest such sequence with its
 * seed, its path, and a trace of what happened. MODEL_SEED and MODEL_PATH run that one again.
 */
export async function checkSequences({ runs, seed, isWild }: Search): Promise<void> {
  const { MODEL_RUNS, MODEL_SEED, MODEL_PATH, MODEL_SHRINK } = process.env;
  const chosenSeed = MODEL_SEED === undefined ? seed : Number(MODEL_SEED);
  await fc.assert(
    fc.asyncProperty(sequences({ isWild }), async (moves) => {
      const world = await newWorld({ isWild });
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
