/** Applies the code and the settings of docs/make-it-yours.md to a copy of the project. */
import { execFile } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { json } from 'node:stream/consumers';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, jest, test } from '@jest/globals';
import { copyProject } from '../../scripts/local/copyProject.ts';
import { build, deploy, type Emulator, type Stack, startEmulator } from '../../scripts/local/emulator.ts';
import { listen } from '../support/listen.ts';
import { pollUntilEnded, request, stringField, submit } from './deployment.ts';

// Outer limits, for a busy machine.
jest.setTimeout(1_200_000);
const JOB_LIMIT_MS = 600_000;

const root = resolve(import.meta.dirname, '..', '..');
const page = readFileSync(join(root, 'docs', 'make-it-yours.md'), 'utf8');
const ORIGIN = 'https://www.example.com';

const blocksOf = (language: string) =>
  [...page.matchAll(new RegExp(`\`\`\`${language}\\n([^]*?)\`\`\``, 'g'))].map(([, block = '']) => block);
const [stage = ''] = blocksOf('ts');
const [listing = '', apiKey = '', iam = '', cognito = ''] = blocksOf('diff');

let copy: string;
let aws: Emulator;
let service: Server;
let baseUrl: string;
const requests: { key: unknown; body: unknown }[] = [];

/** Runs a program in the copy. Rejects with its output if it fails. */
const run = (program: string, ...args: string[]) =>
  promisify(execFile)(program, args, { cwd: copy, env: { ...aws.env } });

async function apply(diff: string): Promise<void> {
  writeFileSync(join(copy, 'change.diff'), diff);
  await run('git', 'apply', 'change.diff');
}

/** Edits a file of the copy. */
function edit(file: string, change: (content: string) => string): void {
  writeFileSync(join(copy, file), change(readFileSync(join(copy, file), 'utf8')));
}

/** Undoes what the page's first diff changes, if this project has stages and variables of its own already. */
function restoreSample(): void {
  const before = [...listing.matchAll(/^[ -]((?:import |export const stages).*)$/gm)].map(([, line = '']) => line);
  const list = before.pop() ?? '';
  edit('src/stages/index.ts', (source) =>
    source
      .replace(/^(?:import [^;]*;\n)+/m, before.map((line) => `${line}\n`).join(''))
      .replace(/^export const stages[^;]*;/m, list),
  );
  edit('template.yaml', (source) =>
    source.replace(/(WORKER_TIMEOUT_SECONDS: .*\n)(?: {10}.*\n)*( {6}EventInvokeConfig)/, '$1$2'),
  );
}

beforeAll(async () => {
  aws = await startEmulator();
  copy = mkdtempSync(join(tmpdir(), 'make-it-yours-'));
  copyProject(copy);
});

afterAll(async () => {
  await aws?.stop();
  service?.close();
  rmSync(copy, { recursive: true, force: true });
});

test('sam init makes a project of your own from a zip file of this one', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'sam-init-'));
  copyProject(join(folder, 'async-text-processing-api'));
  rmSync(join(folder, 'async-text-processing-api', 'node_modules'));
  const python = join(root, '.tools', 'ministack', process.platform === 'win32' ? 'Scripts/python.exe' : 'bin/python');
  const inFolder = { cwd: folder, env: { ...aws.env } };
  await promisify(execFile)(python, ['-m', 'zipfile', '-c', 'code.zip', 'async-text-processing-api'], inFolder);

  const location = ['--location', join(folder, 'code.zip'), '--name', 'my-jobs', '--no-interactive'];
  await promisify(execFile)('sam', ['init', ...location], inFolder);

  const contents = (name: string) =>
    readdirSync(join(folder, name), { recursive: true, encoding: 'utf8', withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => join(entry.parentPath, entry.name))
      .map((file) => [file.slice(join(folder, name).length), readFileSync(file, 'utf8')])
      .sort();
  expect(contents('my-jobs')).toEqual(contents('async-text-processing-api'));
  rmSync(folder, { recursive: true, force: true });
});

describe('a custom stage', () => {
  beforeAll(async () => {
    const [, name = ''] = /^\/\/ (src\/\S+\.ts)\n/.exec(stage) ?? [];
    writeFileSync(join(copy, name), stage.slice(stage.indexOf('\n') + 1));
    restoreSample();
    await apply(listing);
  });

  test('a custom stage passes the type check without other changes', async () => {
    await run(process.execPath, join('node_modules', 'typescript', 'bin', 'tsc'));
  });

  test('a custom stage passes the unit tests without other changes', async () => {
    await run(process.execPath, join('node_modules', 'jest', 'bin', 'jest.js'), '--selectProjects', 'unit');
  });
});

