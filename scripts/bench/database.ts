import { once } from 'node:events';
import { CreateTableCommand, DynamoDBClient, waitUntilTableExists } from '@aws-sdk/client-dynamodb';
import dynalite from 'dynalite';
import type { SeenCall } from './stub.ts';

/** A DynamoDB (dynalite) with the jobs table. It reports the capacity units of each call. */
export interface Database {
  /** Carries out a call. Returns DynamoDB's response and the capacity units that the call consumed. */
  perform(call: SeenCall): Promise<{ readonly body: string; readonly units: number }>;
  stop(): void;
}

/** Starts a database on loopback. */
export async function startDatabase(tableName: string): Promise<Database> {
  const server = dynalite({ createTableMs: 0 }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  if (typeof address !== 'object' || address === null) throw new Error('The database is not listening');
  const endpoint = `http://127.0.0.1:${address.port}`;
  const credentials = { accessKeyId: 'bench', secretAccessKey: 'bench' };
  const client = new DynamoDBClient({ endpoint, region: 'us-east-1', credentials });
  await client.send(
    new CreateTableCommand({
      TableName: tableName,
      BillingMode: 'PAY_PER_REQUEST',
      AttributeDefinitions: [{ AttributeName: 'jobId', AttributeType: 'S' }],
      KeySchema: [{ AttributeName: 'jobId', KeyType: 'HASH' }],
    }),
  );
  await waitUntilTableExists({ client, maxWaitTime: 10, minDelay: 1, maxDelay: 1 }, { TableName: tableName });
  client.destroy();

  return {
    async perform({ operation, body }) {
      const response = await fetch(endpoint, {
        method: 'POST',
        headers: {
          'Content-Type': 'application/x-amz-json-1.0',
          'X-Amz-Target': `DynamoDB_20120810.${operation}`,
          'X-Amz-Date': '20250101T000000Z',
          // dynalite requires a signature, but does not check it.
          Authorization:
            'AWS4-HMAC-SHA256 Credential=bench/1/us-east-1/dynamodb/aws4_request, SignedHeaders=a, Signature=a',
        },
        body: JSON.stringify({ ...JSON.parse(body), ReturnConsumedCapacity: 'TOTAL' }),
      });
      const text = await response.text();
      if (!response.ok) throw new Error(`${operation} was refused: ${text}`);
      return { body: text, units: JSON.parse(text).ConsumedCapacity.CapacityUnits };
    },
    stop() {
      server.close();
      server.closeAllConnections();
    },
  };
}
