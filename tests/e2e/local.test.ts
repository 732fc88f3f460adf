/** Runs scripts/local.sh, while a stage is being edited, in a copy of the checkout. */
import { type ChildProcess, spawn } from 'node:child_process';
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
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { join, resolve } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import workerEvent from '../../events/worker.json' with { type: 'json' };
import { listen } from '../support/listen.ts';
import { checkOut } from './checkout.ts';
import { command } from './command.ts';
import { pollUntilEnded, request, requestOnce, sleep, stringField, submit } from './deployment.ts';

const root = resolve(import.meta.dirname, '..', '..');
const { folder, path: checkout, edit, script, remove } = checkOut('local');
const temporary = join(folder, 'tmp');

/** Longer than a lease: the worker's timeout below and 5 s of clock skew. */
const RETRIES = { LAMBDA_ASYNC_RETRY_BASE_SECONDS: '20', LAMBDA_ASYNC_RETRY_MAX_SECONDS: '20' };
const WORKER_TIMEOUT_SECONDS = 13;
const PAGE_PORT = '4850';

beforeAll(() => {
  mkdirSync(join(checkout, '.tools'));
  mkdirSync(temporary);
  for (const name of ['.tools/ministack', '.tools/sam']) symlinkSync(join(root, name), join(checkout, name));
  edit('template.yaml', /(WorkerTimeoutSeconds:\n(?: +.*\n)*? +Default: )30\n/, `$1${WORKER_TIMEOUT_SECONDS}\n`);
});

const started: ChildProcess[] = [];

afterAll(() => {
  // If tests have failed. The AWS emulator ends with its parent.
  for (const child of started) child.kill('SIGKILL');
  remove();
});

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

/** Waits until no process of the copy and no temporary file is left. Returns those left at the limit. */
async function remains(): Promise<string[]> {
  for (let tries = 0; ; tries += 1) {
    const { stdout } = await command('ps', ['-axww', '-o', 'pid=', '-o', 'command=']);
    const processes = stdout.split('\n').filter((line) => line.includes(folder));
    const left = [...processes, ...readdirSync(temporary)];
    if (left.length === 0 || tries === 600) return left;
    await sleep(100);
  }
}

const FORGOTTEN =
  "if (process.env['SUMMARY_URL'] === undefined) throw new Error('Environment variable SUMMARY_URL is not set');";

const TYPE_ERROR = /\nType errors \(tsc -p src\):\n(?:.+\n)*src\/stages\/index\.ts\(\d+,\d+\): error TS2322: /;

/** Windows has neither ps nor signals. */
const describeOnPosix = process.platform === 'win32' ? describe.skip : describe;

describeOnPosix('before anything is started', () => {
  test.each([
    [['--bogus'], "Error: unknown argument '--bogus'; see --help\n"],
    [['--text'], 'Error: --text needs a value; see --help\n'],
  ])('local.sh refuses %j', async (args, stderr) => {
    const outcome = await script('local.sh', args);

    expect(outcome).toEqual({ code: 1, stdout: '', stderr });
  });

  test.each(['test', 'load'])('npm run %s without the npm packages says what to do', async (name) => {
    const empty = mkdtempSync(join(folder, 'empty-'));
    for (const file of ['package.json', 'scripts/requirePackages.js']) cpSync(join(root, file), join(empty, file));

    const { code, stderr } = await command('npm', ['run', name], { cwd: empty });

    expect(code).toBe(1);
    expect(stderr).toContain('The npm packages are not installed. Run this first: npm ci\n');
  });
});

