/** Tests the patches in recipes/, each applied to a copy of the project, or regenerates them. Run by recipes.sh. */
import { execFile } from 'node:child_process';
import {
  appendFileSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join, resolve } from 'node:path';
import { parseArgs, promisify } from 'node:util';
import { copyProject } from './copyProject.ts';

const root = resolve(import.meta.dirname, '..', '..');
/** Recipes that can all be applied to one project, in this order. */
const TOGETHER = [
  ['cognito', 'queue', 'cancel', 'input', 'queue-notify'],
  ['cognito', 'cancel', 'input', 'notify'],
];
/** The recipe on which another one is based. */
const BASES: Readonly<Record<string, string>> = { 'queue-notify': 'queue' };
const DIFF = ['diff', '--cached', '--full-index', '--binary'];

const { values, positionals } = parseArgs({ options: { refresh: { type: 'boolean' } }, allowPositionals: true });
const recipes = readdirSync(join(root, 'recipes')).flatMap((name) => /^(.+)\.patch$/.exec(name)?.[1] ?? []);
// A base is regenerated before the recipe that needs it.
recipes.sort((a, b) => Number(a in BASES) - Number(b in BASES));
const patchOf = (recipe: string) => join(root, 'recipes', `${recipe}.patch`);
let passed = 0;
let failed = 0;

if (values.refresh) {
  for (const recipe of positionals.length > 0 ? positionals : recipes) if (!(await refresh(recipe))) break;
} else {
  const sets = positionals.length > 0 ? [positionals] : [...recipes.map(withBase), ...TOGETHER];
  for (const set of sets) await testTogether(set);
  console.log(`${passed} passed, ${failed} failed`);
}
process.exitCode = failed === 0 ? 0 : 1;

function withBase(recipe: string): string[] {
  return [BASES[recipe], recipe].filter((name) => name !== undefined);
}

/** Applies these recipes to a copy of the project, and runs the copy's checks and the recipes' end-to-end tests. */
async function testTogether(set: readonly string[]): Promise<void> {
  console.log(set.join(' + '));
  const copy = await makeCopy();
  const check = (title: string, ...command: string[]) => step(title, copy, command);
  // A single patch must apply to the project as it is. Several change the same files, and are merged.
  const apply = ['git', 'apply', '--index', ...(set.length > 1 ? ['--3way'] : [])];
  if (await check('apply', ...apply, ...set.map(patchOf))) {
    // Otherwise scripts would install the packages again, into the project's own folder.
    utimesSync(join(copy, 'package-lock.json'), 0, 0);
    await check('format and lint', 'biome', 'ci', '--colors=off', '.');
    await check('types', 'npm', 'run', 'test:types');
    await check('dead code', 'knip');
    await check('API description', 'redocly', 'lint', 'openapi.yaml');
    await check('template', 'sam', 'validate', '--lint');
    await check('unit and model tests', 'npm', 'test', '--', '--coverage');
    const added = await run(copy, 'git', [...DIFF, '--name-only', '--diff-filter=A', '--', 'tests/e2e/*.test.ts']);
    await check('end-to-end tests', 'npm', 'run', 'test:e2e', '--', ...added.trim().split('\n'));
  }
  rmSync(copy, { recursive: true, force: true });
}

/** Regenerates a patch from its three-way merge with the project. Returns false if there is a conflict. */
async function refresh(recipe: string): Promise<boolean> {
  const copy = await makeCopy();
  const base = BASES[recipe];
  if (base !== undefined) {
    await run(copy, 'git', ['apply', '--index', patchOf(base)]);
    await commit(copy);
  }
  if (!(await step(`refresh ${recipe}`, copy, ['git', 'apply', '--3way', patchOf(recipe)]))) {
    const save = `git add --all && git ${DIFF.join(' ')} >'${patchOf(recipe)}'`;
    console.error(`Resolve the conflicts in ${copy}, run there: ${save}\nThen start this again`);
    return false;
  }
  writeFileSync(patchOf(recipe), await run(copy, 'git', DIFF));
  rmSync(copy, { recursive: true, force: true });
  return true;
}

/** Returns the folder of a copy of the project: the only commit of a new git repository, with the installed tools. */
async function makeCopy(): Promise<string> {
  const copy = mkdtempSync(join(tmpdir(), 'recipe-'));
  copyProject(copy);
  symlinkSync(join(root, '.tools'), join(copy, '.tools'), 'junction');
  await run(copy, 'git', ['init', '--quiet']);
  // .gitignore ignores only folders of these names, and these are links.
  appendFileSync(join(copy, '.git', 'info', 'exclude'), 'node_modules\n.tools\n');
  // Three-way merges need the files from which the patches were made.
  const objects = join(root, '.git', 'objects');
  if (existsSync(objects)) writeFileSync(join(copy, '.git', 'objects', 'info', 'alternates'), `${objects}\n`);
  await run(copy, 'git', ['add', '--all']);
  await commit(copy);
  return copy;
}

async function commit(copy: string): Promise<void> {
  const author = ['-c', 'user.name=recipes', '-c', 'user.email=recipes@localhost'];
  await run(copy, 'git', [...author, 'commit', '--quiet', '--message', 'The project']);
}

/** Runs a command and counts it. Prints its title and time, and its output if it fails. */
async function step(title: string, cwd: string, [program = '', ...args]: readonly string[]): Promise<boolean> {
  process.stdout.write(`  ${title} ... `);
  const started = Date.now();
  try {
    await run(cwd, program, args);
  } catch (error) {
    failed += 1;
    const { stdout, stderr } = { stdout: '', stderr: String(error), ...Object(error) };
    console.log(`failed\n${stdout}${stderr}`);
    return false;
  }
  passed += 1;
  console.log(`${Math.round((Date.now() - started) / 1000)} s`);
  return true;
}

/** Runs a program in a folder. Returns what it prints. Rejects with its output if it fails. */
async function run(cwd: string, program: string, args: readonly string[]): Promise<string> {
  const env = {
    ...process.env,
    PATH: [join(root, 'node_modules', '.bin'), process.env['PATH']].join(delimiter),
    // For sam validate.
    AWS_DEFAULT_REGION: 'us-east-1',
    SAM_CLI_TELEMETRY: '0',
    REDOCLY_TELEMETRY: 'off',
  };
  const { stdout } = await promisify(execFile)(program, args, { cwd, env, maxBuffer: 2 ** 28 });
  return stdout;
}
