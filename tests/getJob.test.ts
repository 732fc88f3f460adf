import { DynamoDBDocumentClient, GetCommand } from '@aws-sdk/lib-dynamodb';
import { expect, test } from '@jest/globals';
import { mockClient } from 'aws-sdk-client-mock';
import { handler } from '../src/handlers/getJob.ts';

const dynamodb = mockClient(DynamoDBDocumentClient);

test('an id that is no UUID is not found without asking the database', async () => {
  expect(handler).toBeDefined();
  expect(dynamodb.commandCalls(GetCommand)).toHaveLength(0);
});
