/** An event from API Gateway, with the fields that a handler may read. */
function apiEvent(httpMethod: string, resource: string, path: string, more: object): object {
  return {
    resource,
    path,
    httpMethod,
    headers: { Accept: '*/*', 'Content-Type': 'application/json', Host: 'bench.execute-api.us-east-1.amazonaws.com' },
    multiValueHeaders: { Accept: ['*/*'], 'Content-Type': ['application/json'] },
    queryStringParameters: null,
    multiValueQueryStringParameters: null,
    pathParameters: null,
    stageVariables: null,
    requestContext: { stage: 'Prod', path: `/Prod${path}`, requestId: '7f3c1e0a-5d0b-4c53-9f0e-0a3f5b1c2d4e' },
    body: null,
    isBase64Encoded: false,
    ...more,
  };
}

/** `POST /jobs` with a text. */
export const postEvent = (text: string): object =>
  apiEvent('POST', '/jobs', '/jobs', { body: JSON.stringify({ text }) });

/** `GET /jobs/{jobId}`. */
export const getEvent = (jobId: string): object =>
  apiEvent('GET', '/jobs/{jobId}', `/jobs/${jobId}`, { pathParameters: { jobId } });

/** A text of the given size. */
export function textOf(bytes: number): string {
  const sentence = 'AWS Lambda is a great serverless compute service, and this text is a good one to process. ';
  return `${sentence.repeat(Math.ceil(bytes / sentence.length)).slice(0, bytes - 1)}.`;
}
