import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from '@jest/globals';
import { TABLE } from '../../scripts/local/tableShape.ts';
import { CALL_BUDGET_MS } from '../../src/aws.ts';
import { CLOCK_SKEW_SECONDS, MAX_ATTEMPTS } from '../../src/job.ts';
import { at, nodeAt, readTemplate } from '../support/template.ts';

const template = readTemplate();
const properties = (resource: string) => nodeAt(template, 'Resources', resource, 'Properties');
const variablesOf = (name: string) => ({
  ...nodeAt(template, 'Globals', 'Function', 'Environment', 'Variables'),
  ...nodeAt(properties(name), 'Environment', 'Variables'),
});
const src = join(__dirname, '../../src');
const sources = readdirSync(src, { recursive: true, encoding: 'utf8' })
  .filter((file) => file.endsWith('.ts'))
  .map((file) => readFileSync(join(src, file), 'utf8'))
  .join('');
const sourceOf = (handler: string) => readFileSync(join(src, 'handlers', `${handler}.ts`), 'utf8');

/** The most calls of createJob: put and read, then either invoke and delete, or end a lapsed job and read again. */
const CREATE_JOB_CALLS = 4;
/** The most calls of getJob: read, end a lapsed job, read again. */
const GET_JOB_CALLS = 3;

