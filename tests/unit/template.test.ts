import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from '@jest/globals';
import { TABLE } from '../../scripts/local/tableShape.ts';
import { MAX_OVERHEAD_MS } from '../../src/attempt.ts';
import { CALL_BUDGET_MS } from '../../src/aws.ts';
import { CLOCK_SKEW_SECONDS, MAX_ATTEMPTS } from '../../src/job.ts';
import { mlInference, ocr, search } from '../../src/sampleStages.ts';
import { at, nodeAt, readTemplate } from '../support/template.ts';

const template = readTemplate();
const properties = (resource: string) => nodeAt(template, 'Resources', resource, 'Properties');
const variablesOf = (name: string) => ({
  ...nodeAt(template, 'Globals', 'Function', 'Environment', 'Variables'),
  ...nodeAt(properties(name), 'Environment', 'Variables'),
});
const sourceOf = (handler: string) => readFileSync(join(__dirname, '../../src/handlers', `${handler}.ts`), 'utf8');

/** The most calls that createJob makes: put, read, and then invoke and delete, or end what has lapsed and read again. */
const CREATE_JOB_CALLS = 4;
/** The most calls that getJob makes: read, end what has lapsed, read again. */
const GET_JOB_CALLS = 3;

describe.each([
  ['CreateJobFunction', 'createJob'],
  ['WorkerFunction', 'worker'],
  ['GetJobFunction', 'getJob'],
])('%s', (name, handler) => {
  test('is given every variable that its handler requires, and its own handler', () => {
    const required = [...sourceOf(handler).matchAll(/require(?:Env|Seconds)\('(\w+)'\)/g)].map(
      ([, variable]) => variable,
    );
    expect(required).not.toEqual([]);
    expect(Object.keys(variablesOf(name))).toEqual(expect.arrayContaining(required));
    expect(properties(name)).toMatchObject({ Handler: `${handler}.handler` });
    expect(at(template, 'Resources', name, 'Metadata', 'BuildProperties', 'EntryPoints')).toEqual([
      `handlers/${handler}.ts`,
    ]);
  });

  test('is given no variable of ours that its handler does not read', () => {
    const ours = Object.keys(variablesOf(name)).filter((variable) => !/^(AWS|POWERTOOLS)_/.test(variable));
    expect(ours.filter((variable) => !sourceOf(handler).includes(`'${variable}'`))).toEqual([]);
  });

  test('logs to the stack’s own group', () => {
    expect(at(template, 'Globals', 'Function', 'LoggingConfig', 'LogGroup')).toEqual({ Ref: 'LogGroup' });
    expect(nodeAt(properties(name), 'LoggingConfig')).toEqual({});
  });
});

test('the table is what the tests take for it, and forgets jobs when they expire', () => {
  expect(properties('JobsTable')).toMatchObject({
    ...TABLE,
    TimeToLiveSpecification: { AttributeName: 'expiresAt', Enabled: true },
  });
});

test('Lambda tries an event as often as a job may be attempted', () => {
  expect(at(properties('WorkerFunction'), 'EventInvokeConfig', 'MaximumRetryAttempts')).toBe(MAX_ATTEMPTS - 1);
});

test('events that Lambda gives up on are kept, encrypted, for 14 days', () => {
  expect(at(properties('WorkerFunction'), 'EventInvokeConfig', 'DestinationConfig', 'OnFailure')).toEqual({
    Type: 'SQS',
    Destination: { 'Fn::GetAtt': ['FailedEventsQueue', 'Arn'] },
  });
  expect(properties('FailedEventsQueue')).toMatchObject({
    MessageRetentionPeriod: 14 * 24 * 60 * 60,
    SqsManagedSseEnabled: true,
  });
});

test('deadlines and time limits use the time-out of the worker and the age of its events', () => {
  const timeout = { Ref: 'WorkerTimeoutSeconds' };
  const age = { Ref: 'WorkerMaxEventAgeSeconds' };
  expect(properties('WorkerFunction')).toMatchObject({
    Timeout: timeout,
    EventInvokeConfig: { MaximumEventAgeInSeconds: age },
  });
  expect(variablesOf('WorkerFunction')).toMatchObject({ WORKER_TIMEOUT_SECONDS: timeout });
  expect(variablesOf('CreateJobFunction')).toMatchObject({
    WORKER_TIMEOUT_SECONDS: timeout,
    WORKER_MAX_EVENT_AGE_SECONDS: age,
  });
});

test('the smallest time-out of the worker leaves the sample’s stages the time they take', async () => {
  let sampleMs = 0;
  const pause = async (milliseconds: number) => {
    sampleMs += milliseconds;
  };
  const { signal } = new AbortController();
  for (const create of [ocr, mlInference, search]) await create(pause).run('a', { jobId: 'id', results: {}, signal });
  expect(sampleMs).toBe(5000);
  expect(Number(at(template, 'Parameters', 'WorkerTimeoutSeconds', 'MinValue')) * 1000).toBeGreaterThan(
    sampleMs + MAX_OVERHEAD_MS,
  );
});

test('the lease of a crashed attempt has expired when Lambda tries for the last time, about 3 minutes later', () => {
  const longest = Number(at(template, 'Parameters', 'WorkerTimeoutSeconds', 'MaxValue'));
  expect(longest + 1 + CLOCK_SKEW_SECONDS).toBeLessThan(180);
});

