import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
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
const src = join(__dirname, '../../src');
const sources = readdirSync(src, { recursive: true, encoding: 'utf8' })
  .filter((file) => file.endsWith('.ts'))
  .map((file) => readFileSync(join(src, file), 'utf8'))
  .join('');
const sourceOf = (handler: string) => readFileSync(join(src, 'handlers', `${handler}.ts`), 'utf8');

/** The most calls that createJob makes: put, read, and then invoke and delete, or end what has lapsed and read again. */
const CREATE_JOB_CALLS = 4;
/** The most calls that getJob makes: read, end what has lapsed, read again. */
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

  test('has no variable of ours that nothing reads', () => {
    const ours = Object.keys(variablesOf(name)).filter((variable) => !/^(AWS|POWERTOOLS)_/.test(variable));
    expect(ours.filter((variable) => !sources.includes(`'${variable}'`))).toEqual([]);
  });

  test('logs to the stack’s own group', () => {
    expect(at(template, 'Globals', 'Function', 'LoggingConfig', 'LogGroup')).toEqual({ Ref: 'LogGroup' });
    expect(nodeAt(properties(name), 'LoggingConfig')).toEqual({});
  });
});

test('the table has the shape that tests and local runs use, and deletes expired jobs', () => {
  expect(properties('JobsTable')).toMatchObject({
    ...TABLE,
    TimeToLiveSpecification: { AttributeName: 'expiresAt', Enabled: true },
  });
});

test('Lambda tries an event as often as a job can be attempted', () => {
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

test('createJob and getJob respond before Lambda or API Gateway give up, however slow each call is', () => {
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
    'of %s leaves out unused code, and keeps the names that stack traces show',
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

  test('of a worker whose stage streams events fails, and names the lines to remove', () => {
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

test('every action is allowed on one resource, unless AWS has no resources for it', () => {
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

test('everything that holds data is deleted with the stack', () => {
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

test('the responses of API Gateway itself have our form, and the right status', () => {
  const responses = nodeAt(properties('JobsApi'), 'GatewayResponses');
  const statuses = Object.entries(responses).map(([name, response]) => {
    const body = at(response, 'ResponseTemplates', 'application/json');
    // The variable stands for a JSON string.
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

test('POST has its own rate limit, for the path as CloudFormation spells it', () => {
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

  test('are within the 10 that are free of charge', () => {
    expect(alarms.length).toBeLessThanOrEqual(10);
  });

  test.each(alarms)('%s names its runbook in docs/operations.md', (name) => {
    const operations = readFileSync(join(__dirname, '../../docs/operations.md'), 'utf8');
    const [, section] = /docs\/operations\.md, "([^"]+)"/.exec(String(at(properties(name), 'AlarmDescription'))) ?? [];
    expect(operations).toContain(`### ${section}\n`);
  });

  test('cover jobs that end as ERROR, lost events, and a worker that is throttled or not started', () => {
    expect(alarms.map((name) => properties(name)['MetricName'])).toEqual(
      expect.arrayContaining(['JobsFailed', 'DestinationDeliveryFailures', 'Throttles', 'AsyncEventAge']),
    );
  });
});

test('the log level reaches Lambda, and cannot drop the metrics', () => {
  expect(at(template, 'Globals', 'Function', 'LoggingConfig', 'ApplicationLogLevel')).toEqual({ Ref: 'LogLevel' });
  expect(at(template, 'Parameters', 'LogLevel', 'AllowedValues')).toEqual(['DEBUG', 'INFO']);
});

test('access logs go to the log group without the ":*" of its ARN', () => {
  expect(JSON.stringify(at(properties('JobsApi'), 'AccessLogSetting'))).toMatch(/:log-group:\$\{LogGroup\}"/);
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