describe('on the AWS emulator', () => {
  beforeAll(async () => {
    service = createServer(async (incoming, outgoing) => {
      const body: unknown = await json(incoming);
      requests.push({ key: incoming.headers['idempotency-key'], body });
      const text = String(Object(body).text);
      if (text === 'break') outgoing.destroy();
      else outgoing.writeHead(text === 'short' ? 422 : 200).end(JSON.stringify({ gist: text.slice(0, 3) }));
    });
    const port = await listen(service);

    edit('template.yaml', (template) =>
      template
        .replace('CodeUri: src/', `CodeUri: ${join(copy, 'src')}`)
        .replace('https://summary.example.com', `http://127.0.0.1:${port}`),
    );
    const buildDir = join(copy, 'build');
    await build(aws, { template: join(copy, 'template.yaml'), buildDir });
    baseUrl = (await deploy(aws, { stackName: 'make-it-yours', buildDir })).baseUrl;
  });

  async function endOf(text: string): Promise<unknown> {
    const jobId = stringField(await submit(baseUrl, text, { 'Idempotency-Key': randomUUID() }), 'jobId');
    return (await pollUntilEnded(baseUrl, jobId, JOB_LIMIT_MS)).end.json;
  }

  test('a custom stage uses the result of the earlier stage, and the job’s id as its key', async () => {
    const text = 'Eleven words are enough for a summary of two of them';

    const job = await endOf(text);

    expect(job).toMatchObject({
      status: 'DONE',
      result: { ocr: { wordCount: 11 }, summary: { words: 2, summary: { gist: 'Ele' } } },
    });
    // A second attempt, after a slow first one, sends the same request with the same key.
    expect(new Set(requests.map((sent) => JSON.stringify(sent)))).toEqual(
      new Set([JSON.stringify({ key: Object(job).jobId, body: { text, words: 2 } })]),
    );
  });

  test('the client gets the message of a StageError', async () => {
    expect(await endOf('short')).toMatchObject({
      status: 'ERROR',
      errorMessage: 'The text is too short for a summary',
    });
  });

  test('the client does not get the message of any other error', async () => {
    expect(await endOf('break')).toMatchObject({ status: 'ERROR', errorMessage: "Stage 'summary' failed" });
  });
});

