import { CloudWatchLogsClient, paginateFilterLogEvents } from '@aws-sdk/client-cloudwatch-logs';
import { DynamoDBClient, paginateScan } from '@aws-sdk/client-dynamodb';
import { Lambda } from '@aws-sdk/client-lambda';
import { SQS } from '@aws-sdk/client-sqs';
import { clientOptions, startEmulator } from '../../scripts/local/emulator.ts';
import { CLOCK_SKEW_SECONDS, SUBMIT_SECONDS } from '../../src/job.ts';
import { type Answer, AWS_FAILED, requestOnce, sleep } from './deployment.ts';
import { type Call, type Fault, isWait, startFaultProxy, textAt } from './faultProxy.ts';
import { limiter, startWatcher } from './jobWatcher.ts';
import { type StageAction, startStageRecorder } from './stageRecorder.ts';
import { deployTestStack } from './testStack.ts';

/** Shorter than on AWS. As there, Lambda's first retry (after 60 s on AWS) comes after the lease has expired. */
const WORKER_TIMEOUT_SECONDS = 13;
export const RETRY_DELAY_SECONDS = WORKER_TIMEOUT_SECONDS + CLOCK_SKEW_SECONDS + 2;
const MAX_EVENT_AGE_SECONDS = 80;
export const DEADLINE_SECONDS = SUBMIT_SECONDS + MAX_EVENT_AGE_SECONDS + WORKER_TIMEOUT_SECONDS;
/** The guaranteed bound: every attempt starts before the deadline, and its lease has expired by this time. */
export const BOUND_SECONDS = DEADLINE_SECONDS + WORKER_TIMEOUT_SECONDS + 2 * CLOCK_SKEW_SECONDS;

/** An outer limit, for a busy machine. */
export const LIMIT_MS = 600_000;

/** How many jobs may be between their POST and their first claim, because each can start two processes. */
const STARTING_JOBS = 2;
const START_LIMIT_MS = 15_000;

/** What goes wrong with a job. `count` is 1 for the job's first run of that stage. */
export interface Plan {
  readonly stage?: (stage: string, count: number) => StageAction | undefined;
  readonly fault?: (call: Call) => Fault | undefined;
}

/** A plan in which this stage acts like this in its first `times` runs. */
export const stageActs = (name: string, action: StageAction, times = Number.POSITIVE_INFINITY): Plan => ({
  stage: (stage, count) => (stage === name && count <= times ? action : undefined),
});

/** A plan in which every try of the first such call has this fault. */
export const callFails = (operation: Call['operation'], fault: Fault): Plan => ({
  fault: (call) => (call.operation === operation && call.number === 1 ? fault : undefined),
});

/** Returns whether the condition holds, now or at some time before the limit. */
export async function eventually(holds: () => boolean | Promise<boolean>, limitMs = LIMIT_MS): Promise<boolean> {
  for (const giveUpAt = Date.now() + limitMs; !(await holds()); await sleep(100)) {
    if (Date.now() > giveUpAt) return false;
  }
  return true;
}

/** The name of the job with this text. */
const nameOf = (text: string) => text.slice(text.lastIndexOf('/') + 1);

export type World = Awaited<ReturnType<typeof startWorld>>;

