import fc from 'fast-check';
import { MAX_SKEW_MS, type User, WILD_SKEW_MS } from './guarantees.ts';
import type { Invocation } from './simulatedInvocation.ts';
import type { Fate, LastFate, SimulatedWorld } from './simulatedWorld.ts';

/** One move in the world, which is both the model and the system under test. */
type Move = fc.AsyncCommand<SimulatedWorld, SimulatedWorld>;

/** A move that is possible at any time. */
function move(name: string, run: (world: SimulatedWorld) => Promise<unknown>): Move {
  return {
    check: () => true,
    run: async (_, world) => {
      await run(world);
    },
    toString: () => name,
  };
}

/** A move that acts on one of several things, which `number` selects. Not possible while there are none. */
function moveOne<T>(
  name: string,
  all: (world: Readonly<SimulatedWorld>) => readonly T[],
  run: (world: SimulatedWorld, one: T) => Promise<unknown>,
  number: number,
): Move {
  return {
    check: (world) => all(world).length > 0,
    run: async (_, world) => {
      const things = all(world);
      for (const one of things.slice(number % things.length).slice(0, 1)) await run(world, one);
    },
    toString: () => name,
  };
}

const invocations = ({ calling, working }: Readonly<SimulatedWorld>): readonly Invocation[] => [
  ...new Set([...calling, ...working]),
];
const positions = (things: readonly unknown[]): readonly number[] => [...things.keys()];

