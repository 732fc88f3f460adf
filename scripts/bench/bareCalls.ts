import {
  DynamoDBClient,
  GetItemCommand,
  type GetItemCommandInput,
  PutItemCommand,
  type PutItemCommandInput,
  UpdateItemCommand,
  type UpdateItemCommandInput,
} from '@aws-sdk/client-dynamodb';
import { InvokeCommand, type InvokeCommandInput, LambdaClient } from '@aws-sdk/client-lambda';

/** A call that a handler made, as input for the SDK. */
export type BareCall =
  | { readonly operation: 'GetItem'; readonly input: GetItemCommandInput }
  | { readonly operation: 'PutItem'; readonly input: PutItemCommandInput }
  | { readonly operation: 'UpdateItem'; readonly input: UpdateItemCommandInput }
  | { readonly operation: 'Invoke'; readonly input: InvokeCommandInput };

const dynamodb = new DynamoDBClient();
const lambda = new LambdaClient();

/** Makes the same calls with the SDK alone, without our code. The handlers are compared with this. */
export async function handler(calls: readonly BareCall[]): Promise<void> {
  for (const { operation, input } of calls) {
    if (operation === 'GetItem') await dynamodb.send(new GetItemCommand(input));
    if (operation === 'PutItem') await dynamodb.send(new PutItemCommand(input));
    if (operation === 'UpdateItem') await dynamodb.send(new UpdateItemCommand(input));
    if (operation === 'Invoke') await lambda.send(new InvokeCommand(input));
  }
}
