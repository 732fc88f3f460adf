import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import { TABLE } from '../../scripts/local/jobsTable.ts';
import { at, nodeAt, readTemplate } from '../../scripts/template.ts';
import { CALL_BUDGET_MS } from '../../src/aws.ts';
import { CLOCK_SKEW_SECONDS, MAX_ATTEMPTS, SUBMIT_SECONDS } from '../../src/job.ts';

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

/**
 * The most calls of createJob: put and read, then either invoke and delete, or end a lapsed job and read again.
 * Those of getJob are 3: read, end a lapsed job, read again.
 */
const MOST_CALLS = 4;

const FUNCTIONS = [
  ['CreateJobFunction', 'createJob'],
  ['WorkerFunction', 'worker'],
  ['GetJobFunction', 'getJob'],
];

test.each(FUNCTIONS)('%s has every variable that its handler requires, and its own handler', (name, handler) => {
  const required = [...sourceOf(handler).matchAll(/(?:require(?:Env|Seconds)|optionalEnv)\('(\w+)'\)/g)].map(
    ([, variable]) => variable,
  );

  expect(required).not.toEqual([]);
  expect(Object.keys(variablesOf(name))).toEqual(expect.arrayContaining(required));
  expect(properties(name)).toMatchObject({ Handler: `${handler}.handler` });
  expect(at(template, 'Resources', name, 'Metadata', 'BuildProperties', 'EntryPoints')).toEqual([
    `handlers/${handler}.ts`,
  ]);
});

test.each(FUNCTIONS)("%s has no variable of the application's that the code does not read", (name) => {
  const own = Object.keys(variablesOf(name)).filter((variable) => !/^(AWS|POWERTOOLS)_/.test(variable));

  expect(own.filter((variable) => !sources.includes(`'${variable}'`))).toEqual([]);
});

test('the table has the same shape as in tests and local runs, and deletes expired jobs', () => {
  expect(properties('JobsTable')).toMatchObject({
    ...TABLE,
    TimeToLiveSpecification: { AttributeName: 'expiresAt', Enabled: true },
  });
});

test('Lambda delivers an event as many times as a job can be attempted', () => {
  expect(at(properties('WorkerFunction'), 'EventInvokeConfig', 'MaximumRetryAttempts')).toBe(MAX_ATTEMPTS - 1);
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
  const timeout = at(template, 'Globals', 'Function', 'Timeout');

  for (const name of ['CreateJobFunction', 'GetJobFunction']) expect(properties(name)).not.toHaveProperty('Timeout');
  expect(timeout).toBeGreaterThan((MOST_CALLS * CALL_BUDGET_MS) / 1000);
  expect(timeout).toBeLessThan(29);
  // The deadline of a job includes the time that its POST may take.
  expect(timeout).toBe(SUBMIT_SECONDS);
});

test('ids made from idempotency keys depend on a value that clients do not know', () => {
  expect(variablesOf('CreateJobFunction')).toMatchObject({ JOB_ID_NAMESPACE: { Ref: 'AWS::StackId' } });
});

/** The actions that a role allows on a resource, as in its policy. */
const allowed = (role: string, resource: string): string[] =>
  [...JSON.stringify(properties(role)).matchAll(/"Action":(\[[^\]]*\]|"[^"]*"),"Resource":("[^"]*"|\{[^}]*\})/g)]
    .filter(([, , allowedOn]) => allowedOn === resource)
    .flatMap(([, actions]) => actions?.match(/\w+:\w+/g) ?? []);
const arnOf = (name: string) => `{"Fn::GetAtt":["${name}","Arn"]}`;
const TRACES = ['xray:PutTraceSegments', 'xray:PutTelemetryRecords'];

test.each(['CreateJobRole', 'WorkerRole', 'GetJobRole'])('%s may write logs and traces', (role) => {
  expect(allowed(role, arnOf('LogGroup'))).toEqual(['logs:CreateLogStream', 'logs:PutLogEvents']);
  expect(allowed(role, '"*"')).toEqual(expect.arrayContaining(TRACES));
});

test('the permissions of createJob and getJob name a resource, except where AWS does not support that', () => {
  for (const role of ['CreateJobRole', 'GetJobRole']) expect(allowed(role, '"*"')).toEqual(TRACES);
});

test('the permissions of the worker let Lambda keep failed events', () => {
  expect(allowed('WorkerRole', arnOf('FailedEventsQueue'))).toEqual(['sqs:SendMessage']);
});

