import { ConditionalCheckFailedException } from '@aws-sdk/client-dynamodb';
import {
  DeleteCommand,
  type DynamoDBDocumentClient,
  GetCommand,
  PutCommand,
  UpdateCommand,
  type UpdateCommandInput,
} from '@aws-sdk/lib-dynamodb';
import { callOptions } from './aws.ts';
import {
  HAS_ATTEMPTS_LEFT,
  IS_BEFORE_DEADLINE,
  IS_EXPIRED,
  IS_LEASE_OVER,
  IS_PENDING,
  isExpired,
  type Job,
  type Lease,
  lapseOf,
  MAX_ATTEMPTS,
  type Outcome,
  phaseOf,
} from './job.ts';
import { logger, recordEnd } from './telemetry.ts';

/** `status` is a reserved word in DynamoDB's expressions. */
const STATUS = { '#status': 'status' };

const IS_ABSENT = 'attribute_not_exists(jobId)';
/** The job is still the one that was read: no attempt has started or ended, and the id has not been reused. */
const IS_UNCHANGED = '#status = :status AND attempt = :attempt AND createdAt = :createdAt';
const IS_LEASE_MINE = 'leaseToken = :token';
/** `:ended` lets the SDK's retry succeed after the response to the first try was lost. */
const IS_IN_PROGRESS_OR_SAME_STATUS = '#status IN (:inProgress, :ended)';

/** The result of a claim. `held`: another attempt has, or just had, a live lease. */
export type Claim = { readonly kind: 'claimed'; readonly job: Job } | { readonly kind: 'ended' | 'gone' | 'held' };

/**
 * The jobs table. Jobs change only through the conditional writes of this class.
 *
 * If a response is lost, the SDK retries the write, and the retry can fail the condition that the
 * first try met; each method says how it handles that. Every method throws the SDK's error if
 * DynamoDB cannot be reached; the write may still have happened, or may happen later.
 */
export class JobRepository {
  readonly #client: DynamoDBDocumentClient;
  readonly #table: string;

  constructor(client: DynamoDBDocumentClient, table: string) {
    this.#client = client;
    this.#table = table;
  }

