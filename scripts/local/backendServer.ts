import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { text as readAll } from 'node:stream/consumers';
import dynalite from 'dynalite';

/** `sam local` resolves `!Ref WorkerFunction` in template.yaml to the logical id. */
const INVOKE_PATH = '/2015-03-31/functions/WorkerFunction/invocations';

/** Matches the worker's event only, so that the printed command is safe to paste. */
const EVENT = /^\{\s*"jobId"\s*:\s*"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"\s*\}$/;

/**
 * An HTTP server for the calls of the functions under `sam local`: to DynamoDB, and to Lambda for asynchronous
 * invocations of the worker. It forwards an invocation to `sam local start-lambda` at `lambdaUrl`. If that is
 * not running, it prints the command that runs the job.
 */
export function backendServer(lambdaUrl: string, print: (line: string) => void): Server {
  const database = dynalite({ createTableMs: 0 });
  return createServer((request, response) => {
    if (request.method === 'POST' && request.url === INVOKE_PATH) {
      invoke(request, response, lambdaUrl, print).catch(() => response.destroy());
    } else {
      database.emit('request', request, response);
    }
  });
}

async function invoke(
  request: IncomingMessage,
  response: ServerResponse,
  lambdaUrl: string,
  print: (line: string) => void,
): Promise<void> {
  const jobId = EVENT.exec(await readAll(request))?.[1];
  if (request.headers['x-amz-invocation-type'] !== 'Event' || jobId === undefined) {
    const body = JSON.stringify({ message: 'Only events {"jobId": "<uuid>"} of invocation type Event are accepted' });
    response.writeHead(400, { 'Content-Type': 'application/json' }).end(body);
    return;
  }
  response.writeHead(202).end();

  const body = JSON.stringify({ jobId });
  const headers = { 'X-Amz-Invocation-Type': 'Event' };
  const forwarded = await fetch(lambdaUrl + INVOKE_PATH, { method: 'POST', headers, body }).catch(() => undefined);
  print(
    forwarded?.ok
      ? `Job ${jobId} was sent to sam local start-lambda`
      : `To run job ${jobId}:\n  echo '${body}' | sam local invoke WorkerFunction --event -`,
  );
}
