/** Runs scripts/local.sh, while a stage is being edited, in a copy of the checkout. */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  closeSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import workerEvent from '../../events/worker.json' with { type: 'json' };
import { copyProject } from '../../scripts/local/copyProject.ts';
import { listen } from '../support/listen.ts';
import { pollUntilEnded, request, requestOnce, sleep, stringField, submit } from './deployment.ts';

const root = resolve(import.meta.dirname, '..', '..');
const folder = mkdtempSync(join(tmpdir(), 'local '));
const checkout = join(folder, 'check out');
const temporary = join(folder, 'tmp');

/** Longer than a lease: the worker's timeout below and 5 s of clock skew. */
const RETRIES = { LAMBDA_ASYNC_RETRY_BASE_SECONDS: '20', LAMBDA_ASYNC_RETRY_MAX_SECONDS: '20' };
const WORKER_TIMEOUT_SECONDS = 13;
const PAGE_PORT = '4850';

beforeAll(() => {
  copyProject(checkout);
  mkdirSync(join(checkout, '.tools'));
  mkdirSync(temporary);
  for (const name of ['.tools/ministack', '.tools/sam']) symlinkSync(join(root, name), join(checkout, name));
  // The packages are already installed.
  utimesSync(join(checkout, 'package-lock.json'), 0, 0);
  edit('template.yaml', /(WorkerTimeoutSeconds:\n(?: +.*\n)*? +Default: )30\n/, `$1${WORKER_TIMEOUT_SECONDS}\n`);
});

const started: ChildProcess[] = [];

afterAll(() => {
  // If tests have failed. The AWS emulator ends with its parent.
  for (const child of started) child.kill('SIGKILL');
  rmSync(folder, { recursive: true, force: true });
});

function edit(file: string, pattern: RegExp, replacement: string): void {
  const before = readFileSync(join(checkout, file), 'utf8');
  const after = before.replace(pattern, replacement);
  if (after === before) throw new Error(`${file} has no ${pattern}`);
  writeFileSync(join(checkout, file), after);
}

/** Makes a stage that runs this code the only one, after module code. Replaces the file, as many editors do. */
function editStage(code: string, moduleCode = ''): void {
  const original = readFileSync(join(root, 'src', 'stages', 'index.ts'), 'utf8');
  const stage = `{ name: 'first', async run(_text, { signal }) { ${code} } }`;
  const edited = original
    .replace(/^import (?!type)[^;]*;\n/gm, '')
    .replace(/(readonly Stage\[\] = )\[[^;]*\];/, `$1[${stage}];`);
  if (!edited.includes(stage)) throw new Error('src/stages/index.ts has no list of stages');
  writeFileSync(join(folder, 'stages.ts'), `${edited}${moduleCode}\n`);
  renameSync(join(folder, 'stages.ts'), join(checkout, 'src', 'stages', 'index.ts'));
}

/** Runs a script of the copy. Returns its exit code, and what it printed. */
function script(name: string, args: readonly string[] = [], env: Record<string, string> = {}) {
  return new Promise<{ code: number; stdout: string; stderr: string }>((resolve) => {
    const options = { env: { ...process.env, ...env } };
    execFile('bash', [join(checkout, 'scripts', name), ...args], options, (error, stdout, stderr) => {
      resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr });
    });
  });
}

interface Local {
  readonly port: number;
  readonly process: ChildProcess;
  /** Waits until the pattern is in the output that the last call has not read. Returns that output up to the match. */
  read(pattern: RegExp): Promise<string>;
}

/** Starts what local.sh starts once everything is installed. */
async function startLocal(...args: string[]): Promise<Local> {
  const port = await freePort();
  // One file, so that the two outputs stay in order.
  const file = join(folder, `output-${port}`);
  const output = openSync(file, 'w');
  const serve = join(checkout, 'scripts', 'local', 'serve.ts');
  const child = spawn(process.execPath, [serve, '--port', String(port), '--page-port', PAGE_PORT, ...args], {
    env: { ...process.env, TMPDIR: temporary, ...RETRIES },
    stdio: ['ignore', output, output],
  });
  closeSync(output);
  started.push(child);
  let start = 0;
  const read = async (pattern: RegExp) => {
    for (let tries = 0; tries < 2400 && (tries === 0 || child.exitCode === null); tries += 1) {
      await sleep(100);
      const unread = readFileSync(file, 'utf8').slice(start);
      const match = pattern.exec(unread);
      if (match === null) continue;
      const end = match.index + match[0].length;
      start += end;
      return unread.slice(0, end);
    }
    throw new Error(`The output has no ${pattern}:\n${readFileSync(file, 'utf8').slice(start)}`);
  };
  return { port, process: child, read };
}

async function freePort(): Promise<number> {
  const server = createServer();
  const port = await listen(server);
  server.close();
  return port;
}

/** Waits until no process of the copy and no temporary file is left. Returns those left after some seconds. */
async function remains(): Promise<string[]> {
  for (let tries = 0; ; tries += 1) {
    const left = [...(await processes()), ...readdirSync(temporary)];
    if (left.length === 0 || tries === 50) return left;
    await sleep(100);
  }
}

