/** Runs the operator's scripts on the AWS emulator as an operator does, in a checkout whose path contains a space. */
import { randomUUID } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingHttpHeaders, type Server } from 'node:http';
import { join, resolve } from 'node:path';
import { text } from 'node:stream/consumers';
import { CloudFormation } from '@aws-sdk/client-cloudformation';
import { CloudWatchLogs } from '@aws-sdk/client-cloudwatch-logs';
import { DynamoDB } from '@aws-sdk/client-dynamodb';
import { S3 } from '@aws-sdk/client-s3';
import { SQS } from '@aws-sdk/client-sqs';
import { DynamoDBDocument } from '@aws-sdk/lib-dynamodb';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { clientOptions, type Emulator, startEmulator } from '../../scripts/local/emulator.ts';
import { newJob, unixSeconds } from '../../src/job.ts';
import { listen } from '../support/listen.ts';
import { checkOut } from './checkout.ts';
import { command, type Outcome } from './command.ts';
import { pollUntilEnded, stringField, submit } from './deployment.ts';

const STACK_NAME = 'operations';
const JOB_LIMIT_MS = 240_000;
const UNKNOWN_ID = '00000000-0000-4000-8000-000000000000';
const root = resolve(import.meta.dirname, '..', '..');
const checkout = checkOut('operations');

afterAll(() => checkout.remove());

/** An environment without AWS settings: they come from .env. */
function shellEnv(path = process.env['PATH']): NodeJS.ProcessEnv {
  const kept = Object.entries(process.env).filter(([name]) => !name.startsWith('AWS_'));
  return { ...Object.fromEntries(kept), PATH: path };
}

function writeEnv(...lines: readonly string[]): void {
  writeFileSync(join(checkout.path, '.env'), lines.map((line) => `${line}\n`).join(''));
}

const KEYS = ['AWS_ACCESS_KEY_ID=test', 'AWS_SECRET_ACCESS_KEY=test'];
const PLACE = ['AWS_DEFAULT_REGION=us-east-1', `STACK_NAME=${STACK_NAME}`];

describe('before anything is deployed', () => {
  const node = join(root, 'node_modules', '.bin', 'node');
  const SAM = 'SAM CLI, version 1.154.0';

  /** A PATH with these tools and those that bash scripts need, and no others. Each prints a line, except node. */
  function pathWith(tools: Readonly<Record<string, string>>): string {
    const bin = mkdtempSync(join(checkout.folder, 'bin-'));
    for (const [tool, line] of Object.entries(tools)) {
      if (tool === 'node') symlinkSync(node, join(bin, tool));
      else writeFileSync(join(bin, tool), `#!/bin/sh\necho '${line}'\n`, { mode: 0o755 });
    }
    for (const tool of ['bash', 'dirname']) symlinkSync(join('/bin', tool), join(bin, tool));
    return bin;
  }

  const runWith = (tools: Readonly<Record<string, string>>, name: string, ...args: string[]) =>
    checkout.script(name, args, { env: shellEnv(pathWith(tools)) });

  const NO_NODE = 'Error: Node.js 20 or newer with npm is needed: https://nodejs.org\n';
  const NO_SAM =
    "Error: SAM CLI 1.154 or newer is needed as 'sam' on PATH (bash scripts/local.sh installs one into .tools)\n";

  test.each<[string, Record<string, string>, string]>([
    ['a SAM CLI that is too old', { sam: 'SAM CLI, version 1.153.1', node: '', npm: '' }, NO_SAM],
    ['no Node.js', { sam: SAM, npm: '' }, NO_NODE],
    ['no npm', { sam: SAM, node: '' }, NO_NODE],
  ])('deploy.sh deploys nothing with %s', async (_what, tools, message) => {
    writeEnv(...KEYS, ...PLACE);

    const outcome = await runWith(tools, 'deploy.sh');

    expect(outcome).toEqual({ code: 1, stdout: '', stderr: message });
  });

  test('deploy.sh names the missing .env', async () => {
    rmSync(join(checkout.path, '.env'), { force: true });

    const { code, stderr } = await runWith({ sam: SAM, node: '', npm: '' }, 'deploy.sh');

    expect(code).toBe(1);
    expect(stderr).toMatch(
      /^Error: there is no '\.env' in .*check out: copy example\.env to \.env and fill it in, or set AWS_ENDPOINT_URL for the AWS emulator\n$/,
    );
  });

  test('deploy.sh deploys nothing with an unchanged example.env, and says which line to change', async () => {
    writeEnv('PATH=/nowhere', readFileSync(join(checkout.path, 'example.env'), 'utf8'));

    const { code, stderr } = await runWith({ sam: SAM, node: '', npm: '' }, 'deploy.sh');

    expect({ code, stderr }).toEqual({
      code: 1,
      stderr:
        'Note: PATH in line 1 of .env is not used\n' +
        'Error: line 9 of .env: AWS_PROFILE still has the placeholder of example.env\n',
    });
  });

  test.each(['deploy.sh', 'local.sh', 'logs.sh', 'poll.sh', 'redrive.sh', 'teardown.sh', 'test.sh'])(
    '%s --help says in a few lines what it does, without .env and without Node.js on PATH',
    async (name) => {
      rmSync(join(checkout.path, '.env'), { force: true });

      const long = await runWith({}, name, '--help');
      const short = await runWith({}, name, '-h');

      expect(long).toMatchObject({ code: 0, stderr: '' });
      expect(long.stdout).toMatch(new RegExp(`^Usage: bash scripts/${name}.*\n(?:.+\n){1,5}$`));
      expect(short).toEqual(long);
    },
  );
});