/** Deploys the application with test stages and the fault proxy. What has started is closed by `closers`. */
export async function startWorld(closers: (() => unknown)[]) {
  const retryDelay = String(RETRY_DELAY_SECONDS);
  const aws = await startEmulator({
    env: { LAMBDA_ASYNC_RETRY_BASE_SECONDS: retryDelay, LAMBDA_ASYNC_RETRY_MAX_SECONDS: retryDelay },
  });
  closers.unshift(aws.stop);
  const plans = new Map<string, Plan>();
  const recorder = await startStageRecorder((jobName, stage, count) => {
    return plans.get(jobName)?.stage?.(stage, count) ?? 'work 50';
  });
  closers.unshift(recorder.close);
  const proxy = await startFaultProxy(aws.endpoint, (call) => plans.get(nameOf(call.text))?.fault?.(call));
  closers.unshift(proxy.close);
  const { stackName, baseUrl, outputs } = await deployTestStack(aws, {
    proxyUrl: proxy.url,
    parameters: {
      WorkerTimeoutSeconds: String(WORKER_TIMEOUT_SECONDS),
      WorkerMaxEventAgeSeconds: String(MAX_EVENT_AGE_SECONDS),
    },
  });
  const TableName = outputs['JobsTableName'];
  const FunctionName = outputs['WorkerFunctionName'];
  const QueueUrl = outputs['FailedEventsQueueUrl'];
  const options = clientOptions(aws);
  const lambda = new Lambda(options);
  const sqs = new SQS(options);
  const dynamodb = new DynamoDBClient(options);
  const logs = new CloudWatchLogsClient(options);
  const watcher = startWatcher(baseUrl);
  closers.unshift(watcher.stop);

  const failedJobIds: string[] = [];
  const starting = limiter(STARTING_JOBS);
  const callsOf = (name: string) => proxy.calls.filter(({ text }) => nameOf(text) === name);
  /** How many deliveries of the job's event have tried to claim it. */
  const deliveriesOf = (name: string) =>
    Math.max(0, ...callsOf(name).map(({ operation, number }) => (operation === 'claim' ? number : 0)));

  /** The log lines of createJob and the worker about calls and invocations that failed, which contain this text. */
  const failures = async (text: string): Promise<string[]> => {
    const lines: string[] = [];
    const query = { logGroupName: `/${stackName}/functions`, filterPattern: `"${text}"` };
    for await (const { events = [] } of paginateFilterLogEvents({ client: logs }, query)) {
      lines.push(...events.map(({ message = '' }) => message));
    }
    const isFailure = /"Invocation failed"|"Job could not be deleted"|"outcome":5\d\d/;
    return lines.filter((line) => isFailure.test(line) && !line.includes('-GetJobFunction-'));
  };

  return {
    recorder,
    proxy,
    watcher,
    baseUrl,
    callsOf,
    deliveriesOf,

    /** `POST /jobs`, once, for the job with this name. `seconds` is how long it took. */
    post: (name: string, plan: Plan = {}, key?: string): Promise<Answer & { readonly seconds: number }> => {
      const isRepeated = plans.has(name);
      plans.set(name, plan);
      const send = async () => {
        const started = Date.now();
        const headers = { 'Content-Type': 'application/json', ...(key && { 'Idempotency-Key': key }) };
        const body = JSON.stringify({ text: recorder.textOf(name) });
        const answer = await requestOnce(`${baseUrl}/jobs`, { method: 'POST', headers, body });
        return { ...answer, seconds: (Date.now() - started) / 1000 };
      };
      // Its job has a deadline, so it does not wait until others have started.
      if (isRepeated) return send();
      return new Promise((resolve) => {
        const sendAndAwaitClaim = async () => {
          const answer = send();
          resolve(answer);
          if ((await answer).status === 202) await eventually(() => deliveriesOf(name) > 0, START_LIMIT_MS);
        };
        // A rejection is that of the answer.
        starting(sendAndAwaitClaim).catch(() => undefined);
      });
    },

    /** Sends an event to the worker, as Lambda or an operator does. */
    deliver: (jobId: string) =>
      lambda.invoke({ FunctionName, InvocationType: 'Event', Payload: JSON.stringify({ jobId }) }),

    /**
     * How AWS was too slow for createJob or the worker, without an injected fault. The proxy sees requests that were
     * not answered in time, and calls of which it got only the second try. The log also has calls that never arrived.
     */
    slownessOf: async (name: string): Promise<string[]> => {
      const calls = callsOf(name).filter(({ caller }) => caller !== 'getJob');
      const slow = calls.filter(
        ({ fault, isAnswered }) => (fault === undefined || isWait(fault)) && isAnswered === false,
      );
      const groups = [...Map.groupBy(calls, ({ operation, number }) => `${operation} ${number}`)];
      const lost = groups.filter(([, [first]]) => first?.tryNumber !== 1);
      const planned = groups.filter(([, tries]) =>
        tries.every(({ fault, status, isAnswered }) => fault !== undefined && !(status !== undefined && isAnswered)),
      );
      const jobId = calls[0]?.jobId;
      const failed = jobId === undefined ? [''] : (await failures(jobId)).filter((line) => AWS_FAILED.test(line));
      return [
        ...slow.map(({ operation, number, tryNumber }) => `${operation} ${number}, try ${tryNumber}`),
        ...lost.map(([call]) => `${call}, whose first try did not arrive`),
        ...(failed.length > planned.length ? [`${failed.length - planned.length} more failed calls in the log`] : []),
      ];
    },

    failures,

    /** How many attempts of a job ended because a slow start or claim had left the stages too little time. */
    attemptsCutShort: async (jobId: string): Promise<number> =>
      (await failures(jobId)).filter((line) => line.includes('timed out after only')).length,

    /** Whether the last delivery came so late that Lambda may have given up before the next, because of the event's age. */
    wasDeliveredLate: (name: string): boolean => {
      const sentAt = callsOf(name).find(({ operation }) => operation === 'Invoke')?.arrivedAt ?? 0;
      const deliveredAt = callsOf(name).findLast(({ operation }) => operation === 'claim')?.arrivedAt ?? 0;
      const nextAfterSeconds = WORKER_TIMEOUT_SECONDS + RETRY_DELAY_SECONDS;
      return (deliveredAt - sentAt) / 1000 > MAX_EVENT_AGE_SECONDS - nextAfterSeconds;
    },

    /** The ids and attempts of all records in the table for the job with this name. */
    recordsOf: async (name: string): Promise<{ jobId: string; attempt: number }[]> => {
      const records: { jobId: string; attempt: number }[] = [];
      for await (const { Items = [] } of paginateScan({ client: dynamodb }, { TableName, ConsistentRead: true })) {
        for (const { jobId, text, attempt } of Items) {
          if (nameOf(text?.S ?? '') === name) records.push({ jobId: jobId?.S ?? '', attempt: Number(attempt?.N) });
        }
      }
      return records;
    },

    /** Whether Lambda has given up on an event of this job. */
    hasFailedEvent: async (jobId: string): Promise<boolean> => {
      for (;;) {
        const { Messages = [] } = await sqs.receiveMessage({ QueueUrl, MaxNumberOfMessages: 10 });
        if (Messages.length === 0) return failedJobIds.includes(jobId);
        for (const { Body = '', ReceiptHandle } of Messages) {
          failedJobIds.push(textAt(JSON.parse(Body), ['requestPayload', 'jobId']) ?? Body);
          await sqs.deleteMessage({ QueueUrl, ReceiptHandle });
        }
      }
    },
  };
}
