import { ConditionalCheckFailedException } from '@aws-sdk/client-dynamodb';
import {
  DeleteCommand,
  type DynamoDBDocumentClient,
  GetCommand,
  PutCommand,
  UpdateCommand,
} from '@aws-sdk/lib-dynamodb';
import { type End, isExpired, type Job, type Lease, lapseOf, phaseOf } from './job.ts';
import { parseJob } from './jobRecord.ts';
import { countEnd, logger } from './telemetry.ts';

/** What a claim comes to. `held`: the lease of another attempt is live, and that attempt may yet die. */
export type Claim =
  | { readonly outcome: 'claimed' | 'ended' | 'held'; readonly job: Job }
  | { readonly outcome: 'unknown' };

/**
 * The jobs table. Its conditional writes are the only way that a job moves.
 *
 * The SDK may send a write twice when an answer is lost, and the second then fails its own
 * condition; each method says what it makes of that. Every method throws what the SDK throws when
 * DynamoDB cannot be reached, and then the write may or may not have happened.
 */
export class JobRepository {
  readonly #client: DynamoDBDocumentClient;
  readonly #table: string;

  constructor(client: DynamoDBDocumentClient, table: string) {
    this.#client = client;
    this.#table = table;
  }

  /**
   * Puts a new job in, accepted by the POST that `acceptToken` stands for. Where a PENDING job with
   * the same id and text is there already, this POST accepts that one too: it may come from a POST
   * that died before it started the worker, or from the SDK's own first try. `acceptedBy` holds
   * the POSTs that have accepted a PENDING job; a claim ends its use.
   *
   * @returns false when the id is taken by a job with another text or beyond PENDING
   */
  async create(job: Job, acceptToken: string): Promise<boolean> {
    const accepted = new Set([acceptToken]);
    const isNew = await unlessRefused(
      this.#client.send(
        new PutCommand({
          TableName: this.#table,
          Item: { ...job, acceptedBy: accepted },
          // DynamoDB deletes expired items late: until then they count as gone.
          ConditionExpression: 'attribute_not_exists(jobId) OR expiresAt <= :now',
          ExpressionAttributeValues: { ':now': job.createdAt },
        }),
      ),
    );
    if (isNew) return true;
    return unlessRefused(
      this.#client.send(
        new UpdateCommand({
          TableName: this.#table,
          Key: { jobId: job.jobId },
          UpdateExpression: 'ADD acceptedBy :accepted',
          ConditionExpression: '#status = :pending AND #text = :text AND deadline > :now',
          ExpressionAttributeNames: { '#status': 'status', '#text': 'text' },
          ExpressionAttributeValues: {
            ':accepted': accepted,
            ':pending': 'PENDING',
            ':text': job.text,
            ':now': job.createdAt,
          },
        }),
      ),
    );
  }

  /**
   * Takes back what {@link create} did, for a POST that could not start the worker. The job goes
   * when no other POST has accepted it and no worker has claimed it.
   *
   * @returns the job, where a worker has claimed it
   */
  async withdraw(jobId: string, acceptToken: string, now: number): Promise<Job | undefined> {
    const isWithdrawn = await unlessRefused(
      this.#client.send(
        new UpdateCommand({
          TableName: this.#table,
          Key: { jobId },
          UpdateExpression: 'DELETE acceptedBy :accepted',
          ConditionExpression: '#status = :pending',
          ExpressionAttributeNames: { '#status': 'status' },
          ExpressionAttributeValues: { ':accepted': new Set([acceptToken]), ':pending': 'PENDING' },
        }),
      ),
    );
    if (isWithdrawn) {
      // An empty set is no set: a PENDING job without one is nobody's promise.
      const isDeleted = await unlessRefused(
        this.#client.send(
          new DeleteCommand({
            TableName: this.#table,
            Key: { jobId },
            ConditionExpression: '#status = :pending AND attribute_not_exists(acceptedBy)',
            ExpressionAttributeNames: { '#status': 'status' },
            ExpressionAttributeValues: { ':pending': 'PENDING' },
          }),
        ),
      );
      if (isDeleted) return undefined;
    }
    // A worker may have claimed it before either step.
    const job = await this.find(jobId, now);
    return job?.status === 'PENDING' ? undefined : job;
  }

  /**
   * The job as of `now`, by a strongly consistent read; undefined when it is unknown or expired.
   * A job that has lapsed is written as ended before anyone sees it so. That makes a lapse as final
   * as any end: a worker's late write is refused from then on, and readers whose clocks differ agree.
   */
  async find(jobId: string, now: number): Promise<Job | undefined> {
    const { Item } = await this.#client.send(
      new GetCommand({ TableName: this.#table, Key: { jobId }, ConsistentRead: true }),
    );
    if (Item === undefined) return undefined;
    const job = parseJob(Item);
    if (isExpired(job, now)) return undefined;
    if (phaseOf(job, now) !== 'lapsed') return job;
    const { endedAt, errorMessage } = lapseOf(job);
    const isWritten = await unlessRefused(
      this.#client.send(
        new UpdateCommand({
          TableName: this.#table,
          Key: { jobId },
          UpdateExpression:
            'SET #status = :error, errorMessage = :errorMessage, updatedAt = :endedAt REMOVE leaseToken, acceptedBy',
          // The job is still the one that lapsed. Refused: it moved meanwhile, or the first try landed.
          ConditionExpression: '#status = :status AND attempt = :attempt',
          ExpressionAttributeNames: { '#status': 'status' },
          ExpressionAttributeValues: {
            ':error': 'ERROR',
            ':errorMessage': errorMessage,
            ':endedAt': endedAt,
            ':status': job.status,
            ':attempt': job.attempt,
          },
        }),
      ),
    );
    if (isWritten) {
      countEnd('ERROR', job, endedAt);
      logger.error('Job lapsed', { attempt: job.attempt, outcome: 'ERROR', error: errorMessage });
    }
    return this.find(jobId, now);
  }

  /** Begins an attempt, on the condition that {@link phaseOf} calls claimable, and answers the job with its text. */
  async claim(jobId: string, lease: Lease, now: number): Promise<Claim> {
    try {
      const { Attributes } = await this.#client.send(
        new UpdateCommand({
          TableName: this.#table,
          Key: { jobId },
          UpdateExpression:
            'SET #status = :inProgress, attempt = attempt + :one, updatedAt = :now, leaseToken = :token, leaseExpiresAt = :leaseExpiresAt REMOVE acceptedBy',
          ConditionExpression:
            '(#status = :pending OR (#status = :inProgress AND leaseExpiresAt <= :now)) AND attempt < maxAttempts AND deadline > :now',
          ExpressionAttributeNames: { '#status': 'status' },
          ExpressionAttributeValues: {
            ':pending': 'PENDING',
            ':inProgress': 'IN_PROGRESS',
            ':one': 1,
            ':now': now,
            ':token': lease.token,
            ':leaseExpiresAt': lease.expiresAt,
          },
          ReturnValues: 'ALL_NEW',
        }),
      );
      return { outcome: 'claimed', job: parseJob(Attributes) };
    } catch (error) {
      if (!(error instanceof ConditionalCheckFailedException)) throw error;
    }
    const job = await this.find(jobId, now);
    if (job === undefined) return { outcome: 'unknown' };
    if (phaseOf(job, now) === 'ended') return { outcome: 'ended', job };
    // Its own token: the SDK sent the claim twice, and the first one landed.
    const isOwn = job.status === 'IN_PROGRESS' && job.leaseToken === lease.token;
    return { outcome: isOwn ? 'claimed' : 'held', job };
  }

  /**
   * Ends the job, if it is still under this lease. A result that DynamoDB does not take ends it as
   * ERROR: another attempt would only come to the same.
   *
   * @returns the end as it is stored; undefined when another attempt has the job, or it ended otherwise
   */
  async end(jobId: string, lease: Lease, end: End, now: number): Promise<End | undefined> {
    const isDone = end.status === 'DONE';
    try {
      const isStored = await unlessRefused(
        this.#client.send(
          new UpdateCommand({
            TableName: this.#table,
            Key: { jobId },
            UpdateExpression: 'SET #status = :status, #outcome = :outcome, updatedAt = :now',
            ConditionExpression: '#status = :inProgress AND leaseToken = :token',
            ExpressionAttributeNames: { '#status': 'status', '#outcome': isDone ? 'result' : 'errorMessage' },
            ExpressionAttributeValues: {
              ':status': end.status,
              ':outcome': isDone ? end.result : end.errorMessage,
              ':now': now,
              ':inProgress': 'IN_PROGRESS',
              ':token': lease.token,
            },
          }),
        ),
      );
      if (isStored) return end;
    } catch (error) {
      if (!isDone || !(error instanceof Error && error.name === 'ValidationException')) throw error;
      return this.end(
        jobId,
        lease,
        { status: 'ERROR', errorMessage: 'The result cannot be stored: it is too large or too deeply nested' },
        now,
      );
    }
    // The token outlives the end that it wrote: the SDK's second try finds the work of its first.
    const job = await this.find(jobId, now);
    return job?.status === end.status && job.leaseToken === lease.token ? end : undefined;
  }

  /**
   * Gives the lease back before its time, so that the next attempt need not wait for it. The token
   * goes with it, and the lease is over from the next second on: an end or a claim of this invocation
   * that is still on its way to DynamoDB will be refused.
   */
  async release(jobId: string, lease: Lease, now: number): Promise<void> {
    await unlessRefused(
      this.#client.send(
        new UpdateCommand({
          TableName: this.#table,
          Key: { jobId },
          UpdateExpression: 'SET leaseExpiresAt = :over, updatedAt = :now REMOVE leaseToken',
          ConditionExpression: '#status = :inProgress AND leaseToken = :token',
          ExpressionAttributeNames: { '#status': 'status' },
          ExpressionAttributeValues: {
            ':over': now + 1,
            ':now': now,
            ':inProgress': 'IN_PROGRESS',
            ':token': lease.token,
          },
        }),
      ),
    );
  }
}

/** True when a conditional write was done, false when its condition did not hold. */
async function unlessRefused(write: Promise<unknown>): Promise<boolean> {
  try {
    await write;
    return true;
  } catch (error) {
    if (error instanceof ConditionalCheckFailedException) return false;
    throw error;
  }
}