  /**
   * Stores a new job. Returns false if the id already exists, from an earlier POST with the same
   * idempotency key or from the first try of this write.
   */
  create(job: Job): Promise<boolean> {
    const condition = {
      ConditionExpression: `${IS_ABSENT} OR ${IS_EXPIRED}`,
      ExpressionAttributeValues: { ':now': job.createdAt },
    };
    const put = new PutCommand({ TableName: this.#table, Item: job, ...condition });
    return tryWrite(this.#client.send(put, callOptions()));
  }

  /**
   * Deletes the job of a POST that failed. A retry succeeds too. Returns false, without deleting, if a
   * worker has claimed the job.
   */
  deletePending(jobId: string): Promise<boolean> {
    const condition = {
      ConditionExpression: `${IS_ABSENT} OR ${IS_PENDING}`,
      ExpressionAttributeNames: STATUS,
      ExpressionAttributeValues: { ':pending': 'PENDING' },
    };
    const deletion = new DeleteCommand({ TableName: this.#table, Key: { jobId }, ...condition });
    return tryWrite(this.#client.send(deletion, callOptions()));
  }

  /**
   * Reads a job with strong consistency. Returns undefined if it is unknown or expired at `now`.
   *
   * If the job has lapsed, its outcome is stored first and the job is read again. A lapse is then as final
   * as any other outcome: it is the same for every reader, and a late write by a worker fails.
   */
  async find(jobId: string, now: number): Promise<Job | undefined> {
    const job = await this.#read(jobId, now);
    if (job === undefined || phaseOf(job, now) !== 'lapsed') return job;
    await this.#endLapsed(job);
    return this.#read(jobId, now);
  }

  async #read(jobId: string, now: number): Promise<Job | undefined> {
    const read = new GetCommand({ TableName: this.#table, Key: { jobId }, ConsistentRead: true });
    const { Item } = await this.#client.send(read, callOptions());
    if (Item === undefined) return undefined;
    const job = parseJob(Item);
    return isExpired(job, now) ? undefined : job;
  }

  /** Writes the outcome of a lapsed job. If the condition fails, the job has changed, or the first try succeeded. */
  async #endLapsed(job: Job): Promise<void> {
    const { endedAt, errorMessage } = lapseOf(job);
    const isWritten = await tryWrite(
      this.#update(job.jobId, {
        // Without the token, no late write of an attempt can succeed.
        UpdateExpression: 'SET #status = :error, errorMessage = :message, updatedAt = :endedAt REMOVE leaseToken',
        ConditionExpression: IS_UNCHANGED,
        ExpressionAttributeNames: STATUS,
        ExpressionAttributeValues: {
          ':error': 'ERROR',
          ':message': errorMessage,
          ':endedAt': endedAt,
          ':status': job.status,
          ':attempt': job.attempt,
          ':createdAt': job.createdAt,
        },
      }),
    );
    if (!isWritten) return;
    recordEnd('ERROR', job, endedAt);
    logger.error('Job lapsed', { attempt: job.attempt, outcome: 'ERROR', error: errorMessage });
  }

  /**
   * Starts an attempt, if {@link phaseOf} is `claimable`. If the SDK sent the claim twice, the retry
   * fails, and the token shows that the first try succeeded.
   */
  async claim(jobId: string, lease: Lease, now: number): Promise<Claim> {
    try {
      const { Attributes } = await this.#update(jobId, {
        UpdateExpression:
          'SET #status = :inProgress, attempt = attempt + :one, updatedAt = :now, leaseToken = :token, leaseExpiresAt = :leaseExpiresAt',
        ConditionExpression: `(${IS_PENDING} OR ${IS_LEASE_OVER}) AND ${HAS_ATTEMPTS_LEFT} AND ${IS_BEFORE_DEADLINE}`,
        ExpressionAttributeNames: STATUS,
        ExpressionAttributeValues: {
          ':pending': 'PENDING',
          ':inProgress': 'IN_PROGRESS',
          ':one': 1,
          ':now': now,
          ':maxAttempts': MAX_ATTEMPTS,
          ':token': lease.token,
          ':leaseExpiresAt': lease.expiresAt,
        },
        ReturnValues: 'ALL_NEW',
      });
      return { kind: 'claimed', job: parseJob(Attributes) };
    } catch (error) {
      if (!(error instanceof ConditionalCheckFailedException)) throw error;
    }
    const job = await this.find(jobId, now);
    if (job === undefined) return { kind: 'gone' };
    if (phaseOf(job, now) === 'ended') return { kind: 'ended' };
    const isMine = job.status === 'IN_PROGRESS' && job.leaseToken === lease.token;
    return isMine ? { kind: 'claimed', job } : { kind: 'held' };
  }

  /**
   * The final write: ends the job if it still has this lease. A retry stores the same outcome again.
   * Returns false if the job has another lease or another outcome.
   */
  end(jobId: string, lease: Lease, outcome: Outcome, now: number): Promise<boolean> {
    const [attribute, value] =
      outcome.status === 'DONE' ? ['result', outcome.result] : ['errorMessage', outcome.errorMessage];
    return tryWrite(
      this.#update(jobId, {
        UpdateExpression: 'SET #status = :ended, #attribute = :value, updatedAt = :now',
        ConditionExpression: `${IS_LEASE_MINE} AND ${IS_IN_PROGRESS_OR_SAME_STATUS}`,
        ExpressionAttributeNames: { ...STATUS, '#attribute': attribute },
        ExpressionAttributeValues: {
          ':ended': outcome.status,
          ':value': value,
          ':now': now,
          ':token': lease.token,
          ':inProgress': 'IN_PROGRESS',
        },
      }),
    );
  }

  #update(jobId: string, update: Omit<UpdateCommandInput, 'TableName' | 'Key'>) {
    return this.#client.send(new UpdateCommand({ TableName: this.#table, Key: { jobId }, ...update }), callOptions());
  }
}

/** Waits for a conditional write. Returns false if its condition failed. */
async function tryWrite(write: Promise<unknown>): Promise<boolean> {
  try {
    await write;
    return true;
  } catch (error) {
    if (error instanceof ConditionalCheckFailedException) return false;
    throw error;
  }
}

/** Parses an item of the table. Throws an Error that names a missing or malformed attribute. */
export function parseJob(item: unknown): Job {
  const attributes = new Map<string, unknown>(Object.entries(item ?? {}));
  const string = (name: string): string => {
    const value = attributes.get(name);
    if (typeof value === 'string') return value;
    throw new Error(`Job record has no valid ${name}`);
  };
  const integer = (name: string): number => {
    const value = attributes.get(name);
    if (typeof value === 'number' && Number.isSafeInteger(value)) return value;
    throw new Error(`Job record has no valid ${name}`);
  };
  const common = {
    jobId: string('jobId'),
    ...(attributes.has('owner') ? { owner: string('owner') } : {}),
    text: string('text'),
    createdAt: integer('createdAt'),
    updatedAt: integer('updatedAt'),
    expiresAt: integer('expiresAt'),
    deadline: integer('deadline'),
    attempt: integer('attempt'),
  };
  const status = string('status');
  switch (status) {
    case 'PENDING':
      return { ...common, status };
    case 'IN_PROGRESS':
      return { ...common, status, leaseToken: string('leaseToken'), leaseExpiresAt: integer('leaseExpiresAt') };
    case 'DONE':
      return { ...common, status, result: string('result') };
    case 'ERROR':
      return { ...common, status, errorMessage: string('errorMessage') };
    default:
      throw new Error('Job record has no valid status');
  }
}
