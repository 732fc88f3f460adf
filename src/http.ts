import type { APIGatewayProxyEvent, APIGatewayProxyResult, Context } from 'aws-lambda';
import { logger, observed } from './telemetry.ts';

type Headers = Readonly<Record<string, string>>;

/** An answer other than success, and what the client is told. Its `cause` is for the log alone. */
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

/** An answer with a JSON body. */
export function json(status: number, body: object, headers: Headers = {}): APIGatewayProxyResult {
  return {
    statusCode: status,
    headers: { 'Content-Type': 'application/json', ...headers },
    body: JSON.stringify(body),
  };
}

/**
 * The edge of the HTTP API, for one method of one path: the one place where an error becomes an
 * answer. An {@link HttpError} says its own; anything else is ours, logged with its cause, and a
 * 500 that tells nothing of it.
 *
 * @param headers go with every answer
 */
export function httpHandler(
  method: string,
  answer: (event: APIGatewayProxyEvent) => Promise<APIGatewayProxyResult>,
  headers: Headers = {},
): (event: APIGatewayProxyEvent, context: Context) => Promise<APIGatewayProxyResult> {
  return (event, context) =>
    observed(context, async () => {
      const { headers: own, ...result } = await answerOrError(event, method, answer);
      return { ...result, headers: { ...own, ...headers } };
    });
}

async function answerOrError(
  event: APIGatewayProxyEvent,
  method: string,
  answer: (event: APIGatewayProxyEvent) => Promise<APIGatewayProxyResult>,
): Promise<APIGatewayProxyResult> {
  try {
    if (event.httpMethod !== method) {
      throw new HttpError(405, `Method ${event.httpMethod} is not allowed`, { headers: { Allow: method } });
    }
    return await answer(event);
  } catch (error) {
    if (error instanceof HttpError) {
      if (error.status >= 500) logger.error(error.message, { outcome: error.status, error });
      return json(error.status, { error: error.message }, error.headers);
    }
    logger.error('Internal server error', { outcome: 500, error });
    return json(500, { error: 'Internal server error' });
  }
}
