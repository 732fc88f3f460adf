import type { WireAnswer } from './dynamodbEngine.ts';
import type { Caller } from './interceptedClient.ts';

/** A call that waits for the world to say what becomes of it. */
export interface Call {
  readonly label: string;
  readonly isRetry: boolean;
  readonly perform: () => Promise<WireAnswer>;
  readonly answer: (answer: WireAnswer) => void;
  readonly fail: (error: Error) => void;
  /** What came of it, where it was carried out and the answer is still on its way. */
  outcome?: WireAnswer;
}

/** The work of a stage, until the world says that it is done. */
export interface Work {
  readonly finish: () => void;
  readonly fail: (error: Error) => void;
}

/** One invocation of a function. It only moves when the world lets its call or its stage go on. */
export class Process implements Caller {
  readonly kind: 'POST' | 'GET' | 'worker';
  readonly name: string;
  /** How many processes began before. */
  readonly number: number;
  /** True times, in milliseconds. */
  readonly deadline: number;
  abortAt = Number.POSITIVE_INFINITY;
  readonly abort = new AbortController();
  /** How much this machine's clock is ahead, in milliseconds. */
  skew: number;
  jobId: string | undefined;
  call: Call | undefined;
  work: Work | undefined;
  /** How many of its stages have begun and not ended. */
  inStages = 0;
  /** Whether the handler is through. */
  isDone = false;
  isDead = false;
  hasWritten = false;
  /** What a POST answered. */
  status: number | undefined;
  /** What Lambda does when the invocation fails. */
  onFailure: () => void = () => undefined;
  #arrive: () => void = () => undefined;

  constructor(kind: Process['kind'], name: string, number: number, deadline: number, skew: number) {
    this.kind = kind;
    this.name = name;
    this.number = number;
    this.deadline = deadline;
    this.skew = skew;
  }

  /** Lets the handler go on, and answers when it waits again or is through. */
  async step(go: () => void): Promise<void> {
    const arrival = new Promise<void>((resolve) => {
      this.#arrive = resolve;
    });
    go();
    await arrival;
  }

  /** The handler is through. */
  finish(): void {
    this.isDone = true;
    this.#arrive();
  }

  send(label: string, jobId: string, attempt: string, perform: () => Promise<WireAnswer>): Promise<WireAnswer> {
    const { promise, resolve, reject } = Promise.withResolvers<WireAnswer>();
    this.jobId ??= jobId;
    this.call = { label, isRetry: attempt.startsWith('attempt=2'), perform, answer: resolve, fail: reject };
    this.#arrive();
    return promise;
  }

  /** What stages wait with. */
  pause(signal: AbortSignal): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const stop = () => {
      this.work = undefined;
      reject(new Error('stopped'));
    };
    if (signal.aborted) {
      stop();
      return promise;
    }
    signal.addEventListener('abort', stop);
    this.work = { finish: resolve, fail: reject };
    // Where its time is over, the handler does not wait for the stage.
    if (!this.abort.signal.aborted) this.#arrive();
    return promise;
  }
}
