/**
 * An error whose message is meant for the client: the job ends as ERROR with it as `errorMessage`,
 * truncated to 1,000 code points. It is logged too, like every error of a stage.
 */
export class StageError extends Error {
  override readonly name = 'StageError';
}
