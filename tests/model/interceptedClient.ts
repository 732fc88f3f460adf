import { AsyncLocalStorage } from 'node:async_hooks';
import { setImmediate } from 'node:timers/promises';
import { CreateTableCommand, DescribeTableCommand, DynamoDBClient } from '@aws-sdk/client-dynamodb';
import { DynamoDBDocumentClient, GetCommand } from '@aws-sdk/lib-dynamodb';
import type { Job } from '../../src/job.ts';
import { parseJob } from '../../src/jobRecord.ts';
import { Engine, textOf, type WireAnswer, type WireRequest } from './dynamodbEngine.ts';

export const TABLE = 'Jobs';

/** Whoever makes calls, and decides what becomes of each. */
export interface Caller {
  /** Answers in its own time, or never; `perform` carries the call out. */
  send(label: string, jobId: string, attempt: string, perform: () => Promise<WireAnswer>): Promise<WireAnswer>;
}

/**
 * The SDK's real client on the real engine. The requests of code that runs under `as` go to its
 * caller; all others straight to the engine. The SDK's retries are its own, but without a pause.
 */
export class Cloud {
  readonly #engine = new Engine();
  readonly #callers = new AsyncLocalStorage<Caller>();
  readonly client = DynamoDBDocumentClient.from(
    new DynamoDBClient({
      region: 'us-east-1',
      credentials: { accessKeyId: 'test', secretAccessKey: 'test' },
      signer: { sign: async (request) => request },
      requestHandler: { handle: async (request: WireRequest) => ({ response: await this.#handle(request) }) },
      maxAttempts: 2,
      retryStrategy: {
        acquireInitialRetryToken: async () => retryToken(0),
        async refreshRetryTokenForRetry(token, { errorType }) {
          if (token.getRetryCount() > 0 || errorType !== 'TRANSIENT') throw new Error('No retry');
          return retryToken(1);
        },
        recordSuccess() {},
      },
    }),
  );

  async createTable(): Promise<void> {
    await this.client.send(
      new CreateTableCommand({
        TableName: TABLE,
        BillingMode: 'PAY_PER_REQUEST',
        AttributeDefinitions: [{ AttributeName: 'jobId', AttributeType: 'S' }],
        KeySchema: [{ AttributeName: 'jobId', KeyType: 'HASH' }],
      }),
    );
    // dynalite makes a table ACTIVE on a timer, even with no delay.
    const describe = new DescribeTableCommand({ TableName: TABLE });
    for (let tries = 0; tries < 1000; tries += 1) {
      if ((await this.client.send(describe)).Table?.TableStatus === 'ACTIVE') return;
      await setImmediate();
    }
    throw new Error('dynalite did not make the table');
  }

  /** Runs `work` so that its calls, and those of all it starts, go to `caller`. */
  as<T>(caller: Caller, work: () => Promise<T>): Promise<T> {
    return this.#callers.run(caller, work);
  }

  /** The record as it is, read without any of the product's code but its parser. */
  async peek(jobId: string): Promise<Job | undefined> {
    const { Item } = await this.client.send(new GetCommand({ TableName: TABLE, Key: { jobId }, ConsistentRead: true }));
    return Item === undefined ? undefined : parseJob(Item);
  }

  async #handle(request: WireRequest): Promise<WireAnswer> {
    const caller = this.#callers.getStore();
    if (caller === undefined) return this.#engine.perform(request);
    const text = textOf(request);
    const operation = request.headers['x-amz-target']?.split('.')[1] ?? '';
    const detail = /"UpdateExpression":"([^"]*)"/.exec(text)?.[1] ?? '';
    const jobId = /"jobId":\{"S":"([^"]*)"\}/.exec(text)?.[1] ?? '';
    const attempt = request.headers['amz-sdk-request'] ?? '';
    // The SDK sends one request object twice, with other headers.
    const sent = { headers: { ...request.headers }, body: request.body };
    return caller.send(`${operation} ${detail}`.trimEnd(), jobId, attempt, () => {
      // The least that a read may show that is not strongly consistent: nothing yet.
      const isBlind = operation === 'GetItem' && !text.includes('"ConsistentRead":true');
      return isBlind ? Promise.resolve(EMPTY) : this.#engine.perform(sent);
    });
  }
}

const EMPTY: WireAnswer = { statusCode: 200, headers: {}, body: Buffer.from('{}') };

function retryToken(count: number) {
  return { getRetryCount: () => count, getRetryDelay: () => 0 };
}
