import { once } from 'node:events';
import { createServer, type IncomingHttpHeaders, type IncomingMessage, request, type ServerResponse } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';

type Caller = 'createJob' | 'getJob' | 'worker';
type Operation = 'PutItem' | 'UpdateItem' | 'DeleteItem' | 'GetItem' | 'Invoke';

/**
 * What can go wrong with a request from a function to AWS:
 * - `refuse`: AWS returns an error and does nothing.
 * - `hang`: AWS does nothing and never responds.
 * - `lose`: AWS carries out the request, and the connection breaks before the response.
 * - `lose silently`: AWS carries out the request but never responds.
 * - `delay`: AWS carries out the request and responds only after the SDK has given up.
 * - `twice`: AWS carries out the request twice at the same time.
 * - `kill before`, `kill after`: the function's process is killed before or after AWS carries out the request.
 * - a promise: AWS carries out the request once the promise is resolved.
 */
export type Fault = (typeof FAULTS)[number] | Promise<unknown>;
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

/** One request from a function to AWS. Each of the SDK's retries is another request. */
export interface Call {
  readonly caller: Caller;
  readonly operation: Operation;
  readonly jobId: string;
  /** The job's text, as seen in its PutItem; '' if there was none. */
  readonly text: string;
  /** The number of this request among those with the same caller, operation and job, from 1. */
  readonly count: number;
  /** Whether the request claims a job. */
  readonly isClaim: boolean;
}

/** A call and what went wrong with it. */
interface RecordedCall extends Call {
  readonly fault: Fault | undefined;
}

/** Stands between the functions and the local AWS, and injects faults. */
export interface FaultProxy {
  readonly url: string;
  /** All calls so far, in order of arrival. */
  readonly calls: readonly RecordedCall[];
  close(): Promise<void>;
}

/** How long `delay` holds a request: longer than the SDK waits for a response (src/aws.ts). */
const DELAY_MS = 3000;

/**
 * Starts the proxy in front of `endpoint`.
 *
 * @param faultOf returns the fault for a call, or undefined to let it pass
 */
export async function startFaultProxy(
  endpoint: string,
  faultOf: (call: Call) => Fault | undefined,
): Promise<FaultProxy> {
  const calls: RecordedCall[] = [];
  const texts = new Map<string, string>();
  const counts = new Map<string, number>();

  const describe = (incoming: IncomingMessage, body: Buffer): Call => {
    const json: unknown = JSON.parse(body.toString('utf8'));
    const operation = operationOf(incoming);
    const jobId = textAt(json, operation === 'Invoke' ? ['jobId'] : [keyOf(operation), 'jobId', 'S']) ?? '';
    const text = textAt(json, ['Item', 'text', 'S']);
    if (text !== undefined) texts.set(jobId, text);
    const { caller } = senderOf(incoming.headers);
    const counter = `${caller} ${operation} ${jobId}`;
    const count = (counts.get(counter) ?? 0) + 1;
    counts.set(counter, count);
    const isClaim = textAt(json, ['UpdateExpression'])?.includes('attempt + ') ?? false;
    return { caller, operation, jobId, text: texts.get(jobId) ?? '', count, isClaim };
  };

  const serve = async (incoming: IncomingMessage, outgoing: ServerResponse): Promise<void> => {
    const body = await bodyOf(incoming);
    const call = describe(incoming, body);
    const fault = faultOf(call);
    calls.push({ ...call, fault });
    const pass = () => forward(endpoint, incoming, body);
    const respond = ({ status, headers, body }: Forwarded) => outgoing.writeHead(status, headers).end(body);
    const kill = () => process.kill(senderOf(incoming.headers).pid, 'SIGKILL');
    switch (fault) {
      case undefined:
        respond(await pass());
        return;
      case 'refuse':
        respond(refusal(call.operation));
        return;
      case 'hang':
        return;
      case 'lose':
        await pass();
        outgoing.destroy();
        return;
      case 'lose silently':
        await pass();
        return;
      case 'delay':
        await sleep(DELAY_MS);
        respond(await pass());
        return;
      case 'twice':
        respond((await Promise.all([pass(), pass()]))[1]);
        return;
      case 'kill before':
        kill();
        return;
      case 'kill after':
        await pass();
        kill();
        return;
      default:
        await fault;
        respond(await pass());
    }
  };

  const server = createServer((incoming, outgoing) => {
    // If a request cannot be served, the function sees a broken connection.
    serve(incoming, outgoing).catch(() => outgoing.destroy());
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('The fault proxy has no port');

  const close = async () => {
    server.closeAllConnections();
    server.close();
    await once(server, 'close');
  };
  return { url: `http://127.0.0.1:${address.port}`, calls, close };
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

function operationOf({ headers, url }: IncomingMessage): Operation {
  if (url?.endsWith('/invocations')) return 'Invoke';
  const operation = String(headers['x-amz-target']).split('.')[1];
  switch (operation) {
    case 'PutItem':
    case 'UpdateItem':
    case 'DeleteItem':
    case 'GetItem':
      return operation;
    default:
      throw new Error(`Unknown operation ${operation}`);
  }
}

const keyOf = (operation: Operation) => (operation === 'PutItem' ? 'Item' : 'Key');

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
      bodyOf(incoming).then(
        (received) => resolve({ status: incoming.statusCode ?? 500, headers: incoming.headers, body: received }),
        reject,
      );
    });
    outgoing.on('error', reject);
    outgoing.end(body);
  });
}

/** The response of DynamoDB or Lambda when it is overloaded or broken. The SDK retries. */
function refusal(operation: Operation): Forwarded {
  const name = operation === 'Invoke' ? 'ServiceException' : 'InternalServerError';
  const type = operation === 'Invoke' ? name : `com.amazonaws.dynamodb.v20120810#${name}`;
  return {
    status: 500,
    headers: { 'content-type': 'application/x-amz-json-1.0', 'x-amzn-errortype': name },
    body: Buffer.from(JSON.stringify({ __type: type, message: 'Refused by the fault proxy' })),
  };
}

async function bodyOf(message: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of message) chunks.push(chunk);
  return Buffer.concat(chunks);
}
