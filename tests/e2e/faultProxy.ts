import { createServer, type IncomingHttpHeaders, type IncomingMessage, request, type ServerResponse } from 'node:http';
import { buffer } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { listen } from '../support/listen.ts';

type Caller = 'createJob' | 'getJob' | 'worker';
/** What a request is for. A claim, a final write and the write that ends a lapsed job are all an UpdateItem. */
type Operation = 'PutItem' | 'DeleteItem' | 'GetItem' | 'claim' | 'final write' | 'lapse' | 'Invoke';

/**
 * What can go wrong with a request from a function to AWS:
 * - `refuse`: AWS returns an error and does nothing.
 * - `hang`: AWS does nothing and never responds.
 * - `lose`: AWS carries out the request, and the connection breaks before the response.
 * - `lose silently`: AWS carries out the request but never responds.
 * - `delay`: AWS carries out the request and responds only after the SDK has given up.
 * - `twice`: AWS carries out the request twice at the same time.
 * - `kill before`, `kill after`: the function's process is killed before or after AWS carries out the request.
 * - `wait`: AWS carries out the request after that many milliseconds, and responds.
 * - a promise: AWS carries out the request once the promise is resolved.
 */
export type Fault = (typeof FAULTS)[number] | `wait ${number}` | Promise<unknown>;
export const FAULTS = [
  'refuse',
  'hang',
  'lose',
  'lose silently',
  'delay',
  'twice',
  'kill before',
  'kill after',
] as const;

/** One request from a function to AWS. If the SDK repeats it, that is the second try of the same call. */
export interface Call {
  readonly caller: Caller;
  readonly operation: Operation;
  readonly jobId: string;
  /** The job's text, as seen in its PutItem; '' if there was none. */
  readonly text: string;
  /** The number of this call among those with the same caller, operation and job, from 1. */
  readonly number: number;
  /** From 1. */
  readonly tryNumber: number;
}

/** A request and what became of it. */
interface RecordedCall extends Call {
  /** When it arrived, in Unix milliseconds. */
  readonly arrivedAt: number;
  /** As in an IAM policy. */
  readonly action: string;
  readonly fault: Fault | undefined;
  /** The status of AWS's response. Undefined if AWS did not get the request, or has not responded yet. */
  status: number | undefined;
  /** Whether the function has received a response. Undefined until that is decided. */
  isAnswered: boolean | undefined;
}

/** Whether the function still gets a response in time, unless AWS is slow too. */
export const isWait = (fault: Fault | undefined): fault is `wait ${number}` =>
  typeof fault === 'string' && fault.startsWith('wait ');

/** How long `delay` holds a request: longer than the SDK waits for a response (src/aws.ts). */
const DELAY_MS = 3000;

/**
 * Starts a proxy between the functions and the AWS emulator at `endpoint`, which injects faults.
 *
 * @param faultOf returns the fault for a call, or undefined to let it pass
 */
export async function startFaultProxy(endpoint: string, faultOf: (call: Call) => Fault | undefined) {
  /** All requests so far, in order of arrival. */
  const calls: RecordedCall[] = [];
  const texts = new Map<string, string>();
  const invocationsOf = new Map<string, Set<string>>();

  const describe = (incoming: IncomingMessage, body: Buffer): Call & { readonly action: string } => {
    const json: unknown = JSON.parse(body.toString('utf8'));
    const { headers } = incoming;
    const action = actionOf(incoming);
    const operation = operationOf(action, json);
    const jobId =
      textAt(json, ['jobId']) ?? textAt(json, ['Key', 'jobId', 'S']) ?? textAt(json, ['Item', 'jobId', 'S']) ?? '';
    const text = textAt(json, ['Item', 'text', 'S']);
    if (text !== undefined) texts.set(jobId, text);
    const { caller } = senderOf(headers);
    // The SDK sends the same id with each try of a call.
    const id = String(headers['amz-sdk-invocation-id']);
    const key = `${caller} ${operation} ${jobId}`;
    const ids = (invocationsOf.get(key) ?? new Set()).add(id);
    invocationsOf.set(key, ids);
    const tryNumber = Number(/attempt=(\d+)/.exec(String(headers['amz-sdk-request']))?.[1]);
    const number = [...ids].indexOf(id) + 1;
    return { caller, operation, action, jobId, text: texts.get(jobId) ?? '', number, tryNumber };
  };

  const serve = async (incoming: IncomingMessage, outgoing: ServerResponse): Promise<void> => {
    const body = await buffer(incoming);
    const described = describe(incoming, body);
    const fault = faultOf(described);
    const call: RecordedCall = { ...described, arrivedAt: Date.now(), fault, status: undefined, isAnswered: undefined };
    calls.push(call);
    outgoing.on('close', () => {
      call.isAnswered = outgoing.writableFinished;
    });
    const pass = async () => {
      const forwarded = await forward(endpoint, incoming, body);
      call.status = forwarded.status;
      return forwarded;
    };
    const respond = ({ status, headers, body }: Forwarded) => outgoing.writeHead(status, headers).end(body);
    const kill = () => process.kill(senderOf(incoming.headers).pid, 'SIGKILL');

    if (fault === 'hang') return;
    if (fault === 'refuse') return void respond(refusal(call.action));
    if (fault === 'kill before') return void kill();
    if (fault === 'delay') await sleep(DELAY_MS);
    if (typeof fault === 'object') await fault;
    if (isWait(fault)) await sleep(Number(fault.split(' ')[1]));
    const [response, second] = await Promise.all([pass(), fault === 'twice' ? pass() : undefined]);
    if (fault === 'kill after') kill();
    else if (fault === 'lose') outgoing.destroy();
    else if (fault !== 'lose silently') respond(second ?? response);
  };

  const server = createServer((incoming, outgoing) => {
    // If a request cannot be served, the function sees a broken connection.
    serve(incoming, outgoing).catch(() => outgoing.destroy());
  });
  const port = await listen(server);

  const close = () => {
    server.closeAllConnections();
    server.close();
  };
  return { url: `http://127.0.0.1:${port}`, calls, close };
}

