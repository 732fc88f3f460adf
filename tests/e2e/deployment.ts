import * as http from 'node:http';
import * as https from 'node:https';
import { setTimeout as sleep } from 'node:timers/promises';
import { CloudWatchLogsClient } from '@aws-sdk/client-cloudwatch-logs';
import { DynamoDBClient } from '@aws-sdk/client-dynamodb';
import { LambdaClient } from '@aws-sdk/client-lambda';
import { waitForJob } from '../../client/jobs.ts';
import { build, clientOptions, deploy, startEmulator } from '../../scripts/local/emulator.ts';

export { sleep };

/** The deployment under test. If it is undefined, each suite deploys its own to an AWS emulator. */
export const API_BASE_URL = process.env['API_BASE_URL']?.replace(/\/+$/, '');

/** Whether the API is on the AWS emulator, whose gateway does less than API Gateway. */
export function isEmulator(url: string): boolean {
  return new URL(url).hostname.endsWith('.localhost');
}

/** A response of an HTTP server. */
export interface Answer {
  readonly status: number;
  /** By name in lower case. Repeated headers are joined with a comma. */
  readonly headers: Readonly<Record<string, string>>;
  readonly text: string;
  /** The parsed body, undefined if it is not JSON. */
  readonly json: unknown;
}

export interface RequestOptions {
  readonly method?: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string | Uint8Array;
}

/** API Gateway gives up after 29 s. */
const REQUEST_LIMIT_MS = 35_000;

/** Not every resolver knows that names under .localhost are loopback. */
const loopbackLookup: http.RequestOptions['lookup'] = (_hostname, options, callback) => {
  if (options.all === true) callback(null, [{ address: '127.0.0.1', family: 4 }]);
  else callback(null, '127.0.0.1', 4);
};

/**
 * How long a refused request is repeated. On an account with 10 concurrent executions, 20
 * jobs use up all of them for some 15 s. A busy machine refuses for longer.
 */
const REPEAT_LIMIT_MS = 120_000;

let check: (method: string, url: string, answer: Answer) => void = () => undefined;

/** From now on, a request rejects if `checker` throws an error about its response. */
export function checkEveryAnswer(checker: typeof check): void {
  check = checker;
}

/** Sends a request, and repeats it as openapi.yaml allows clients to. See {@link requestOnce}. */
export async function request(url: string, options: RequestOptions = {}): Promise<Answer> {
  const giveUpAt = Date.now() + REPEAT_LIMIT_MS;
  for (;;) {
    const answer = await requestOnce(url, options);
    if (!mayBeRepeated(options, answer) || Date.now() > giveUpAt) return answer;
    await sleep(1000 * Number(answer.headers['retry-after'] ?? 1));
  }
}

function mayBeRepeated({ method = 'GET', headers = {} }: RequestOptions, { status }: Answer): boolean {
  const isSafe = method === 'GET' || Object.keys(headers).some((name) => name.toLowerCase() === 'idempotency-key');
  return status === 429 || (status >= 500 && isSafe);
}

/**
 * Sends a request. The path of `url` is sent unchanged: dots are not resolved, and nothing is escaped.
 * Rejects if the whole response does not arrive within {@link REQUEST_LIMIT_MS}.
 */
