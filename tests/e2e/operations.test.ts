/** Runs the operator's scripts on the AWS emulator as an operator does, in a checkout whose path contains a space. */
import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs';
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
import { afterAll, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { copyProject } from '../../scripts/local/copyProject.ts';
import { clientOptions, type Emulator, startEmulator } from '../../scripts/local/emulator.ts';
import { newJob, unixSeconds } from '../../src/job.ts';
import { listen } from '../support/listen.ts';

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

function writeEnv(lines: readonly string[], end = '\n'): void {
  writeFileSync(join(checkout, '.env'), lines.map((line) => line + end).join(''));
}

const JSON_TYPE = { 'Content-Type': 'application/json' };
const REFUSALS = {
  429: '{"error":"Too many requests; please try again"}',
  500: '{"error":"Internal server error"}',
};

const KEYS = ['AWS_ACCESS_KEY_ID=test', 'AWS_SECRET_ACCESS_KEY=test'];
const PLACE = ['AWS_DEFAULT_REGION=us-east-1', `STACK_NAME=${STACK_NAME}`];

describe('before anything is deployed', () => {
  const node = join(root, 'node_modules', '.bin', 'node');
  const SAM = 'SAM CLI, version 1.154.0';

  /** A PATH with these tools and those that bash scripts need, and no others. Each prints a line, except node. */
  function pathWith(tools: Readonly<Record<string, string>>): string {
    const bin = mkdtempSync(join(folder, 'bin-'));
    for (const [tool, line] of Object.entries(tools)) {
      if (tool === 'node') symlinkSync(node, join(bin, tool));
      else writeFileSync(join(bin, tool), `#!/bin/sh\necho '${line}'\n`, { mode: 0o755 });
    }
    for (const tool of ['bash', 'dirname']) symlinkSync(join('/bin', tool), join(bin, tool));
    return bin;
  }

  const withTools = { env: shellEnv(pathWith({ sam: SAM, node: '', npm: '' })) };

  const NO_NODE = 'Error: Node.js 20 or newer with npm is needed: https://nodejs.org\n';
  const NO_SAM =
    "Error: SAM CLI 1.154 or newer is needed as 'sam' on PATH (bash scripts/local.sh installs one into .tools)\n";

  test.each<[string, Record<string, string>, string]>([
    ['no SAM CLI', { node: '', npm: '' }, NO_SAM],
    ['a SAM CLI that is too old', { sam: 'SAM CLI, version 1.153.1', node: '', npm: '' }, NO_SAM],
    ['no Node.js', { sam: SAM, npm: '' }, NO_NODE],
    ['no npm', { sam: SAM, node: '' }, NO_NODE],
  ])('deploy.sh deploys nothing with %s', async (_what, tools, message) => {
    writeEnv([...KEYS, ...PLACE]);

    const outcome = await bash(script('deploy.sh'), { env: shellEnv(pathWith(tools)) });

    expect(outcome).toEqual({ code: 1, stdout: '', stderr: message });
  });

  test.each(['deploy.sh', 'teardown.sh', 'redrive.sh', 'logs.sh'])('%s names the missing .env', async (name) => {
    rmSync(join(checkout, '.env'), { force: true });

    const { code, stderr } = await bash(script(name), withTools);

    expect(code).toBe(1);
    expect(stderr).toMatch(
      /^Error: there is no '\.env' in .*check out: copy example\.env to \.env and fill it in, or set AWS_ENDPOINT_URL for the AWS emulator\n$/,
    );
  });

  test.each(['deploy.sh', 'teardown.sh', 'redrive.sh', 'logs.sh'])(
    '%s prints its help, without .env and npm packages',
    async (name) => {
      rmSync(join(checkout, '.env'), { force: true });

      const outcomes = [];
      for (const flag of ['-h', '--help']) {
        outcomes.push(await bash(script(name, flag), { env: shellEnv(pathWith({})) }));
      }

      for (const { code, stdout, stderr } of outcomes) {
        expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
        expect(stdout).toContain(`Usage: bash scripts/${name}`);
        expect(stdout.trimEnd().split('\n').length).toBeLessThanOrEqual(6);
      }
    },
  );

  test('deploy.sh deploys nothing with an unchanged example.env, and says which line to change', async () => {
    const example = readFileSync(join(checkout, 'example.env'), 'utf8');
    writeFileSync(join(checkout, '.env'), `PATH=/nowhere\n${example}`);

    const { code, stderr } = await bash(script('deploy.sh'), withTools);

    expect({ code, stderr }).toEqual({
      code: 1,
      stderr:
        'Note: PATH in line 1 of .env is not used\n' +
        'Error: line 9 of .env: AWS_PROFILE still has the placeholder of example.env\n',
    });
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
  let stubUrl: string;
  let actions: string[];
  let respond: (parameters: URLSearchParams) => readonly [status: number, xml: string];

  beforeAll(async () => {
    server = createServer(async (request, response) => {
      const parameters = new URLSearchParams(await text(request));
      actions.push(parameters.get('Action') ?? '');
      const [status, xml] = respond(parameters);
      response.writeHead(status, { 'Content-Type': 'text/xml' }).end(xml);
    });
    stubUrl = `http://127.0.0.1:${await listen(server)}`;
  });

  beforeEach(() => {
    actions = [];
    writeEnv([...KEYS, ...PLACE, `AWS_ENDPOINT_URL=${stubUrl}`]);
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

  /** What CloudFormation and STS return, if this stack is in this status and all others are complete. */
  function resultOf(parameters: URLSearchParams, stackName: string, status: string): readonly [number, string] {
    const action = parameters.get('Action') ?? '';
    const name = parameters.get('StackName') ?? '';
    const result = {
      GetCallerIdentity: '<Account>123456789012</Account>',
      DescribeStacks: `<Stacks><member><StackName>${name}</StackName><StackId>${name}</StackId>
        <StackStatus>${name === stackName ? status : 'CREATE_COMPLETE'}</StackStatus>
        <Outputs><member><OutputKey>SourceBucket</OutputKey><OutputValue>bucket</OutputValue></member></Outputs>
        </member></Stacks>`,
      ListStackResources: `<StackResourceSummaries><member><LogicalResourceId>JobsTable</LogicalResourceId>
        <PhysicalResourceId>table</PhysicalResourceId></member></StackResourceSummaries>`,
      DeleteStack: '',
      DescribeStackEvents: '',
    }[action];
    return [200, `<${action}Response><${action}Result>${result}</${action}Result></${action}Response>`];
  }

  const NO_TABLE = '{"__type":"com.amazonaws.dynamodb.v20120810#ResourceNotFoundException","message":"no table"}';
  const NO_STACK = `<ErrorResponse><Error><Type>Sender</Type><Code>ValidationError</Code>
    <Message>Stack with id aws-sam-cli-managed-default does not exist</Message></Error></ErrorResponse>`;

  test.each([
    ['operations', 'UPDATE_IN_PROGRESS'],
    ['operations', 'UPDATE_COMPLETE_CLEANUP_IN_PROGRESS'],
    ['aws-sam-cli-managed-default', 'CREATE_IN_PROGRESS'],
  ])('teardown.sh deletes nothing while the stack %s is in %s', async (stackName, status) => {
    respond = (parameters) =>
      parameters.has('Action') ? resultOf(parameters, stackName, status) : [200, '{"Table":{}}'];

    const { code, stderr } = await bash(script('teardown.sh', '--yes'));

    expect({ code, stderr }).toEqual({
      code: 1,
      stderr: `Error: The stack ${stackName} is in ${status}: try again when this has finished; nothing was deleted\n`,
    });
    expect(actions).not.toContain('DeleteStack');
  });

  test('teardown.sh deletes a stack whose table is already gone', async () => {
    respond = (parameters) => {
      if (!parameters.has('Action')) return [400, NO_TABLE];
      if (parameters.get('StackName') === 'aws-sam-cli-managed-default') return [400, NO_STACK];
      return resultOf(parameters, STACK_NAME, actions.includes('DeleteStack') ? 'DELETE_COMPLETE' : 'DELETE_FAILED');
    };

    const { code, stdout, stderr } = await bash(script('teardown.sh', '--yes'));

    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    expect(stdout).toContain('\nThe stack operations is deleted. What remains:\n');
    expect(actions).toContain('DeleteStack');
  });
});

describe('on the AWS emulator', () => {
  let aws: Emulator;
  let clients: ReturnType<typeof clientsOf>;
  let baseUrl: string;
  let jobId: string;
  /** A job whose first stage failed. */
  let failedId: string;

  function clientsOf(local: Emulator) {
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
    aws = await startEmulator({ env: { LAMBDA_ASYNC_RETRY_BASE_SECONDS: '1' } });
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
    expect(QueueUrls.join()).toContain('foreign');
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

  /** Sets the parameters of the next deployment in samconfig.toml. */
  function setParameters(overrides: string): void {
    const original = readFileSync(join(root, 'samconfig.toml'), 'utf8');
    const header = '[default.deploy.parameters]\n';
    writeFileSync(
      join(checkout, 'samconfig.toml'),
      original.replace(header, `${header}parameter_overrides = "${overrides}"\n`),
    );
  }

  const OWN_PARAMETER =
    /^Parameters that differ from their defaults, .*:\n {2}LogRetentionDays is 7 \(default: 14\)\n\n/m;

  test('deploy.sh deploys, and prints the outputs and a curl command that submits a job', async () => {
    setParameters('LogRetentionDays=7');

    const deployed = await run(script('deploy.sh'));

    expect(deployed).toMatchObject({ code: 0, stdout: expect.stringMatching(OWN_PARAMETER) });
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
    const refused = new Set<number>();
    const proxy = createServer((incoming, outgoing) => {
      count += 1;
      outgoing.on('error', () => undefined);
      const status = count % 3 === 0 ? 500 : count % 5 === 0 ? 429 : undefined;
      if (status !== undefined) {
        refused.add(status);
        return outgoing.writeHead(status, { ...JSON_TYPE, 'Retry-After': '1' }).end(REFUSALS[status]);
      }
      const { method, url: path, headers } = incoming;
      return incoming.pipe(
        httpRequest({ host: '127.0.0.1', port: aws.port, method, path, headers }, (response) => {
          outgoing.writeHead(response.statusCode ?? 0, response.headers);
          response.pipe(outgoing);
        }),
      );
    });
    const port = await listen(proxy);

    const { code, stdout, stderr } = await apiTests(baseUrl.replace(/:\d+/, `:${port}`), 'five simultaneous POSTs');

    proxy.close();
    expect({ code, stderr }).toMatchObject({ code: 0, stderr: expect.stringMatching(/ 1 passed, /) });
    expect(stdout).toMatch(/^End-to-end tests of http:\/\/\w+\.execute-api\.localhost:\d+\/Prod\n/);
    expect([...refused].sort()).toEqual([429, 500]);
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

    // Other tests' jobs may have events too: on a slow machine, an attempt can time out.
    expect([listed.code, sent.code, after.code]).toEqual([0, 0, 0]);
    expect(outcomesOf(listed)).toMatchObject({
      [jobId]: 'job already ended (DONE)',
      [pending]: 'job can still run (PENDING): start it with --send',
      [held]: 'an attempt may still be running: try again in 3 minutes',
      [lapsed]: 'job already ended (ERROR)',
      [expired]: 'job not found',
      [spoiled]: 'Job record has no valid status',
      [unknown]: 'job not found',
      message: 'no job ID; delete this message manually',
    });
    expect(outcomesOf(sent)).toMatchObject({
      [jobId]: 'job already ended (DONE), deleted',
      [pending]: 'sent',
      [held]: 'an attempt may still be running: try again in 3 minutes',
      [lapsed]: 'job already ended (ERROR), deleted',
      [expired]: 'job not found, deleted',
      [spoiled]: 'Job record has no valid status',
      [unknown]: 'job not found, deleted',
      message: 'no job ID; delete this message manually',
    });
    for (const outcome of [listed, sent, after]) expect(outcome.stdout).toMatch(countsOf(outcome));
    const left = Object.keys(outcomesOf(after));
    expect(left).toEqual(expect.arrayContaining([held, spoiled, 'message']));
    for (const id of [jobId, pending, lapsed, expired, unknown]) expect(left).not.toContain(id);
    expect(await run(script('poll.sh', baseUrl, pending))).toMatchObject({ code: 0 });
  });

  /** The lines of redrive.sh about an event. */
  const eventLines = ({ stdout }: Outcome) => stdout.split('\n').filter((line) => / {2}invoked /.test(line));

  /** The last column of each line of redrive.sh, by job id, or by `message` if there is none. */
  function outcomesOf(outcome: Outcome): Record<string, string> {
    return Object.fromEntries(
      eventLines(outcome).map((line) => [line.split(/ {2}|(?<=^message) /)[0] ?? '', line.split('  ').at(-1) ?? '']),
    );
  }

  /** The line of redrive.sh that counts the events, and those of them that were not sent or deleted. */
  function countsOf(outcome: Outcome): RegExp {
    const lines = eventLines(outcome);
    const left = lines.filter((line) => !/ {2}sent$|, deleted$/.test(line));
    return new RegExp(`^Failed events: ${lines.length}, left in the queue: ${left.length}$`, 'm');
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
    const closed = createServer();
    const port = await listen(closed);
    closed.close();
    failedId = await submit(`http://127.0.0.1:${port}/`);
    expect(await run(script('poll.sh', baseUrl, failedId))).toMatchObject({ code: 1 });

    const { stdout } = await run(script('logs.sh', failedId));

    const [, ...error] = stdout
      .slice(stdout.search(/^.* ERROR {3}Stage failed .* stage=connect outcome=failed /m))
      .split('\n');
    const end = error.findIndex((line) => !line.startsWith('    '));
    expect(error.slice(0, end).filter((line) => !/^ {8}at /.test(line))).toEqual([
      '    Error: The model cannot be reached',
      '    caused by: TypeError: fetch failed',
      `    caused by: Error: connect ECONNREFUSED 127.0.0.1:${port}  code=ECONNREFUSED`,
    ]);
    // The bundle is built again from the same sources, and its source map has the line of the stage's `throw`.
    const file = readFileSync(join(checkout, 'src', 'stages', 'index.ts'), 'utf8').split('\n');
    const line = 1 + file.findIndex((text) => text.includes("throw new Error('The model cannot be reached'"));
    expect(error[1]).toMatch(new RegExp(`^ {8}at .*run \\(src/stages/index\\.ts:${line}:\\d+\\)$`));
    expect(error[end - 1]).toMatch(/^ {8}at .*node:net/);
  });

  test('logs.sh leaves the frames of a stack as they are if the sources have changed since the deployment', async () => {
    const file = join(checkout, 'src', 'stages', 'index.ts');
    const deployed = readFileSync(file, 'utf8');
    writeFileSync(file, deployed.replace('The model cannot', 'The service cannot'));

    const { code, stdout, stderr } = await run(script('logs.sh', failedId));

    writeFileSync(file, deployed);
    expect(code).toBe(0);
    expect(stdout).toMatch(/^ {8}at .*run \(.*worker\.js:\d+:\d+\)$/m);
    expect(stderr).toBe(
      'Note: the stacks of WorkerFunction have lines of its bundle: it was built from other sources or packages than those here\n',
    );
  });

  test('logs.sh finds only lines since the time that is given', async () => {
    const { code, stderr } = await run(script('logs.sh', '--since', 'yesterday', jobId));

    expect({ code, stderr }).toEqual({
      code: 1,
      stderr: 'Error: usage: bash scripts/logs.sh JOB_ID [--since 90m|6h|14d]\n',
    });
    expect(await run(script('logs.sh', jobId, '--since', '30d'))).toMatchObject({ code: 0 });
  });

  test('logs.sh fails if nothing was logged about a job', async () => {
    const { code, stderr } = await run(script('logs.sh', '00000000-0000-4000-8000-000000000000'));

    expect(code).toBe(1);
    expect(stderr).toContain(
      'Error: /operations/functions has no line about the job 00000000-0000-4000-8000-000000000000 in the last 1d; see --since',
    );
  });

  test('deploy.sh prints the outputs again if nothing has changed, and a parameter that has kept its value', async () => {
    writeFileSync(join(checkout, 'samconfig.toml'), readFileSync(join(root, 'samconfig.toml')));

    const { code, stdout } = await run(script('deploy.sh'));

    expect(code).toBe(0);
    expect(stdout).toMatch(OWN_PARAMETER);
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

  test("teardown.sh refuses a prefix of the stack's name, even if there are artifacts under it", async () => {
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

  test('teardown.sh deletes the stack and its artifacts, and keeps those of other applications', async () => {
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
