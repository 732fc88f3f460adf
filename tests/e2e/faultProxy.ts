import { once } from 'node:events';
import { createServer, type IncomingHttpHeaders, type IncomingMessage, request, type ServerResponse } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';

type Caller = 'createJob' | 'getJob' | 'worker';
type Operation = 'PutItem' | 'UpdateItem' | 'DeleteItem' | 'GetItem' | 'Invoke';

/**
 * What may happen to a request between a function and AWS:
 * - `refuse`: AWS answers that it cannot, and does nothing.
 * - `hang`: nothing is done, and no answer comes.
 * - `lose`: AWS does it, and the connection breaks before the answer.
 * - `lose silently`: AWS does it, and no answer comes.
 * - `delay`: AWS does it in its own time, and the answer comes when nobody waits for it.
 * - `twice`: AWS does it twice at the same moment.
 * - `kill before`, `kill after`: the function's process dies before AWS does it, or after.
 * - a promise: AWS does it when that is resolved.
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

/** One request of a function to AWS; the SDK's retries are requests of their own. */
export interface Call {
  readonly caller: Caller;
  readonly operation: Operation;
  readonly jobId: string;
  /** The job's text, as its PutItem said it; '' when there was none. */
  readonly text: string;
  /** Which request of this caller, operation and job it is, from 1. */
  readonly count: number;
  /** Whether it is the write by which a worker claims a job. */
  readonly isClaim: boolean;
}

/** A call with its fate. */
interface RecordedCall extends Call {
  readonly fault: Fault | undefined;
}

/** Stands between the functions and the local AWS, and lets go wrong what it is told to. */
export interface FaultProxy {
  readonly url: string;
  /** Every call so far, in the order of arrival. */
  readonly calls: readonly RecordedCall[];
  close(): Promise<void>;
}

/** How late AWS is with `delay`: longer than the SDK waits for an answer (src/aws.ts). */
const DELAY_MS = 3000;

/**
 * Starts the proxy in front of `endpoint`.
 *
 * @param faultOf decides on each call; undefined lets it pass
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
    const answer = ({ status, headers, body }: Forwarded) => outgoing.writeHead(status, headers).end(body);
    const kill = () => process.kill(senderOf(incoming.headers).pid, 'SIGKILL');
    switch (fault) {
      case undefined:
        answer(await pass());
        return;
      case 'refuse':
        answer(refusal(call.operation));
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
        answer(await pass());
        return;
      case 'twice':
        answer((await Promise.all([pass(), pass()]))[1]);
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
        answer(await pass());
    }
  };

  const server = createServer((incoming, outgoing) => {
    // What cannot be served looks to the function like a broken connection.
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
 * JavaScript for the head of a function's bundle that makes the SDK say, in the user agent of each
 * request, which function sends it and from which process.
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

/** The string at a path of JSON objects, if it is there. */
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
        (answer) => resolve({ status: incoming.statusCode ?? 500, headers: incoming.headers, body: answer }),
        reject,
      );
    });
    outgoing.on('error', reject);
    outgoing.end(body);
  });
}

/** What DynamoDB and Lambda answer when they are overloaded or broken; the SDK tries again. */
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
