/** The queue of failed events: those that Lambda gave up on. */
import { InvokeCommand, type LambdaClient } from '@aws-sdk/client-lambda';
import {
  ChangeMessageVisibilityBatchCommand,
  DeleteMessageCommand,
  type Message,
  ReceiveMessageCommand,
  type SQSClient,
} from '@aws-sdk/client-sqs';
import { validate as isUuid } from 'uuid';
import { oneLine } from './oneLine.ts';

/** The most events that one call of {@link FailedEvents.receive} returns. */
export const MAX_EVENTS = 1000;
/** How long SQS hides the events from other readers, in seconds. Longer than a run of redrive.sh takes. */
export const HIDDEN_SECONDS = 600;
/** The most messages that SQS accepts or returns in one call. */
const BATCH_SIZE = 10;
const MAX_REASON_CHARACTERS = 120;

export interface FailedEvent {
  readonly messageId: string;
  readonly receiptHandle: string;
  /** Undefined if the message is not from Lambda, or has no job ID. */
  readonly jobId: string | undefined;
  readonly requestPayload: unknown;
  /** When, how and why the event failed. */
  readonly description: string;
}

export class FailedEvents {
  readonly #sqs: SQSClient;
  readonly #queueUrl: string;

  constructor(sqs: SQSClient, queueUrl: string) {
    this.#sqs = sqs;
    this.#queueUrl = queueUrl;
  }

  /** Reads the queue until it is empty or {@link MAX_EVENTS} are read. SQS hides the events from other readers. */
  async receive(): Promise<FailedEvent[]> {
    const events = new Map<string, FailedEvent>();
    while (events.size < MAX_EVENTS) {
      const { Messages: messages = [] } = await this.#sqs.send(
        new ReceiveMessageCommand({
          QueueUrl: this.#queueUrl,
          MessageSystemAttributeNames: ['SentTimestamp'],
          MaxNumberOfMessages: Math.min(BATCH_SIZE, MAX_EVENTS - events.size),
          VisibilityTimeout: HIDDEN_SECONDS,
          // Long polling asks all servers of SQS, so an empty response means an empty queue.
          WaitTimeSeconds: 1,
        }),
      );
      if (messages.length === 0) break;
      // SQS may return a message twice. Only the newer receipt is valid.
      for (const message of messages) events.set(message.MessageId ?? '', parseFailedEvent(message));
    }
    return [...events.values()];
  }

  async delete({ receiptHandle }: FailedEvent): Promise<void> {
    await this.#sqs.send(new DeleteMessageCommand({ QueueUrl: this.#queueUrl, ReceiptHandle: receiptHandle }));
  }

  /** Makes events visible in the queue again. */
  async release(events: readonly FailedEvent[]): Promise<void> {
    for (let start = 0; start < events.length; start += BATCH_SIZE) {
      const batch = events.slice(start, start + BATCH_SIZE);
      const Entries = batch.map(({ receiptHandle: ReceiptHandle }, index) => {
        return { Id: String(index), ReceiptHandle, VisibilityTimeout: 0 };
      });
      await this.#sqs.send(new ChangeMessageVisibilityBatchCommand({ QueueUrl: this.#queueUrl, Entries }));
    }
  }
}

/** Starts the job of a failed event again. */
export async function sendAgain(lambda: LambdaClient, workerName: string, event: FailedEvent): Promise<void> {
  const Payload = JSON.stringify(event.requestPayload);
  await lambda.send(new InvokeCommand({ FunctionName: workerName, InvocationType: 'Event', Payload }));
}

/** Reads a message of the queue as Lambda writes it. */
export function parseFailedEvent(message: Message): FailedEvent {
  const { MessageId: messageId = '', ReceiptHandle: receiptHandle = '', Body = '', Attributes } = message;
  const { requestPayload, requestContext, responsePayload, responseContext } = fieldsOf(parseJson(Body));
  const { jobId: id } = fieldsOf(requestPayload);
  const { condition = '-', approximateInvokeCount = '?' } = fieldsOf(requestContext);
  const { functionError = '-' } = fieldsOf(responseContext);
  const { errorMessage = functionError } = fieldsOf(responsePayload);
  const jobId = typeof id === 'string' && isUuid(id) ? id : undefined;
  const sent = new Date(Number(Attributes?.['SentTimestamp'] ?? 0)).toISOString();
  const name = jobId ?? `message ${messageId}`;
  const columns = [name, sent, condition, `invoked ${approximateInvokeCount} times`, errorMessage];
  return { messageId, receiptHandle, jobId, requestPayload, description: columns.map(printable).join('  ') };
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

const fieldsOf = (value: unknown): Record<string, unknown> => ({ ...Object(value) });

function printable(value: unknown): string {
  const text = oneLine(typeof value === 'string' ? value : JSON.stringify(value));
  return text.length > MAX_REASON_CHARACTERS ? `${text.slice(0, MAX_REASON_CHARACTERS)}...` : text;
}
