/** What the page shows: the last jobs, what the functions do for them, and the failed events. */
import { type DynamoDBDocumentClient, paginateScan } from '@aws-sdk/lib-dynamodb';
import type { Job } from '../../../src/job.ts';
import { parseJob } from '../../../src/jobRepository.ts';
import { type FailedEvent, parseFailedEvent } from '../../aws/failedEvents.ts';
import type { Emulator, Stack } from '../emulator.ts';
import { type Report, reportReader } from './reports.ts';

const SHOWN_JOBS = 20;
const SHOWN_CHARACTERS = 100;

/** A job of the list. Times are Unix seconds. */
export type ListedJob = Pick<Job, 'jobId' | 'status' | 'text' | 'createdAt' | 'attempt'> & {
  readonly leaseExpiresAt: number | undefined;
};

/** A report about one of the listed jobs. */
export type JobReport = Report & { readonly jobId: string };

export interface State {
  /** `lastAt` is when the running version was deployed (Unix milliseconds), or 0. */
  readonly deployment: { readonly isRunning: boolean; readonly lastAt: number };
  /** The newest first. */
  readonly jobs: readonly ListedJob[];
  readonly failedEvents: readonly FailedEvent[];
}

/** Returns a function that reads the state, and the reports that its last call did not return. */
export function observer(aws: Emulator, dynamodb: DynamoDBDocumentClient) {
  const readReports = reportReader(aws.reportsFile);
  const jobOfRequest = new Map<string, string>();

  return async (stack: Stack | undefined, deployment: State['deployment']) => {
    // Before the jobs, so that each reported job is listed.
    const reports = (await readReports()).flatMap((report): JobReport[] => {
      if (report.kind === 'start') jobOfRequest.set(report.requestId, report.jobId);
      if (report.kind !== 'line') return [report];
      const jobId = jobOfRequest.get(report.requestId) ?? /"jobId":"([^"]+)"/.exec(report.text)?.[1];
      return jobId === undefined ? [] : [{ ...report, jobId }];
    });
    if (stack === undefined) return { state: { deployment, jobs: [], failedEvents: [] }, reports: [] };
    const jobs = await lastJobs(dynamodb, stack.outputs['JobsTableName'] ?? '');
    const failedEvents = await failedEventsOf(aws, stack.outputs['FailedEventsQueueUrl'] ?? '');
    const listed = new Set(jobs.map(({ jobId }) => jobId));
    const state: State = { deployment, jobs, failedEvents };
    return { state, reports: reports.filter(({ jobId }) => listed.has(jobId)) };
  };
}

async function lastJobs(dynamodb: DynamoDBDocumentClient, TableName: string): Promise<ListedJob[]> {
  const jobs: Job[] = [];
  for await (const { Items = [] } of paginateScan({ client: dynamodb }, { TableName, ConsistentRead: true })) {
    jobs.push(...Items.map(parseJob));
  }
  jobs.sort((a, b) => b.createdAt - a.createdAt || (a.jobId < b.jobId ? -1 : 1));
  return jobs.slice(0, SHOWN_JOBS).map((job) => {
    const { jobId, status, createdAt, attempt } = job;
    const text = Array.from(job.text).slice(0, SHOWN_CHARACTERS).join('');
    const leaseExpiresAt = status === 'IN_PROGRESS' ? job.leaseExpiresAt : undefined;
    return { jobId, status, text, createdAt, attempt, leaseExpiresAt };
  });
}

/** Looks into the queue without receiving: that would hide the events from redrive.sh. */
async function failedEventsOf({ endpoint }: Emulator, queueUrl: string): Promise<State['failedEvents']> {
  const response = await fetch(`${endpoint}/_ministack/sqs/messages?QueueUrl=${encodeURIComponent(queueUrl)}`);
  type Message = { MessageId: string; Body: string; SentTimestamp: number };
  // By account, region and queue.
  type Messages = Record<string, Record<string, Record<string, Message[]>>>;
  const { messages }: { messages: Messages } = JSON.parse(await response.text());
  const queues = Object.values(messages).flatMap(Object.values<Messages[string][string]>);
  return queues
    .flatMap(Object.values<Message[]>)
    .flatMap((queue) =>
      queue.map(({ MessageId, Body, SentTimestamp }) =>
        parseFailedEvent({ MessageId, Body, Attributes: { SentTimestamp: String(SentTimestamp * 1000) } }),
      ),
    );
}
