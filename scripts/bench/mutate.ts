/**
 * Shows that the tests can fail: removes, one at a time, each clause of each condition that the
 * repository gives DynamoDB, and each rule of the life cycle, and runs the unit tests and the model
 * against every such mutant, in a copy of the tree. Prints a table, and fails if a mutant survives.
 * An argument chooses the mutants that have it in their name: npm run test:mutation -- worker.ts
 */
import { spawnSync } from 'node:child_process';
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

interface Mutant {
  readonly name: string;
  readonly file: string;
  readonly source: string;
}

const read = (file: string) => readFileSync(file, 'utf8');

/** Every clause of every condition, held true; where there is an alternative, also held false. */
function clauses(file: string): Mutant[] {
  const source = read(file);
  return [...source.matchAll(/ConditionExpression:\s*'([^']+)'/g)].flatMap(({ 0: whole, 1: condition = '', index }) => {
    const line = source.slice(0, index).split('\n').length;
    return [...condition.matchAll(/attribute_not_exists\(\w+\)|[#\w]+ (?:=|<=|<|>) [:\w]+/g)].flatMap((match) =>
      (condition.includes(' OR ') ? (['OR', 'AND'] as const) : (['OR'] as const)).map((operator) => {
        const [clause] = match;
        const at = index + whole.indexOf(condition) + match.index;
        return {
          name: `${file}:${line} \`${clause}\` always ${operator === 'OR' ? 'true' : 'false'}`,
          file,
          source: `${source.slice(0, at)}(${clause} ${operator} NOT ${clause})${source.slice(at + clause.length)}`,
        };
      }),
    );
  });
}

/** One piece of a file replaced, at each place where it stands. */
function pieces(file: string, before: string, after: string): Mutant[] {
  const source = read(file);
  const parts = source.split(before);
  if (parts.length < 2) throw new Error(`${file} has no ${before}`);
  return parts.slice(1).map((_, at) => {
    const head = parts.slice(0, at + 1).join(before);
    return {
      name: `${file}:${head.split('\n').length} \`${before}\` -> \`${after}\``,
      file,
      source: head + after + parts.slice(at + 1).join(before),
    };
  });
}

const REPOSITORY = 'src/jobRepository.ts';
const JOB = 'src/job.ts';
const ACCEPT = 'src/acceptJob.ts';
const WORKER = 'src/handlers/worker.ts';

const mutants = [
  ...clauses(REPOSITORY),
  ...pieces(REPOSITORY, 'acceptedBy: accepted', 'spare: accepted'),
  ...pieces(REPOSITORY, 'ADD acceptedBy', 'ADD spare'),
  ...pieces(REPOSITORY, 'DELETE acceptedBy', 'DELETE spare'),
  ...pieces(REPOSITORY, 'REMOVE leaseToken', 'REMOVE spare'),
  ...pieces(REPOSITORY, 'REMOVE acceptedBy', 'REMOVE spare'),
  ...pieces(REPOSITORY, 'ConsistentRead: true', 'ConsistentRead: false'),
  ...pieces(REPOSITORY, "':one': 1", "':one': 0"),
  ...pieces(REPOSITORY, "':over': now + 1", "':over': now"),
  ...pieces(REPOSITORY, 'if (isExpired(job, now)) return undefined;', ''),
  ...pieces(REPOSITORY, "phaseOf(job, now) !== 'lapsed'", 'true'),
  ...pieces(REPOSITORY, "if (phaseOf(job, now) === 'ended')", 'if (false)'),
  ...pieces(REPOSITORY, "job.status === 'IN_PROGRESS' && job.leaseToken === lease.token", 'false'),
  ...pieces(
    REPOSITORY,
    "job.status === 'IN_PROGRESS' && job.leaseToken === lease.token",
    "job.status === 'IN_PROGRESS'",
  ),
  ...pieces(REPOSITORY, 'job?.status === end.status && job.leaseToken === lease.token', 'false'),
  ...pieces(REPOSITORY, 'job?.status === end.status && job.leaseToken', 'job !== undefined && job.leaseToken'),
  ...pieces(REPOSITORY, 'job?.status === end.status && job.leaseToken === lease.token', 'job?.status === end.status'),
  ...pieces(REPOSITORY, "return job?.status === 'PENDING' ? undefined : job", 'return job'),
  ...pieces(JOB, ' + CLOCK_SKEW_SECONDS', ''),
  ...pieces(JOB, ' + lifetimes.workerTimeout', ''),
  ...pieces(JOB, 'job.expiresAt <= now', 'job.expiresAt < now'),
  ...pieces(JOB, "if (isEnded(job)) return 'ended';", ''),
  ...pieces(JOB, ' && job.leaseExpiresAt > now', ''),
  ...pieces(JOB, 'job.leaseExpiresAt > now', 'job.leaseExpiresAt >= now'),
  ...pieces(JOB, 'job.attempt < job.maxAttempts && job.deadline > now', 'job.attempt < job.maxAttempts'),
  ...pieces(JOB, 'job.attempt < job.maxAttempts && job.deadline > now', 'job.deadline > now'),
  ...pieces(JOB, 'job.deadline > now', 'job.deadline >= now'),
  ...pieces(JOB, 'Math.max(leaseOver, job.deadline)', 'job.deadline'),
  ...pieces(JOB, 'Math.max(leaseOver, job.deadline)', 'leaseOver'),
  ...pieces(ACCEPT, 'await withdraw()', 'undefined'),
  ...pieces(ACCEPT, 'claimed?.text === text', 'claimed !== undefined'),
  ...pieces(ACCEPT, 'existing !== undefined && existing.text !== text', 'false'),
  ...pieces(ACCEPT, " || existing.status === 'PENDING'", ''),
  ...pieces(WORKER, 'if (isHeld)', 'if (false)'),
  ...pieces(WORKER, '2 * CALL_BUDGET_MS', '0'),
  ...pieces(WORKER, 'if (!signal.aborted) await', 'await'),
].filter(({ name }) => name.includes(process.argv[2] ?? ''));

