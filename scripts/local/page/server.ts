/**
 * The server of the local page, and the one address of the API on this machine: it passes requests for
 * `/Prod` to the API on the AWS emulator, whose own address changes with the API's definition.
 */
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { createServer, request as httpRequest, type IncomingMessage, type ServerResponse } from 'node:http';
import { stripTypeScriptTypes } from 'node:module';
import { join, resolve } from 'node:path';
import { buffer } from 'node:stream/consumers';
import { pipeline } from 'node:stream/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { DynamoDBClient } from '@aws-sdk/client-dynamodb';
import { LambdaClient } from '@aws-sdk/client-lambda';
import { SQSClient } from '@aws-sdk/client-sqs';
import { DynamoDBDocumentClient } from '@aws-sdk/lib-dynamodb';
import { FailedEvents, sendAgain } from '../../aws/failedEvents.ts';
import { clientOptions, type Emulator, type Stack } from '../emulator.ts';
import { observer, type State } from './observer.ts';
import { killWorkers } from './reports.ts';

export interface PageServer {
  /** `http://127.0.0.1:<port>` */
  readonly url: string;
  /** The API's address. It stays the same across deployments. */
  readonly baseUrl: string;
  /** From now on the page says that a deployment is running. */
  deploying(): void;
  /** The deployment has ended. `stack` is undefined if it failed; the previous version is then still served. */
  deployed(stack: Stack | undefined): void;
  stop(): void;
}

const root = resolve(import.meta.dirname, '..', '..', '..');
/** How often the page gets what has changed. */
const INTERVAL_MS = 250;
/** How many ports are tried. */
const PORTS = 50;
/** How long a request waits for the API while a deployment replaces it. */
const API_LIMIT_MS = 30_000;

const PAGE = '/scripts/local/page/page.html';
/** What the page loads, and its content type. The scripts have the paths that their imports say. */
const FILES = new Map([
  [PAGE, 'text/html'],
  ['/scripts/local/page/page.css', 'text/css'],
  ...['/scripts/local/page/page.ts', '/scripts/local/page/history.ts', '/client/jobs.ts', '/src/job.ts'].map(script),
  ...['/scripts/aws/logEntry.ts', '/scripts/aws/oneLine.ts'].map(script),
]);

const SECURITY_HEADERS = {
  'Cache-Control': 'no-store',
  // The last one makes it an error to use a string as HTML.
  'Content-Security-Policy':
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; " +
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
  'Cross-Origin-Resource-Policy': 'same-origin',
  'Referrer-Policy': 'no-referrer',
  'X-Content-Type-Options': 'nosniff',
};

/** Any other name may belong to a website whose name resolves to this machine (DNS rebinding). */
const LOOPBACK_HOST = /^(?:localhost|127\.0\.0\.1|\[::1\])(?::\d+)?$/i;

/** Headers that are about one connection. */
const HOP_BY_HOP = /^(?:connection|keep-alive|proxy-.*|te|trailer|transfer-encoding|upgrade|expect)$/i;

/** Starts the server on loopback, on this port or the next one that is free. */
export async function startPageServer(aws: Emulator, firstPort: number): Promise<PageServer> {
  let stack: Stack | undefined;
  let deployment: State['deployment'] = { isRunning: false, lastAt: 0 };
  let apiId: string | undefined;
  const dynamodb = DynamoDBDocumentClient.from(new DynamoDBClient(clientOptions(aws)));

  const server = createServer((request, response) => {
    respond(request, response).catch((error: unknown) => {
      if (response.headersSent) response.destroy();
      else send(response, 502, { error: `The AWS emulator: ${error instanceof Error ? error.message : error}` });
    });
  });
  // A stream of events stays open, and API Gateway may take 29 s.
  server.requestTimeout = 0;

  async function respond(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { method = '', url: target = '/', headers } = request;
    if (!LOOPBACK_HOST.test(headers.host ?? '')) return send(response, 403, { error: 'Host must be a loopback name' });
    const parsed = URL.parse(target, 'http://localhost');
    if (parsed === null) return send(response, 400, { error: 'Not a path of a URL' });
    const { pathname, searchParams } = parsed;
    if (/^\/Prod(?:\/|$)/.test(pathname)) return passOn(request, response);

    if (method === 'POST') {
      // Browsers send an Origin with each POST. A request without one comes from a program, such as curl.
      if (headers.origin !== undefined && headers.origin !== `http://${headers.host}`) {
        return send(response, 403, { error: 'Only the local page may do this' });
      }
      if (pathname === '/kill') {
        const killed = await killWorkers(aws.reportsFile, searchParams.get('jobId') ?? undefined);
        return killed === 0 ? send(response, 409, { error: 'No worker is running' }) : send(response, 200, { killed });
      }
      if (pathname === '/send-again' && stack !== undefined) {
        const isSent = await sendEventAgain(aws, stack, searchParams.get('messageId') ?? '');
        return isSent ? send(response, 200, { sent: 1 }) : send(response, 404, { error: 'No such failed event' });
      }
    }
    if (method === 'GET' && pathname === '/events') {
      response.writeHead(200, { ...SECURITY_HEADERS, 'Content-Type': 'text/event-stream' });
      return pipeline(eventsFor(response), response);
    }
    const file = pathname === '/' ? PAGE : pathname;
    const type = FILES.get(file);
    if (type === undefined || method !== 'GET') return send(response, 404, { error: 'Not found' });
    const source = await readFile(join(root, file), 'utf8');
    response.writeHead(200, { ...SECURITY_HEADERS, 'Content-Type': `${type}; charset=utf-8` });
    response.end(file.endsWith('.ts') ? stripTypeScriptTypes(source) : source);
  }

  /** All reports, and the state whenever it has changed, until the page is closed. */
  async function* eventsFor(response: ServerResponse) {
    yield 'retry: 500\n\n';
    const observe = observer(aws, dynamodb);
    for (let sent = ''; !response.destroyed; await sleep(INTERVAL_MS)) {
      const { state, reports } = await observe(stack, deployment);
      const next = JSON.stringify(state);
      if (next !== sent) yield `event: state\ndata: ${next}\n\n`;
      if (reports.length > 0) yield `event: reports\ndata: ${JSON.stringify(reports)}\n\n`;
      sent = next;
    }
  }

  /** Passes a request to the API and its response back. If the API is being replaced, waits for the new one. */
  async function passOn(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const body = await buffer(request);
    for (const giveUpAt = Date.now() + API_LIMIT_MS; ; await sleep(INTERVAL_MS)) {
      const incoming = apiId === undefined ? undefined : await callApi(aws, apiId, request, body);
      // After a 404: the API itself returned it, or there is no such API any more.
      const newest = (incoming?.statusCode ?? 404) === 404 ? await newestApi(aws, stack?.stackName) : apiId;
      if (incoming !== undefined && newest === apiId) {
        response.sendDate = false;
        response.writeHead(incoming.statusCode ?? 502, incoming.statusMessage, endToEnd(incoming.rawHeaders));
        return pipeline(incoming, response);
      }
      incoming?.resume();
      apiId = newest;
      if (newest === undefined && (stack === undefined || Date.now() > giveUpAt)) {
        return send(response, 503, { error: 'The application is not deployed yet' }, { 'Retry-After': '1' });
      }
    }
  }

  const url = `http://127.0.0.1:${await listen(server, firstPort)}`;
  return {
    url,
    baseUrl: `${url}/Prod`,
    deploying() {
      deployment = { ...deployment, isRunning: true };
    },
    deployed(newStack) {
      stack = newStack ?? stack;
      deployment = { isRunning: false, lastAt: newStack === undefined ? deployment.lastAt : Date.now() };
    },
    stop() {
      server.close();
      server.closeAllConnections();
    },
  };
}

