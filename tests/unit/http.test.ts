import { expect, jest, test } from '@jest/globals';
import { callerOf, HttpError, httpHandler, json } from '../../src/http.ts';
import { captureConsole } from '../support/consoleCapture.ts';
import { postJobEvent, signedIn } from '../support/events.ts';
import { lambdaContext } from '../support/lambdaContext.ts';

const log = captureConsole();

const failing = (error: unknown) =>
  httpHandler('POST', '', () => Promise.reject(error))(postJobEvent(null), lambdaContext());

test('json() returns a JSON response with additional headers', () => {
  expect(json(200, { b: 1, a: 'é' }, { 'X-Own': '1' })).toEqual({
    statusCode: 200,
    headers: { 'Content-Type': 'application/json', 'X-Own': '1' },
    body: '{"b":1,"a":"é"}',
  });
  expect(json(404, {}).headers).toEqual({ 'Content-Type': 'application/json' });
});

test('another method gets 405, and the request is not handled', async () => {
  const respond = jest.fn(async () => json(200, {}));
  const event = { ...postJobEvent('{"text": "a"}'), httpMethod: 'PATCH' };

  const response = await httpHandler('POST', '', respond)(event, lambdaContext());

  expect(response).toEqual({
    statusCode: 405,
    headers: { 'Content-Type': 'application/json', Allow: 'POST' },
    body: '{"error":"Method PATCH is not allowed"}',
  });
  expect(respond).not.toHaveBeenCalled();
});

test.each([
  ['a response', async () => json(200, {}, { 'Retry-After': '1' })],
  ['an HttpError', () => Promise.reject(new HttpError(404, 'Not here'))],
  ['any other error', () => Promise.reject(new Error('broken'))],
])('the common headers are added to %s', async (_what, respond) => {
  const headers = { 'Cache-Control': 'no-store' };

  const response = await httpHandler('POST', '', respond, headers)(postJobEvent(null), lambdaContext());

  expect(response).toMatchObject({ headers });
});

test('an HttpError below 500 becomes a response with its message and headers, and is not logged', async () => {
  const response = await failing(new HttpError(404, 'Not here', { headers: { 'Cache-Control': 'no-store' } }));

  expect(response).toEqual({
    statusCode: 404,
    headers: { 'Content-Type': 'application/json', 'Cache-Control': 'no-store' },
    body: '{"error":"Not here"}',
  });
  expect(log).toEqual([]);
});

test('an HttpError of 500 or above is also logged once, with its cause', async () => {
  const cause = new Error('No route');

  const response = await failing(new HttpError(503, 'Try again', { cause }));

  expect(response).toEqual({
    statusCode: 503,
    headers: { 'Content-Type': 'application/json' },
    body: '{"error":"Try again"}',
  });
  expect(log).toHaveLength(1);
  expect(log[0]).toContain('No route');
});

test('an error that is not an HttpError becomes a 500 without details, and is logged once with its cause', async () => {
  const response = await failing(new Error('outer', { cause: new Error('inner') }));

  expect(response).toEqual({
    statusCode: 500,
    headers: { 'Content-Type': 'application/json' },
    body: '{"error":"Internal server error"}',
  });
  expect(log).toHaveLength(1);
  expect(JSON.parse(log.join())).toMatchObject({
    level: 'ERROR',
    outcome: 500,
    function_request_id: lambdaContext().awsRequestId,
    error: { message: 'outer', cause: { message: 'inner' } },
  });
});

test('an error is logged without the keys of an earlier invocation', async () => {
  const { logger } = await import('../../src/telemetry.ts');
  logger.appendKeys({ jobId: 'earlier job' });

  await failing(new Error('no'));

  expect(log.join()).not.toContain('earlier job');
});

const ORIGIN = 'https://www.example.com';
const respond = async () => json(202, {}, { Location: '/jobs/1' });
const handle = (httpMethod: string, work: () => Promise<ReturnType<typeof json>> = respond, origin = ORIGIN) =>
  httpHandler('POST', origin, work)({ ...postJobEvent(null), httpMethod }, lambdaContext());

test.each([
  ['a response', 202, 'POST', respond],
  ['an error of the client', 400, 'POST', () => Promise.reject(new HttpError(400, 'No'))],
  ['a server error', 500, 'POST', () => Promise.reject(new Error('broken'))],
  ['another method', 405, 'PUT', respond],
])('pages of the allowed origin can read %s', async (_what, statusCode, method, work) => {
  const response = await handle(method, work);

  expect(response).toMatchObject({
    statusCode,
    headers: { 'Access-Control-Allow-Origin': ORIGIN, 'Access-Control-Expose-Headers': 'Location, Retry-After' },
  });
});

test('a preflight request is answered without being handled', async () => {
  const work = jest.fn(respond);

  const response = await handle('OPTIONS', work);

  expect(response).toEqual({
    statusCode: 204,
    headers: {
      'Access-Control-Allow-Origin': ORIGIN,
      'Access-Control-Allow-Methods': 'POST',
      'Access-Control-Allow-Headers':
        'Content-Type, Idempotency-Key, Authorization, x-api-key, X-Amz-Date, X-Amz-Security-Token',
      'Access-Control-Max-Age': '600',
      'Access-Control-Expose-Headers': 'Location, Retry-After',
    },
    body: '',
  });
  expect(work).not.toHaveBeenCalled();
});

test('without an allowed origin, OPTIONS gets 405, and no response has CORS headers', async () => {
  const responses = [await handle('OPTIONS', respond, ''), await handle('POST', respond, '')];

  expect(responses.map(({ statusCode }) => statusCode)).toEqual([405, 202]);
  expect(JSON.stringify(responses)).not.toContain('Access-Control');
});

const event = postJobEvent('{}');
const withIdentity = (identity: Partial<typeof event.requestContext.identity>, authorizer: object | null = null) => ({
  ...event,
  requestContext: {
    ...event.requestContext,
    authorizer,
    identity: { ...event.requestContext.identity, ...identity },
  },
});
const ROLE = 'arn:aws:sts::123456789012:assumed-role/Role/alice';

test.each([
  ['nobody without a sign-in', event, undefined],
  ['the subject of a Cognito token', signedIn(event, 'alice'), 'user:alice'],
  ['the principal of a Lambda authorizer', withIdentity({}, { principalId: 'alice' }), 'user:alice'],
  ['the AWS identity that signed the request', withIdentity({ userArn: ROLE }), `iam:${ROLE}`],
  [
    'the identity in a Cognito identity pool, whose users share a role',
    withIdentity({ userArn: ROLE, cognitoIdentityId: 'us-east-1:1' }),
    'iam:us-east-1:1',
  ],
  ["the API key's id", withIdentity({ apiKeyId: 'k1' }), 'key:k1'],
  ['the user, if there is an API key too', withIdentity({ apiKeyId: 'k1' }, { principalId: 'alice' }), 'user:alice'],
  ['nobody, if an authorizer names no principal', withIdentity({}, { claims: null, principalId: '' }), undefined],
])('the caller is %s', (_who, request, caller) => {
  expect(callerOf(request)).toBe(caller);
});
