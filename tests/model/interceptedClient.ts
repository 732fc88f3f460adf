import { AsyncLocalStorage } from 'node:async_hooks';
import { setImmediate } from 'node:timers/promises';
import { CreateTableCommand, DescribeTableCommand, DynamoDBClient } from '@aws-sdk/client-dynamodb';
import { DynamoDBDocumentClient, GetCommand } from '@aws-sdk/lib-dynamodb';
import { TABLE } from '../../scripts/local/tableShape.ts';
import type { Job } from '../../src/job.ts';
import { parseJob } from '../../src/jobRepository.ts';
import { DynamodbEngine, textOf, type WireRequest, type WireResponse } from './dynamodbEngine.ts';

export const TABLE_NAME = 'Jobs';

/** Makes calls, and decides the fate of each. */
export interface Caller {
  /** Responds in its own time, or never; `perform` carries out the call. */
  send(label: string, jobId: string, attempt: string, perform: () => Promise<WireResponse>): Promise<WireResponse>;
}

/**
 * The SDK's real client on the real engine. Requests of code that runs under `as` go to its caller,
 * all others straight to the engine. Retries are made by the SDK, but without a pause.
 */
export class InterceptedDynamodb {
  readonly #engine = new DynamodbEngine();
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
    await this.client.send(new CreateTableCommand({ TableName: TABLE_NAME, ...TABLE }));
    // dynalite makes a table ACTIVE on a timer, even without a delay.
    const describe = new DescribeTableCommand({ TableName: TABLE_NAME });
    for (let tries = 0; tries < 1000; tries += 1) {
      if ((await this.client.send(describe)).Table?.TableStatus === 'ACTIVE') return;
      await setImmediate();
    }
    throw new Error('dynalite did not create the table');
  }

  /** Runs `work` so that its calls, and those of everything it starts, go to `caller`. */
  as<T>(caller: Caller, work: () => Promise<T>): Promise<T> {
    return this.#callers.run(caller, work);
  }

  /** The record as it is. Of the product's code, only the parser is used. */
  async peek(jobId: string): Promise<Job | undefined> {
    const { Item } = await this.client.send(
      new GetCommand({ TableName: TABLE_NAME, Key: { jobId }, ConsistentRead: true }),
    );
    return Item === undefined ? undefined : parseJob(Item);
  }

  async #handle(request: WireRequest): Promise<WireResponse> {
    const caller = this.#callers.getStore();
    if (caller === undefined) return this.#engine.perform(request);
    const text = textOf(request);
    const operation = request.headers['x-amz-target']?.split('.')[1] ?? '';
    const detail = /"UpdateExpression":"([^"]*)"/.exec(text)?.[1] ?? '';
    const jobId = /"jobId":\{"S":"([^"]*)"\}/.exec(text)?.[1] ?? '';
    const attempt = request.headers['amz-sdk-request'] ?? '';
    // The SDK sends the same request object twice, with other headers.
    const sent = { headers: { ...request.headers }, body: request.body };
    return caller.send(`${operation} ${detail}`.trimEnd(), jobId, attempt, () => {
      // A read that is not strongly consistent may see nothing yet.
      const isBlind = operation === 'GetItem' && !text.includes('"ConsistentRead":true');
      return isBlind ? Promise.resolve(EMPTY) : this.#engine.perform(sent);
    });
  }
}

const EMPTY: WireResponse = { statusCode: 200, headers: {}, body: Buffer.from('{}') };

function retryToken(count: number) {
  return { getRetryCount: () => count, getRetryDelay: () => 0 };
}
