// A DynamoDB for `sam local`, in memory, with the jobs table and one PENDING job in it: the job of
// events/worker.json and events/get-job.json.
import { once } from 'node:events';
import type { Server } from 'node:http';
import { parseArgs } from 'node:util';
import { CreateTableCommand, DynamoDBClient, waitUntilTableExists } from '@aws-sdk/client-dynamodb';
import { DynamoDBDocumentClient } from '@aws-sdk/lib-dynamodb';
import dynalite from 'dynalite';
import workerEvent from '../../events/worker.json' with { type: 'json' };
import { newJob, unixSeconds } from '../../src/job.ts';
import { JobRepository } from '../../src/jobRepository.ts';
import { TABLE } from './tableShape.ts';

/** What `!Ref JobsTable` in template.yaml is to `sam local`. */
const TABLE_NAME = 'JobsTable';
const SAMPLE_TEXT = 'AWS Lambda is a great serverless compute service';

async function main(): Promise<void> {
  const { values: options } = parseArgs({
    options: {
      host: { type: 'string', default: '127.0.0.1' },
      port: { type: 'string', default: '8000' },
    },
  });
  const server = await listen(options.host, options.port);
  // 0.0.0.0 means every address to listen on; to connect to, it means nothing on Windows.
  await fill(`http://${options.host === '0.0.0.0' ? '127.0.0.1' : options.host}:${options.port}`);
  console.log('Ctrl-C stops it, and forgets everything in it.');

  // npm passes the terminal's Ctrl-C on, so that it may come twice.
  const stop = () => {
    server.close();
    server.closeAllConnections();
  };
  process.on('SIGINT', stop).on('SIGTERM', stop);
}

async function listen(host: string, port: string): Promise<Server> {
  const server = dynalite({ createTableMs: 0 }).listen({ host, port });
  try {
    await once(server, 'listening');
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'EADDRINUSE')) throw error;
    throw new Error(
      `Port ${port} of ${host} is in use. Stop what listens there, or choose another: npm run dynamodb -- --port 8001, and the same in events/local-env.json.`,
    );
  }
  console.log(`DynamoDB listens on http://${host}:${port}`);
  return server;
}

/** Makes the table as template.yaml has it, and puts the sample job in as a POST does. */
async function fill(endpoint: string): Promise<void> {
  const client = new DynamoDBClient({
    endpoint,
    region: 'us-east-1',
    credentials: { accessKeyId: 'local', secretAccessKey: 'local' },
  });
  await client.send(new CreateTableCommand({ TableName: TABLE_NAME, ...TABLE }));
  await waitUntilTableExists({ client, maxWaitTime: 10, minDelay: 1, maxDelay: 1 }, { TableName: TABLE_NAME });
  console.log(`Table ${TABLE_NAME} is there`);

  const { jobId } = workerEvent;
  const job = newJob(jobId, SAMPLE_TEXT, unixSeconds(Date.now()), { maxEventAge: 21600, workerTimeout: 30 });
  await new JobRepository(DynamoDBDocumentClient.from(client), TABLE_NAME).create(job);
  console.log(`Sample job ${jobId} is PENDING`);
  client.destroy();
}

main().catch((error: unknown) => {
  console.error(error instanceof Error ? error.message : error);
  process.exit(1);
});
