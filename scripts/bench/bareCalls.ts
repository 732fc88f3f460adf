import { DynamoDBClient, GetItemCommand, PutItemCommand } from '@aws-sdk/client-dynamodb';
import { InvokeCommand, LambdaClient } from '@aws-sdk/client-lambda';
import type { SeenCall } from './aws.ts';

const dynamodb = new DynamoDBClient();
const lambda = new LambdaClient();

/** Makes the same calls as a POST or a GET with the SDK alone. The handlers are compared with this. */
export async function handler(calls: readonly SeenCall[]): Promise<void> {
  for (const { operation, path, body } of calls) {
    // For DynamoDB, the JSON of the request is the SDK's input.
    if (operation === 'GetItem') await dynamodb.send(new GetItemCommand(JSON.parse(body)));
    else if (operation === 'PutItem') await dynamodb.send(new PutItemCommand(JSON.parse(body)));
    else if (operation === 'Invoke') {
      const FunctionName = path.split('/').at(-2);
      await lambda.send(new InvokeCommand({ FunctionName, InvocationType: 'Event', Payload: body }));
    } else throw new Error(`A POST or a GET has called ${operation}`);
  }
}
