import * as http from 'node:http';
import * as https from 'node:https';
import { setTimeout as sleep } from 'node:timers/promises';
import { DynamoDBClient } from '@aws-sdk/client-dynamodb';
import { LambdaClient } from '@aws-sdk/client-lambda';
import { build, deploy, type LocalAws, startLocalAws } from '../../scripts/local/localAws.ts';

export { sleep };

/** The deployment that the suites are run against; undefined: they bring up their own, on the local AWS. */
const API_BASE_URL = process.env['API_BASE_URL']?.replace(/\/+$/, '') || undefined;

/** Whether a URL of the API is one of the local AWS, whose gateway knows less than API Gateway does. */
export function isLocalAws(url: string): boolean {
  return new URL(url).hostname.endsWith('.localhost');
}

/** What an HTTP server answered. */
export interface Answer {
  readonly status: number;
  /** By name in lower case; repeated ones joined with a comma. */
  readonly headers: Readonly<Record<string, string>>;
  readonly text: string;
  /** The body as JSON; undefined when it is none. */
  readonly json: unknown;
}

export interface RequestOptions {
  readonly method?: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string | Uint8Array;
}

/** API Gateway gives up after 29 s. */
const REQUEST_LIMIT_MS = 35_000;

/** Names under .localhost are the loopback's, but not to every resolver. */
const loopbackLookup: http.RequestOptions['lookup'] = (_hostname, options, callback) => {
  if (options.all === true) callback(null, [{ address: '127.0.0.1', family: 4 }]);
  else callback(null, '127.0.0.1', 4);
};

/** How long a client that is told 429 waits and tries again. */
const RATE_LIMIT_MS = 60_000;

let check: (method: string, url: string, answer: Answer) => void = () => undefined;

/** From now on, whatever `checker` throws of an answer rejects the request that got it. */
export function checkEveryAnswer(checker: typeof check): void {
  check = checker;
}

/**
 * One HTTP request. The path of `url` is sent as it is written: no dots are resolved in it, and
 * nothing is escaped. The API's rate limit is respected: a 429 is tried again when it says so.
 * Rejects when no whole answer comes within {@link REQUEST_LIMIT_MS}.
 */
export async function request(url: string, options: RequestOptions = {}): Promise<Answer> {
  const giveUpAt = Date.now() + RATE_LIMIT_MS;
  for (;;) {
    const answer = await send(url, options);
    check(options.method ?? 'GET', url, answer);
    if (answer.status !== 429 || Date.now() > giveUpAt) return answer;
    await sleep(1000 * Number(answer.headers['retry-after'] ?? 1));
  }
}

function send(url: string, { method = 'GET', headers = {}, body }: RequestOptions): Promise<Answer> {
  const { protocol, hostname, port } = new URL(url);
  const path = url.slice(url.indexOf('/', protocol.length + 2));
  const options: http.RequestOptions = {
    method,
    hostname,
    port,
    path,
    headers: body === undefined ? headers : { 'Content-Length': Buffer.byteLength(body), ...headers },
    signal: AbortSignal.timeout(REQUEST_LIMIT_MS),
    // A connection for each request, so that none is taken that the server is about to close.
    agent: false,
    ...(hostname.endsWith('.localhost') ? { lookup: loopbackLookup } : {}),
  };
  return new Promise((resolve, reject) => {
    const outgoing = (protocol === 'https:' ? https : http).request(options, (incoming) => {
      const chunks: Buffer[] = [];
      incoming.on('data', (chunk: Buffer) => chunks.push(chunk));
      incoming.on('error', reject);
      incoming.on('end', () => {
        const text = Buffer.concat(chunks).toString('utf8');
        resolve({
          status: incoming.statusCode ?? 0,
          headers: Object.fromEntries(
            Object.entries(incoming.headers).map(([name, value]) => [
              name,
              Array.isArray(value) ? value.join(', ') : (value ?? ''),
            ]),
          ),
          text,
          json: parseJson(text),
        });
      });
    });
    outgoing.on('error', reject);
    outgoing.end(body);
  });
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** `POST /jobs` with this text. */
export function submit(baseUrl: string, text: string, headers: Readonly<Record<string, string>> = {}): Promise<Answer> {
  return post(baseUrl, JSON.stringify({ text }), headers);
}

/** `POST /jobs` with this body, whatever it is. */
export function post(
  baseUrl: string,
  body: string | Uint8Array,
  headers: Readonly<Record<string, string>> = {},
): Promise<Answer> {
  return request(`${baseUrl}/jobs`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json', ...headers },
    body,
  });
}

/** `GET /jobs/{jobId}`. */
export function getJob(baseUrl: string, jobId: string): Promise<Answer> {
  return request(`${baseUrl}/jobs/${jobId}`);
}