test('every resource that holds data is deleted with the stack, and failed events are kept for 14 days', () => {
  for (const name of ['JobsTable', 'FailedEventsQueue', 'LogGroup']) {
    expect(nodeAt(template, 'Resources', name)).toMatchObject({
      DeletionPolicy: 'Delete',
      UpdateReplacePolicy: 'Delete',
    });
  }
  expect(properties('FailedEventsQueue')).toMatchObject({ MessageRetentionPeriod: 14 * 24 * 60 * 60 });
});

test("API Gateway's own responses have the right status, and the same form and CORS headers as the functions'", () => {
  const responses = nodeAt(properties('JobsApi'), 'GatewayResponses');
  const ifCors = (value: unknown) => ({ 'Fn::If': ['HasCorsOrigin', value, { Ref: 'AWS::NoValue' }] });
  const statuses = Object.entries(responses).map(([name, response]) => {
    const body = at(response, 'ResponseTemplates', 'application/json');
    // API Gateway replaces the variable with a JSON string.
    const filled: unknown = JSON.parse(String(body).replace('$context.error.messageString', '"why"'));
    expect(filled).toEqual({ error: expect.any(String) });
    expect(at(response, 'ResponseParameters', 'Headers')).toMatchObject({
      'Access-Control-Allow-Origin': ifCors({ 'Fn::Sub': expect.stringMatching(/^'\$\{CorsOrigin\}'$/) }),
      'Access-Control-Expose-Headers': ifCors("'Retry-After'"),
    });
    return [name, nodeAt(responses, name)['StatusCode']];
  });

  expect(Object.keys(responses)).toEqual(expect.arrayContaining(['DEFAULT_4XX', 'DEFAULT_5XX']));
  expect(Object.fromEntries(statuses)).toMatchObject({
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

const descriptionOf = (name: string) => String(properties(name)['AlarmDescription']);
const alarms = Object.keys(nodeAt(template, 'Resources')).filter((name) =>
  descriptionOf(name).includes('docs/operations.md'),
);

test.each(alarms)('%s refers to its section of docs/operations.md', (name) => {
  const operations = readFileSync(join(__dirname, '../../docs/operations.md'), 'utf8');
  const [, section] = /docs\/operations\.md, "([^"]+)"/.exec(descriptionOf(name)) ?? [];

  expect(operations).toContain(`### ${section}\n`);
});

test("the alarms on the application's own metrics name metrics that the code sends", () => {
  const own = alarms.map(properties).filter(({ Namespace }) => Namespace === 'AsyncJobs');

  expect(own).not.toEqual([]);
  for (const { MetricName } of own) expect(sources).toContain(`'${MetricName}'`);
});

test("the alarms find the functions' metrics by the name of the stack", () => {
  expect(variablesOf('WorkerFunction')).toMatchObject({ POWERTOOLS_SERVICE_NAME: { Ref: 'AWS::StackName' } });
});

test("the functions log to the stack's log group, at a level that cannot suppress the metrics", () => {
  const logging = { LogGroup: { Ref: 'LogGroup' }, ApplicationLogLevel: { Ref: 'LogLevel' } };

  expect(at(template, 'Globals', 'Function', 'LoggingConfig')).toMatchObject(logging);
  expect(at(template, 'Parameters', 'LogLevel', 'AllowedValues')).toEqual(['DEBUG', 'INFO']);
});

test('access logs use the ARN of the log group without ":*"', () => {
  expect(JSON.stringify(at(properties('JobsApi'), 'AccessLogSetting'))).toMatch(/:log-group:\$\{LogGroup\}"/);
});

test('the dashboard is valid JSON and shows every metric of the functions', () => {
  const body = String(at(properties('Dashboard'), 'DashboardBody', 'Fn::Sub'));

  const metrics = ['JobsAccepted', 'JobsDone', 'JobsFailed', 'ClaimsRefused', 'ClaimsHeld', 'Retries'];
  expect(() => JSON.parse(body)).not.toThrow();
  for (const metric of [...metrics, 'TimeInQueue', 'TimeToEnd']) expect(body).toContain(`"${metric}"`);
});

test('ExpectedJobSeconds must be a whole number, because createJob does not start with any other', () => {
  const parameter = nodeAt(template, 'Parameters', 'ExpectedJobSeconds');
  const pattern = new RegExp(String(parameter['AllowedPattern']));

  const accepted = ['1', '5', '21600', '', '0', '-1', '2.5', '1e3', '05', '1000000000'].filter((value) =>
    pattern.test(value),
  );

  // CloudFormation's Number could be 2.5, and it checks the pattern of strings only.
  expect(parameter).toMatchObject({ Type: 'String', Default: '5' });
  expect(accepted).toEqual(['1', '5', '21600']);
});
