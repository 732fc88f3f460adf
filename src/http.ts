import type { APIGatewayProxyEvent, APIGatewayProxyResult, Context } from 'aws-lambda';
import { logError, withTelemetry } from './telemetry.ts';

type Headers = Readonly<Record<string, string>>;

/** An error response: its status and message go to the client, its `cause` only to the log. */
export class HttpError extends Error {
  readonly status: number;
  readonly headers: Headers;

  constructor(status: number, message: string, options: { readonly headers?: Headers; readonly cause?: unknown } = {}) {
    super(message, { cause: options.cause });
    this.name = 'HttpError';
    this.status = status;
    this.headers = options.headers ?? {};
  }
}

/** A response with a JSON body: an object, or JSON text. */
export function json(status: number, body: object | string, headers: Headers = {}): APIGatewayProxyResult {
  return {
    statusCode: status,
    headers: { 'Content-Type': 'application/json', ...headers },
    body: typeof body === 'string' ? body : JSON.stringify(body),
  };
}

/**
 * Creates the handler for one method of a path. This is the only place where errors become responses. An
 * {@link HttpError} defines its response; any other error is logged and becomes a 500 without details.
 *
 * @param headers added to every response
 */
export function httpHandler(
  method: string,
  respond: (event: APIGatewayProxyEvent) => Promise<APIGatewayProxyResult>,
  headers: Headers = {},
): (event: APIGatewayProxyEvent, context: Context) => Promise<APIGatewayProxyResult> {
  const respondToMethod = async (event: APIGatewayProxyEvent) => {
    if (event.httpMethod === method) return respond(event);
    throw new HttpError(405, `Method ${event.httpMethod} is not allowed`, { headers: { Allow: method } });
  };
  return (event, context) =>
    withTelemetry(context, async () => {
      const response = await respondToMethod(event).catch(errorResponse);
      return { ...response, headers: { ...response.headers, ...headers } };
    });
}

function errorResponse(error: unknown): APIGatewayProxyResult {
  if (!(error instanceof HttpError)) {
    logError('Internal server error', error, { outcome: 500 });
    return json(500, { error: 'Internal server error' });
  }
  if (error.status >= 500) logError(error.message, error, { outcome: error.status });
  return json(error.status, { error: error.message }, error.headers);
}