async function processes(): Promise<string[]> {
  const { stdout } = await promisify(execFile)('ps', ['-axww', '-o', 'pid=', '-o', 'command=']);
  return stdout.split('\n').filter((line) => line.includes(folder));
}

const FORGOTTEN =
  "if (process.env['SUMMARY_URL'] === undefined) throw new Error('Environment variable SUMMARY_URL is not set');";

const TYPE_ERROR = /\nType errors \(tsc -p src\):\n(?:.+\n)*src\/stages\/index\.ts\(\d+,\d+\): error TS2322: /;

/** Windows has neither ps nor signals. */
const describeOnPosix = process.platform === 'win32' ? describe.skip : describe;

describeOnPosix('help', () => {
  test.each(['local.sh', 'test.sh', 'poll.sh'])('%s --help says in a few lines what it does', async (name) => {
    const long = await script(name, ['--help']);

    expect(long).toMatchObject({ code: 0, stderr: '' });
    expect(long.stdout).toMatch(new RegExp(`^Usage: bash scripts/${name}.*\n(?:.+\n){1,5}$`));
    expect(await script(name, ['-h'])).toEqual(long);
  });

  test.each([
    ['local.sh', ['--bogus'], "Error: unknown argument '--bogus'; see --help\n"],
    ['local.sh', ['--text'], 'Error: --text needs a value; see --help\n'],
  ])('%s refuses %j', async (name, args, stderr) => {
    expect(await script(name, args)).toEqual({ code: 1, stdout: '', stderr });
  });

  test.each(['test', 'load'])('npm run %s without the npm packages says what to do', async (name) => {
    const empty = mkdtempSync(join(folder, 'empty-'));
    for (const file of ['package.json', 'scripts/requirePackages.js']) cpSync(join(root, file), join(empty, file));

    const run = promisify(execFile)('npm', ['run', name], { cwd: empty });

    await expect(run).rejects.toMatchObject({
      code: 1,
      stderr: expect.stringContaining('The npm packages are not installed. Run this first: npm ci\n'),
    });
  });
});

