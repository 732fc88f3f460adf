import {
  CreateTableCommand,
  type CreateTableCommandInput,
  type DynamoDBClient,
  waitUntilTableExists,
} from '@aws-sdk/client-dynamodb';

/** The shape of JobsTable in template.yaml; tests/unit/template.test.ts compares the two. */
export const TABLE = {
  BillingMode: 'PAY_PER_REQUEST',
  AttributeDefinitions: [{ AttributeName: 'jobId', AttributeType: 'S' }],
  KeySchema: [{ AttributeName: 'jobId', KeyType: 'HASH' }],
} satisfies Omit<CreateTableCommandInput, 'TableName'>;

/** Creates a jobs table in a local DynamoDB, and waits until it can be used. */
export async function createTable(client: DynamoDBClient, name: string): Promise<void> {
  await client.send(new CreateTableCommand({ TableName: name, ...TABLE }));
  await waitUntilTableExists({ client, maxWaitTime: 10, minDelay: 1, maxDelay: 1 }, { TableName: name });
}
