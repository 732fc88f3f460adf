/**
 * Lists the failed events (those that Lambda gave up on). With --send, starts their jobs again. Run
 * by redrive.sh.
 *
 * An event is sent first, then deleted from the queue. If the script crashes in between, the next
 * run sends the event again. This is harmless, because the worker's claim decides whether a job runs.
 */
import { DynamoDBClient } from '@aws-sdk/client-dynamodb';
import { InvokeCommand, LambdaClient } from '@aws-sdk/client-lambda';
import {
  ChangeMessageVisibilityBatchCommand,
  DeleteMessageCommand,
  GetQueueAttributesCommand,
  type Message,
  ReceiveMessageCommand,
  SQSClient,
} from '@aws-sdk/client-sqs';
import { DynamoDBDocumentClient, GetCommand } from '@aws-sdk/lib-dynamodb';
import { validate as isUuid } from 'uuid';
import { isExpired, phaseOf, unixSeconds } from '../../src/job.ts';
import { parseJob } from '../../src/jobRepository.ts';
import { messageOf } from './errors.ts';
import { oneLine } from './oneLine.ts';
import { requireOutput, requireStack, run } from './stack.ts';

/** The most events that one run handles. */
const MAX_EVENTS = 1000;
/** How long SQS hides the events from other runs, in seconds. Longer than a run takes. */
const HIDDEN_SECONDS = 600;
/** The most messages that SQS accepts or returns in one call. */
const BATCH_SIZE = 10;
const MAX_REASON_CHARACTERS = 120;

interface FailedEvent {
  readonly receiptHandle: string;
  /** Undefined if the message is not from Lambda, or has no job id. */
  readonly jobId: string | undefined;
  readonly requestPayload: unknown;
  /** When, how and why the event failed. */
  readonly description: string;
}

/** What --send does with an event, and why. */
interface Plan {
  readonly action: 'send' | 'delete' | 'keep';
  readonly reason: string;
}

const dynamodb = DynamoDBDocumentClient.from(new DynamoDBClient());
const lambda = new LambdaClient();
// The URL of the queue may have a different host than AWS_ENDPOINT_URL.
const sqs = new SQSClient({ useQueueUrlAsEndpoint: false });

await run(async () => {
  const args = process.argv.slice(2);
  if (args.some((arg) => arg !== '--send')) throw new Error('usage: bash scripts/redrive.sh [--send]');
  const stack = await requireStack();
  const queueUrl = requireOutput(stack, 'FailedEventsQueueUrl');
  const tableName = requireOutput(stack, 'JobsTableName');
  const workerName = requireOutput(stack, 'WorkerFunctionName');

  const events = await receive(queueUrl);
  const left = new Set(events);
  try {
    for (const event of events) {
      const plan = await planFor(event, tableName);
      if (!args.includes('--send') || plan.action === 'keep') {
        print(event, plan.reason);
        continue;
      }
      if (plan.action === 'send') await send(event, workerName);
      print(event, plan.action === 'send' ? 'sent' : `${plan.reason}, deleted`);
      await sqs.send(new DeleteMessageCommand({ QueueUrl: queueUrl, ReceiptHandle: event.receiptHandle }));
      left.delete(event);
    }
  } finally {
    await release(queueUrl, [...left]);
    console.log(`Failed events: ${events.length}, left in the queue: ${left.size}`);
  }
  if (events.length === MAX_EVENTS) console.log(`There may be more: one run handles at most ${MAX_EVENTS}`);
  await warnOfHiddenEvents(queueUrl);
  return 0;
});

/** Reads the queue until it is empty or {@link MAX_EVENTS} are read. SQS hides the events from other runs. */
async function receive(queueUrl: string): Promise<FailedEvent[]> {
  const events = new Map<string, FailedEvent>();
  while (events.size < MAX_EVENTS) {
    const { Messages: messages = [] } = await sqs.send(
      new ReceiveMessageCommand({
        QueueUrl: queueUrl,
        MessageSystemAttributeNames: ['SentTimestamp'],
        MaxNumberOfMessages: Math.min(BATCH_SIZE, MAX_EVENTS - events.size),
        VisibilityTimeout: HIDDEN_SECONDS,
        // Long polling asks all servers of SQS, so an empty response means an empty queue.
        WaitTimeSeconds: 1,
      }),
    );
    if (messages.length === 0) break;
    // SQS may return a message twice. Only the newer receipt is valid.
    for (const message of messages) events.set(message.MessageId ?? '', parse(message));
  }
  return [...events.values()];
}

