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
 * The caller, if the API requires a sign-in: the user of an authorizer, the AWS identity that signed the
 * request, or else the API key's id. The prefix keeps these kinds apart.
 */
export function callerOf({ requestContext }: APIGatewayProxyEvent): string | undefined {
  const { authorizer, identity } = requestContext;
  // A Cognito authorizer passes the claims of the token, a Lambda authorizer its principal.
  const claims: unknown = authorizer?.['claims'];
  const subject: unknown =
    typeof claims === 'object' && claims !== null && 'sub' in claims ? claims.sub : authorizer?.['principalId'];
  if (typeof subject === 'string' && subject !== '') return `user:${subject}`;
  // All users of a Cognito identity pool share the ARN of its role.
  const awsIdentity = identity.cognitoIdentityId || identity.userArn;
  if (awsIdentity) return `iam:${awsIdentity}`;
  return identity.apiKeyId ? `key:${identity.apiKeyId}` : undefined;
}

/** The `Retry-After` header for this number of seconds, or no header. */
export const retryAfterHeader = (seconds: number | undefined): Headers =>
  seconds === undefined ? {} : { 'Retry-After': String(seconds) };

/** Lets pages of this origin read responses. */
const corsHeaders = (origin: string): Headers => ({
  'Access-Control-Allow-Origin': origin,
  'Access-Control-Expose-Headers': 'Location, Retry-After',
});

/** The response to a preflight request. The last four headers are those of an API key and of signed requests. */
const preflightResponse = (method: string): APIGatewayProxyResult => ({
  statusCode: 204,
  headers: {
    'Access-Control-Allow-Methods': method,
    'Access-Control-Allow-Headers':
      'Content-Type, Idempotency-Key, Authorization, x-api-key, X-Amz-Date, X-Amz-Security-Token',
    'Access-Control-Max-Age': '600',
  },
  body: '',
});

/**
 * Creates the handler for one method of a path. This is the only place where errors become responses. An
 * {@link HttpError} defines its response; any other error is logged and becomes a 500 without details.
 *
 * @param corsOrigin the origin whose pages may call the API, or an empty string
 * @param headers added to every response
 */
export function httpHandler(
  method: string,
  corsOrigin: string,
  respond: (event: APIGatewayProxyEvent) => Promise<APIGatewayProxyResult>,
  headers: Headers = {},
): (event: APIGatewayProxyEvent, context: Context) => Promise<APIGatewayProxyResult> {
  const common = { ...headers, ...(corsOrigin === '' ? {} : corsHeaders(corsOrigin)) };
  const respondToMethod = async (event: APIGatewayProxyEvent) => {
    if (event.httpMethod === method) return respond(event);
    if (event.httpMethod === 'OPTIONS' && corsOrigin !== '') return preflightResponse(method);
    throw new HttpError(405, `Method ${event.httpMethod} is not allowed`, { headers: { Allow: method } });
  };
  return (event, context) =>
    withTelemetry(context, async () => {
      const response = await respondToMethod(event).catch(errorResponse);
      return { ...response, headers: { ...response.headers, ...common } };
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
