/** Runs the operator's scripts on the local AWS as an operator does, in a checkout whose path contains a space. */
import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs';
import { createServer, request as httpRequest, type Server } from 'node:http';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { text } from 'node:stream/consumers';
import {
  CloudFormationClient,
  CreateStackCommand,
  DeleteStackCommand,
  ListStacksCommand,
  UpdateTerminationProtectionCommand,
} from '@aws-sdk/client-cloudformation';
import { CloudWatchLogsClient, DescribeLogGroupsCommand } from '@aws-sdk/client-cloudwatch-logs';
import { DynamoDBClient, ListTablesCommand, UpdateTableCommand } from '@aws-sdk/client-dynamodb';
import { LambdaClient, ListFunctionsCommand } from '@aws-sdk/client-lambda';
import {
  DeleteBucketCommand,
  DeleteObjectCommand,
  ListBucketsCommand,
  ListObjectVersionsCommand,
  PutObjectCommand,
  S3Client,
} from '@aws-sdk/client-s3';
import { GetQueueUrlCommand, ListQueuesCommand, SendMessageCommand, SQSClient } from '@aws-sdk/client-sqs';
import { DynamoDBDocumentClient, PutCommand } from '@aws-sdk/lib-dynamodb';
import { afterAll, beforeAll, beforeEach, describe, expect, jest, test } from '@jest/globals';
import { copyProject } from '../../scripts/local/copyProject.ts';
import { clientOptions, type LocalAws, startLocalAws } from '../../scripts/local/localAws.ts';
import { newJob, unixSeconds } from '../../src/job.ts';

jest.setTimeout(120_000);

const STACK_NAME = 'operations';
const root = resolve(import.meta.dirname, '..', '..');
const folder = mkdtempSync(join(tmpdir(), 'operations '));
const checkout = join(folder, 'check out');

