/**
 * Lists the failed events. With --send, starts their jobs again. Run by redrive.sh.
 *
 * An event is sent first, then deleted from the queue. If the script crashes in between, the next
 * run sends the event again. This is harmless, because the worker's claim decides whether a job runs.
 */
import { DynamoDBClient } from '@aws-sdk/client-dynamodb';
import { LambdaClient } from '@aws-sdk/client-lambda';
import { GetQueueAttributesCommand, SQSClient } from '@aws-sdk/client-sqs';
import { DynamoDBDocumentClient, GetCommand } from '@aws-sdk/lib-dynamodb';
import { isExpired, phaseOf, unixSeconds } from '../../src/job.ts';
import { parseJob } from '../../src/jobRepository.ts';
import { messageOf } from './errors.ts';
import { type FailedEvent, FailedEvents, HIDDEN_SECONDS, MAX_EVENTS, sendAgain } from './failedEvents.ts';
import { requireOutput, requireStack, run } from './stack.ts';

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

  const queue = new FailedEvents(sqs, queueUrl);
  const events = await queue.receive();
  const left = new Set(events);
  try {
    for (const event of events) {
      const { action, reason } = await planFor(event, tableName);
      const isHandled = args.includes('--send') && action !== 'keep';
      if (isHandled && action === 'send') await sendAgain(lambda, workerName, event);
      const outcome = !isHandled ? reason : action === 'send' ? 'sent' : `${reason}, deleted`;
      console.log(`${event.description}  ${outcome}`);
      if (!isHandled) continue;
      await queue.delete(event);
      left.delete(event);
    }
  } finally {
    await queue.release([...left]);
    console.log(`Failed events: ${events.length}, left in the queue: ${left.size}`);
  }
  if (events.length === MAX_EVENTS) console.log(`There may be more: one run handles at most ${MAX_EVENTS}`);
  await warnOfHiddenEvents(queueUrl);
  return 0;
});

/** What --send does with an event, and why. Decides by the job's phase, without changing the job. */
async function planFor(
  { jobId }: FailedEvent,
  tableName: string,
): Promise<{ action: 'send' | 'delete' | 'keep'; reason: string }> {
  if (jobId === undefined) return { action: 'keep', reason: 'no job ID; delete this message manually' };
  const { Item } = await dynamodb.send(new GetCommand({ TableName: tableName, Key: { jobId }, ConsistentRead: true }));
  if (Item === undefined) return { action: 'delete', reason: 'job not found' };
  try {
    const job = parseJob(Item);
    const now = unixSeconds(Date.now());
    if (isExpired(job, now)) return { action: 'delete', reason: 'job not found' };
    const phase = phaseOf(job, now);
    if (phase === 'ended') return { action: 'delete', reason: `job already ended (${job.status})` };
    if (phase === 'lapsed') return { action: 'delete', reason: 'job already ended (ERROR)' };
    if (phase === 'held') return { action: 'keep', reason: 'an attempt may still be running: try again in 3 minutes' };
    return { action: 'send', reason: `job can still run (${job.status}): start it with --send` };
  } catch (error) {
    return { action: 'keep', reason: messageOf(error) };
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
      `They will be visible again within ${HIDDEN_SECONDS / 60} minutes`,
  );
}
