/** One step of a job. */
export interface Stage {
  /** The key of its result in the job's `result`. */
  readonly name: string;

  /**
   * Does the work and returns a JSON object. A value that JSON would change or lose, such as NaN, a Map or a
   * Promise, is an error.
   *
   * It can run again: after a crash, the next attempt starts from the first stage. Make external side
   * effects idempotent, with `jobId` as the key.
   *
   * Await everything that you start. If this promise has not settled about a second after `signal` aborts,
   * the process exits. Work that you do not await may keep running during another job, and crashes the
   * process if it fails. So does a promise that rejects before you await it: use Promise.all.
   *
   * An error ends the job as ERROR, without a retry. The client gets the message of a
   * {@link StageError}. For any other error it gets `Stage '<name>' failed`; the log has the error.
   */
  run(text: string, context: StageContext): Promise<object>;
}

/** What a stage gets in addition to the text. */
export interface StageContext {
  readonly jobId: string;
  /** The results of the earlier stages by stage name, parsed from their JSON. */
  readonly results: { readonly [stageName: string]: { readonly [key: string]: unknown } };
  /** Aborts shortly before the worker's timeout. Pass it to everything that the stage waits for. */
  readonly signal: AbortSignal;
}

/**
 * An error whose message is meant for the client: the job ends as ERROR with it as `errorMessage`,
 * truncated to 1,000 code points. It is logged too, like every error of a stage.
 */
export class StageError extends Error {
  override readonly name = 'StageError';
}