/** A string field of an answer's JSON object; throws an Error that shows the answer when there is none. */
export function stringField(answer: Answer, name: string): string {
  const value = field(answer, name);
  if (typeof value !== 'string') throw new Error(`No string '${name}' in the answer ${answer.status} ${answer.text}`);
  return value;
}

/** A number field of an answer's JSON object; throws an Error that shows the answer when there is none. */
export function numberField(answer: Answer, name: string): number {
  const value = field(answer, name);
  if (typeof value !== 'number') throw new Error(`No number '${name}' in the answer ${answer.status} ${answer.text}`);
  return value;
}

function field({ json }: Answer, name: string): unknown {
  return typeof json === 'object' && json !== null
    ? new Map<string, unknown>(Object.entries(json)).get(name)
    : undefined;
}

/** A job's way to its end, as GET shows it. */
export interface Course {
  /** Each status once, in the order seen. */
  readonly statuses: readonly string[];
  /** The answer that first showed the end. */
  readonly end: Answer;
}

const RANK: Readonly<Record<string, number>> = { PENDING: 0, IN_PROGRESS: 1, DONE: 2, ERROR: 2 };

const POLL_MS = 500;
/** How many reads of one job may fail on the server's side: such a fault changes no job, and the read may be repeated. */
const MAX_FAILED_READS = 3;

/** Follows a job to DONE or ERROR. Throws when the status goes back, on an answer other than 200, and after the limit. */
export async function pollUntilEnded(baseUrl: string, jobId: string, limitMs: number): Promise<Course> {
  const statuses: string[] = [];
  const giveUpAt = Date.now() + limitMs;
  for (let failedReads = 0; Date.now() < giveUpAt; await sleep(POLL_MS)) {
    const answer = await getJob(baseUrl, jobId);
    if (answer.status >= 500 && failedReads < MAX_FAILED_READS) {
      failedReads += 1;
      continue;
    }
    if (answer.status !== 200) throw new Error(`Job ${jobId}: GET answered ${answer.status} ${answer.text}`);
    const status = stringField(answer, 'status');
    const rank = RANK[status];
    const before = statuses.at(-1);
    if (rank === undefined) throw new Error(`Job ${jobId} has the status ${status}`);
    if (before !== undefined && rank < (RANK[before] ?? 0))
      throw new Error(`Job ${jobId} went from ${before} to ${status}`);
    if (status !== before) statuses.push(status);
    if (rank === RANK['DONE']) return { statuses, end: answer };
  }
  throw new Error(`Job ${jobId} has not ended within ${limitMs} ms; seen: ${statuses.join(', ')}`);
}

/** What a test that looks behind the API needs; undefined where there is a URL and nothing else. */
export interface Backstage {
  readonly jobsTableName: string;
  readonly workerFunctionName: string;
  readonly dynamodb: DynamoDBClient;
  readonly lambda: LambdaClient;
}

/** The application under test. */
export interface Deployment {
  readonly baseUrl: string;
  readonly backstage: Backstage | undefined;
  /** Ends what was started for it. */
  stop(): Promise<void>;
}

/** The names that a deployment elsewhere keeps to itself; they come with credentials in the environment. */
const { JOBS_TABLE_NAME, WORKER_FUNCTION_NAME } = process.env;

/** Whether {@link Deployment.backstage} will be there. */
export const HAS_BACKSTAGE =
  API_BASE_URL === undefined || (JOBS_TABLE_NAME !== undefined && WORKER_FUNCTION_NAME !== undefined);

/** The deployment at {@link API_BASE_URL}, or the real template, built and deployed to a local AWS of its own. */
export async function openDeployment(stackName: string): Promise<Deployment> {
  if (API_BASE_URL !== undefined) {
    const backstage =
      JOBS_TABLE_NAME === undefined || WORKER_FUNCTION_NAME === undefined
        ? undefined
        : backstageOf(JOBS_TABLE_NAME, WORKER_FUNCTION_NAME, {});
    return { baseUrl: API_BASE_URL, backstage, stop: async () => undefined };
  }
  const aws = await startLocalAws();
  try {
    await build(aws);
    const { baseUrl, outputs } = await deploy(aws, { stackName });
    const { JobsTableName = '', WorkerFunctionName = '' } = outputs;
    return { baseUrl, backstage: backstageOf(JobsTableName, WorkerFunctionName, clientOptions(aws)), stop: aws.stop };
  } catch (error) {
    await aws.stop();
    throw error;
  }
}

/** What an AWS SDK client needs to talk to the local AWS. */
export function clientOptions({ endpoint }: LocalAws) {
  return { endpoint, region: 'us-east-1', credentials: { accessKeyId: 'test', secretAccessKey: 'test' } };
}

function backstageOf(
  jobsTableName: string,
  workerFunctionName: string,
  options: Partial<ReturnType<typeof clientOptions>>,
): Backstage {
  return {
    jobsTableName,
    workerFunctionName,
    dynamodb: new DynamoDBClient(options),
    lambda: new LambdaClient(options),
  };
}