beforeAll(() => {
  copyProject(checkout);
  // The packages are already installed.
  utimesSync(join(checkout, 'package-lock.json'), 0, 0);
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

interface Outcome {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a command line in bash, in a folder other than the checkout. */
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

/** An environment without AWS settings: they come from .env. */
function shellEnv(path = process.env['PATH'] ?? ''): Record<string, string> {
  const kept = Object.entries(process.env).flatMap(([name, value]): [string, string][] =>
    value === undefined || name.startsWith('AWS_') ? [] : [[name, value]],
  );
  return { ...Object.fromEntries(kept), PATH: path };
}

const words = (line: string): [string, ...string[]] => {
  const [name = '', ...args] = line.split(' ');
  return [name, ...args];
};

function portOf(server: Server): number {
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('The server has no port');
  return address.port;
}

function writeEnv(lines: readonly string[], end = '\n'): void {
  writeFileSync(join(checkout, '.env'), lines.map((line) => line + end).join(''));
}

const JSON_TYPE = { 'Content-Type': 'application/json' };
const TOO_MANY = '{"error":"Too many requests; please try again"}';

const KEYS = ['AWS_ACCESS_KEY_ID=test', 'AWS_SECRET_ACCESS_KEY=test'];
const PLACE = ['AWS_DEFAULT_REGION=us-east-1', `STACK_NAME=${STACK_NAME}`];

describe('before anything is deployed', () => {
  /** A PATH with these tools and those that bash scripts need, and no others. */
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
    expect(stderr).toMatch(
      /^Error: there is no '\.env' in .*check out: copy example\.env to \.env and fill it in, or set AWS_ENDPOINT_URL for the local AWS\n$/,
    );
  });

  test.each(['deploy.sh', 'teardown.sh', 'redrive.sh', 'logs.sh'])(
    '%s prints its help, without .env and npm packages',
    async (name) => {
      rmSync(join(checkout, '.env'), { force: true });

      const outcomes = [];
      for (const flag of ['-h', '--help']) {
        outcomes.push(await bash(script(name, flag), { env: shellEnv(pathWith()) }));
      }

      for (const { code, stdout, stderr } of outcomes) {
        expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
        expect(stdout).toContain(`Usage: bash scripts/${name}`);
        expect(stdout.trimEnd().split('\n').length).toBeLessThanOrEqual(6);
      }
    },
  );

  test('deploy.sh refuses an unchanged example.env', async () => {
    cpSync(join(checkout, 'example.env'), join(checkout, '.env'));

    const { code, stderr } = await bash(script('deploy.sh'), withStubs());

    expect(code).toBe(1);
    expect(stderr).toBe('Error: AWS_PROFILE in .env still has the placeholder of example.env\n');
  });

  test.each([
    ['no secret', ['AWS_ACCESS_KEY_ID=x', ...PLACE], 'AWS_SECRET_ACCESS_KEY is not set in .env (nor is AWS_PROFILE)'],
    ['no credentials', PLACE, 'AWS_ACCESS_KEY_ID is not set in .env (nor is AWS_PROFILE)'],
    ['no region', [...KEYS, 'STACK_NAME=x'], 'AWS_DEFAULT_REGION is not set in .env'],
    ['an empty stack name', [...KEYS, 'AWS_DEFAULT_REGION=us-east-1', 'STACK_NAME='], 'STACK_NAME is not set in .env'],
    [
      'keys and a profile',
      [...KEYS, 'AWS_PROFILE=mine', ...PLACE],
      'AWS_PROFILE and access keys are both set, in .env or in the shell: remove one of them',
    ],
    ['a line that is not KEY=value', [...KEYS, 'touch pwned', ...PLACE], 'line 3 of .env is not KEY=value'],
    ['a name twice', [...KEYS, ...PLACE, 'STACK_NAME=other'], 'STACK_NAME is set twice in .env'],
    [
      'a stack name with a space',
      [...KEYS, 'AWS_DEFAULT_REGION=us-east-1', 'STACK_NAME="a b"'],
      'STACK_NAME in .env must consist of letters, digits and hyphens, and begin with a letter',
    ],
    [
      'a stack name that is too long',
      [...KEYS, 'AWS_DEFAULT_REGION=us-east-1', `STACK_NAME=${'x'.repeat(37)}`],
      'STACK_NAME in .env must have at most 36 characters, but has 37',
    ],
    ['an open quote', ['AWS_ACCESS_KEY_ID="x'], 'line 1 of .env: the value of AWS_ACCESS_KEY_ID has no closing quote'],
  ])('deploy.sh refuses a .env with %s', async (_what, lines, message) => {
    writeEnv(lines);

    const { code, stderr } = await bash(script('deploy.sh'), withStubs());

    expect({ code, stderr }).toEqual({ code: 1, stderr: `Error: ${message}\n` });
  });

  test('the names of all roles begin with the longest stack name', () => {
    const template = readFileSync(join(root, 'template.yaml'), 'utf8');
    const roles = [...template.matchAll(/^ {2}(\w+):\n {4}Type: AWS::IAM::Role$/gm)].map(([, name = '']) => name);

    // CloudFormation adds the logical name and 12 or 13 characters, and cuts the stack name if there is no room.
    const room = roles.map((name) => 64 - `-${name}-`.length - 13);

    expect(roles.length).toBeGreaterThan(0);
    expect(Math.min(...room)).toBeGreaterThanOrEqual(36);
  });

  test('quotes, comments and CRLF in .env are understood, and nothing in it is executed', async () => {
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

describe('credentials of the shell', () => {
  /** Prints what `require_variables` makes of .env and of the shell's variables. */
  const credentials = (env: Record<string, string>) =>
    bash(
      `cd '${checkout}' && . scripts/aws/env.sh && load_env .env && require_variables .env && env | grep -E '^AWS_(ACCESS|DEFAULT_P|PROFILE)' | sort`,
      { env: { ...shellEnv(), ...env } },
    );

  test('are not mixed with those of .env', async () => {
    writeEnv(['AWS_SESSION_TOKEN=x', ...PLACE]);

    const { stderr } = await credentials({ AWS_ACCESS_KEY_ID: 'shell', AWS_SECRET_ACCESS_KEY: 'shell' });

    expect(stderr).toBe('Error: AWS_ACCESS_KEY_ID is not set in .env (nor is AWS_PROFILE)\n');
  });

  // sam prefers AWS_DEFAULT_PROFILE to AWS_PROFILE. The SDK for JavaScript does not read it.
  test.each([
    ['the profile of .env', ['AWS_PROFILE=mine', ...PLACE], {}, 'AWS_PROFILE=mine\n'],
    ['its own keys', PLACE, { AWS_ACCESS_KEY_ID: 'k', AWS_SECRET_ACCESS_KEY: 's' }, 'AWS_ACCESS_KEY_ID=k\n'],
  ])('do not replace %s by AWS_DEFAULT_PROFILE', async (_what, lines, env, expected) => {
    writeEnv(lines);

    expect((await credentials({ ...env, AWS_DEFAULT_PROFILE: 'other' })).stdout).toBe(expected);
  });
});

/** Runs the end-to-end tests of the API at this URL; all, or those whose names match. */
const apiTests = (url: string, names = '') =>
  bash(`cd '${root}' && npm run -s test:e2e -- -t '${names}'`, { env: { ...shellEnv(), API_BASE_URL: url } });

test.each([
  ['is empty', '', /^Error: API_BASE_URL must be the base URL of the API, or not be set, but is ''\n$/],
  [
    'is unreachable',
    'http://127.0.0.1:1',
    /^Error: API_BASE_URL cannot be tested: GET \S+ failed: connect ECONNREFUSED /,
  ],
])('the end-to-end tests fail immediately if API_BASE_URL %s', async (_what, url, message) => {
  const { code, stdout, stderr } = await apiTests(url);

  expect({ code, stdout }).toEqual({ code: 1, stdout: `End-to-end tests of ${url}\n` });
  expect(stderr).toMatch(message);
});

describe('with a stub of AWS', () => {
  let server: Server;
  let actions: string[];
  let respond: (parameters: URLSearchParams) => readonly [status: number, xml: string];

  beforeAll(async () => {
    server = createServer(async (request, response) => {
      const parameters = new URLSearchParams(await text(request));
      actions.push(parameters.get('Action') ?? '');
      const [status, xml] = respond(parameters);
      response.writeHead(status, { 'Content-Type': 'text/xml' }).end(xml);
    }).listen(0, '127.0.0.1');
    await once(server, 'listening');
  });

  beforeEach(() => {
    actions = [];
    writeEnv([...KEYS, ...PLACE, `AWS_ENDPOINT_URL=http://127.0.0.1:${portOf(server)}`]);
  });

  afterAll(() => {
    server.close();
  });

  const scripts = ['logs.sh 1', 'redrive.sh', 'teardown.sh --yes'];

  test.each(
    scripts.flatMap((line) => [
      [line, 'InvalidClientTokenId', 'AWS refused the access key: check AWS_ACCESS_KEY_ID in .env or in the shell'],
      [
        line,
        'ExpiredToken',
        'The session has expired: replace both keys and AWS_SESSION_TOKEN in .env or in the shell',
      ],
    ]),
  )('%s says which setting to change on %s', async (line, name, advice) => {
    respond = () => [403, `<ErrorResponse><Error><Code>${name}</Code><Message>no</Message></Error></ErrorResponse>`];

    const { code, stderr } = await bash(script(...words(line)));

    expect({ code, stderr }).toEqual({ code: 1, stderr: `Error: ${advice} (${name}: no)\n` });
  });

  test.each(scripts)('%s names a profile without credentials', async (line) => {
    writeEnv(['AWS_PROFILE=mine', 'AWS_CONFIG_FILE=/nowhere', 'AWS_SHARED_CREDENTIALS_FILE=/nowhere', ...PLACE]);

    const { code, stderr } = await bash(script(...words(line)));

    expect(code).toBe(1);
    expect(stderr).toContain(
      'Error: The profile mine has no valid credentials: sign in again with aws login or aws sso login (CredentialsProviderError: ',
    );
  });

  test.each([
    ['operations', 'UPDATE_IN_PROGRESS'],
    ['operations', 'UPDATE_COMPLETE_CLEANUP_IN_PROGRESS'],
    ['aws-sam-cli-managed-default', 'CREATE_IN_PROGRESS'],
  ])('teardown.sh deletes nothing while the stack %s is in %s', async (stackName, status) => {
    respond = (parameters) => {
      const action = parameters.get('Action') ?? '';
      const name = parameters.get('StackName') ?? '';
      const result = {
        GetCallerIdentity: '<Account>123456789012</Account>',
        DescribeStacks: `<Stacks><member><StackName>${name}</StackName><StackId>${name}</StackId>
          <StackStatus>${name === stackName ? status : 'CREATE_COMPLETE'}</StackStatus>
          <Outputs><member><OutputKey>SourceBucket</OutputKey><OutputValue>bucket</OutputValue></member></Outputs>
          </member></Stacks>`,
        ListStackResources:
          '<StackResourceSummaries><member><LogicalResourceId>JobsTable</LogicalResourceId></member></StackResourceSummaries>',
      }[action];
      return [200, `<${action}Response><${action}Result>${result}</${action}Result></${action}Response>`];
    };

    const { code, stderr } = await bash(script('teardown.sh', '--yes'));

    expect({ code, stderr }).toEqual({
      code: 1,
      stderr: `Error: The stack ${stackName} is in ${status}: try again when this has finished; nothing was deleted\n`,
    });
    expect(actions).not.toContain('DeleteStack');
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

  /** Submits a job and returns its id. */
  async function submit(words: string): Promise<string> {
    const { stdout } = await run(`curl -sS '${baseUrl}/jobs' -d '{"text": "${words}"}'`);
    const { jobId: id }: { jobId: string } = JSON.parse(stdout);
    return id;
  }

  beforeAll(async () => {
    // Lambda gives up within seconds, so there will be a failed event.
    aws = await startLocalAws({ env: { LAMBDA_ASYNC_RETRY_BASE_SECONDS: '1' } });
    clients = clientsOf(aws);
    useStack(STACK_NAME);
    addStageThatFetches();
    // Not part of what is deployed.
    writeFileSync(join(checkout, 'tests', 'broken.test.ts'), "const count: number = 'one';\n");
  });

  afterAll(() => aws?.stop());

  function useStack(name: string): void {
    const endpoint = [`AWS_ENDPOINT_URL=${aws.endpoint}`, 'SAM_CLI_TELEMETRY=0'];
    writeEnv([...KEYS, ...endpoint, 'AWS_DEFAULT_REGION=us-east-1', `STACK_NAME=${name}`]);
  }

  /** Adds a first stage to the worker. It fetches the text, if that is a URL. */
  function addStageThatFetches(): void {
    const file = join(checkout, 'src', 'stages', 'index.ts');
    const before = readFileSync(file, 'utf8');
    const stage = `{
      name: 'connect',
      async run(url, { signal }) {
        try {
          if (url.startsWith('http')) await fetch(url, { signal });
        } catch (cause) {
          throw new Error('The model cannot be reached', { cause });
        }
        return {};
      },
    }`;
    const after = before.replace('readonly Stage[] = [', `readonly Stage[] = [${stage}, `);
    if (after === before) throw new Error('src/stages/index.ts has no list of stages');
    writeFileSync(file, after);
  }

  test('teardown.sh fails if the stack does not exist', async () => {
    const { code, stderr } = await run(script('teardown.sh', '--yes'));

    expect(code).toBe(1);
    expect(stderr).toMatch(/^Error: The stack operations does not exist in account \d{12}, region us-east-1\n$/);
  });

  test('teardown.sh refuses a stack of another application', async () => {
    const TemplateBody = JSON.stringify({ Resources: { Queue: { Type: 'AWS::SQS::Queue' } } });
    await clients.cloudFormation.send(new CreateStackCommand({ StackName: 'foreign', TemplateBody }));
    useStack('foreign');

    const { code, stderr } = await run(script('teardown.sh', '--yes'));

    useStack(STACK_NAME);
    expect({ code, stderr }).toEqual({
      code: 1,
      stderr: 'Error: The stack foreign belongs to another application; nothing was deleted\n',
    });
    const { QueueUrls = [] } = await clients.sqs.send(new ListQueuesCommand({}));
    expect(QueueUrls).toHaveLength(1);
    await clients.cloudFormation.send(new DeleteStackCommand({ StackName: 'foreign' }));
  });

  test('deploy.sh deploys nothing if src/ has a type error', async () => {
    const file = join(checkout, 'src', 'broken.ts');
    writeFileSync(file, "export const count: number = 'one';\n");

    const { code, stdout, stderr } = await run(script('deploy.sh'));

    rmSync(file);
    expect({ code, stderr }).toEqual({ code: 1, stderr: 'Error: src/ has type errors: nothing was deployed\n' });
    expect(stdout).toContain("Type 'string' is not assignable to type 'number'");
  });

  const OUTPUTS = [
    ...['ApiBaseUrl', 'CreateJobEndpoint', 'GetJobEndpoint'],
    ...['JobsTableName', 'WorkerFunctionName', 'FailedEventsQueueUrl'],
  ];

  test('deploy.sh deploys, and prints the outputs and a curl command that submits a job', async () => {
    const deployed = await run(script('deploy.sh'));

    expect(deployed).toMatchObject({ code: 0 });
    for (const name of OUTPUTS) expect(deployed.stdout).toMatch(new RegExp(`^  ${name} +\\S+$`, 'm'));
    baseUrl = /^ {2}ApiBaseUrl +(\S+)$/m.exec(deployed.stdout)?.[1] ?? '';
    const curl = /^ {2}(curl .*)$/m.exec(deployed.stdout)?.[1] ?? '';
    const submitted = await run(curl);
    jobId = /"jobId":"([0-9a-f-]{36})","status":"PENDING"/.exec(submitted.stdout)?.[1] ?? '';
    expect(jobId).not.toBe('');
  });

  test('poll.sh shows each status once, and the job when it is done', async () => {
    const { code, stdout } = await run(script('poll.sh', baseUrl, jobId));

    expect(code).toBe(0);
    expect(stdout).toMatch(/^(?: *\d+ s {2}PENDING\n)?(?: *\d+ s {2}IN_PROGRESS\n)? *\d+ s {2}DONE\n\{\n/);
    expect(JSON.parse(stdout.slice(stdout.indexOf('{')))).toMatchObject({ jobId, status: 'DONE' });
  });

  test('the end-to-end tests pass although the API refuses some requests, as with little concurrency', async () => {
    let count = 0;
    const proxy = createServer((incoming, outgoing) => {
      count += 1;
      outgoing.on('error', () => undefined);
      if (count % 3 === 0) return outgoing.writeHead(500, JSON_TYPE).end('{"error":"Internal server error"}');
      if (count % 5 === 0) return outgoing.writeHead(429, { ...JSON_TYPE, 'Retry-After': '1' }).end(TOO_MANY);
      const { method, url: path, headers } = incoming;
      return incoming.pipe(
        httpRequest({ host: '127.0.0.1', port: aws.port, method, path, headers }, (response) => {
          outgoing.writeHead(response.statusCode ?? 0, response.headers);
          response.pipe(outgoing);
        }),
      );
    }).listen(0, '127.0.0.1');
    await once(proxy, 'listening');

    const { code, stdout, stderr } = await apiTests(baseUrl.replace(/:\d+/, `:${portOf(proxy)}`), '20 are submitted');

    proxy.close();
    expect({ code, stderr }).toMatchObject({ code: 0, stderr: expect.stringMatching(/ 1 passed, /) });
    expect(stdout).toMatch(/^End-to-end tests of http:\/\/\w+\.execute-api\.localhost:\d+\/Prod\n/);
    expect(count).toBeGreaterThan(60);
  });

  /** Puts an event into the queue of failed events, as Lambda does. */
  async function fail(requestPayload: object): Promise<void> {
    const QueueName = (await clients.sqs.send(new ListQueuesCommand({}))).QueueUrls?.[0]?.split('/').at(-1);
    const { QueueUrl } = await clients.sqs.send(new GetQueueUrlCommand({ QueueName }));
    const record = { requestPayload, responsePayload: { errorMessage: 'no reason \u001b[31m' } };
    await clients.sqs.send(new SendMessageCommand({ QueueUrl, MessageBody: JSON.stringify(record) }));
  }

  /** Stores a job without starting a worker, and returns its id. */
  async function store(changes: object = {}): Promise<string> {
    const [TableName] = (await clients.dynamodb.send(new ListTablesCommand({}))).TableNames ?? [];
    const job = newJob(randomUUID(), 'a good day', unixSeconds(Date.now()), { maxEventAge: 3600, workerTimeout: 30 });
    const Item = { ...job, ...changes };
    await DynamoDBDocumentClient.from(clients.dynamodb).send(new PutCommand({ TableName, Item }));
    return job.jobId;
  }

  test('redrive.sh lists the failed events, and --send starts the jobs that can still run', async () => {
    const [pending, held, lapsed, expired, spoiled, unknown] = [
      await store(),
      await store({ status: 'IN_PROGRESS', attempt: 1, leaseToken: 'x', leaseExpiresAt: 4_000_000_000 }),
      await store({ deadline: 1 }),
      await store({ expiresAt: 1 }),
      await store({ status: 'SPOILED' }),
      randomUUID(),
    ];
    for (const id of [jobId, pending, held, lapsed, expired, spoiled, unknown]) await fail({ jobId: id });
    await fail({});

    const listed = await run(script('redrive.sh'));
    const sent = await run(script('redrive.sh', '--send'));
    const after = await run(script('redrive.sh'));

    expect([listed.code, sent.code, after.code]).toEqual([0, 0, 0]);
    expect(outcomesOf(listed)).toEqual({
      [jobId]: 'job already ended (DONE)',
      [pending]: 'job can still run (PENDING): start it with --send',
      [held]: 'an attempt may still be running: try again in 3 minutes',
      [lapsed]: 'job already ended (ERROR)',
      [expired]: 'job not found',
      [spoiled]: 'Job record has no valid status',
      [unknown]: 'job not found',
      'no job id': 'cannot be sent: delete it by hand',
    });
    expect(listed.stdout).toMatch(/^Failed events: 8, left in the queue: 8$/m);
    expect(outcomesOf(sent)).toEqual({
      [jobId]: 'job already ended (DONE), deleted',
      [pending]: 'sent',
      [held]: 'an attempt may still be running: try again in 3 minutes',
      [lapsed]: 'job already ended (ERROR), deleted',
      [expired]: 'job not found, deleted',
      [spoiled]: 'Job record has no valid status',
      [unknown]: 'job not found, deleted',
      'no job id': 'cannot be sent: delete it by hand',
    });
    expect(sent.stdout).toMatch(/^Failed events: 8, left in the queue: 3$/m);
    expect(Object.keys(outcomesOf(after)).sort()).toEqual([held, spoiled, 'no job id'].sort());
    expect(await run(script('poll.sh', baseUrl, pending))).toMatchObject({ code: 0 });
  });

  /** The last column of each line of redrive.sh, by job id. */
  function outcomesOf({ stdout }: Outcome): Record<string, string> {
    const lines = stdout.split('\n').filter((line) => / {2}invoked /.test(line));
    return Object.fromEntries(
      lines.map((line) => [line.split(/ {2}| \(message/)[0] ?? '', line.split('  ').at(-1) ?? '']),
    );
  }

  test('redrive.sh prints how an event failed, without control characters', async () => {
    await fail({ jobId });

    const { stdout } = await run(script('redrive.sh', '--send'));

    expect(stdout).toMatch(
      new RegExp(`^${jobId}  \\d{4}-\\S+Z  -  invoked \\? times  no reason  \\[31m  job already ended`, 'm'),
    );
  });

  test('logs.sh prints everything that the functions logged about a job, in order', async () => {
    const { code, stdout } = await run(script('logs.sh', jobId));

    const times = stdout
      .trimEnd()
      .split('\n')
      .map((line) => line.slice(0, 24))
      .filter((time) => /^\d/.test(time));
    expect(code).toBe(0);
    expect(times).toEqual([...times].sort());
    expect(stdout).toMatch(/ CreateJobFunction {2}INFO .* outcome=accepted/);
    expect(stdout).toMatch(/ WorkerFunction .* stage=connect outcome=done/);
    expect(stdout).toMatch(/ WorkerFunction .*Job ended .* outcome=DONE/);
    // Lambda's own lines, which do not name the job.
    expect(stdout).toMatch(/ WorkerFunction .*REPORT RequestId/);
  });

  test('logs.sh prints the error of a failed stage, with its stack and its causes', async () => {
    const closed = createServer().listen(0, '127.0.0.1');
    await once(closed, 'listening');
    const port = portOf(closed);
    closed.close();
    const id = await submit(`http://127.0.0.1:${port}/`);
    expect(await run(script('poll.sh', baseUrl, id))).toMatchObject({ code: 1 });

    const { stdout } = await run(script('logs.sh', id));

    const [, ...error] = stdout
      .slice(stdout.search(/^.* ERROR {3}Stage failed .* stage=connect outcome=failed /m))
      .split('\n');
    const end = error.findIndex((line) => !line.startsWith('    '));
    expect(error.slice(0, end).filter((line) => !/^ {8}at /.test(line))).toEqual([
      '    Error: The model cannot be reached',
      '    caused by: TypeError: fetch failed',
      expect.stringMatching(
        `^    caused by: Error: connect ECONNREFUSED 127.0.0.1:${port}  .*code=ECONNREFUSED syscall=connect`,
      ),
    ]);
    expect(error[1]).toMatch(/^ {8}at .*run/);
    expect(error[end - 1]).toMatch(/^ {8}at .*node:net/);
  });

  test('logs.sh fails if nothing was logged about a job', async () => {
    const { code, stderr } = await run(script('logs.sh', '00000000-0000-4000-8000-000000000000'));

    expect(code).toBe(1);
    expect(stderr).toContain('Error: /operations/functions has no line about the job 00000000-');
  });

  test('deploy.sh prints the outputs again if nothing has changed', async () => {
    const { code, stdout } = await run(script('deploy.sh'));

    expect(code).toBe(0);
    expect(stdout).toContain('No changes to deploy');
    for (const name of OUTPUTS) expect(stdout).toMatch(new RegExp(`^  ${name} +\\S+$`, 'm'));
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

  async function protect(StackName: string, EnableTerminationProtection: boolean): Promise<void> {
    await clients.cloudFormation.send(
      new UpdateTerminationProtectionCommand({ StackName, EnableTerminationProtection }),
    );
  }

  async function putArtifact(Key: string): Promise<void> {
    await clients.s3.send(new PutObjectCommand({ Bucket: (await inventory()).buckets[0], Key, Body: Key }));
  }

  test.each([
    ['no', 'no\n'],
    ['something like yes', 'yes please\n'],
    ['the end of the input', ''],
  ])('teardown.sh shows what it would delete, and %s cancels', async (_answer, input) => {
    const before = await inventory();

    const { code, stdout } = await run(script('teardown.sh'), input);

    expect(code).toBe(1);
    expect(stdout).toMatch(/^Stack operations \(CREATE_COMPLETE\) in account \d{12}, region us-east-1\n/);
    expect(stdout).toMatch(/\n {2}AWS::DynamoDB::Table {2}operations-JobsTable-/);
    expect(stdout).toMatch(/\n {2}\d+ versions of build artifacts in s3:\/\/\S+\/operations\/\n/);
    expect(stdout).toMatch(/\n {2}SAM's bucket \S+ and its stack aws-sam-cli-managed-default\n/);
    expect(stdout).toMatch(/\nCancelled: nothing was deleted\.\n$/);
    expect(await inventory()).toEqual(before);
    expect(before.objects.length).toBeGreaterThan(0);
  });

  test('teardown.sh refuses a prefix of our stack name, even if there are artifacts under it', async () => {
    await putArtifact('operat/artifact');
    const before = await inventory();
    useStack('operat');

    const { code, stderr } = await run(script('teardown.sh', '--yes'));

    useStack(STACK_NAME);
    expect(code).toBe(1);
    expect(stderr).toContain('Error: The stack operat does not exist in ');
    expect(await inventory()).toEqual(before);
  });

  test('teardown.sh refuses a stack with termination protection', async () => {
    const before = await inventory();
    await protect(STACK_NAME, true);

    const { code, stderr } = await run(script('teardown.sh', '--yes'));

    await protect(STACK_NAME, false);
    expect(code).toBe(1);
    expect(stderr).toMatch(
      /^Error: The stack operations has termination protection; nothing was deleted\. To turn it off: aws /,
    );
    expect(await inventory()).toEqual(before);
  });

  test('teardown.sh refuses a stack whose table has deletion protection', async () => {
    const before = await inventory();
    const TableName = before.tables?.[0];
    await clients.dynamodb.send(new UpdateTableCommand({ TableName, DeletionProtectionEnabled: true }));

    const { code, stderr } = await run(script('teardown.sh', '--yes'));

    await clients.dynamodb.send(new UpdateTableCommand({ TableName, DeletionProtectionEnabled: false }));
    expect({ code, stderr }).toEqual({
      code: 1,
      stderr: `Error: The table ${TableName} has deletion protection; nothing was deleted. To turn it off: deploy with TableDeletionProtection=false\n`,
    });
    expect(await inventory()).toEqual(before);
  });

  test('teardown.sh deletes the stack and our artifacts, and keeps those of other applications', async () => {
    const Bucket = (await inventory()).buckets[0];
    for (let version = 0; version < 3; version += 1) await putArtifact('operations/old');
    await clients.s3.send(new DeleteObjectCommand({ Bucket, Key: 'operations/old' }));
    await putArtifact('operations-2/artifact');

    const { code, stdout } = await run(script('teardown.sh'), 'yes\n');

    expect(code).toBe(0);
    expect(stdout).toContain('The stack operations is deleted. What remains:\n');
    expect(stdout).toContain(
      `SAM's bucket and its stack ${SAM_STACK}, because other applications have artifacts in the bucket: operat/, operations-2/\n`,
    );
    expect(await inventory()).toEqual({
      stacks: [SAM_STACK],
      tables: [],
      functions: [],
      queues: [],
      logGroups: [],
      buckets: [Bucket],
      objects: ['operat/artifact', 'operations-2/artifact'],
    });
  });

  test('teardown.sh finds nothing to delete the second time', async () => {
    const { code, stdout } = await run(script('teardown.sh'));

    expect(code).toBe(0);
    expect(stdout).toMatch(/^Nothing to delete: the stack operations and its artifacts are gone from account /);
    expect((await inventory()).objects).toHaveLength(2);
  });

  test("teardown.sh keeps SAM's bucket if SAM's stack has termination protection", async () => {
    const { buckets } = await inventory();
    const { Versions = [] } = await clients.s3.send(new ListObjectVersionsCommand({ Bucket: buckets[0] }));
    for (const { Key, VersionId } of Versions) {
      await clients.s3.send(new DeleteObjectCommand({ Bucket: buckets[0], Key, VersionId }));
    }
    await putArtifact('operations/left');
    await protect(SAM_STACK, true);

    const { code, stdout } = await run(script('teardown.sh', '--yes'));

    await protect(SAM_STACK, false);
    expect(code).toBe(0);
    expect(stdout).toContain(`SAM's bucket and its stack ${SAM_STACK}, because the stack has termination protection\n`);
    expect(await inventory()).toMatchObject({ stacks: [SAM_STACK], buckets, objects: [] });
  });

  test('teardown.sh deletes the artifacts that an interrupted run left behind, and the empty bucket', async () => {
    await putArtifact('operations/left');

    const { code, stdout } = await run(script('teardown.sh', '--yes'));

    expect(code).toBe(0);
    expect(stdout).toMatch(/^Stack operations \(DELETE_COMPLETE\) in account /);
    expect(await inventory()).toMatchObject({ stacks: [], buckets: [], objects: [] });
  });

  test("teardown.sh deletes SAM's stack if an interrupted run deleted only its bucket", async () => {
    const TemplateBody = JSON.stringify({
      Resources: { Bucket: { Type: 'AWS::S3::Bucket' } },
      Outputs: { SourceBucket: { Value: { Ref: 'Bucket' } } },
    });
    await clients.cloudFormation.send(new CreateStackCommand({ StackName: SAM_STACK, TemplateBody }));
    await clients.s3.send(new DeleteBucketCommand({ Bucket: (await inventory()).buckets[0] }));

    const { code } = await run(script('teardown.sh', '--yes'));

    expect(code).toBe(0);
    expect((await inventory()).stacks).toEqual([]);
  });
});
