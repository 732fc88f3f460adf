import { afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals';
import { HttpError, httpHandler, json } from '../../src/http.ts';
import { captureConsole } from '../support/consoleCapture.ts';
import { postJobs } from '../support/events.ts';
import { lambdaContext } from '../support/lambdaContext.ts';

let log: readonly string[];
beforeEach(() => {
  log = captureConsole();
});
afterEach(() => {
  jest.restoreAllMocks();
});

const failing = (error: unknown) => httpHandler('POST', () => Promise.reject(error))(postJobs(null), lambdaContext());

test('an answer is JSON, with headers of its own', () => {
  expect(json(200, { b: 1, a: 'é' }, { 'X-Own': '1' })).toEqual({
    statusCode: 200,
    headers: { 'Content-Type': 'application/json', 'X-Own': '1' },
    body: '{"b":1,"a":"é"}',
  });
  expect(json(404, {}).headers).toEqual({ 'Content-Type': 'application/json' });
});

test('what the handler answers goes out as it is', async () => {
  const answer = json(200, { ok: true });
  expect(await httpHandler('POST', async () => answer)(postJobs(null), lambdaContext())).toEqual(answer);
});

test('another method is not allowed, and the handler does not see it', async () => {
  const answer = jest.fn(async () => json(200, {}));
  const event = { ...postJobs('{"text": "a"}'), httpMethod: 'PATCH' };
  expect(await httpHandler('POST', answer)(event, lambdaContext())).toEqual({
    statusCode: 405,
    headers: { 'Content-Type': 'application/json', Allow: 'POST' },
    body: '{"error":"Method PATCH is not allowed"}',
  });
  expect(answer).not.toHaveBeenCalled();
});

test('the headers of the path go with every answer', async () => {
  const headers = { 'Cache-Control': 'no-store' };
  const answers = [
    () => Promise.resolve(json(200, {}, { 'Retry-After': '1' })),
    () => Promise.reject(new HttpError(404, 'Not here')),
    () => Promise.reject(new Error('broken')),
  ];
  for (const answer of answers) {
    expect(await httpHandler('POST', answer, headers)(postJobs(null), lambdaContext())).toMatchObject({ headers });
  }
});

describe('an error with a status', () => {
  test('below 500 is answered with its message and headers, and not logged', async () => {
    expect(await failing(new HttpError(404, 'Not here', { headers: { 'Cache-Control': 'no-store' } }))).toEqual({
      statusCode: 404,
      headers: { 'Content-Type': 'application/json', 'Cache-Control': 'no-store' },
      body: '{"error":"Not here"}',
    });
    expect(log).toEqual([]);
  });

  test('from 500 on is logged once too, with its cause', async () => {
    const cause = new Error('No route');
    expect(await failing(new HttpError(503, 'Try again', { cause }))).toEqual({
      statusCode: 503,
      headers: { 'Content-Type': 'application/json' },
      body: '{"error":"Try again"}',
    });
    expect(log).toHaveLength(1);
    expect(log[0]).toContain('No route');
  });
});

describe('any other error', () => {
  test.each([
    ['an error', new Error('Table JobsTable is gone')],
    ['a string', 'Table JobsTable is gone'],
    ['an error without a message', new TypeError()],
    ['nothing', undefined],
  ])('that is %s is a 500 that tells nothing of it', async (_what, error) => {
    expect(await failing(error)).toEqual({
      statusCode: 500,
      headers: { 'Content-Type': 'application/json' },
      body: '{"error":"Internal server error"}',
    });
  });

  test('is logged once, with the request id and the cause behind it', async () => {
    await failing(new Error('outer', { cause: new Error('inner') }));
    expect(log).toHaveLength(1);
    const line: unknown = JSON.parse(log.join());
    expect(line).toMatchObject({
      level: 'ERROR',
      outcome: 500,
      function_request_id: lambdaContext().awsRequestId,
      error: { message: 'outer', cause: { message: 'inner' } },
    });
  });

  test('is logged without what an earlier invocation added', async () => {
    const { logger } = await import('../../src/telemetry.ts');
    logger.appendKeys({ jobId: 'of the one before' });
    await failing(new Error('no'));
    expect(log.join()).not.toContain('of the one before');
  });
});
