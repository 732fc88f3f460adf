/** The operator's scripts, as an operator runs them, on the local AWS: from a checkout whose path has a space, with a .env. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, existsSync, mkdtempSync, rmSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join, relative, resolve } from 'node:path';
import {
  CloudFormationClient,
  CreateStackCommand,
  DeleteStackCommand,
  ListStacksCommand,
} from '@aws-sdk/client-cloudformation';
import { CloudWatchLogsClient, DescribeLogGroupsCommand } from '@aws-sdk/client-cloudwatch-logs';
import { DynamoDBClient, ListTablesCommand } from '@aws-sdk/client-dynamodb';
import { InvokeCommand, LambdaClient, ListFunctionsCommand } from '@aws-sdk/client-lambda';
import {
  DeleteObjectCommand,
  ListBucketsCommand,
  ListObjectVersionsCommand,
  PutObjectCommand,
  S3Client,
} from '@aws-sdk/client-s3';
import { GetQueueUrlCommand, ListQueuesCommand, SendMessageCommand, SQSClient } from '@aws-sdk/client-sqs';
import { afterAll, beforeAll, describe, expect, jest, test } from '@jest/globals';
import { type LocalAws, startLocalAws } from '../../scripts/local/localAws.ts';
import { clientOptions, sleep } from './deployment.ts';

jest.setTimeout(120_000);

const STACK_NAME = 'operations';
const root = resolve(import.meta.dirname, '..', '..');
const folder = mkdtempSync(join(tmpdir(), 'operations '));
const checkout = join(folder, 'check out');

beforeAll(() => {
  const leftOut = new Set(['.git', '.aws-sam', '.tools', '.env', 'coverage', 'node_modules']);
  cpSync(root, checkout, {
    recursive: true,
    preserveTimestamps: true,
    filter: (source) => !leftOut.has(relative(root, source)),
  });
  symlinkSync(join(root, 'node_modules'), join(checkout, 'node_modules'));
  // The packages are there: nothing is to be installed.
  utimesSync(join(checkout, 'package-lock.json'), 0, 0);
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

interface Outcome {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a command line in bash, away from the checkout, with an input that ends. */
async function bash(
  command: string,
  { input = '', env = shellEnv() }: { readonly input?: string; readonly env?: Record<string, string> } = {},
): Promise<Outcome> {
  const child = spawn('bash', ['-c', command], { cwd: folder, env });
  const output = { stdout: '', stderr: '' };
  for (const name of ['stdout', 'stderr'] as const) {
    child[name].setEncoding('utf8').on('data', (chunk: string) => {
      output[name] += chunk;
    });
  }
  child.stdin.on('error', () => undefined).end(input);
  const [code] = await once(child, 'close');
  return { code: Number(code), ...output };
}

const script = (name: string, ...args: string[]): string =>
  ['bash', join(checkout, 'scripts', name), ...args].map((word) => `'${word}'`).join(' ');

/** A shell that knows nothing of AWS: all of that comes from .env. */
function shellEnv(path = process.env['PATH'] ?? ''): Record<string, string> {
  const kept = Object.entries(process.env).flatMap(([name, value]): [string, string][] =>
    value === undefined || name.startsWith('AWS_') ? [] : [[name, value]],
  );
  return { ...Object.fromEntries(kept), PATH: path };
}

function writeEnv(lines: readonly string[], end = '\n'): void {
  writeFileSync(join(checkout, '.env'), lines.map((line) => line + end).join(''));
}

const KEYS = ['AWS_ACCESS_KEY_ID=test', 'AWS_SECRET_ACCESS_KEY=test'];
const PLACE = ['AWS_DEFAULT_REGION=us-east-1', `STACK_NAME=${STACK_NAME}`];

