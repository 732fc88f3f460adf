import { AsyncLocalStorage } from 'node:async_hooks';
import { DynamoDBClient } from '@aws-sdk/client-dynamodb';
import { DynamoDBDocumentClient, GetCommand } from '@aws-sdk/lib-dynamodb';
import { createTable } from '../../scripts/local/jobsTable.ts';
import type { Job } from '../../src/job.ts';
import { parseJob } from '../../src/jobRepository.ts';
import { DynamodbEngine, EMPTY, textOf, type WireRequest, type WireResponse } from './dynamodbEngine.ts';

export const TABLE_NAME = 'Jobs';

/** The source of calls, which decides what happens to each. */
export interface Caller {
  /** Resolves with the response, perhaps late or never. `perform` carries out the call. */
  send(label: string, jobId: string, attempt: string, perform: () => Promise<WireResponse>): Promise<WireResponse>;
}

/**
 * The real SDK client on the real engine. Requests from code that runs in `runAs` go to its caller; all
 * others go straight to the engine. The SDK retries as usual, but without a pause.
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
    await createTable(this.client, TABLE_NAME);
  }

  /** Runs `work`. Its calls, and those of everything it starts, go to `caller`. */
  runAs<T>(caller: Caller, work: () => Promise<T>): Promise<T> {
    return this.#callers.run(caller, work);
  }

  /** Reads the record directly. Of the product's code, this uses only the parser. */
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
    // A copy, because the SDK reuses the request object for its retry and changes the headers.
    const sent = { headers: { ...request.headers }, body: request.body };
    return caller.send(`${operation} ${detail}`.trimEnd(), jobId, attempt, () => {
      // An eventually consistent read may find nothing yet.
      const isStale = operation === 'GetItem' && !text.includes('"ConsistentRead":true');
      return isStale ? Promise.resolve(EMPTY) : this.#engine.perform(sent);
    });
  }
}

function retryToken(count: number) {
  return { getRetryCount: () => count, getRetryDelay: () => 0 };
}
