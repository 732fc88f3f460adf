import type { WireResponse } from './dynamodbEngine.ts';
import type { User } from './guarantees.ts';
import type { Caller } from './interceptedClient.ts';

/** The code makes all its progress in one turn of the event loop, or a few if the SDK retries a call. */
const MAX_TURNS = 100;

/** A call that waits for the world to decide what happens to it. */
export interface Call {
  readonly label: string;
  readonly isRetry: boolean;
  readonly perform: () => Promise<WireResponse>;
  readonly respond: (response: WireResponse) => void;
  readonly fail: (error: Error) => void;
  /** Set once the call has been carried out and its response is on the way. */
  response?: WireResponse;
}

/** A running stage. It settles when the world says so. */
export interface Work {
  readonly finish: () => void;
  readonly fail: (error: Error) => void;
}

/**
 * A Lambda execution environment. It runs one invocation at a time, and is frozen in between. Code that
 * an earlier invocation left running resumes during the next one.
 */
export class Sandbox {
  readonly invocations: Invocation[] = [];
  isDead = false;

  /** The current invocation. */
  get active(): Invocation | undefined {
    return this.invocations.find(({ isDone }) => !isDone);
  }

  get isFrozen(): boolean {
    return this.active === undefined;
  }
}

/** One invocation of a function. It makes progress only when the world lets its call, stage or timer continue. */
export class Invocation implements Caller {
  readonly kind: 'POST' | 'GET' | 'worker';
  readonly name: string;
  /** How many invocations started before this one. */
  readonly number: number;
  readonly sandbox: Sandbox;
  /** When Lambda kills it, in milliseconds of true time. */
  readonly killedAt: number;
  /** When the timer of its stages is due, in milliseconds of true time. */
  timerDueAt = Number.POSITIVE_INFINITY;
  onTimer: () => void = () => undefined;
  /** How far this machine's clock is ahead, in milliseconds. */
  skew: number;
  jobId: string | undefined;
  /** Who sent the request. */
  user: User = 'A';
  /** Whether it is a POST with an idempotency key. */
  hasKey = false;
  /** Which of the jobs with this id it read or wrote last. */
  incarnation = 0;
  call: Call | undefined;
  work: Work | undefined;
  /** How many of its stages have started but not settled. */
  unsettledStages = 0;
  /** Whether the handler waits for a stage that is stopping. */
  isStopping = false;
  /** Whether the handler has returned or thrown. */
  isDone = false;
  hasWritten = false;
  /** The HTTP status of a POST's response. */
  status: number | undefined;
  /** What Lambda does if the invocation fails. */
  onFailure: () => void = () => undefined;
  #pause: () => void = () => undefined;

  constructor(
    kind: Invocation['kind'],
    { name, number, sandbox, killedAt, skew }: Pick<Invocation, 'name' | 'number' | 'sandbox' | 'killedAt' | 'skew'>,
  ) {
    this.kind = kind;
    this.name = name;
    this.number = number;
    this.sandbox = sandbox;
    this.killedAt = killedAt;
    this.skew = skew;
    sandbox.invocations.push(this);
  }

  get isDead(): boolean {
    return this.sandbox.isDead;
  }

  /** Whether its code can run: its process is alive and not frozen. */
  get isRunning(): boolean {
    return !this.isDead && !this.sandbox.isFrozen;
  }

  /**
   * Lets the code continue. Resolves when the code waits again or is done. Rejects if neither happens,
   * because the code then waits for something that the world does not know.
   */
  async step(go: () => void): Promise<void> {
    const { promise: paused, resolve, reject } = Promise.withResolvers<void>();
    this.#pause = resolve;
    let turns = 0;
    const watch = setInterval(() => {
      turns += 1;
      // A call that was pending before is still pending, so the world can go on.
      if (turns === 2 && this.call !== undefined) resolve();
      const cause = this.work === undefined ? 'something other than a call or a stage' : 'a stage whose time is up';
      if (turns === MAX_TURNS) reject(new Error(`${this.name} waits for ${cause}`));
    }, 1);
    try {
      go();
      await paused;
    } finally {
      clearInterval(watch);
    }
  }

  /** The code waits for a stage that is stopping. */
  waitForStage(): void {
    this.isStopping = true;
    this.#pause();
  }

  /** The handler has returned or thrown. */
  finish(): void {
    this.isDone = true;
    this.#pause();
  }

  /** The code ends its own process. Nothing after this call runs. */
  endProcess(): Promise<never> {
    this.sandbox.isDead = true;
    this.#pause();
    return new Promise(() => undefined);
  }

  send(label: string, jobId: string, attempt: string, perform: () => Promise<WireResponse>): Promise<WireResponse> {
    const { promise, resolve, reject } = Promise.withResolvers<WireResponse>();
    this.jobId ??= jobId;
    this.call = { label, isRetry: attempt.startsWith('attempt=2'), perform, respond: resolve, fail: reject };
    this.#pause();
    return promise;
  }

  /** Called by a stage. Settles when the world says so, or when `signal` aborts. */
  doWork(signal: AbortSignal | undefined): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.work = { finish: resolve, fail: reject };
    signal?.addEventListener('abort', () => {
      this.work = undefined;
      reject(new Error('stopped'));
    });
    this.#pause();
    return promise;
  }
}