/** Decides by the job's phase, without changing the job. */
async function planFor({ jobId }: FailedEvent, tableName: string): Promise<Plan> {
  if (jobId === undefined) return { action: 'keep', reason: 'cannot be sent: delete it by hand' };
  const { Item } = await dynamodb.send(new GetCommand({ TableName: tableName, Key: { jobId }, ConsistentRead: true }));
  if (Item === undefined) return { action: 'delete', reason: 'job not found' };
  try {
    const job = parseJob(Item);
    const now = unixSeconds(Date.now());
    if (isExpired(job, now)) return { action: 'delete', reason: 'job not found' };
    switch (phaseOf(job, now)) {
      case 'ended':
        return { action: 'delete', reason: `job already ended (${job.status})` };
      case 'lapsed':
        return { action: 'delete', reason: 'job already ended (ERROR)' };
      case 'held':
        return { action: 'keep', reason: 'an attempt may still be running: try again in 3 minutes' };
      default:
        return { action: 'send', reason: `job can still run (${job.status}): start it with --send` };
    }
  } catch (error) {
    return { action: 'keep', reason: messageOf(error) };
  }
}

async function send({ requestPayload }: FailedEvent, workerName: string): Promise<void> {
  const Payload = JSON.stringify(requestPayload);
  await lambda.send(new InvokeCommand({ FunctionName: workerName, InvocationType: 'Event', Payload }));
}

/** Makes events visible in the queue again. */
async function release(queueUrl: string, events: readonly FailedEvent[]): Promise<void> {
  for (let start = 0; start < events.length; start += BATCH_SIZE) {
    const batch = events.slice(start, start + BATCH_SIZE);
    await sqs.send(
      new ChangeMessageVisibilityBatchCommand({
        QueueUrl: queueUrl,
        Entries: batch.map(({ receiptHandle }, index) => ({
          Id: String(index),
          ReceiptHandle: receiptHandle,
          VisibilityTimeout: 0,
        })),
      }),
    );
  }
}

async function warnOfHiddenEvents(queueUrl: string): Promise<void> {
  const { Attributes } = await sqs.send(
    new GetQueueAttributesCommand({ QueueUrl: queueUrl, AttributeNames: ['ApproximateNumberOfMessagesNotVisible'] }),
  );
  const hidden = Number(Attributes?.['ApproximateNumberOfMessagesNotVisible'] ?? 0);
  if (hidden === 0) return;
  console.log(
    `About ${hidden} more are hidden by another run, which may have been interrupted. ` +
      `They are visible again within ${HIDDEN_SECONDS / 60} minutes`,
  );
}

function print({ description }: FailedEvent, outcome: string): void {
  console.log(`${description}  ${outcome}`);
}

function parse({ Body = '', MessageId = '', ReceiptHandle = '', Attributes = {} }: Message): FailedEvent {
  const record = parseJson(Body);
  const requestPayload = field(record, 'requestPayload');
  const id = field(requestPayload, 'jobId');
  const jobId = typeof id === 'string' && isUuid(id) ? id : undefined;
  const context = field(record, 'requestContext');
  const error = field(field(record, 'responsePayload'), 'errorMessage');
  const columns = [
    jobId ?? `no job id (message ${MessageId})`,
    new Date(Number(Attributes['SentTimestamp'] ?? 0)).toISOString(),
    field(context, 'condition') ?? '-',
    `invoked ${field(context, 'approximateInvokeCount') ?? '?'} times`,
    error ?? field(field(record, 'responseContext'), 'functionError') ?? '-',
  ];
  return { receiptHandle: ReceiptHandle, jobId, requestPayload, description: columns.map(printable).join('  ') };
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function field(value: unknown, name: string): unknown {
  return typeof value === 'object' && value !== null
    ? new Map<string, unknown>(Object.entries(value)).get(name)
    : undefined;
}

function printable(value: unknown): string {
  const text = oneLine(typeof value === 'string' ? value : JSON.stringify(value));
  return text.length > MAX_REASON_CHARACTERS ? `${text.slice(0, MAX_REASON_CHARACTERS)}...` : text;
}