/** Runs the end-to-end tests of the API at this URL whose names match. */
const apiTests = (url: string, names: string) =>
  command('npm', ['run', '-s', 'test:e2e', '--', '-t', names], {
    cwd: root,
    env: { ...shellEnv(), API_BASE_URL: url },
  });

test.each([
  ['is empty', '', /^Error: API_BASE_URL must be the base URL of the API, or not be set, but is ''\n$/],
  [
    'is unreachable',
    'http://127.0.0.1:2',
    /^Error: API_BASE_URL must be .*: No response from http\S+: connect ECONNREFUSED /,
  ],
])('the end-to-end tests fail immediately if API_BASE_URL %s', async (_what, url, message) => {
  const { code, stdout, stderr } = await apiTests(url, '');

  expect({ code, stdout }).toEqual({ code: 1, stdout: `End-to-end tests of ${url}\n` });
  expect(stderr).toMatch(message);
});

/** Starts a server that responds to requests to AWS like this. The scripts send theirs to it. */
async function startStub(
  respond: (body: string, headers: IncomingHttpHeaders) => Promise<readonly [status: number, body: string]>,
): Promise<Server> {
  const server = createServer(async (request, response) => {
    const [status, body] = await respond(await text(request), request.headers);
    response.writeHead(status).end(body);
  });
  writeEnv(...KEYS, ...PLACE, `AWS_ENDPOINT_URL=http://127.0.0.1:${await listen(server)}`);
  return server;
}

test('logs.sh says which setting to change if AWS refuses the credentials', async () => {
  const refusal = '<ErrorResponse><Error><Code>ExpiredToken</Code><Message>no</Message></Error></ErrorResponse>';
  const stub = await startStub(async () => [403, refusal]);

  const { code, stderr } = await checkout.script('logs.sh', ['1'], { env: shellEnv() });

  stub.close();
  expect({ code, stderr }).toEqual({
    code: 1,
    stderr:
      'Error: The session has expired: replace both keys and AWS_SESSION_TOKEN in .env or in the shell (ExpiredToken: no)\n',
  });
});