const tree = mkdtempSync(join(tmpdir(), 'mutants-'));

/** The cheapest first: the model's main test, the unit tests, and the rest of the model. */
const suites = [
  { project: 'model', options: ['--testNamePattern', 'breaks a guarantee'] },
  { project: 'unit', options: ['--bail'] },
  { project: 'model', options: [] },
];

/** Runs a suite on the tree; what failed first, or undefined where nothing did. */
function failureOf({ project, options }: (typeof suites)[number]): string | undefined {
  const jest = join('node_modules', 'jest', 'bin', 'jest.js');
  const { status, stderr } = spawnSync(process.execPath, [jest, '--selectProjects', project, ...options], {
    cwd: tree,
    encoding: 'utf8',
    env: { MODEL_RUNS: '2000', ...process.env, MODEL_SHRINK: 'no' },
  });
  if (status === 0) return undefined;
  const violation = project === 'model' ? /Cause:\s+(.*)/.exec(stderr)?.[1] : undefined;
  return `${project}: ${violation ?? /● (?!Console)(.*)/.exec(stderr)?.[1] ?? 'does not run'}`;
}

/** What fails first in all of them. */
function firstFailure(): string | undefined {
  return suites.reduce<string | undefined>((found, suite) => found ?? failureOf(suite), undefined);
}

try {
  for (const part of [
    'src',
    'tests',
    'scripts',
    'template.yaml',
    'openapi.yaml',
    'README.md',
    'jest.config.js',
    'package.json',
    'tsconfig.json',
  ]) {
    cpSync(part, join(tree, part), { recursive: true });
  }
  symlinkSync(join(process.cwd(), 'node_modules'), join(tree, 'node_modules'), 'junction');
  const broken = firstFailure();
  if (broken !== undefined) throw new Error(`The tests fail without a mutant: ${broken}`);
  console.log('| mutant | caught by |\n| --- | --- |');
  let survivors = 0;
  for (const { name, file, source } of mutants) {
    writeFileSync(join(tree, file), source);
    const failure = firstFailure();
    writeFileSync(join(tree, file), read(file));
    if (failure === undefined) survivors += 1;
    console.log(`| ${name} | ${failure ?? 'SURVIVED'} |`);
  }
  console.log(`${mutants.length} mutants, ${survivors} survived`);
  process.exitCode = survivors === 0 ? 0 : 1;
} finally {
  rmSync(tree, { recursive: true, force: true });
}