/** Every kind of move with its weight. Clocks are ahead of true time by at most `maxSkew` milliseconds. */
function kindsOfMoves(maxSkew: number) {
  const number = fc.nat({ max: 7 });
  /** Which idle process to reuse, if any. */
  const reuse = fc.option(fc.nat({ max: 3 }), { nil: undefined, freq: 3 });
  const skew = fc.constantFrom(0, 0, 0, 0, maxSkew, maxSkew, maxSkew - 1, 2500, 999, 1);
  const lastFate = fc.constantFrom<LastFate>('dropped', 'carried out', 'late');

  const call = (fate: Fate) =>
    number.map((n) =>
      moveOne(
        `call(${n}, ${fate})`,
        ({ calling }) => calling,
        (world, invocation) => world.reply(invocation, fate),
        n,
      ),
    );
  const post = (text: string) =>
    fc
      .tuple(fc.constantFrom<User>('A', 'A', 'A', 'B'), fc.constantFrom('k', 'k', 'k', undefined), skew)
      .map(([user, key, skew]) =>
        move(`post(${user}, ${key ?? '-'}, ${text}, +${skew} ms)`, (world) => world.post(user, key, text, skew)),
      );
  const deliver = (isDuplicate: boolean, ignoresSignal: boolean) =>
    fc.tuple(number, skew, reuse).map(([n, skew, reuse]) =>
      moveOne(
        `deliver(${n}${isDuplicate ? ', duplicate' : ''}, +${skew} ms${ignoresSignal ? ', ignores its signal' : ''}, reuse ${reuse ?? '-'})`,
        ({ queue }) => positions(queue),
        (world, at) => world.deliver(at, { isDuplicate, skew, ignoresSignal, reuse }),
        n,
      ),
    );
  const stage = (isThrowing: boolean) =>
    number.map((n) =>
      moveOne(
        `stage(${n}, ${isThrowing ? 'throws' : 'done'})`,
        ({ working }) => working,
        (world, invocation) => world.endStage(invocation, isThrowing),
        n,
      ),
    );
  const advance = (...milliseconds: number[]) =>
    fc
      .tuple(fc.constantFrom(...milliseconds), lastFate)
      .map(([ms, fate]) => move(`advance(${ms} ms, ${fate})`, (world) => world.advance(ms, fate)));

  return {
    // In every sequence.
    serve: [24, call('served')],
    accept: [2, fc.constant(move('accept(A, k, a)', (world) => world.accept('A', 'k', 'a')))],
    deliver: [6, deliver(false, false)],
    // Only in some sequences.
    attempt: [
      4,
      fc.tuple(number, skew).map(([n, skew]) =>
        moveOne(
          `attempt(${n}, +${skew} ms)`,
          ({ queue }) => positions(queue),
          async (world, at) =>
            world.reply(await world.deliver(at, { isDuplicate: true, skew, ignoresSignal: true, reuse: n }), 'served'),
          n,
        ),
      ),
    ],
    post: [6, post('a')],
    postOther: [2, post('b')],
    get: [
      3,
      fc.tuple(number, skew).map(([n, skew]) =>
        moveOne(
          `get(${n}, +${skew} ms)`,
          ({ jobIds }) => jobIds,
          (world, id) => world.get(id, skew),
          n,
        ),
      ),
    ],
    getOfOther: [
      2,
      fc.tuple(number, skew).map(([n, skew]) =>
        moveOne(
          `getOfOther(${n}, +${skew} ms)`,
          ({ jobs }) => jobs,
          (world, { jobId, owner }) => world.get(jobId, skew, owner === 'A' ? 'B' : 'A'),
          n,
        ),
      ),
    ],
    carryOut: [4, call('carried out')],
    timeOut: [4, call('timed out')],
    late: [3, call('late')],
    land: [
      3,
      number.map((n) =>
        moveOne(
          `land(${n})`,
          ({ late }) => positions(late),
          (world, at) => world.land(at),
          n,
        ),
      ),
    ],
    refuse: [5, call('refused')],
    lose: [
      4,
      number.map((n) =>
        moveOne(
          `lose(${n})`,
          ({ calling }) => calling,
          (world, invocation) => world.lose(invocation),
          n,
        ),
      ),
    ],
    stageDone: [8, stage(false)],
    stageThrows: [3, stage(true)],
    block: [
      3,
      fc.tuple(number, fc.constantFrom(1000, 21_000, 26_000, 29_000), lastFate).map(([n, ms, fate]) =>
        moveOne(
          `block(${n}, ${ms} ms, ${fate})`,
          ({ working }) => working,
          (world, invocation) => world.block(invocation, ms, fate),
          n,
        ),
      ),
    ],
    runOut: [
      5,
      number.map((n) => moveOne(`runOut(${n})`, invocations, (world, invocation) => world.runOut(invocation), n)),
    ],
    kill: [
      3,
      fc
        .tuple(number, lastFate)
        .map(([n, fate]) =>
          moveOne(`kill(${n}, ${fate})`, invocations, (world, invocation) => world.kill(invocation, fate), n),
        ),
    ],
    deliverTwice: [4, deliver(true, false)],
    deliverIgnoringSignal: [6, deliver(true, true)],
    waitBriefly: [4, advance(1, 400, 1000, 4000, 5000)],
    wait: [5, advance(11_000, 21_000, 21_000, 26_000, 26_000, 30_000, 36_000, 60_000)],
    waitLong: [1, advance(600_000, 700_000)],
    setClock: [
      2,
      fc
        .tuple(number, skew)
        .map(([n, skew]) =>
          moveOne(
            `setClock(${n}, +${skew} ms)`,
            invocations,
            (world, invocation) => world.setClock(invocation, skew),
            n,
          ),
        ),
    ],
    redrive: [
      2,
      number.map((n) =>
        moveOne(
          `redrive(${n})`,
          ({ failedEvents }) => positions(failedEvents),
          (world, at) => world.redrive(at),
          n,
        ),
      ),
    ],
    drop: [
      1,
      number.map((n) =>
        moveOne(
          `drop(${n})`,
          ({ queue }) => positions(queue),
          (world, at) => world.drop(at),
          n,
        ),
      ),
    ],
    expire: [
      1,
      fc.tuple(number, fc.constantFrom(-5000, -1000, 0, 1000)).map(([n, ms]) =>
        moveOne(
          `expire(${n}, ${ms} ms)`,
          ({ jobIds }) => jobIds,
          (world, id) => world.advanceToExpiry(id, ms),
          n,
        ),
      ),
    ],
    sweep: [
      2,
      number.map((n) =>
        moveOne(
          `sweep(${n})`,
          ({ jobIds }) => jobIds,
          (world, id) => world.sweep(id),
          n,
        ),
      ),
    ],
  } as const satisfies Record<string, readonly [number, fc.Arbitrary<Move>]>;
}

/**
 * Sequences of moves. Each uses only some kinds of moves, because sequences that mix all of them seldom
 * get far ("swarm testing"). One in five consists mostly of consecutive attempts.
 */
export function sequences({ hasWildClocks }: { readonly hasWildClocks: boolean }): fc.Arbitrary<Iterable<Move>> {
  const { serve, accept, deliver, ...others } = kindsOfMoves(hasWildClocks ? WILD_SKEW_MS : MAX_SKEW_MS);
  const { attempt, kill, refuse, wait, waitBriefly } = others;
  const sequencesOf = (kinds: readonly (readonly [number, fc.Arbitrary<Move>])[]) => {
    const choices = [serve, accept, deliver, ...kinds].map(([weight, arbitrary]) => ({ weight, arbitrary }));
    return fc.commands([fc.oneof(...choices)], { maxCommands: 60, size: 'max' });
  };
  return fc.oneof(
    { weight: 4, arbitrary: fc.subarray(Object.values(others), { minLength: 4, maxLength: 12 }).chain(sequencesOf) },
    { weight: 1, arbitrary: sequencesOf([attempt, kill, refuse, wait, waitBriefly]) },
  );
}
