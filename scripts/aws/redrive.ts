/**
 * Lists the failed events (the dead letters: events that Lambda gave up on), and with --send starts
 * their jobs again. Run by redrive.sh.
 *
 * An event is sent first and deleted from the queue after that. A crash between the two leaves it
 * in the queue and it is sent again the next time, which is harmless: the worker's claim decides
 * whether a job runs, so that a job that is running is not run twice, and one that has ended (also
 * one that ended as ERROR because its attempts were used up) stays as it is.
 */
import { InvokeCommand, LambdaClient } from '@aws-sdk/client-lambda';
import {
  ChangeMessageVisibilityBatchCommand,
  DeleteMessageCommand,
  GetQueueAttributesCommand,
  type Message,
  ReceiveMessageCommand,
  SQSClient,
} from '@aws-sdk/client-sqs';
import { validate as isUuid } from 'uuid';
import { messageOf, requireOutput, requireStack, run } from './stack.ts';

/** The most events that one run handles. */
const MAX_EVENTS = 1000;
/** For so long SQS shows the events to no other run, in seconds; longer than a run takes. */
const HIDDEN_SECONDS = 600;
/** The most that SQS gives out, or takes, in one call. */
const BATCH_SIZE = 10;
const MAX_REASON_CHARACTERS = 120;

interface FailedEvent {
  readonly receiptHandle: string;
  /** Undefined when the message is none of Lambda's, or its event not one of ours. */
  readonly jobId: string | undefined;
  readonly requestPayload: unknown;
  readonly line: string;
}

const lambda = new LambdaClient();
// The queue's URL need not have the host of AWS_ENDPOINT_URL.
const sqs = new SQSClient({ useQueueUrlAsEndpoint: false });

await run(async () => {
  const args = process.argv.slice(2);
  if (args.some((arg) => arg !== '--send')) throw new Error('usage: scripts/redrive.sh [--send]');
  const send = args.includes('--send');
  const stack = await requireStack();
  const queueUrl = requireOutput(stack, 'FailedEventsQueueUrl');
  const workerName = requireOutput(stack, 'WorkerFunctionName');

  const events = await receive(queueUrl);
  for (const { line } of events) console.log(line);

  const gone = new Set<FailedEvent>();
  let sent = 0;
  let failure: string | undefined;
  try {
    for (const event of send ? events : []) {
      if (event.jobId === undefined) continue;
      failure = `job ${event.jobId} could not be sent`;
      await lambda.send(
        new InvokeCommand({
          FunctionName: workerName,
          InvocationType: 'Event',
          Payload: JSON.stringify(event.requestPayload),
        }),
      );
      sent += 1;
      failure = `job ${event.jobId} was sent, but its event could not be deleted from the queue`;
      await sqs.send(new DeleteMessageCommand({ QueueUrl: queueUrl, ReceiptHandle: event.receiptHandle }));
      gone.add(event);
      failure = undefined;
    }
  } catch (error) {
    // Whatever it is, it is in the way of the next event too.
    failure = `${failure}: ${messageOf(error)}`;
  }

  const left = events.filter((event) => !gone.has(event));
  await release(queueUrl, left);
  console.log(`${events.length} listed, ${sent} sent, ${left.length} left in the queue`);
  await explainRest(queueUrl, events, send);
  if (failure !== undefined) throw new Error(failure);
  return 0;
});

/** Takes the queue's events, which are then hidden from others, until there are no more or {@link MAX_EVENTS}. */
async function receive(queueUrl: string): Promise<FailedEvent[]> {
  const events = new Map<string, FailedEvent>();
  while (events.size < MAX_EVENTS) {
    const { Messages: messages = [] } = await sqs.send(
      new ReceiveMessageCommand({
        QueueUrl: queueUrl,
        MessageSystemAttributeNames: ['SentTimestamp'],
        MaxNumberOfMessages: Math.min(BATCH_SIZE, MAX_EVENTS - events.size),
        VisibilityTimeout: HIDDEN_SECONDS,
        // Long polling asks all of SQS's servers: no answer then means no event.
        WaitTimeSeconds: 1,
      }),
    );
    if (messages.length === 0) break;
    // Seldom, SQS gives a message twice; the newer receipt counts.
    for (const message of messages) events.set(message.MessageId ?? '', parse(message));
  }
  return [...events.values()];
}

/** Shows events that stay in the queue to everybody again. */
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

async function explainRest(queueUrl: string, events: readonly FailedEvent[], sent: boolean): Promise<void> {
  const foreign = events.filter(({ jobId }) => jobId === undefined).length;
  if (foreign > 0)
    console.log(`${foreign} of them have no job id: they are never sent, and have to be deleted by hand`);
  if (events.length === MAX_EVENTS) console.log(`There may be more: one run handles ${MAX_EVENTS}`);
  if (events.length > foreign && !sent) console.log('To send them again: scripts/redrive.sh --send');
  const { Attributes } = await sqs.send(
    new GetQueueAttributesCommand({ QueueUrl: queueUrl, AttributeNames: ['ApproximateNumberOfMessagesNotVisible'] }),
  );
  const hidden = Number(Attributes?.['ApproximateNumberOfMessagesNotVisible'] ?? 0);
  if (hidden > 0) {
    console.log(
      `About ${hidden} more are held by another run, which may have been interrupted; ` +
        `they show again within ${HIDDEN_SECONDS / 60} minutes`,
    );
  }
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
  return { receiptHandle: ReceiptHandle, jobId, requestPayload, line: columns.map(printable).join('  ') };
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

/** Without what would break the line, or talk to the terminal. */
function printable(value: unknown): string {
  const text = (typeof value === 'string' ? value : JSON.stringify(value)).replace(
    /[\p{Cc}\p{Cf}\u2028\u2029]+/gu,
    ' ',
  );
  return text.length > MAX_REASON_CHARACTERS ? `${text.slice(0, MAX_REASON_CHARACTERS)}...` : text;
}