test('logs.sh names a profile without credentials', async () => {
  writeEnv('AWS_PROFILE=mine', 'AWS_CONFIG_FILE=/nowhere', 'AWS_SHARED_CREDENTIALS_FILE=/nowhere', ...PLACE);

  const { code, stderr } = await checkout.script('logs.sh', ['1'], { env: shellEnv() });

  expect(code).toBe(1);
  expect(stderr).toContain(
    'Error: The profile mine has no valid credentials: sign in again with aws login or aws sso login (CredentialsProviderError: ',
  );
});

/** A stage that fails if this is the job's text. */
const FAIL = 'fail';
const CONNECT = `{
  name: 'connect',
  async run(text) {
    if (text !== '${FAIL}') return {};
    const reset = Object.assign(new Error('read ECONNRESET'), { code: 'ECONNRESET' });
    throw new Error('The model cannot be reached', { cause: new TypeError('fetch failed', { cause: reset }) });
  },
}`;

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
      cloudFormation: new CloudFormation(options),
      dynamodb: new DynamoDB(options),
      logs: new CloudWatchLogs(options),
      s3: new S3(options),
      sqs: new SQS({ ...options, useQueueUrlAsEndpoint: false }),
    };
  }

  const run = (name: string, args: readonly string[] = [], input = '') =>
    checkout.script(name, args, { input, env: shellEnv(aws.env['PATH']) });

  beforeAll(async () => {
    aws = await startEmulator();
    clients = clientsOf(aws);
    useStack(STACK_NAME);
    checkout.edit('src/stages/index.ts', 'readonly Stage[] = [', `readonly Stage[] = [${CONNECT}, `);
    // Not part of what is deployed.
    writeFileSync(join(checkout.path, 'tests', 'broken.test.ts'), "const count: number = 'one';\n");
  });

  afterAll(() => aws?.stop());

  function useStack(name: string): void {
    const endpoint = `AWS_ENDPOINT_URL=${aws.endpoint}`;
    writeEnv(...KEYS, endpoint, 'SAM_CLI_TELEMETRY=0', 'AWS_DEFAULT_REGION=us-east-1', `STACK_NAME=${name}`);
  }

  test('deploy.sh deploys nothing if src/ has a type error', async () => {
    const file = join(checkout.path, 'src', 'broken.ts');
    writeFileSync(file, "export const count: number = 'one';\n");

    const { code, stdout, stderr } = await run('deploy.sh');

    rmSync(file);
    expect({ code, stderr }).toEqual({ code: 1, stderr: 'Error: src/ has type errors: nothing was deployed\n' });
    expect(stdout).toContain("Type 'string' is not assignable to type 'number'");
  });

  const OUTPUTS = [
    ...['ApiBaseUrl', 'CreateJobEndpoint', 'GetJobEndpoint'],
    ...['JobsTableName', 'WorkerFunctionName', 'FailedEventsQueueUrl'],
  ];

  const OWN_PARAMETER =
    /^Parameters that differ from their defaults, .*:\n {2}LogRetentionDays is 7 \(default: 14\)\n\n/m;

  test('deploy.sh deploys, and prints the outputs and a curl command that submits a job', async () => {
    const header = '[default.deploy.parameters]\n';
    checkout.edit('samconfig.toml', header, `${header}parameter_overrides = "LogRetentionDays=7"\n`);

    const deployed = await run('deploy.sh');

    expect(deployed).toMatchObject({ code: 0, stdout: expect.stringMatching(OWN_PARAMETER) });
    for (const name of OUTPUTS) expect(deployed.stdout).toMatch(new RegExp(`^  ${name} +\\S+$`, 'm'));
    baseUrl = /^ {2}ApiBaseUrl +(\S+)$/m.exec(deployed.stdout)?.[1] ?? '';
    const curl = /^ {2}(curl .*)$/m.exec(deployed.stdout)?.[1] ?? '';
    const submitted = await command('bash', ['-c', curl]);
    jobId = /"jobId":"([0-9a-f-]{36})","status":"PENDING"/.exec(submitted.stdout)?.[1] ?? '';
    expect(jobId).not.toBe('');
  });

  test('poll.sh shows each status once, and the job when it is done', async () => {
    const { code, stdout } = await run('poll.sh', [baseUrl, jobId]);

    expect(code).toBe(0);
    expect(stdout).toMatch(/^(?: *\d+ s {2}PENDING\n)?(?: *\d+ s {2}IN_PROGRESS\n)? *\d+ s {2}DONE\n\{\n/);
    expect(JSON.parse(stdout.slice(stdout.indexOf('{')))).toMatchObject({ jobId, status: 'DONE' });
  });

  test('the end-to-end tests can run on a deployment', async () => {
    const { code, stdout, stderr } = await apiTests(baseUrl, 'five simultaneous POSTs');

    expect({ code, stderr }).toMatchObject({ code: 0, stderr: expect.stringMatching(/ 1 passed, /) });
    expect(stdout).toMatch(/^End-to-end tests of http:\/\/\w+\.execute-api\.localhost:\d+\/Prod\n/);
  });

  /** Puts an event into the queue of failed events, as Lambda does. */
  async function fail(requestPayload: object): Promise<void> {
    const QueueName = (await clients.sqs.listQueues()).QueueUrls?.[0]?.split('/').at(-1);
    const { QueueUrl } = await clients.sqs.getQueueUrl({ QueueName });
    const record = { requestPayload, responsePayload: { errorMessage: 'no reason \u001b[31m' } };
    await clients.sqs.sendMessage({ QueueUrl, MessageBody: JSON.stringify(record) });
  }

  const tableName = async () => (await clients.dynamodb.listTables()).TableNames?.[0];

  /** Stores a job without starting a worker, and returns its id. */
  async function store(changes: object = {}): Promise<string> {
    const job = newJob(randomUUID(), 'a good day', unixSeconds(Date.now()), { maxEventAge: 3600, workerTimeout: 30 });
    const Item = { ...job, ...changes };
    await DynamoDBDocument.from(clients.dynamodb).put({ TableName: await tableName(), Item });
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

    const listed = await run('redrive.sh');
    const sent = await run('redrive.sh', ['--send']);
    const after = await run('redrive.sh');

    // Other tests' jobs may have events too: on a slow machine, an attempt can time out.
    expect([listed.code, sent.code, after.code]).toEqual([0, 0, 0]);
    for (const [id, inList, afterSend] of [
      [jobId, 'job already ended (DONE)', 'job already ended (DONE), deleted'],
      [pending, 'job can still run (PENDING): start it with --send', 'sent'],
      [held, 'an attempt may still be running: try again in 3 minutes'],
      [lapsed, 'job already ended (ERROR)', 'job already ended (ERROR), deleted'],
      [expired, 'job not found', 'job not found, deleted'],
      [unknown, 'job not found', 'job not found, deleted'],
      [spoiled, 'Job record has no valid status'],
      ['message', 'no job ID; delete this message manually'],
    ] as const) {
      expect([outcomesOf(listed)[id], outcomesOf(sent)[id]]).toEqual([inList, afterSend ?? inList]);
    }
    // How the event failed, without control characters.
    expect(listed.stdout).toMatch(
      new RegExp(`^${jobId}  \\d{4}-\\S+Z  -  invoked \\? times  no reason  \\[31m  job already ended`, 'm'),
    );
    for (const outcome of [listed, sent, after]) expect(outcome.stdout).toMatch(countsOf(outcome));
    const left = Object.keys(outcomesOf(after));
    expect(left).toEqual(expect.arrayContaining([held, spoiled, 'message']));
    for (const id of [jobId, lapsed, expired, unknown]) expect(left).not.toContain(id);
    // It has been started: otherwise it would end only at its deadline, in an hour.
    const { end } = await pollUntilEnded(baseUrl, pending, JOB_LIMIT_MS);
    expect(end.status).toBe(200);
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

  test('logs.sh prints everything that the functions logged about a job, in order', async () => {
    const { code, stdout } = await run('logs.sh', [jobId]);

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
    failedId = stringField(await submit(baseUrl, FAIL), 'jobId');
    expect(await run('poll.sh', [baseUrl, failedId])).toMatchObject({ code: 1 });

    const { stdout } = await run('logs.sh', [failedId]);

    const [, ...error] = stdout
      .slice(stdout.search(/^.* ERROR {3}Stage failed .* stage=connect outcome=failed /m))
      .split('\n');
    const end = error.findIndex((line) => !line.startsWith('    '));
    expect(error.slice(0, end).filter((line) => !/^ {8}at /.test(line))).toEqual([
      '    Error: The model cannot be reached',
      '    caused by: TypeError: fetch failed',
      '    caused by: Error: read ECONNRESET  code=ECONNRESET',
    ]);
    // The bundle is built again from the same sources, and its source map has the line of the stage's `throw`.
    const file = readFileSync(join(checkout.path, 'src', 'stages', 'index.ts'), 'utf8').split('\n');
    const line = 1 + file.findIndex((text) => text.includes("throw new Error('The model cannot be reached'"));
    expect(error[1]).toMatch(new RegExp(`^ {8}at .*run \\(src/stages/index\\.ts:${line}:\\d+\\)$`));
  });

  test('logs.sh leaves the frames of a stack as they are if the sources have changed since the deployment', async () => {
    const file = join(checkout.path, 'src', 'stages', 'index.ts');
    const deployed = readFileSync(file, 'utf8');
    writeFileSync(file, deployed.replace('The model cannot', 'The service cannot'));

    const { code, stdout, stderr } = await run('logs.sh', [failedId]);

    writeFileSync(file, deployed);
    expect(code).toBe(0);
    expect(stdout).toMatch(/^ {8}at .*run \(.*worker\.js:\d+:\d+\)$/m);
    expect(stderr).toBe(
      'Note: the stacks of WorkerFunction have lines of its bundle: it was built from other sources or packages than those here\n',
    );
  });

  test.each([
    [
      'nothing was logged about a job since that time',
      '90m',
      `Error: /operations/functions has no line about the job ${UNKNOWN_ID} in the last 90m; see --since\n`,
    ],
    ['the time is not understood', 'yesterday', 'Error: usage: bash scripts/logs.sh JOB_ID [--since 90m|6h|14d]\n'],
  ])('logs.sh fails if %s', async (_what, since, stderr) => {
    const outcome = await run('logs.sh', [UNKNOWN_ID, '--since', since]);

    expect(outcome).toEqual({ code: 1, stdout: '', stderr });
  });

  test('deploy.sh prints the outputs again if nothing has changed, and a parameter that has kept its value', async () => {
    writeFileSync(join(checkout.path, 'samconfig.toml'), readFileSync(join(root, 'samconfig.toml')));

    const { code, stdout } = await run('deploy.sh');

    expect(code).toBe(0);
    expect(stdout).toMatch(OWN_PARAMETER);
    expect(stdout).toContain('No changes to deploy');
    for (const name of OUTPUTS) expect(stdout).toMatch(new RegExp(`^  ${name} +\\S+$`, 'm'));
  });

  /** What the account holds that teardown.sh deletes. */
  async function inventory() {
    const { cloudFormation, logs, s3 } = clients;
    const { StackSummaries = [] } = await cloudFormation.listStacks();
    const { Buckets = [] } = await s3.listBuckets();
    const objects: string[] = [];
    for (const { Name } of Buckets) {
      const { Versions = [], DeleteMarkers = [] } = await s3.listObjectVersions({ Bucket: Name });
      objects.push(...[...Versions, ...DeleteMarkers].map(({ Key = '' }) => Key));
    }
    return {
      stacks: StackSummaries.filter(({ StackStatus }) => StackStatus !== 'DELETE_COMPLETE').map((s) => s.StackName),
      logGroups: (await logs.describeLogGroups()).logGroups?.map((g) => g.logGroupName),
      buckets: Buckets.map(({ Name }) => Name),
      objects,
    };
  }

  const SAM_STACK = 'aws-sam-cli-managed-default';

  async function protect(StackName: string, EnableTerminationProtection: boolean): Promise<void> {
    await clients.cloudFormation.updateTerminationProtection({ StackName, EnableTerminationProtection });
  }

  async function putArtifact(Key: string): Promise<void> {
    await clients.s3.putObject({ Bucket: (await inventory()).buckets[0], Key, Body: Key });
  }

  test.each([
    ['something like yes', 'yes please\n'],
    ['the end of the input', ''],
  ])('teardown.sh shows what it would delete, and %s cancels', async (_answer, input) => {
    const before = await inventory();

    const { code, stdout } = await run('teardown.sh', [], input);

    expect(code).toBe(1);
    expect(stdout).toMatch(/^Stack operations \(CREATE_COMPLETE\) in account \d{12}, region us-east-1\n/);
    expect(stdout).toMatch(/\n {2}AWS::DynamoDB::Table {2}operations-JobsTable-/);
    expect(stdout).toMatch(/\n {2}\d+ versions of build artifacts in s3:\/\/\S+\/operations\/\n/);
    expect(stdout).toMatch(/\n {2}SAM's bucket \S+ and its stack aws-sam-cli-managed-default\n/);
    expect(stdout).toMatch(/\nCancelled: nothing was deleted\.\n$/);
    expect(await inventory()).toEqual(before);
    expect(before.objects.length).toBeGreaterThan(0);
  });

  async function protectTable(DeletionProtectionEnabled: boolean): Promise<void> {
    await clients.dynamodb.updateTable({ TableName: await tableName(), DeletionProtectionEnabled });
  }

  async function createForeignStack(): Promise<void> {
    const TemplateBody = JSON.stringify({ Resources: { Queue: { Type: 'AWS::SQS::Queue' } } });
    await clients.cloudFormation.createStack({ StackName: 'foreign', TemplateBody });
  }

  test.each<[string, string, () => Promise<void>, () => Promise<unknown>, RegExp]>([
    [
      'does not exist, although the name of another one begins like it',
      'operat',
      () => putArtifact('operat/artifact'),
      async () => undefined,
      /^Error: The stack operat does not exist in account \d{12}, region us-east-1\n$/,
    ],
    [
      'belongs to another application',
      'foreign',
      createForeignStack,
      () => clients.cloudFormation.deleteStack({ StackName: 'foreign' }),
      /^Error: The stack foreign belongs to another application; nothing was deleted\n$/,
    ],
    [
      'has termination protection',
      STACK_NAME,
      () => protect(STACK_NAME, true),
      () => protect(STACK_NAME, false),
      /^Error: The stack operations has termination protection; nothing was deleted\. To turn it off: aws /,
    ],
    [
      'has a table with deletion protection',
      STACK_NAME,
      () => protectTable(true),
      () => protectTable(false),
      /^Error: The table operations-JobsTable-\S+ has deletion protection; nothing was deleted\. To turn it off: deploy with TableDeletionProtection=false\n$/,
    ],
  ])('teardown.sh deletes nothing if the stack %s', async (_what, stackName, arrange, undo, message) => {
    await arrange();
    const before = await inventory();
    useStack(stackName);

    const { code, stderr } = await run('teardown.sh', ['--yes']);

    const after = await inventory();
    useStack(STACK_NAME);
    await undo();
    expect(code).toBe(1);
    expect(stderr).toMatch(message);
    expect(after).toEqual(before);
  });

  test.each([
    [STACK_NAME, 'UPDATE_COMPLETE_CLEANUP_IN_PROGRESS'],
    [SAM_STACK, 'CREATE_IN_PROGRESS'],
  ])('teardown.sh deletes nothing while the stack %s is in %s', async (stackName, status) => {
    const before = await inventory();
    const stub = await startStub(async (body, headers) => {
      const kept = ['authorization', 'content-type', 'x-amz-target'].filter((name) => headers[name] !== undefined);
      const forwarded = Object.fromEntries(kept.map((name) => [name, String(headers[name])]));
      const response = await fetch(aws.endpoint, { method: 'POST', headers: forwarded, body });
      const xml = await response.text();
      const isNamed = new URLSearchParams(body).get('StackName') === stackName;
      return [response.status, isNamed ? xml.replace(/(<StackStatus>)\w+/, `$1${status}`) : xml];
    });

    const { code, stderr } = await run('teardown.sh', ['--yes']);

    stub.close();
    useStack(STACK_NAME);
    expect({ code, stderr }).toEqual({
      code: 1,
      stderr: `Error: The stack ${stackName} is in ${status}: try again when this has finished; nothing was deleted\n`,
    });
    expect(await inventory()).toEqual(before);
  });

  test('teardown.sh deletes the stack and its artifacts, although its table is already gone, and keeps those of other applications', async () => {
    const Bucket = (await inventory()).buckets[0];
    for (let version = 0; version < 3; version += 1) await putArtifact('operations/old');
    await clients.s3.deleteObject({ Bucket, Key: 'operations/old' });
    await putArtifact('operations-2/artifact');
    await clients.dynamodb.deleteTable({ TableName: await tableName() });

    const { code, stdout } = await run('teardown.sh', [], 'yes\n');

    expect(code).toBe(0);
    expect(stdout).toContain('The stack operations is deleted. What remains:\n');
    expect(stdout).toContain(
      `SAM's bucket and its stack ${SAM_STACK}, because other applications have artifacts in the bucket: operat/, operations-2/\n`,
    );
    expect(await inventory()).toEqual({
      stacks: [SAM_STACK],
      logGroups: [],
      buckets: [Bucket],
      objects: ['operat/artifact', 'operations-2/artifact'],
    });

    const second = await run('teardown.sh');

    expect(second).toMatchObject({
      code: 0,
      stdout: expect.stringMatching(/^Nothing to delete: the stack operations /),
    });
    expect((await inventory()).objects).toHaveLength(2);
  });

  test("teardown.sh keeps SAM's bucket if SAM's stack has termination protection", async () => {
    const { buckets } = await inventory();
    const { Versions = [] } = await clients.s3.listObjectVersions({ Bucket: buckets[0] });
    for (const { Key, VersionId } of Versions) {
      await clients.s3.deleteObject({ Bucket: buckets[0], Key, VersionId });
    }
    await putArtifact('operations/left');
    await protect(SAM_STACK, true);

    const { code, stdout } = await run('teardown.sh', ['--yes']);

    await protect(SAM_STACK, false);
    expect(code).toBe(0);
    expect(stdout).toContain(`SAM's bucket and its stack ${SAM_STACK}, because the stack has termination protection\n`);
    expect(await inventory()).toMatchObject({ stacks: [SAM_STACK], buckets, objects: [] });
  });

  test('teardown.sh deletes the artifacts that an interrupted run left behind, and the empty bucket', async () => {
    await putArtifact('operations/left');

    const { code, stdout } = await run('teardown.sh', ['--yes']);

    expect(code).toBe(0);
    expect(stdout).toMatch(/^Stack operations \(DELETE_COMPLETE\) in account /);
    expect(await inventory()).toMatchObject({ stacks: [], buckets: [], objects: [] });
  });

  test("teardown.sh deletes SAM's stack if an interrupted run deleted only its bucket", async () => {
    const TemplateBody = JSON.stringify({
      Resources: { Bucket: { Type: 'AWS::S3::Bucket' } },
      Outputs: { SourceBucket: { Value: { Ref: 'Bucket' } } },
    });
    await clients.cloudFormation.createStack({ StackName: SAM_STACK, TemplateBody });
    await clients.s3.deleteBucket({ Bucket: (await inventory()).buckets[0] });

    const { code } = await run('teardown.sh', ['--yes']);

    expect(code).toBe(0);
    expect((await inventory()).stacks).toEqual([]);
  });
});