describeOnPosix('local.sh', () => {
  let local: Local;
  let baseUrl: string;
  let firstJob: string;

  test('local.sh --once names the function that cannot start, and submits no job', async () => {
    editStage('return {};', FORGOTTEN);
    const once = await startLocal('--once');

    const output = await once.read(/\nError: .*\n/);

    expect(output).toMatch(/\nError: WorkerFunction does not start: .*Environment variable SUMMARY_URL is not set\n$/);
    expect(output).not.toContain('POST ');
    expect(await exitOf(once)).toBe(1);
    expect(await remains()).toEqual([]);
  });

  test('local.sh shows type errors, and serves the API even if the first job ends as ERROR', async () => {
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

  test('local.sh deploys a changed stage, and keeps the URL and the jobs', async () => {
    editStage("return { words: 'first' };");

    const output = await local.read(/Deployed after .*\n/);

    expect(output).toContain('\nsrc/stages/index.ts has changed\n');
    expect(await firstResult()).toMatchObject({ status: 'DONE', result: { first: { words: 'first' } } });
    expect((await request(firstJob)).json).toMatchObject({ status: 'ERROR', text: "it's my text" });
  });

  test('local.sh shows why a build fails, and still serves the previous version', async () => {
    editStage('return {');

    const output = await local.read(/Not deployed: .*\n/);

    expect(output).toMatch(/\[ERROR\] .*\n\n +stages\/index\.ts:\d+/);
    expect(await firstResult()).toMatchObject({ status: 'DONE', result: { first: { words: 'first' } } });
  });

  test('local.sh names the function that cannot start after a change, and leaves no job behind', async () => {
    editStage('return {};', FORGOTTEN);

    const output = await local.read(/\nError: .*\n/);

    expect(output).toMatch(/Deployed after .*\n/);
    expect(output).toMatch(/\nError: WorkerFunction does not start: .*Environment variable SUMMARY_URL is not set\n$/);
    expect(await request(`${baseUrl}/jobs/${workerEvent.jobId}`)).toMatchObject({ status: 404 });
  });

  test('local.sh deploys again if a file changes during a deployment', async () => {
    editStage("return { words: 'second' };");
    await local.read(/Deploying/);
    editStage("await new Promise((done) => setTimeout(done, 4000)); return { words: 'third' };");

    await local.read(/Deployed after/);
    await local.read(/Deployed after/);

    expect(await firstResult()).toMatchObject({ status: 'DONE', result: { first: { words: 'third' } } });
  });

  test('POST /kill of local.sh kills every attempt of a job, the job ends as ERROR, and redrive.sh lists its event', async () => {
    const jobId = stringField(await submit(baseUrl, 'a text'), 'jobId');
    const killing = setInterval(() => {
      void request(`${new URL(baseUrl).origin}/kill?jobId=${jobId}`, { method: 'POST' });
    }, 500);

    const { end } = await pollUntilEnded(baseUrl, jobId, 120_000).finally(() => clearInterval(killing));

    expect(end.json).toMatchObject({ errorMessage: 'Processing failed: all 3 attempts ended without a result' });
    const env = { ...process.env, AWS_ENDPOINT_URL: `http://127.0.0.1:${local.port}` };
    const { stdout: logs } = await script('logs.sh', [jobId], { env });
    expect(logs.match(/Attempt started .* attempt=\d| NOTE .*/g)).toEqual(
      [1, 2, 3].flatMap((attempt) => [
        expect.stringMatching(`^Attempt started .* attempt=${attempt}$`),
        expect.stringMatching(`^ NOTE +Attempt ${attempt} (?:crashed|timed out)$`),
      ]),
    );
    const listed = await script('redrive.sh', [], { env });
    expect(listed.stdout).toMatch(new RegExp(`^${jobId} .* invoked 3 times .* job already ended \\(ERROR\\)$`, 'm'));
  });

  test('local.sh keeps the URL, at which no GET fails, while a new route makes the emulator create another API', async () => {
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
    const failures = new Set<string>();
    while (!isDeployed) {
      const { status, text } = await requestOnce(firstJob);
      if (status !== 200) failures.add(`${status} ${text}`);
    }
    // On a slow machine, DynamoDB may be too slow for a GET.
    failures.delete('500 {"error":"Internal server error"}');

    expect(await deployed).toContain('template.yaml has changed');
    expect(await apiId()).not.toBe(before);
    expect([...failures]).toEqual([]);
    expect((await request(firstJob.replace('/jobs/', '/again/'))).json).toMatchObject({ status: 'ERROR' });
  });

  test("the operator's scripts work on the emulator of local.sh without a .env", async () => {
    const listWith = (AWS_ENDPOINT_URL: string) =>
      script('redrive.sh', [], { env: { ...process.env, AWS_ENDPOINT_URL, AWS_DEFAULT_REGION: 'eu-west-1' } });

    const here = await listWith(`http://127.0.0.1:${local.port}`);
    const elsewhere = await listWith('http://127.0.0.1.example.com');

    expect(here).toMatchObject({ code: 0, stderr: '' });
    // The worker that could not start was not invoked as an event, which would have been retried and have failed by now.
    expect(here.stdout).not.toContain(workerEvent.jobId);
    expect(elsewhere.stderr).toContain(".env'");
  });

  test('SIGTERM during a deployment of local.sh leaves nothing running, and no files', async () => {
    editStage("return { words: 'fourth' };");
    await local.read(/Building/);

    local.process.kill('SIGTERM');

    expect(await exitOf(local)).toBe(143);
    expect(await remains()).toEqual([]);
  });

  test('kill -9 during a deployment of local.sh leaves nothing running, and no files', async () => {
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
