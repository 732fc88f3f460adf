/** Applies the code and the settings of docs/make-it-yours.md to a copy of the project. */
import { execFile } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { json } from 'node:stream/consumers';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, jest, test } from '@jest/globals';
import { copyProject } from '../../scripts/local/copyProject.ts';
import { build, deploy, type Emulator, startEmulator } from '../../scripts/local/emulator.ts';
import { listen } from '../support/listen.ts';
import { pollUntilEnded, stringField, submit } from './deployment.ts';

// Outer limits, for a busy machine.
jest.setTimeout(1_200_000);
const JOB_LIMIT_MS = 600_000;

const root = resolve(import.meta.dirname, '..', '..');
const page = readFileSync(join(root, 'docs', 'make-it-yours.md'), 'utf8');

const blocksOf = (language: string) =>
  [...page.matchAll(new RegExp(`\`\`\`${language}\\n([^]*?)\`\`\``, 'g'))].map(([, block = '']) => block);
const [stage = ''] = blocksOf('ts');
const [listing = ''] = blocksOf('diff');

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
    source.replace(/(Variables:\n)(?: {10}.*\n)*( {10}WORKER_TIMEOUT_SECONDS: .*\n {6}\w)/, '$1$2'),
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
