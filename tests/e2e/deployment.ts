import { setTimeout as sleep } from 'node:timers/promises';
import { waitForJob } from '../../client/jobs.ts';
import { localhostFetch } from '../../scripts/aws/localhostFetch.ts';
import { build, deploy, type Emulator, startEmulator } from '../../scripts/local/emulator.ts';

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

/** API Gateway gives up after 29 s. */
const REQUEST_LIMIT_MS = 35_000;

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
export async function request(url: string, options: RequestInit = {}): Promise<Answer> {
  const giveUpAt = Date.now() + REPEAT_LIMIT_MS;
  for (;;) {
    const answer = await requestOnce(url, options);
    if (!mayBeRepeated(options, answer) || Date.now() > giveUpAt) return answer;
    await sleep(1000 * Number(answer.headers['retry-after'] ?? 1));
  }
}

function mayBeRepeated({ method = 'GET', headers }: RequestInit, { status }: Answer): boolean {
  const isSafe = method === 'GET' || new Headers(headers).has('Idempotency-Key');
  return status === 429 || (status >= 500 && isSafe);
}

/** Sends a request. Rejects if the whole response does not arrive within {@link REQUEST_LIMIT_MS}. */
export async function requestOnce(url: string, options: RequestInit = {}): Promise<Answer> {
  const headers = new Headers(options.headers);
  // The server may be about to close the connection of an earlier request.
  headers.set('Connection', 'close');
  const signal = AbortSignal.timeout(REQUEST_LIMIT_MS);
  const response = await localhostFetch(url, { redirect: 'manual', signal, ...options, headers });
  const text = await response.text();
  const answer = {
    status: response.status,
    headers: Object.fromEntries(response.headers),
    text,
    json: parseJson(text),
  };
  check(options.method ?? 'GET', url, answer);
  return answer;
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
  body: NonNullable<RequestInit['body']>,
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
  const answer = await requestOnce(String(input), init);
  return new Response(answer.text, answer);
};

/**
 * Polls a job until it has ended, and then reads it once more. Throws an Error if its status moved backwards, if a GET
 * was refused, or at the limit.
 */
export async function pollUntilEnded(baseUrl: string, jobId: string, limitMs: number): Promise<{ end: Answer }> {
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
  return { end: await getJob(baseUrl, jobId) };
}

/** A line of the functions' log about an error of AWS, or about a call that AWS did not answer in time. */
export const AWS_FAILED =
  /TimeoutError|AbortError|InternalServerError|ServiceException|Throttl|TooManyRequests|ECONN|EPIPE/;

/** The application under test. */
export interface Deployment {
  readonly baseUrl: string;
  /** Undefined for the deployment at {@link API_BASE_URL}. */
  readonly aws: Emulator | undefined;
}

/** Returns the deployment at {@link API_BASE_URL}, or deploys the template to an AWS emulator. */
export async function openDeployment(stackName: string): Promise<Deployment> {
  if (API_BASE_URL !== undefined) return { baseUrl: API_BASE_URL, aws: undefined };
  const aws = await startEmulator();
  try {
    await build(aws);
    const { baseUrl } = await deploy(aws, { stackName });
    return { baseUrl, aws };
  } catch (error) {
    await aws.stop();
    throw error;
  }
}
