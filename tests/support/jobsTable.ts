import { DynamoDBClient } from '@aws-sdk/client-dynamodb';
import { DynamoDBDocumentClient, GetCommand, PutCommand } from '@aws-sdk/lib-dynamodb';
import dynalite from 'dynalite';
import { createTable } from '../../scripts/local/jobsTable.ts';
import { listen } from './listen.ts';

/** The network between a client and DynamoDB. It can delay a request, send it twice, or lose the response. */
export type Wire = <T>(command: string, send: () => Promise<T>) => Promise<T>;

/** A jobs table on an in-process DynamoDB (dynalite). */
export interface JobsTable {
  readonly name: string;
  /** For clients in other processes. */
  readonly endpoint: string;
  connect(wire?: Wire): DynamoDBDocumentClient;
  /** Stores an item unconditionally. */
  put(item: object): Promise<void>;
  /** Returns the stored item, or undefined if there is none. */
  read(jobId: string): Promise<Record<string, unknown> | undefined>;
  stop(): void;
}

/** Starts an in-process DynamoDB with an empty jobs table. */
export async function startJobsTable(): Promise<JobsTable> {
  const name = 'JobsTable';
  const server = dynalite({ createTableMs: 0 });
  const endpoint = `http://127.0.0.1:${await listen(server)}`;
  const credentials = { accessKeyId: 'test', secretAccessKey: 'test' };
  const clients: DynamoDBClient[] = [];
  const connect = (wire?: Wire) => {
    const client = new DynamoDBClient({ endpoint, region: 'us-east-1', credentials });
    clients.push(client);
    if (wire !== undefined) {
      client.middlewareStack.add(
        (next, context) => (args) => wire(String(context['commandName']), async () => await next(args)),
        { step: 'finalizeRequest', priority: 'low', name: 'wire' },
      );
    }
    return DynamoDBDocumentClient.from(client);
  };

  const direct = connect();
  await createTable(direct, name);

  return {
    name,
    endpoint,
    connect,
    async put(item) {
      await direct.send(new PutCommand({ TableName: name, Item: { ...item } }));
    },
    async read(jobId) {
      return (await direct.send(new GetCommand({ TableName: name, Key: { jobId }, ConsistentRead: true }))).Item;
    },
    stop() {
      for (const client of clients) client.destroy();
      server.close();
      server.closeAllConnections();
    },
  };
}
