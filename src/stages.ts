/**
 * The stages that the worker runs, and the interface of a stage. Put your own stages into files next
 * to this one and list them here. Nothing else in src/ needs to change; docs/make-it-yours.md has a
 * complete example.
 */
import { mlInference, ocr, search } from './sampleStages.ts';

/** Stages run in this order, and each gets the results of the earlier ones. Names must be unique. */
export const stages: readonly Stage[] = [ocr(), mlInference(), search()];

/** One step of a job. */
export interface Stage {
  /** The key of its result in the job's `result`. */
  readonly name: string;

  /**
   * Does the work and returns a JSON object.
   *
   * It can run again: after a crash, the next attempt starts from the first stage. Make external side
   * effects idempotent, with `jobId` as the key.
   *
   * Await everything that you start. If this promise has not settled soon after `signal` aborts, the
   * process exits. Work that you do not await may keep running during another job, and crashes the
   * process if it fails. So does a promise that rejects before you await it: use Promise.all.
   *
   * An error ends the job as ERROR, without a retry. The client gets the message of a StageError
   * (stageError.ts). For any other error it gets `Stage '<name>' failed`; the log has the error.
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