describe('before anything is deployed', () => {
  /** A PATH with these tools and what bash scripts need, and no others. */
  function pathWith(...tools: string[]): string {
    const bin = mkdtempSync(join(folder, 'bin-'));
    for (const tool of tools) writeFileSync(join(bin, tool), '#!/bin/sh\nexit 9\n', { mode: 0o755 });
    for (const tool of ['bash', 'dirname']) symlinkSync(join('/bin', tool), join(bin, tool));
    return bin;
  }

  test.each([
    ['sam', ['node', 'npm']],
    ['node', ['sam', 'npm']],
    ['npm', ['sam', 'node']],
  ])('deploy.sh names the missing tool %s', async (missing, present) => {
    writeEnv([...KEYS, ...PLACE]);

    const { code, stderr } = await bash(script('deploy.sh'), { env: shellEnv(pathWith(...present)) });

    expect({ code, stderr }).toEqual({ code: 1, stderr: `Error: '${missing}' is not installed, or not on PATH\n` });
  });

  const withStubs = () => ({ env: shellEnv(pathWith('sam', 'node', 'npm')) });

  test.each(['deploy.sh', 'teardown.sh', 'redrive.sh', 'logs.sh'])('%s names the missing .env', async (name) => {
    rmSync(join(checkout, '.env'), { force: true });

    const { code, stderr } = await bash(script(name), withStubs());

    expect(code).toBe(1);
    expect(stderr).toMatch(/^Error: there is no '\.env' in .*check out: copy example\.env to \.env and fill it in\n$/);
  });

  test('deploy.sh refuses example.env as it is', async () => {
    cpSync(join(checkout, 'example.env'), join(checkout, '.env'));

    const { code, stderr } = await bash(script('deploy.sh'), withStubs());

    expect(code).toBe(1);
    expect(stderr).toBe('Error: AWS_ACCESS_KEY_ID in .env still has the placeholder of example.env\n');
  });

  test.each([
    ['no secret', ['AWS_ACCESS_KEY_ID=x', ...PLACE], 'AWS_SECRET_ACCESS_KEY is not set in .env (nor is AWS_PROFILE)'],
    ['no credentials', PLACE, 'AWS_ACCESS_KEY_ID is not set in .env (nor is AWS_PROFILE)'],
    ['no region', [...KEYS, 'STACK_NAME=x'], 'AWS_DEFAULT_REGION is not set in .env'],
    ['an empty stack name', [...KEYS, 'AWS_DEFAULT_REGION=us-east-1', 'STACK_NAME='], 'STACK_NAME is not set in .env'],
    [
      'keys and a profile',
      [...KEYS, 'AWS_PROFILE=mine', ...PLACE],
      'AWS_PROFILE and access keys are both set, in .env or in the shell: keep one of the two',
    ],
    ['a line that is none', [...KEYS, 'touch pwned', ...PLACE], 'line 3 of .env is not KEY=value'],
    ['a name twice', [...KEYS, ...PLACE, 'STACK_NAME=other'], 'STACK_NAME stands twice in .env'],
    ['an open quote', ['AWS_ACCESS_KEY_ID="x'], 'line 1 of .env: the value of AWS_ACCESS_KEY_ID has no closing quote'],
  ])('deploy.sh refuses a .env with %s', async (_what, lines, message) => {
    writeEnv(lines);

    const { code, stderr } = await bash(script('deploy.sh'), withStubs());

    expect({ code, stderr }).toEqual({ code: 1, stderr: `Error: ${message}\n` });
  });

  test('a .env is read as text: quotes, comments and CRLF are understood, and nothing is executed', async () => {
    writeEnv(
      [
        '# comment',
        'export AWS_PROFILE = "a b$(touch executed)" # comment',
        "AWS_DEFAULT_REGION='us-east-1'",
        'STACK_NAME=`touch executed` # comment',
        'PATH=/nowhere',
      ],
      '\r\n',
    );

    const { stdout, stderr } = await bash(
      `cd '${checkout}' && . scripts/aws/env.sh && load_env .env && printf '%s|' "$AWS_PROFILE" "$AWS_DEFAULT_REGION" "$STACK_NAME" "\${AWS_ACCESS_KEY_ID-}" && ls`,
      { env: { ...shellEnv(), AWS_ACCESS_KEY_ID: 'of the shell' } },
    );

    expect(stdout).toContain('a b$(touch executed)|us-east-1|`touch executed`||');
    expect(stdout).not.toMatch(/^executed$/m);
    expect(stderr).toBe('Note: PATH in line 5 of .env is not used\n');
  });
});

