import type { APIGatewayProxyEvent, APIGatewayProxyEventHeaders, APIGatewayProxyResult } from 'aws-lambda';

/** An event of an API Gateway REST proxy integration on the stage `Prod`. */
export function apiEvent(
  request: Pick<APIGatewayProxyEvent, 'httpMethod' | 'path' | 'resource'> & Partial<APIGatewayProxyEvent>,
): APIGatewayProxyEvent {
  return {
    body: null,
    headers: {},
    multiValueHeaders: {},
    isBase64Encoded: false,
    pathParameters: null,
    queryStringParameters: null,
    multiValueQueryStringParameters: null,
    stageVariables: null,
    requestContext: {
      accountId: '123456789012',
      apiId: 'a1b2c3d4e5',
      authorizer: null,
      protocol: 'HTTP/1.1',
      httpMethod: request.httpMethod,
      identity: {
        accessKey: null,
        accountId: null,
        apiKey: null,
        apiKeyId: null,
        caller: null,
        clientCert: null,
        cognitoAuthenticationProvider: null,
        cognitoAuthenticationType: null,
        cognitoIdentityId: null,
        cognitoIdentityPoolId: null,
        principalOrgId: null,
        sourceIp: '192.0.2.1',
        user: null,
        userAgent: 'curl/8.5.0',
        userArn: null,
      },
      path: `/Prod${request.path}`,
      stage: 'Prod',
      requestId: 'c6af9ac6-7b61-11e6-9a41-93e8deadbeef',
      requestTimeEpoch: 1700000000000,
      resourceId: 'abc123',
      resourcePath: request.resource,
    },
    ...request,
  };
}

/** The event of a `POST /jobs` with this body. */
export function postJobEvent(
  body: string | null,
  { headers = {}, ...rest }: Partial<APIGatewayProxyEvent> = {},
): APIGatewayProxyEvent {
  const allHeaders: APIGatewayProxyEventHeaders = { 'Content-Type': 'application/json', ...headers };
  return apiEvent({ httpMethod: 'POST', path: '/jobs', resource: '/jobs', body, ...rest, headers: allHeaders });
}

/** The event of a `GET /jobs/{jobId}`. */
export function getJobEvent(jobId: string): APIGatewayProxyEvent {
  return apiEvent({
    httpMethod: 'GET',
    path: `/jobs/${jobId}`,
    resource: '/jobs/{jobId}',
    pathParameters: { jobId },
  });
}

/** The event of the same request, sent by a user who has signed in with Cognito. */
export function signedIn(event: APIGatewayProxyEvent, subject: string): APIGatewayProxyEvent {
  return { ...event, requestContext: { ...event.requestContext, authorizer: { claims: { sub: subject } } } };
}

/** The message of an error response. Throws if the body is not exactly `{"error": ...}`. */
export function errorOf(response: APIGatewayProxyResult): string {
  const body: unknown = JSON.parse(response.body);
  if (typeof body === 'object' && body !== null && Object.keys(body).join() === 'error' && 'error' in body) {
    return String(body.error);
  }
  throw new Error(`Not an error body: ${response.body}`);
}
