import { DynamoDBClient } from '@aws-sdk/client-dynamodb';
import { InvokeCommand, LambdaClient } from '@aws-sdk/client-lambda';
import { DynamoDBDocumentClient } from '@aws-sdk/lib-dynamodb';

const MAX_ATTEMPTS = 2;
const REQUEST_TIMEOUT_MS = 2000;
const BACKOFF_MS = 500;

/**
 * The longest that one call may take, its retry included, in milliseconds. The SDK's own default
 * is to wait for ever, so that one lost packet would cost a function its whole time.
 */
export const CALL_BUDGET_MS = MAX_ATTEMPTS * REQUEST_TIMEOUT_MS + BACKOFF_MS;

const options = {
  maxAttempts: MAX_ATTEMPTS,
  requestHandler: {
    connectionTimeout: 1000,
    requestTimeout: REQUEST_TIMEOUT_MS,
    throwOnRequestTimeout: true,
    socketTimeout: REQUEST_TIMEOUT_MS,
  },
};

/** A client for the jobs table. Endpoint, region and credentials come from the environment. */
export function documentClient(): DynamoDBDocumentClient {
  return DynamoDBDocumentClient.from(new DynamoDBClient(options));
}

/**
 * A function that starts the worker on a job: Lambda queues the event, and answers before the
 * worker runs. Only the id goes with the event, because its size is limited.
 *
 * @throws whatever the SDK throws when Lambda cannot be reached or refuses
 */
export function workerStarter(functionName: string): (jobId: string) => Promise<void> {
  const client = new LambdaClient(options);
  return async (jobId) => {
    await client.send(
      new InvokeCommand({
        FunctionName: functionName,
        InvocationType: 'Event',
        Payload: JSON.stringify({ jobId }),
      }),
      // A throttled Lambda may ask for a longer pause before the retry than the budget has.
      { abortSignal: AbortSignal.timeout(CALL_BUDGET_MS) },
    );
  };
}