describe('a sign-in', () => {
  const AWS_HEADERS = { Authorization: 'AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/iam/aws4_request' };

  /** Calls an AWS service of the emulator, which does not check signatures. */
  async function callAws(init: { readonly headers: Record<string, string>; readonly body: string }): Promise<string> {
    const response = await fetch(aws.endpoint, { method: 'POST', ...init });
    const text = await response.text();
    if (!response.ok) throw new Error(`The emulator returned ${response.status} ${text}`);
    return text;
  }

  function callCognito(operation: string, input: object): Promise<string> {
    const target = `AWSCognitoIdentityProviderService.${operation}`;
    const headers = { ...AWS_HEADERS, 'Content-Type': 'application/x-amz-json-1.1', 'X-Amz-Target': target };
    return callAws({ headers, body: JSON.stringify(input) });
  }

  /** The id token of a new user, obtained with the same operations as on the page. */
  async function signIn(outputs: Stack['outputs'], user: string): Promise<string> {
    const pool = { UserPoolId: outputs['UserPoolId'], Username: user };
    await callCognito('AdminCreateUser', { ...pool, MessageAction: 'SUPPRESS' });
    await callCognito('AdminSetUserPassword', { ...pool, Password: 'Correct-Horse-9', Permanent: true });
    const response = await callCognito('InitiateAuth', {
      ClientId: outputs['UserPoolClientId'],
      AuthFlow: 'USER_PASSWORD_AUTH',
      AuthParameters: { USERNAME: user, PASSWORD: 'Correct-Horse-9' },
    });
    return /"IdToken": ?"([^"]+)"/.exec(response)?.[1] ?? '';
  }

  /** The header of a new IAM user's requests. The emulator looks only at the access key. */
  async function newIdentity(user: string): Promise<string> {
    const headers = { ...AWS_HEADERS, 'Content-Type': 'application/x-www-form-urlencoded' };
    await callAws({ headers, body: `Action=CreateUser&Version=2010-05-08&UserName=${user}` });
    const key = await callAws({ headers, body: `Action=CreateAccessKey&Version=2010-05-08&UserName=${user}` });
    const id = /<AccessKeyId>([^<]+)</.exec(key)?.[1] ?? '';
    return `AWS4-HMAC-SHA256 Credential=${id}/20260101/us-east-1/execute-api/aws4_request, SignedHeaders=host, Signature=0`;
  }

  /** The value of the stack's API key. */
  async function apiKeyValue(): Promise<string> {
    const headers = { Authorization: AWS_HEADERS.Authorization.replace('/iam/', '/apigateway/') };
    const response = await fetch(`${aws.endpoint}/apikeys?includeValues=true`, { headers });
    const { item: [key] = [] }: { item?: { value: string }[] } = JSON.parse(await response.text());
    return key?.value ?? '';
  }

  /** Deploys the template with a sign-in, and with CORS. */
  async function deployWith(diff: string, stackName: string): Promise<Stack> {
    cpSync(join(root, 'template.yaml'), join(copy, 'template.yaml'));
    await apply(diff);
    await run('sam', 'validate', '--lint');
    const [template, buildDir] = [join(copy, 'template.yaml'), join(copy, 'build-sign-in')];
    await build(aws, { template, buildDir });
    return deploy(aws, { stackName, buildDir, parameters: { CorsOrigin: ORIGIN } });
  }

  /** The responses to requests without credentials, with wrong ones, and to the preflight requests of both paths. */
  async function callWithout({ baseUrl }: Stack, header: string) {
    const origin = { Origin: ORIGIN };
    const refused = [
      await submit(baseUrl, 'a text', origin),
      await submit(baseUrl, 'a text', { ...origin, [header]: 'wrong' }),
      await request(`${baseUrl}/jobs/${randomUUID()}`, { headers: origin }),
    ];
    const preflights = await Promise.all(
      ['', `/${randomUUID()}`].map((path) => request(`${baseUrl}/jobs${path}`, { method: 'OPTIONS', headers: origin })),
    );
    return { refused: refused.map(({ status }) => status), preflights };
  }

  const PREFLIGHT = { status: 204, headers: { 'access-control-allow-origin': ORIGIN } };

  // The emulator does not tell the functions which key was used, so it shows nothing about two callers.
  test('with an API key, only requests with the key are accepted, and browsers can call the API', async () => {
    const stack = await deployWith(apiKey, 'api-key');
    const headers = { 'x-api-key': await apiKeyValue(), 'Idempotency-Key': randomUUID() };

    const { refused, preflights } = await callWithout(stack, 'x-api-key');
    const own = await submit(stack.baseUrl, 'a text', headers);
    const read = await request(`${stack.baseUrl}/jobs/${stringField(own, 'jobId')}`, { headers });

    expect(refused).toEqual([403, 403, 403]);
    expect(preflights).toMatchObject([PREFLIGHT, PREFLIGHT]);
    expect([own.status, read.status]).toEqual([202, 200]);
    for (const answer of [own, read]) expect(answer.headers).toMatchObject(PREFLIGHT.headers);
  });

  test.each<[string, string, number[], (stack: Stack, caller: string) => Promise<string>]>([
    // The emulator refuses a request without an Authorization header, but checks no signature.
    ['an AWS identity', iam, [403, 202, 403], (_stack, caller) => newIdentity(caller)],
    ['a signed-in user', cognito, [401, 401, 401], ({ outputs }, caller) => signIn(outputs, caller)],
  ])(
    'with %s, callers have their own jobs and keys, and browsers can call the API',
    async (what, diff, statuses, signInAs) => {
      const stack = await deployWith(diff, what.replaceAll(' ', '-'));
      const jobs = `${stack.baseUrl}/jobs`;
      const first = { Authorization: await signInAs(stack, 'first'), 'Idempotency-Key': 'key' };
      const second = { Authorization: await signInAs(stack, 'second'), 'Idempotency-Key': 'key' };

      const { refused, preflights } = await callWithout(stack, 'Authorization');
      const own = await submit(stack.baseUrl, 'a text', first);
      const repeated = await submit(stack.baseUrl, 'a text', first);
      const other = await submit(stack.baseUrl, 'another text', second);
      const read = await request(`${jobs}/${stringField(own, 'jobId')}`, { headers: first });
      const foreign = await request(`${jobs}/${stringField(own, 'jobId')}`, { headers: second });

      expect(refused).toEqual(statuses);
      expect(preflights).toMatchObject([PREFLIGHT, PREFLIGHT]);
      expect([own.status, repeated.status, other.status]).toEqual([202, 202, 202]);
      expect(repeated.json).toMatchObject({ jobId: stringField(own, 'jobId') });
      expect(stringField(other, 'jobId')).not.toBe(stringField(own, 'jobId'));
      expect([read.status, foreign.status]).toEqual([200, 404]);
      for (const answer of [own, read, foreign]) expect(answer.headers).toMatchObject(PREFLIGHT.headers);
    },
  );
});
