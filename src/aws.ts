import { DynamoDBClient } from '@aws-sdk/client-dynamodb';
import { InvokeCommand, LambdaClient } from '@aws-sdk/client-lambda';
import { DynamoDBDocumentClient } from '@aws-sdk/lib-dynamodb';

const TRIES = 2;
const REQUEST_TIMEOUT_MS = 2000;
const BACKOFF_MS = 500;

/**
 * The longest that one call can take, including its retry, in milliseconds. By default the SDK waits
 * without limit, so one hanging connection would use up a function's whole time.
 */
export const CALL_BUDGET_MS = TRIES * REQUEST_TIMEOUT_MS + BACKOFF_MS;

/**
 * The options of one call. The timeouts above end when the response begins, and throttling or a
 * `Retry-After` can delay the SDK's retry by seconds. Only this signal limits the whole call.
 */
export const callOptions = () => ({ abortSignal: AbortSignal.timeout(CALL_BUDGET_MS) });

const limits = { connectionTimeout: 1000, requestTimeout: REQUEST_TIMEOUT_MS, socketTimeout: REQUEST_TIMEOUT_MS };
const options = { maxAttempts: TRIES, requestHandler: { ...limits, throwOnRequestTimeout: true } };

/** A client for the jobs table. Endpoint, region and credentials come from the environment. */
export function documentClient(): DynamoDBDocumentClient {
  return DynamoDBDocumentClient.from(new DynamoDBClient(options));
}

/**
 * Returns a function that starts the worker on a job. Lambda queues the event and returns before the
 * worker runs. The event contains only the job's id, because Lambda limits the size of events. Throws the SDK's
 * error if Lambda cannot be reached or refuses.
 */
export function workerStarter(functionName: string): (jobId: string) => Promise<void> {
  const client = new LambdaClient(options);
  return async (jobId) => {
    await client.send(
      new InvokeCommand({ FunctionName: functionName, InvocationType: 'Event', Payload: JSON.stringify({ jobId }) }),
      callOptions(),
    );
  };
}
