// The backend of the functions when `sam local` runs them: an in-memory DynamoDB, with the jobs table and one
// PENDING job (the one in events/worker.json and events/get-job.json), and Lambda's event queue for the worker.
import { once } from 'node:events';
import { parseArgs } from 'node:util';
import { DynamoDBClient } from '@aws-sdk/client-dynamodb';
import { DynamoDBDocumentClient } from '@aws-sdk/lib-dynamodb';
import workerEvent from '../../events/worker.json' with { type: 'json' };
import { newJob, unixSeconds } from '../../src/job.ts';
import { JobRepository } from '../../src/jobRepository.ts';
import { backendServer } from './backendServer.ts';
import { createTable } from './jobsTable.ts';

/** `sam local` resolves `!Ref JobsTable` in template.yaml to the logical id. */
const TABLE_NAME = 'JobsTable';
const SAMPLE_TEXT = 'AWS Lambda is a great serverless compute service';
/** The default address of `sam local start-lambda`. */
const LAMBDA_URL = 'http://127.0.0.1:3001';

for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => process.exit());

const { values } = parseArgs({
  options: { host: { type: 'string', default: '127.0.0.1' }, port: { type: 'string', default: '8000' } },
});
const { host, port } = values;
try {
  await once(backendServer(LAMBDA_URL, console.log).listen({ host, port }), 'listening');
} catch (error) {
  if (Object(error).code !== 'EADDRINUSE') throw error;
  console.error(
    `Port ${port} of ${host} is in use. Stop the process that listens there, or choose another port: npm run sam-local-backend -- --port 8001, and the same in events/local-env.json.`,
  );
  process.exit(1);
}
console.log(`DynamoDB and the worker's event queue listen on http://${host}:${port}`);

const client = new DynamoDBClient({
  // 0.0.0.0 means all addresses to a server, but on Windows a client cannot connect to it.
  endpoint: `http://${host === '0.0.0.0' ? '127.0.0.1' : host}:${port}`,
  region: 'us-east-1',
  credentials: { accessKeyId: 'local', secretAccessKey: 'local' },
});
await createTable(client, TABLE_NAME);
console.log(`Table ${TABLE_NAME} is ready`);

const { jobId } = workerEvent;
const job = newJob(jobId, SAMPLE_TEXT, unixSeconds(Date.now()), { maxEventAge: 21600, workerTimeout: 30 });
await new JobRepository(DynamoDBDocumentClient.from(client), TABLE_NAME).create(job);
console.log(`Sample job ${jobId} is PENDING\nCtrl-C stops it and deletes everything in it.`);