describe.each([
  ['CreateJobFunction', 'createJob'],
  ['WorkerFunction', 'worker'],
  ['GetJobFunction', 'getJob'],
])('%s', (name, handler) => {
  test('has every variable that its handler requires, and its own handler', () => {
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

  test('has no variable of our own that the code does not read', () => {
    const ours = Object.keys(variablesOf(name)).filter((variable) => !/^(AWS|POWERTOOLS)_/.test(variable));
    expect(ours.filter((variable) => !sources.includes(`'${variable}'`))).toEqual([]);
  });

  test("logs to the stack's log group", () => {
    expect(at(template, 'Globals', 'Function', 'LoggingConfig', 'LogGroup')).toEqual({ Ref: 'LogGroup' });
    expect(nodeAt(properties(name), 'LoggingConfig')).toEqual({});
  });
});

test('the table has the same shape as in tests and local runs, and deletes expired jobs', () => {
  expect(properties('JobsTable')).toMatchObject({
    ...TABLE,
    TimeToLiveSpecification: { AttributeName: 'expiresAt', Enabled: true },
  });
});

test('the parameters for the table and the logs have an effect', () => {
  expect(properties('JobsTable')).toMatchObject({
    DeletionProtectionEnabled: { Ref: 'TableDeletionProtection' },
    PointInTimeRecoverySpecification: { PointInTimeRecoveryEnabled: { Ref: 'TablePointInTimeRecovery' } },
    SSESpecification: { 'Fn::If': ['HasTableKmsEncryption', { SSEEnabled: true }, { Ref: 'AWS::NoValue' }] },
  });
  expect(properties('LogGroup')).toMatchObject({ RetentionInDays: { Ref: 'LogRetentionDays' } });
});

test('Lambda delivers an event as many times as a job can be attempted', () => {
  expect(at(properties('WorkerFunction'), 'EventInvokeConfig', 'MaximumRetryAttempts')).toBe(MAX_ATTEMPTS - 1);
});

test('events that Lambda gives up on are kept for 14 days, encrypted', () => {
  expect(at(properties('WorkerFunction'), 'EventInvokeConfig', 'DestinationConfig', 'OnFailure')).toEqual({
    Type: 'SQS',
    Destination: { 'Fn::GetAtt': ['FailedEventsQueue', 'Arn'] },
  });
  expect(properties('FailedEventsQueue')).toMatchObject({
    MessageRetentionPeriod: 14 * 24 * 60 * 60,
    SqsManagedSseEnabled: true,
  });
});

test("deadlines and time limits use the worker's timeout and the maximum age of its events", () => {
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

test("the lease of a crashed first attempt has expired by Lambda's last retry, about 3 minutes later", () => {
  const longest = Number(at(template, 'Parameters', 'WorkerTimeoutSeconds', 'MaxValue'));
  expect(longest + 1 + CLOCK_SKEW_SECONDS).toBeLessThan(180);
});

test('createJob and getJob respond before Lambda or API Gateway gives up, however slow their calls are', () => {
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

test('ids made from idempotency keys depend on a value that clients do not know', () => {
  expect(variablesOf('CreateJobFunction')).toMatchObject({ JOB_ID_NAMESPACE: { Ref: 'AWS::StackId' } });
});

describe('the build', () => {
  const propertiesOf = (name: string) => nodeAt(template, 'Resources', name, 'Metadata', 'BuildProperties');

  test.each(['CreateJobFunction', 'WorkerFunction', 'GetJobFunction'])(
    'of %s drops unused code and keeps the names in stack traces',
    (name) => {
      expect(propertiesOf(name)).toMatchObject({
        Format: 'cjs',
        MainFields: 'module,main',
        Minify: false,
        MinifySyntax: true,
        MinifyWhitespace: true,
        Alias: expect.arrayContaining([
          '@aws-sdk/credential-provider-node=./bundle/lambdaCredentials.ts',
          '@smithy/core/event-streams=./bundle/noEventStreams.ts',
        ]),
      });
    },
  );

  test('of a worker whose stage streams events fails and says which lines to remove', () => {
    const aliases = at(propertiesOf('WorkerFunction'), 'Alias');
    const flags = Array.isArray(aliases) ? aliases.map((alias) => `--alias:${alias}`) : [];
    const { status, stderr } = spawnSync(
      join(__dirname, '../../node_modules/.bin/esbuild'),
      ['--bundle', '--platform=node', ...flags],
      // As the SDK's clients for Bedrock and Transcribe import it.
      { input: "import '@aws-sdk/eventstream-handler-node'", encoding: 'utf8', shell: process.platform === 'win32' },
    );
    expect(status).toBe(1);
    expect(stderr).toContain('REMOVE-BOTH-EVENT-STREAM-ALIASES-OF-WorkerFunction-IN-template.yaml');
  });
});

describe('permissions', () => {
  /** The actions that a role allows on a resource, as in its policy. */
  const allowed = (role: string, resource: string): string[] =>
    [...JSON.stringify(properties(role)).matchAll(/"Action":(\[[^\]]*\]|"[^"]*"),"Resource":("[^"]*"|\{[^}]*\})/g)]
      .filter(([, , allowedOn]) => allowedOn === resource)
      .flatMap(([, actions]) => actions?.match(/\w+:\w+/g) ?? []);
  const arnOf = (name: string) => `{"Fn::GetAtt":["${name}","Arn"]}`;
  const TRACES = ['xray:PutTraceSegments', 'xray:PutTelemetryRecords'];

  test.each(['CreateJobRole', 'WorkerRole', 'GetJobRole'])('of %s cover logs and traces', (role) => {
    expect(allowed(role, arnOf('LogGroup'))).toEqual(['logs:CreateLogStream', 'logs:PutLogEvents']);
    expect(allowed(role, '"*"')).toEqual(expect.arrayContaining(TRACES));
  });

  test('of createJob and getJob name a resource, except where AWS does not support that', () => {
    for (const role of ['CreateJobRole', 'GetJobRole']) expect(allowed(role, '"*"')).toEqual(TRACES);
  });

  test('of the worker let Lambda keep failed events', () => {
    expect(allowed('WorkerRole', arnOf('FailedEventsQueue'))).toEqual(['sqs:SendMessage']);
  });
});

test('every resource that holds data is deleted with the stack', () => {
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

test("API Gateway's own responses have the same form as ours and the right status", () => {
  const responses = nodeAt(properties('JobsApi'), 'GatewayResponses');
  const statuses = Object.entries(responses).map(([name, response]) => {
    const body = at(response, 'ResponseTemplates', 'application/json');
    // API Gateway replaces the variable with a JSON string.
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

test('POST has its own rate limit, with the path escaped as CloudFormation requires', () => {
  const limits = (prefix: string) => ({
    ThrottlingRateLimit: { Ref: `${prefix}RateLimit` },
    ThrottlingBurstLimit: { Ref: `${prefix}BurstLimit` },
  });
  expect(at(properties('JobsApi'), 'MethodSettings')).toEqual([
    { ResourcePath: '/*', HttpMethod: '*', ...limits('Read') },
    { ResourcePath: '/~1jobs', HttpMethod: 'POST', ...limits('Submit') },
  ]);
});

describe('alarms', () => {
  const alarms = Object.keys(nodeAt(template, 'Resources')).filter((name) => name.endsWith('Alarm'));

  test('are eight, of ten that are free', () => {
    expect(alarms).toHaveLength(8);
  });

  test.each(alarms)('%s refers to its section of docs/operations.md', (name) => {
    const operations = readFileSync(join(__dirname, '../../docs/operations.md'), 'utf8');
    const [, section] = /docs\/operations\.md, "([^"]+)"/.exec(String(at(properties(name), 'AlarmDescription'))) ?? [];
    expect(operations).toContain(`### ${section}\n`);
  });

  const QUEUE = { Name: 'QueueName', Value: { 'Fn::GetAtt': ['FailedEventsQueue', 'QueueName'] } };
  const WORKER = { Name: 'FunctionName', Value: { Ref: 'WorkerFunction' } };
  const SERVICE = { Name: 'service', Value: { Ref: 'AWS::StackName' } };
  const API = [
    { Name: 'ApiName', Value: { Ref: 'AWS::StackName' } },
    { Name: 'Stage', Value: 'Prod' },
  ];

  test.each([
    ['FailedEventsAlarm', 'AWS/SQS ApproximateNumberOfMessagesVisible', [QUEUE], 'Maximum >= 1'],
    ['LostEventsAlarm', 'AWS/Lambda DestinationDeliveryFailures', [WORKER], 'Sum >= 1'],
    ['JobsFailedAlarm', 'AsyncJobs JobsFailed', [SERVICE], 'Sum >= 5'],
    ['WorkerErrorsAlarm', 'AWS/Lambda Errors', [WORKER], 'Sum >= 10'],
    ['WorkerThrottlesAlarm', 'AWS/Lambda Throttles', [WORKER], 'Sum >= 10'],
    ['QueueAgeAlarm', 'AWS/Lambda AsyncEventAge', [WORKER], 'Maximum > 600000'],
    ['TimeInQueueAlarm', 'AsyncJobs TimeInQueue', [SERVICE], 'p90 > 60'],
    ['ApiServerErrorsAlarm', 'AWS/ApiGateway 5XXError', API, 'Sum >= 3'],
  ])('%s watches %s and sends a mail', (name, metric, dimensions, condition) => {
    const alarm = properties(name);
    const statistic = String(alarm['Statistic'] ?? alarm['ExtendedStatistic']);
    const operator = new Map<unknown, string>([
      ['GreaterThanThreshold', '>'],
      ['GreaterThanOrEqualToThreshold', '>='],
    ]).get(alarm['ComparisonOperator']);
    expect(`${alarm['Namespace']} ${alarm['MetricName']}`).toBe(metric);
    expect(alarm['Dimensions']).toEqual(dimensions);
    expect(`${statistic} ${operator} ${alarm['Threshold']}`).toBe(condition);
    expect(alarm['AlarmActions']).toEqual({
      'Fn::If': ['HasAlarmEmail', [{ Ref: 'AlarmTopic' }], { Ref: 'AWS::NoValue' }],
    });
  });

  test('find the metrics of the functions by the name of the stack', () => {
    expect(variablesOf('WorkerFunction')).toMatchObject({ POWERTOOLS_SERVICE_NAME: { Ref: 'AWS::StackName' } });
  });
});

test('the log level is passed to Lambda and cannot suppress the metrics', () => {
  expect(at(template, 'Globals', 'Function', 'LoggingConfig', 'ApplicationLogLevel')).toEqual({ Ref: 'LogLevel' });
  expect(at(template, 'Parameters', 'LogLevel', 'AllowedValues')).toEqual(['DEBUG', 'INFO']);
});

test('access logs use the ARN of the log group without ":*"', () => {
  expect(JSON.stringify(at(properties('JobsApi'), 'AccessLogSetting'))).toMatch(/:log-group:\$\{LogGroup\}"/);
});

test('the dashboard is valid JSON and shows every metric of the functions', () => {
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
