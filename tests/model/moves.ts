import fc from 'fast-check';
import { type KnownJob, MAX_SKEW_MS, type User, WILD_SKEW_MS } from './guarantees.ts';
import type { Invocation } from './simulatedInvocation.ts';
import type { Fate, LastFate, SimulatedWorld } from './simulatedWorld.ts';

/** One move in the world, which is both the model and the system under test. */
type Move = fc.AsyncCommand<SimulatedWorld, SimulatedWorld>;

/** A move that is possible at any time. */
const move = (name: string, run: (world: SimulatedWorld) => Promise<unknown>): Move => ({
  check: () => true,
  run: async (_, world) => void (await run(world)),
  toString: () => name,
});

/** What a move acts on. The move is not possible while there is none. */
type Choice<T> = (world: Readonly<SimulatedWorld>) => readonly T[];
const calls: Choice<Invocation> = ({ calling }) => calling;
const stages: Choice<Invocation> = ({ working }) => working;
const invocations: Choice<Invocation> = ({ calling, working }) => [...new Set([...calling, ...working])];
const jobs: Choice<KnownJob> = (world) => world.jobs;
const events: Choice<number> = ({ queue }) => [...queue.keys()];
const failedEvents: Choice<number> = (world) => [...world.failedEvents.keys()];
const lateCalls: Choice<number> = ({ late }) => [...late.keys()];

/** A move that acts on any one of several things. `details` are passed to it. */
function moves<T, Details extends readonly unknown[]>(
  name: string,
  choice: Choice<T>,
  run: (world: SimulatedWorld, one: T, ...details: Details) => Promise<unknown>,
  ...details: { [Index in keyof Details]: fc.Arbitrary<Details[Index]> }
): fc.Arbitrary<Move> {
  return fc.tuple(fc.nat({ max: 7 }), fc.tuple<[...Details]>(...details)).map(([number, values]) => ({
    check: (world) => choice(world).length > 0,
    run: async (_, world) => {
      const things = choice(world);
      for (const one of things.slice(number % things.length).slice(0, 1)) await run(world, one, ...values);
    },
    toString: () => `${name}(${[number, ...values].map((value) => value ?? '-').join(', ')})`,
  }));
}

/** Every kind of move with its weight. Clocks are ahead of true time by at most `maxSkew` milliseconds. */
function kindsOfMoves(maxSkew: number) {
  /** Which idle process to reuse, if any. */
  const reuse = fc.option(fc.nat({ max: 3 }), { nil: undefined, freq: 3 });
  const skew = fc.constantFrom(0, 0, 0, 0, maxSkew, maxSkew, maxSkew - 1, 2500, 999, 1);
  const lastFate = fc.constantFrom<LastFate>('dropped', 'carried out', 'late');
  const blockMs = fc.constantFrom(1000, 21_000, 26_000, 29_000);
  const msToExpiry = fc.constantFrom(-5000, -1000, 0, 1000);

  const call = (fate: Fate) => moves(`${fate} call`, calls, (world, invocation) => world.reply(invocation, fate));
  const post = (text: string) =>
    fc
      .tuple(fc.constantFrom<User>('A', 'A', 'A', 'B'), fc.constantFrom('k', 'k', 'k', undefined), skew)
      .map(([user, key, skew]) =>
        move(`post(${user}, ${key ?? '-'}, ${text}, +${skew} ms)`, (world) => world.post(user, key, text, skew)),
      );
  const deliver = (name: string, how: { readonly isDuplicate?: boolean; readonly ignoresSignal?: boolean }) =>
    moves(name, events, (world, at, skew, reuse) => world.deliver(at, { ...how, skew, reuse }), skew, reuse);
  const advance = (...milliseconds: number[]) =>
    fc
      .tuple(fc.constantFrom(...milliseconds), lastFate)
      .map(([ms, fate]) => move(`advance(${ms} ms, ${fate})`, (world) => world.advance(ms, fate)));
  /** A duplicate of the event stays in the queue, so attempt can follow attempt. */
  const attempt = async (world: SimulatedWorld, at: number, skew: number, reuse: number) =>
    world.reply(await world.deliver(at, { isDuplicate: true, ignoresSignal: true, skew, reuse }), 'served');
  const otherThan = (owner: User) => (owner === 'A' ? 'B' : 'A');

  return {
    // In every sequence.
    serve: [24, call('served')],
    accept: [2, fc.constant(move('accept(A, k, a)', (world) => world.accept('A', 'k', 'a')))],
    deliver: [6, deliver('deliver', {})],
    // Only in some sequences.
    attempt: [4, moves('attempt', events, attempt, skew, fc.nat({ max: 7 }))],
    post: [6, post('a')],
    postOther: [2, post('b')],
    get: [3, moves('get', jobs, (world, { jobId }, skew) => world.get(jobId, skew), skew)],
    getOfOther: [
      2,
      moves('getOfOther', jobs, (world, { jobId, owner }, skew) => world.get(jobId, skew, otherThan(owner)), skew),
    ],
    carryOut: [4, call('carried out')],
    timeOut: [4, call('timed out')],
    late: [3, call('late')],
    land: [3, moves('land', lateCalls, (world, at) => world.land(at))],
    refuse: [5, call('refused')],
    lose: [4, moves('lose', calls, (world, invocation) => world.lose(invocation))],
    stageDone: [8, moves('stageDone', stages, (world, invocation) => world.endStage(invocation, false))],
    stageThrows: [3, moves('stageThrows', stages, (world, invocation) => world.endStage(invocation, true))],
    block: [
      3,
      moves('block', stages, (world, invocation, ms, fate) => world.block(invocation, ms, fate), blockMs, lastFate),
    ],
    runOut: [5, moves('runOut', invocations, (world, invocation) => world.runOut(invocation))],
    kill: [3, moves('kill', invocations, (world, invocation, fate) => world.kill(invocation, fate), lastFate)],
    deliverTwice: [4, deliver('deliverTwice', { isDuplicate: true })],
    deliverIgnoringSignal: [6, deliver('deliverIgnoringSignal', { isDuplicate: true, ignoresSignal: true })],
    waitBriefly: [4, advance(1, 400, 1000, 4000, 5000)],
    wait: [5, advance(11_000, 21_000, 21_000, 26_000, 26_000, 30_000, 36_000, 60_000)],
    waitLong: [1, advance(600_000, 700_000)],
    setClock: [2, moves('setClock', invocations, (world, invocation, skew) => world.setClock(invocation, skew), skew)],
    redrive: [2, moves('redrive', failedEvents, (world, at) => world.redrive(at))],
    drop: [1, moves('drop', events, (world, at) => world.drop(at))],
    expire: [1, moves('expire', jobs, (world, { jobId }, ms) => world.advanceToExpiry(jobId, ms), msToExpiry)],
    sweep: [2, moves('sweep', jobs, (world, { jobId }) => world.sweep(jobId))],
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