test('createJob and getJob answer for themselves, however slow each call is, before Lambda or API Gateway cut in', () => {
  for (const [name, calls] of [
    ['CreateJobFunction', CREATE_JOB_CALLS],
    ['GetJobFunction', GET_JOB_CALLS],
  ] as const) {
    expect(Object.keys(properties(name))).not.toContain('Timeout');
    const timeout = at(template, 'Globals', 'Function', 'Timeout');
    expect(timeout).toBeGreaterThan((calls * CALL_BUDGET_MS) / 1000);
    expect(timeout).toBeLessThan(29);
  }
});

test('ids made from idempotency keys depend on what only the deployment knows', () => {
  expect(variablesOf('CreateJobFunction')).toMatchObject({ JOB_ID_NAMESPACE: { Ref: 'AWS::StackId' } });
});

test('the bundles leave out what the SDK brings along and no function needs', () => {
  for (const name of ['CreateJobFunction', 'WorkerFunction', 'GetJobFunction']) {
    expect(at(template, 'Resources', name, 'Metadata', 'BuildProperties')).toMatchObject({
      Format: 'cjs',
      MainFields: 'module,main',
      Alias: [
        '@aws-sdk/credential-provider-node=./bundle/lambdaCredentials.ts',
        '@smithy/core/event-streams=./bundle/noEventStreams.ts',
      ],
    });
  }
});

test('every action is allowed on one resource, but where AWS knows none', () => {
  for (const role of ['CreateJobRole', 'WorkerRole', 'GetJobRole']) {
    const policies = JSON.stringify(properties(role));
    const statements = [...policies.matchAll(/"Action":(\[[^\]]*\]|"[^"]*"),"Resource":("[^"]*"|\{[^}]*\})/g)];
    expect(statements.length).toBeGreaterThan(1);
    for (const [, action, resource] of statements) {
      if (action?.includes('xray:')) continue;
      expect(resource).toMatch(/^\{"Fn::GetAtt":\["(JobsTable|WorkerFunction|FailedEventsQueue|LogGroup)","Arn"\]\}$/);
    }
  }
});

test('all that outlives a function goes with the stack', () => {
  for (const name of ['JobsTable', 'FailedEventsQueue', 'LogGroup']) {
    expect(nodeAt(template, 'Resources', name)).toMatchObject({
      DeletionPolicy: 'Delete',
      UpdateReplacePolicy: 'Delete',
    });
  }
  expect(Object.keys(nodeAt(template, 'Outputs'))).toEqual(
    expect.arrayContaining(['ApiBaseUrl', 'CreateJobEndpoint', 'GetJobEndpoint', 'JobsTableName']),
  );
});

test('what API Gateway answers by itself is in our form, with the right status', () => {
  const responses = nodeAt(properties('JobsApi'), 'GatewayResponses');
  const statuses = Object.entries(responses).map(([name, response]) => {
    const body = at(response, 'ResponseTemplates', 'application/json');
    // The one variable stands for a JSON string.
    const filled: unknown = JSON.parse(String(body).replace('$context.error.messageString', '"why"'));
    expect(filled).toEqual({ error: expect.any(String) });
    return [name, nodeAt(responses, name)['StatusCode']];
  });
  expect(Object.fromEntries(statuses)).toEqual({
    DEFAULT_4XX: undefined,
    DEFAULT_5XX: undefined,
    MISSING_AUTHENTICATION_TOKEN: 404,
    REQUEST_TOO_LARGE: 413,
    THROTTLED: 429,
    INTEGRATION_TIMEOUT: 504,
  });
});

test('POST has a rate limit of its own, by the path as CloudFormation spells it', () => {
  const limits = (prefix: string) => ({
    ThrottlingRateLimit: { Ref: `${prefix}RateLimit` },
    ThrottlingBurstLimit: { Ref: `${prefix}BurstLimit` },
  });
  expect(at(properties('JobsApi'), 'MethodSettings')).toEqual([
    { ResourcePath: '/*', HttpMethod: '*', ...limits('Read') },
    { ResourcePath: '/~1jobs', HttpMethod: 'POST', ...limits('Submit') },
  ]);
});

test('every alarm says what to do in a section that the README has', () => {
  const readme = readFileSync(join(__dirname, '../../README.md'), 'utf8');
  const alarms = Object.entries(nodeAt(template, 'Resources')).filter(([name]) => name.endsWith('Alarm'));
  expect(alarms).toHaveLength(4);
  for (const [name] of alarms) {
    const [, section] = /"(Runbook: [^"]+)"/.exec(String(at(properties(name), 'AlarmDescription'))) ?? [];
    expect(readme).toContain(`### ${section}\n`);
  }
});

test('the dashboard is JSON, and shows the metrics that the functions count', () => {
  const body = String(at(properties('Dashboard'), 'DashboardBody', 'Fn::Sub'));
  expect(() => JSON.parse(body)).not.toThrow();
  for (const metric of [
    'JobsAccepted',
    'JobsDone',
    'JobsFailed',
    'ClaimsRefused',
    'ClaimsHeld',
    'Retries',
    'TimeInQueue',
    'TimeToEnd',
  ]) {
    expect(body).toContain(`"${metric}"`);
  }
});