/**
 * JavaScript to put at the start of a function's bundle. It makes the SDK send the function's name and
 * process id in the user agent of each request.
 */
export function senderBanner(caller: string): string {
  return `process.env.AWS_SDK_UA_APP_ID = "${caller}-" + process.pid;`;
}

function senderOf(headers: IncomingHttpHeaders): { readonly caller: Caller; readonly pid: number } {
  const [, caller, pid] = /\bapp\/(createJob|getJob|worker)-(\d+)/.exec(headers['user-agent'] ?? '') ?? [];
  if (caller !== 'createJob' && caller !== 'getJob' && caller !== 'worker') throw new Error('Unknown sender');
  return { caller, pid: Number(pid) };
}

/** The action of a request, as in an IAM policy. */
function actionOf({ headers, url }: IncomingMessage): string {
  if (url?.endsWith('/invocations')) return 'lambda:InvokeFunction';
  return `dynamodb:${String(headers['x-amz-target']).split('.')[1]}`;
}

function operationOf(action: string, json: unknown): Operation {
  switch (action) {
    case 'lambda:InvokeFunction':
      return 'Invoke';
    case 'dynamodb:PutItem':
      return 'PutItem';
    case 'dynamodb:DeleteItem':
      return 'DeleteItem';
    case 'dynamodb:GetItem':
      return 'GetItem';
    case 'dynamodb:UpdateItem': {
      const update = textAt(json, ['UpdateExpression']) ?? '';
      if (update.includes('attempt + ')) return 'claim';
      return update.includes('REMOVE leaseToken') ? 'lapse' : 'final write';
    }
    default:
      throw new Error(`Unknown action ${action}`);
  }
}

/** The string at this path of nested JSON objects, or undefined if there is none. */
export function textAt(json: unknown, path: readonly string[]): string | undefined {
  let value = json;
  for (const name of path) {
    if (typeof value !== 'object' || value === null) return undefined;
    value = Object.entries(value).find(([key]) => key === name)?.[1];
  }
  return typeof value === 'string' ? value : undefined;
}

interface Forwarded {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly body: Buffer;
}

function forward(endpoint: string, { method, url, headers }: IncomingMessage, body: Buffer): Promise<Forwarded> {
  return new Promise((resolve, reject) => {
    const outgoing = request(`${endpoint}${url}`, { method, headers, agent: false }, (incoming) => {
      buffer(incoming).then(
        (received) => resolve({ status: incoming.statusCode ?? 500, headers: incoming.headers, body: received }),
        reject,
      );
    });
    outgoing.on('error', reject);
    outgoing.end(body);
  });
}

/** The response of DynamoDB or Lambda when it is overloaded or broken. The SDK retries. */
function refusal(action: string): Forwarded {
  const isInvoke = action === 'lambda:InvokeFunction';
  const name = isInvoke ? 'ServiceException' : 'InternalServerError';
  const type = isInvoke ? name : `com.amazonaws.dynamodb.v20120810#${name}`;
  return {
    status: 500,
    headers: { 'content-type': 'application/x-amz-json-1.0', 'x-amzn-errortype': name },
    body: Buffer.from(JSON.stringify({ __type: type, message: 'Refused by the fault proxy' })),
  };
}