export async function requestOnce(url: string, options: RequestOptions = {}): Promise<Answer> {
  const answer = await send(url, options);
  check(options.method ?? 'GET', url, answer);
  return answer;
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
    // A new connection for each request: the server may be about to close an old one.
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

/** `POST /jobs` with this body. */
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

/** A string field of a response's JSON object. Throws an Error that shows the response if there is none. */
export function stringField(answer: Answer, name: string): string {
  const value = field(answer, name);
  if (typeof value !== 'string') throw new Error(`No string '${name}' in the response ${answer.status} ${answer.text}`);
  return value;
}

/** A number field of a response's JSON object. Throws an Error that shows the response if there is none. */
export function numberField(answer: Answer, name: string): number {
  const value = field(answer, name);
  if (typeof value !== 'number') throw new Error(`No number '${name}' in the response ${answer.status} ${answer.text}`);
  return value;
}

function field({ json }: Answer, name: string): unknown {
  return typeof json === 'object' && json !== null
    ? new Map<string, unknown>(Object.entries(json)).get(name)
    : undefined;
}

/** `fetch` for the client: through {@link requestOnce}, so that each response is checked. */
const apiFetch: typeof fetch = async (input, init) => {
  const { method, url, headers } = new Request(input, init);
  const body = typeof init?.body === 'string' ? { body: init.body } : {};
  const answer = await requestOnce(url, { method, headers: Object.fromEntries(headers), ...body });
  return new Response(answer.text, answer);
};

/** A job that has ended, as GET returned it. */
export interface PolledJob {
  /** Each status once, in the order seen. */
  readonly statuses: readonly string[];
  /** A response that was read after the job had ended. */
  readonly end: Answer;
}

/** Polls a job until it has ended. Throws an Error if its status moved backwards, if a GET was refused, or at the limit. */
export async function pollUntilEnded(baseUrl: string, jobId: string, limitMs: number): Promise<PolledJob> {
  const statuses: string[] = [];
  await waitForJob(`${baseUrl}/jobs/${jobId}`, {
    fetch: apiFetch,
    interval: 0.5,
    limit: limitMs / 1000,
    onStatus({ status }) {
      if (status !== statuses.at(-1)) statuses.push(status);
    },
  });
  if (!/^(PENDING,)?(IN_PROGRESS,)?(DONE|ERROR)$/.test(statuses.join())) throw new Error(`Job ${jobId}: ${statuses}`);
  return { statuses, end: await getJob(baseUrl, jobId) };
}

/** A line of the functions' log about an error of AWS, or about a call that AWS did not answer in time. */
export const AWS_FAILED =
  /TimeoutError|AbortError|InternalServerError|ServiceException|Throttl|TooManyRequests|ECONN|EPIPE/;

/** What tests need to look behind the API. */
export interface Internals {
  readonly jobsTableName: string;
  readonly workerFunctionName: string;
  readonly dynamodb: DynamoDBClient;
  readonly lambda: LambdaClient;
  readonly logs: CloudWatchLogsClient;
}

/** The application under test. */
export interface Deployment {
  readonly baseUrl: string;
  readonly internals: Internals | undefined;
  /** Stops what was started for it. */
  stop(): Promise<void>;
}

/** Outputs of the stack at API_BASE_URL. If they are set, credentials are in the environment too. */
const { JOBS_TABLE_NAME, WORKER_FUNCTION_NAME } = process.env;

/** Whether {@link Deployment.internals} will be defined. */
export const HAS_INTERNALS =
  API_BASE_URL === undefined || (JOBS_TABLE_NAME !== undefined && WORKER_FUNCTION_NAME !== undefined);

/** Returns the deployment at {@link API_BASE_URL}, or deploys the template to an AWS emulator. */
export async function openDeployment(stackName: string): Promise<Deployment> {
  if (API_BASE_URL !== undefined) {
    const internals =
      JOBS_TABLE_NAME === undefined || WORKER_FUNCTION_NAME === undefined
        ? undefined
        : internalsOf(JOBS_TABLE_NAME, WORKER_FUNCTION_NAME, {});
    return { baseUrl: API_BASE_URL, internals, stop: async () => undefined };
  }
  const aws = await startEmulator();
  try {
    await build(aws);
    const { baseUrl, outputs } = await deploy(aws, { stackName });
    const { JobsTableName = '', WorkerFunctionName = '' } = outputs;
    return { baseUrl, internals: internalsOf(JobsTableName, WorkerFunctionName, clientOptions(aws)), stop: aws.stop };
  } catch (error) {
    await aws.stop();
    throw error;
  }
}

function internalsOf(
  jobsTableName: string,
  workerFunctionName: string,
  options: Partial<ReturnType<typeof clientOptions>>,
): Internals {
  return {
    jobsTableName,
    workerFunctionName,
    dynamodb: new DynamoDBClient(options),
    lambda: new LambdaClient(options),
    logs: new CloudWatchLogsClient(options),
  };
}
