import type { CreateTableCommandInput } from '@aws-sdk/client-dynamodb';

/** The shape of JobsTable in template.yaml; tests/unit/template.test.ts compares the two. */
export const TABLE = {
  BillingMode: 'PAY_PER_REQUEST',
  AttributeDefinitions: [{ AttributeName: 'jobId', AttributeType: 'S' }],
  KeySchema: [{ AttributeName: 'jobId', KeyType: 'HASH' }],
} satisfies Omit<CreateTableCommandInput, 'TableName'>;