describeOnPosix('local.sh', () => {
  let local: Local;
  let baseUrl: string;
  let firstJob: string;

  beforeAll(() => editStage("const words: number = 'none'; throw new Error(String(words));"));

  test('--once ends with an exit code if the job ends as ERROR', async () => {
    const once = await startLocal('--once');

    await once.read(/"status": "ERROR"/);
    await once.read(/\nError: The job ended as ERROR\n/);

    expect(once.process.exitCode ?? (await exitOf(once))).toBe(1);
    expect(await remains()).toEqual([]);
  });

  test('--once names the function that cannot start, and submits no job', async () => {
    editStage('return {};', FORGOTTEN);
    const once = await startLocal('--once');

    const output = await once.read(/\nError: .*\n/);

    expect(output).toMatch(/\nError: WorkerFunction does not start: .*Environment variable SUMMARY_URL is not set\n$/);
    expect(output).not.toContain('POST ');
    expect(await exitOf(once)).toBe(1);
    expect(await remains()).toEqual([]);
  });

  test('shows type errors, and serves the API even if the first job ends as ERROR', async () => {
    editStage("const words: number = 'none'; throw new Error(String(words));");
    local = await startLocal('--text', "it's my text");

    const output = await local.read(/Ctrl-C stops everything/);

    firstJob = /^GET (http\S+)$/m.exec(output)?.[1] ?? '';
    baseUrl = /^The API is at (http\S+)$/m.exec(output)?.[1] ?? '';
    expect(output).toMatch(TYPE_ERROR);
    expect(output).toContain('\nWarning: The job ended as ERROR. The application is served anyway.\n');
    expect(output).toContain(`AWS_ENDPOINT_URL=http://127.0.0.1:${local.port} bash scripts/redrive.sh`);
    expect((await request(firstJob)).json).toMatchObject({ status: 'ERROR', text: "it's my text" });
  });

  /** The result of the first stage for a new job. */
  async function firstResult(): Promise<unknown> {
    const jobId = stringField(await submit(baseUrl, 'a text'), 'jobId');
    const { end } = await pollUntilEnded(baseUrl, jobId, 120_000);
    return end.json;
  }

  test('deploys a changed stage, shows type errors, and keeps the URL and the jobs', async () => {
    editStage("const words: number = 'first'; return { words };");

    const output = await local.read(/Deployed after .*\n/);

    expect(output).toContain('\nsrc/stages/index.ts has changed\n');
    expect(output).toMatch(TYPE_ERROR);
    expect(await firstResult()).toMatchObject({ status: 'DONE', result: { first: { words: 'first' } } });
    expect((await request(firstJob)).json).toMatchObject({ status: 'ERROR', text: "it's my text" });
  });

  test('shows why a build fails, and still serves the previous version', async () => {
    editStage('return {');

    const output = await local.read(/Not deployed: .*\n/);

    expect(output).toMatch(/\[ERROR\] .*\n\n +stages\/index\.ts:\d+/);
    expect(await firstResult()).toMatchObject({ status: 'DONE', result: { first: { words: 'first' } } });
  });

  test('names the function that cannot start after a change, and leaves no job behind', async () => {
    editStage('return {};', FORGOTTEN);

    const output = await local.read(/\nError: .*\n/);

    expect(output).toMatch(/Deployed after .*\n/);
    expect(output).toMatch(/\nError: WorkerFunction does not start: .*Environment variable SUMMARY_URL is not set\n$/);
    expect(await request(`${baseUrl}/jobs/${workerEvent.jobId}`)).toMatchObject({ status: 404 });
  });

  test('deploys again if a file changes during a deployment', async () => {
    editStage("return { words: 'second' };");
    await local.read(/Deploying/);
    editStage("await new Promise((done) => setTimeout(done, 4000)); return { words: 'third' };");

    await local.read(/Deployed after/);
    await local.read(/Deployed after/);

    expect(await firstResult()).toMatchObject({ status: 'DONE', result: { first: { words: 'third' } } });
  });

  test('POST /kill kills every attempt of a job, the job ends as ERROR, and redrive.sh lists its event', async () => {
    const jobId = stringField(await submit(baseUrl, 'a text'), 'jobId');
    const killing = setInterval(() => {
      void request(`${new URL(baseUrl).origin}/kill?jobId=${jobId}`, { method: 'POST' });
    }, 500);

    const { end } = await pollUntilEnded(baseUrl, jobId, 120_000).finally(() => clearInterval(killing));

    expect(end.json).toMatchObject({ errorMessage: 'Processing failed: all 3 attempts ended without a result' });
    const AWS_ENDPOINT_URL = `http://127.0.0.1:${local.port}`;
    const { stdout: logs } = await script('logs.sh', [jobId], { AWS_ENDPOINT_URL });
    expect(logs.match(/Attempt started .* attempt=\d| NOTE .*/g)).toEqual(
      [1, 2, 3].flatMap((attempt) => [
        expect.stringMatching(`^Attempt started .* attempt=${attempt}$`),
        expect.stringMatching(`^ NOTE +Attempt ${attempt} crashed$`),
      ]),
    );
    const listed = await script('redrive.sh', [], { AWS_ENDPOINT_URL });
    expect(listed.stdout).toMatch(new RegExp(`^${jobId} .* invoked 3 times .* job already ended \\(ERROR\\)$`, 'm'));
  });

  test('keeps the URL, at which no GET fails, while a new route makes the emulator create another API', async () => {
    const apiId = async () => {
      const response = await request(`http://127.0.0.1:${local.port}/restapis`);
      return /"id": "(\w+)"/.exec(response.text)?.[1];
    };
    const before = await apiId();
    let isDeployed = false;
    const route = '{ Type: Api, Properties: { RestApiId: !Ref JobsApi, Path: "/again/{jobId}", Method: GET } }';
    edit('template.yaml', /\n( +)(GetJob:\n +Type: Api\n)/, `\n$1Again: ${route}\n$1$2`);
    const deployed = local.read(/Deployed after .*\n/).finally(() => {
      isDeployed = true;
    });
    const statuses = new Set<number>();
    while (!isDeployed) statuses.add((await requestOnce(firstJob)).status);

    expect(await deployed).toContain('template.yaml has changed');
    expect(await apiId()).not.toBe(before);
    expect(statuses).toEqual(new Set([200]));
    expect((await request(firstJob.replace('/jobs/', '/again/'))).json).toMatchObject({ status: 'ERROR' });
  });

  test("the operator's scripts work on it without a .env", async () => {
    const AWS_ENDPOINT_URL = `http://127.0.0.1:${local.port}`;

    const local_ = await script('redrive.sh', [], { AWS_ENDPOINT_URL, AWS_DEFAULT_REGION: 'eu-west-1' });
    const elsewhere = await script('redrive.sh', [], { AWS_ENDPOINT_URL: 'http://127.0.0.1.example.com' });

    expect(local_).toMatchObject({ code: 0, stderr: '' });
    // The worker that could not start was not invoked as an event, which would have been retried and have failed by now.
    expect(local_.stdout).not.toContain(workerEvent.jobId);
    expect(elsewhere.stderr).toContain(".env'");
  });

  test('SIGTERM during a deployment leaves nothing running, and no files', async () => {
    editStage("return { words: 'fourth' };");
    await local.read(/Building/);

    local.process.kill('SIGTERM');

    expect(await exitOf(local)).toBe(143);
    expect(await remains()).toEqual([]);
  });

  test('kill -9 during a deployment leaves nothing running, and no files', async () => {
    const killed = await startLocal('--text', '');
    expect(await killed.read(/Ctrl-C stops everything/)).toMatch(/\nWarning: http\S+\/jobs returned 400: /);
    editStage("return { words: 'fifth' };");
    await killed.read(/Deploying/);

    killed.process.kill('SIGKILL');

    expect(await remains()).toEqual([]);
  });
});

async function exitOf({ process: child }: Local): Promise<number | null> {
  if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
  return child.exitCode;
}