function script(path: string): [string, string] {
  return [path, 'text/javascript'];
}

function send(response: ServerResponse, status: number, body: object, headers: Record<string, string> = {}): void {
  response.writeHead(status, { ...SECURITY_HEADERS, 'Content-Type': 'application/json', ...headers });
  response.end(JSON.stringify(body));
}

async function listen(server: ReturnType<typeof createServer>, firstPort: number): Promise<number> {
  for (let port = firstPort; ; port += 1) {
    try {
      await once(server.listen(port, '127.0.0.1'), 'listening');
      return port;
    } catch (error) {
      if (Object(error).code !== 'EADDRINUSE' || port === firstPort + PORTS) throw error;
    }
  }
}

async function sendEventAgain(aws: Emulator, { outputs }: Stack, messageId: string): Promise<boolean> {
  const sqs = new SQSClient({ ...clientOptions(aws), useQueueUrlAsEndpoint: false });
  const queue = new FailedEvents(sqs, outputs['FailedEventsQueueUrl'] ?? '');
  const events = await queue.receive();
  const event = events.find((candidate) => candidate.messageId === messageId);
  try {
    if (event === undefined) return false;
    await sendAgain(new LambdaClient(clientOptions(aws)), outputs['WorkerFunctionName'] ?? '', event);
    await queue.delete(event);
    events.splice(events.indexOf(event), 1);
    return true;
  } finally {
    await queue.release(events);
  }
}

/** The id of the stack's API. While a deployment replaces it there may be two, or none. */
async function newestApi({ endpoint }: Emulator, stackName: string | undefined): Promise<string | undefined> {
  const response = await fetch(`${endpoint}/restapis`);
  type Apis = { item?: { id: string; name: string; createdDate: number }[] };
  const { item = [] }: Apis = JSON.parse(await response.text());
  const apis = item.filter(({ name }) => name === stackName);
  return apis.sort((a, b) => b.createdDate - a.createdDate)[0]?.id;
}

async function callApi(aws: Emulator, apiId: string, request: IncomingMessage, body: Buffer): Promise<IncomingMessage> {
  const { method, url: path, rawHeaders } = request;
  const headers = endToEnd(rawHeaders, `${apiId}.execute-api.localhost:${aws.port}`);
  // A new connection each time, because the emulator may be about to close an old one.
  const outgoing = httpRequest({ host: '127.0.0.1', port: aws.port, method, path, headers, agent: false });
  // After the response has begun, its pipeline throws the same error. Without a listener this process would end.
  outgoing.on('error', () => undefined);
  outgoing.end(body);
  const [incoming]: IncomingMessage[] = await once(outgoing, 'response');
  if (incoming === undefined) throw new Error('no response');
  return incoming;
}

/** The headers without those that are about one connection, and with this host, as name, value, name, value. */
function endToEnd(rawHeaders: readonly string[], host = ''): string[] {
  return rawHeaders.flatMap((name, index) => {
    if (index % 2 === 1 || HOP_BY_HOP.test(name)) return [];
    return [name, /^host$/i.test(name) ? host : (rawHeaders[index + 1] ?? '')];
  });
}