describe('on the local AWS', () => {
  let aws: LocalAws;
  let clients: ReturnType<typeof clientsOf>;
  let baseUrl: string;
  let jobId: string;

  function clientsOf(local: LocalAws) {
    const options = clientOptions(local);
    return {
      cloudFormation: new CloudFormationClient(options),
      dynamodb: new DynamoDBClient(options),
      lambda: new LambdaClient(options),
      logs: new CloudWatchLogsClient(options),
      s3: new S3Client(options),
      sqs: new SQSClient({ ...options, useQueueUrlAsEndpoint: false }),
    };
  }

  const run = (command: string, input = '') => bash(command, { input, env: shellEnv(aws.env['PATH']) });

  beforeAll(async () => {
    // Lambda gives up within seconds, so that there is a failed event.
    aws = await startLocalAws({ env: { LAMBDA_ASYNC_RETRY_BASE_SECONDS: '1' } });
    clients = clientsOf(aws);
    writeEnv([...KEYS, ...PLACE, `AWS_ENDPOINT_URL=${aws.endpoint}`, 'SAM_CLI_TELEMETRY=0']);
  });

  afterAll(() => aws?.stop());

  test('teardown.sh takes a stack that does not exist for an error', async () => {
    const { code, stderr } = await run(script('teardown.sh', '--yes'));

    expect(code).toBe(1);
    expect(stderr).toMatch(/^Error: The stack operations does not exist in account \d{12}, region us-east-1\n$/);
  });

  test('teardown.sh refuses a stack that is not of this application', async () => {
    const TemplateBody = JSON.stringify({ Resources: { Queue: { Type: 'AWS::SQS::Queue' } } });
    await clients.cloudFormation.send(new CreateStackCommand({ StackName: 'foreign', TemplateBody }));
    const settings = [...KEYS, `AWS_ENDPOINT_URL=${aws.endpoint}`, 'SAM_CLI_TELEMETRY=0'];
    writeEnv([...settings, 'AWS_DEFAULT_REGION=us-east-1', 'STACK_NAME=foreign']);

    const { code, stderr } = await run(script('teardown.sh', '--yes'));

    writeEnv([...settings, ...PLACE]);
    expect({ code, stderr }).toEqual({
      code: 1,
      stderr: "Error: The stack foreign is none of this application's; nothing was deleted\n",
    });
    const { QueueUrls = [] } = await clients.sqs.send(new ListQueuesCommand({}));
    expect(QueueUrls).toHaveLength(1);
    await clients.cloudFormation.send(new DeleteStackCommand({ StackName: 'foreign' }));
  });

  test('deploy.sh deploys, and prints a curl command that submits a job', async () => {
    const deployed = await run(script('deploy.sh'));

    expect(deployed).toMatchObject({ code: 0 });
    baseUrl = /^ {2}Base URL {4}(\S+)$/m.exec(deployed.stdout)?.[1] ?? '';
    const curl = /^ {2}(curl .*)$/m.exec(deployed.stdout)?.[1] ?? '';
    const submitted = await run(curl);
    jobId = /"jobId":"([0-9a-f-]{36})","status":"PENDING"/.exec(submitted.stdout)?.[1] ?? '';
    expect(jobId).not.toBe('');
  });

  test('poll.sh shows each status once, and the job when it is done', async () => {
    // The same event again while the job runs: refused at each try, it will be kept as a failed event.
    const { Functions = [] } = await clients.lambda.send(new ListFunctionsCommand({}));
    const worker = Functions.find(({ FunctionName = '' }) => FunctionName.includes('WorkerFunction'))?.FunctionName;
    const Payload = JSON.stringify({ jobId });
    await clients.lambda.send(new InvokeCommand({ FunctionName: worker, InvocationType: 'Event', Payload }));

    const { code, stdout } = await run(script('poll.sh', baseUrl, jobId));

    expect(code).toBe(0);
    expect(stdout).toMatch(/^(?: *\d+ s {2}PENDING\n)?(?: *\d+ s {2}IN_PROGRESS\n)? *\d+ s {2}DONE\n\{\n/);
    expect(JSON.parse(stdout.slice(stdout.indexOf('{')))).toMatchObject({ jobId, status: 'DONE' });
  });

  test.each([
    ['an unknown job', () => [baseUrl, '00000000-0000-4000-8000-000000000000'], 3, /^Error: there is no such job: /],
    ['a server that is not there', () => ['http://127.0.0.1:1', jobId], 3, /\nError: no answer from http/],
    ['no job id', () => [baseUrl], 2, /^Usage: /],
  ])('poll.sh says what is wrong with %s', async (_what, args, code, message) => {
    const outcome = await run(script('poll.sh', ...args()));

    expect(outcome.code).toBe(code);
    expect(outcome.stderr).toMatch(message);
  });

  test('poll.sh takes nothing but a word and a number from a server that lies', async () => {
    const mark = join(folder, 'mark');
    const status = `PENDING BASH_VERSINFO[$(touch '${mark}')]*0+1`;
    const server = createServer((_request, response) => response.end(JSON.stringify({ status }))).listen(
      0,
      '127.0.0.1',
    );
    await once(server, 'listening');
    const address = server.address();
    const port = typeof address === 'object' ? address?.port : undefined;

    const { code, stderr } = await run(script('poll.sh', `http://127.0.0.1:${port}/jobs/id`, '3'));

    server.close();
    expect({ code, isMarked: existsSync(mark) }).toEqual({ code: 3, isMarked: false });
    expect(stderr).toMatch(/^Error: the answer of \S+ is no job: /);
  });

  test('poll.sh stops at its limit', async () => {
    const submitted = await run(`curl -sS '${baseUrl}/jobs' -d '{"text": "slow"}'`);
    const { jobId: id }: { jobId: string } = JSON.parse(submitted.stdout);

    const { code, stderr } = await run(script('poll.sh', `${baseUrl}/jobs/${id}`, '2'));

    expect(code).toBe(4);
    expect(stderr).toMatch(/^Error: the job has not ended within 2 s \(status: (?:PENDING|IN_PROGRESS)\): http/);
  });

  test('redrive.sh lists the failed events, and sends those of ours again', async () => {
    const QueueName = (await clients.sqs.send(new ListQueuesCommand({}))).QueueUrls?.[0]?.split('/').at(-1);
    const { QueueUrl } = await clients.sqs.send(new GetQueueUrlCommand({ QueueName }));
    const foreign = { requestPayload: {}, responsePayload: { errorMessage: 'none of ours \u001b[31m' } };
    await clients.sqs.send(new SendMessageCommand({ QueueUrl, MessageBody: JSON.stringify(foreign) }));
    const event = new RegExp(
      `^${jobId} {2}\\d{4}-\\S+Z {2}RetriesExhausted {2}invoked 3 times {2}The job is held by another attempt; this event has to come back$`,
      'm',
    );

    const listed = await run(script('redrive.sh'));
    const sent = await run(script('redrive.sh', '--send'));
    const after = await run(script('redrive.sh'));

    expect(listed.stdout).toMatch(event);
    expect(listed.stdout).toContain('\n2 listed, 0 sent, 2 left in the queue\n');
    expect(sent.stdout).toMatch(event);
    expect(sent.stdout).toContain('\n2 listed, 1 sent, 1 left in the queue\n');
    expect(after.stdout).not.toContain(jobId);
    expect(after.stdout).toContain('\n1 listed, 0 sent, 1 left in the queue\n');
    expect(after.stdout).toMatch(/^no job id \(message \S+\) .* {2}none of ours {2}?\[31m$/m);
    expect([listed.code, sent.code, after.code]).toEqual([0, 0, 0]);
  });

  test('logs.sh shows all that the functions logged about a job, in order', async () => {
    // The event that redrive.sh sent reached the worker once its refusal is there.
    let shown = await run(script('logs.sh', jobId));
    for (let tries = 0; tries < 20 && !shown.stdout.includes('outcome=ended'); tries += 1) {
      await sleep(500);
      shown = await run(script('logs.sh', jobId));
    }

    const lines = shown.stdout.trimEnd().split('\n');
    const times = lines.map((line) => line.slice(0, 24));
    expect(times).toEqual([...times].sort());
    expect(shown.stdout).toMatch(/ CreateJobFunction {2}INFO .* outcome=accepted/);
    expect(shown.stdout).toMatch(/ WorkerFunction .* stage=ocr outcome=done/);
    expect(shown.stdout).toMatch(/ WorkerFunction .*Claim refused .* outcome=held/);
    expect(shown.stdout).toMatch(/ WorkerFunction .*Claim refused .* outcome=ended/);
    // Lambda's own lines, which do not name the job.
    expect(shown.stdout).toMatch(/ WorkerFunction .*REPORT RequestId/);
    expect(shown.code).toBe(0);
  });

  test('logs.sh says so when there is nothing about a job', async () => {
    const { code, stderr } = await run(script('logs.sh', '00000000-0000-4000-8000-000000000000'));

    expect(code).toBe(1);
    expect(stderr).toContain('Error: /operations/functions has no line about the job 00000000-');
  });

  /** What the account holds, by kind. */
  async function inventory() {
    const { cloudFormation, dynamodb, lambda, logs, s3, sqs } = clients;
    const { StackSummaries = [] } = await cloudFormation.send(new ListStacksCommand({}));
    const { Buckets = [] } = await s3.send(new ListBucketsCommand({}));
    const objects: string[] = [];
    for (const { Name } of Buckets) {
      const { Versions = [], DeleteMarkers = [] } = await s3.send(new ListObjectVersionsCommand({ Bucket: Name }));
      objects.push(...[...Versions, ...DeleteMarkers].map(({ Key = '' }) => Key));
    }
    return {
      stacks: StackSummaries.filter(({ StackStatus }) => StackStatus !== 'DELETE_COMPLETE').map((s) => s.StackName),
      tables: (await dynamodb.send(new ListTablesCommand({}))).TableNames,
      functions: (await lambda.send(new ListFunctionsCommand({}))).Functions?.map((f) => f.FunctionName),
      queues: (await sqs.send(new ListQueuesCommand({}))).QueueUrls ?? [],
      logGroups: (await logs.send(new DescribeLogGroupsCommand({}))).logGroups?.map((g) => g.logGroupName),
      buckets: Buckets.map(({ Name }) => Name),
      objects,
    };
  }

  const SAM_STACK = 'aws-sam-cli-managed-default';

  test.each([
    ['no', 'no\n'],
    ['something like yes', 'yes please\n'],
    ['the end of the input', ''],
  ])('teardown.sh shows what it would destroy, and %s cancels', async (_answer, input) => {
    const before = await inventory();

    const { code, stdout } = await run(script('teardown.sh'), input);

    expect(code).toBe(1);
    expect(stdout).toMatch(/^Account {2}\d{12}\nRegion {3}us-east-1\nStack {4}operations \(CREATE_COMPLETE\)\n/);
    expect(stdout).toMatch(/AWS::DynamoDB::Table {2}operations-JobsTable-/);
    expect(stdout).toMatch(/\d+ versions of build artifacts in s3:\/\/\S+\/operations\/\n/);
    expect(stdout).toMatch(/\nCancelled: nothing was deleted\.\n$/);
    expect(await inventory()).toEqual(before);
    expect(before.objects.length).toBeGreaterThan(0);
  });

  test('teardown.sh leaves nothing of the stack, and keeps the bucket where something of others is in it', async () => {
    const Bucket = (await inventory()).buckets[0];
    for (let version = 0; version < 3; version += 1) {
      await clients.s3.send(new PutObjectCommand({ Bucket, Key: 'operations/old', Body: String(version) }));
    }
    await clients.s3.send(new DeleteObjectCommand({ Bucket, Key: 'operations/old' }));
    await clients.s3.send(new PutObjectCommand({ Bucket, Key: 'operations-2/artifact', Body: 'of another' }));

    const { code, stdout } = await run(script('teardown.sh'), 'yes\n');

    expect(code).toBe(0);
    expect(stdout).toContain('The stack operations is gone. What remains:\n');
    expect(stdout).toContain('kept because other applications have artifacts there: operations-2/\n');
    expect(await inventory()).toEqual({
      stacks: [SAM_STACK],
      tables: [],
      functions: [],
      queues: [],
      logGroups: [],
      buckets: [Bucket],
      objects: ['operations-2/artifact'],
    });
  });

  test('teardown.sh goes on where an interrupted one left artifacts, and takes an empty bucket away', async () => {
    const Bucket = (await inventory()).buckets[0];
    const { Versions = [] } = await clients.s3.send(new ListObjectVersionsCommand({ Bucket, Prefix: 'operations-2/' }));
    for (const { Key, VersionId } of Versions) {
      await clients.s3.send(new DeleteObjectCommand({ Bucket, Key, VersionId }));
    }
    await clients.s3.send(new PutObjectCommand({ Bucket, Key: 'operations/left', Body: 'ours' }));

    const { code, stdout } = await run(script('teardown.sh', '--yes'));

    expect(code).toBe(0);
    expect(stdout).toContain('Stack    operations (gone already)\n');
    expect(stdout).toContain(`was empty, and is gone with its stack ${SAM_STACK}\n`);
    expect(await inventory()).toMatchObject({ stacks: [], buckets: [], objects: [] });
  });
});
