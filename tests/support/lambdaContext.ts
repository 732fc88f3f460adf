import type { Context } from 'aws-lambda';

/** The context of a Lambda invocation that has this many milliseconds left. */
export function lambdaContext(remainingMs = 30_000): Context {
  return {
    callbackWaitsForEmptyEventLoop: true,
    functionName: 'Function',
    functionVersion: '$LATEST',
    invokedFunctionArn: 'arn:aws:lambda:us-east-1:123456789012:function:Function',
    memoryLimitInMB: '256',
    awsRequestId: 'f3f3f3f3-0000-4000-8000-000000000001',
    logGroupName: '/stack/functions',
    logStreamName: '2024/01/01/[$LATEST]0123456789abcdef',
    getRemainingTimeInMillis: () => remainingMs,
    done: () => undefined,
    fail: () => undefined,
    succeed: () => undefined,
  };
}
