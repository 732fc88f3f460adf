/**
 * Shows that the tests can fail. Makes each clause of each condition of the repository always true
 * (and always false, if the condition has alternatives), and breaks each rule of the life cycle, one
 * at a time in a copy of the tree; the model and the unit tests must notice each of these mutants.
 * Prints a table, and fails if a mutant survives. An argument selects mutants by a part of their
 * name: npm run test:mutation -- worker.ts
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

const JOB = 'src/job.ts';
const REPOSITORY = 'src/jobRepository.ts';
const ACCEPT = 'src/acceptJob.ts';
const ATTEMPT = 'src/attempt.ts';
const STAGES = 'src/runStages.ts';
const WORKER = 'src/handlers/worker.ts';

const read = (file: string) => readFileSync(file, 'utf8');
const lineOf = (source: string, index: number) => source.slice(0, index).split('\n').length;

/** A comparison, as the clauses of the repository's conditions are made of. */
const COMPARISON = /attribute_not_exists\(\w+\)|[#\w]+ IN \([^)]+\)|[#\w]+ (?:=|<=|<|>) [:\w]+/g;

/** Every comparison of every condition, at each place where the condition uses it. */
function conditionMutants(): Mutant[] {
  const source = read(REPOSITORY);
  const clauses = new Map(
    [...`${read(JOB)}\n${source}`.matchAll(/const ([A-Z_]+) = '([^']+)';/g)].map(([, name = '', text = '']) => [
      name,
      text,
    ]),
  );
  const conditions = [...source.matchAll(/ConditionExpression: (?:`([^`]+)`|([A-Z_]+)),/g)];
  if (conditions.length !== source.split('ConditionExpression').length - 1) {
    throw new Error(`${REPOSITORY} has a condition that is not built from named clauses`);
  }
  return conditions.flatMap(({ 0: whole, 1: template, 2: single, index }) => {
    const condition = template ?? `\${${single}}`;
    const rest = condition.replace(/\$\{([A-Z_]+)\}/g, (_, name) =>
      (clauses.get(name) ?? name).replace(COMPARISON, ''),
    );
    if (/[^\s()]/.test(rest.replace(/\b(?:AND|OR)\b/g, ''))) {
      throw new Error(`${REPOSITORY}: no mutant for a part of ${condition}: ${rest}`);
    }
    return [...condition.matchAll(/\$\{([A-Z_]+)\}/g)].flatMap((use) => {
      const [placeholder, name = ''] = use;
      const clause = clauses.get(name) ?? '';
      return [...clause.matchAll(COMPARISON)].flatMap(({ 0: comparison, index: at }) =>
        (condition.includes(' OR ') ? (['OR', 'AND'] as const) : (['OR'] as const)).map((operator) => {
          const always = `(${comparison} ${operator} NOT ${comparison})`;
          const mutated = clause.slice(0, at) + always + clause.slice(at + comparison.length);
          const changed = condition.slice(0, use.index) + mutated + condition.slice(use.index + placeholder.length);
          return {
            name: `${REPOSITORY}:${lineOf(source, index)} \`${comparison}\` always ${operator === 'OR' ? 'true' : 'false'}`,
            file: REPOSITORY,
            source: source.replace(whole, () => `ConditionExpression: \`${changed}\`,`),
          };
        }),
      );
    });
  });
}

/** A piece of a file replaced, at each place where it occurs. */
function pieces(file: string, before: string, after: string): Mutant[] {
  const source = read(file);
  const parts = source.split(before);
  if (parts.length < 2) throw new Error(`${file} does not contain ${before}`);
  return parts.slice(1).map((_, at) => {
    const head = parts.slice(0, at + 1).join(before);
    return {
      name: `${file}:${lineOf(head, head.length)} \`${before}\` -> \`${after}\``,
      file,
      source: head + after + parts.slice(at + 1).join(before),
    };
  });
}

const IS_OWN_CLAIM = "job.status === 'IN_PROGRESS' && job.leaseToken === lease.token";
const IS_LATE_START = 'limitMs < workerTimeout * 1000 - MAX_OVERHEAD_MS';

const mutants = [
  ...conditionMutants(),
  ...pieces(REPOSITORY, 'REMOVE leaseToken', 'REMOVE spare'),
  ...pieces(REPOSITORY, 'ConsistentRead: true', 'ConsistentRead: false'),
  ...pieces(REPOSITORY, "':one': 1", "':one': 0"),
  ...pieces(REPOSITORY, 'if (isExpired(job, now)) return undefined;', ''),
  ...pieces(REPOSITORY, "phaseOf(job, now) !== 'lapsed'", 'true'),
  ...pieces(REPOSITORY, "if (phaseOf(job, now) === 'ended')", 'if (false)'),
  ...pieces(REPOSITORY, IS_OWN_CLAIM, 'false'),
  ...pieces(REPOSITORY, IS_OWN_CLAIM, "job.status === 'IN_PROGRESS'"),
  ...pieces(JOB, ' + CLOCK_SKEW_SECONDS', ''),
  ...pieces(JOB, ' + lifetimes.workerTimeout', ''),
  ...pieces(JOB, 'job.expiresAt <= now', 'job.expiresAt < now'),
  ...pieces(JOB, 'job.leaseExpiresAt <= now', 'job.leaseExpiresAt < now'),
  ...pieces(JOB, 'job.attempt < MAX_ATTEMPTS', 'job.attempt <= MAX_ATTEMPTS'),
  ...pieces(JOB, 'job.deadline > now', 'job.deadline >= now'),
  ...pieces(JOB, "if (isEnded(job)) return 'ended';", ''),
  ...pieces(JOB, ' && !isLeaseOver(job, now)', ''),
  ...pieces(JOB, '!isPending(job) && !isLeaseOver(job, now)', 'false'),
  ...pieces(JOB, 'hasAttemptsLeft(job) && isBeforeDeadline(job, now)', 'hasAttemptsLeft(job)'),
  ...pieces(JOB, 'hasAttemptsLeft(job) && isBeforeDeadline(job, now)', 'isBeforeDeadline(job, now)'),
  ...pieces(JOB, 'Math.max(leaseOverAt, job.deadline)', 'job.deadline'),
  ...pieces(JOB, 'Math.max(leaseOverAt, job.deadline)', 'leaseOverAt'),
  ...pieces(JOB, '399 * 1024', '400 * 1024'),
  ...pieces(ACCEPT, 'stored.text !== text', 'false'),
  ...pieces(ACCEPT, "phaseOf(stored, now) === 'claimable'", 'true'),
  ...pieces(ACCEPT, "phaseOf(stored, now) === 'claimable'", "stored.status === 'PENDING'"),
  ...pieces(ACCEPT, "phaseOf(stored, now) === 'claimable'", 'stored === job'),
  ...pieces(ACCEPT, 'hasKey || ', ''),
  ...pieces(ACCEPT, '(await isDeleted(repository, jobId))', 'true'),
  ...pieces(ACCEPT, '(await isDeleted(repository, jobId))', 'false'),
  ...pieces(
    ACCEPT,
    'return await repository.deletePending(jobId)',
    'await repository.deletePending(jobId); return true',
  ),
  ...pieces(ATTEMPT, 'remainingMs() - RESERVE_MS', 'remainingMs()'),
  ...pieces(ATTEMPT, ` && ${IS_LATE_START}`, ''),
  ...pieces(ATTEMPT, IS_LATE_START, 'false'),
  ...pieces(ATTEMPT, 'signal.aborted && ', ''),
  ...pieces(ATTEMPT, 'stopTimer();', ''),
  ...pieces(
    ATTEMPT,
    'if (!(await repository.end(jobId, lease, end, endedAt)))',
    'if (!(await repository.end(jobId, lease, end, endedAt)) && false)',
  ),
  ...pieces(STAGES, '.finally(() => running.delete(name))', ''),
  ...pieces(STAGES, 'running.add(name);', ''),
  ...pieces(STAGES, 'raceWithAbort(work, signal)', 'work'),
  ...pieces(WORKER, "if (result === 'held')", 'if (false)'),
  ...pieces(WORKER, 'if (running.size > 0)', 'if (false)'),
].filter(({ name }) => name.includes(process.argv[2] ?? ''));

const tree = mkdtempSync(join(tmpdir(), 'mutants-'));

/** The quickest first: the model's main test, the unit tests, and the rest of the model. */
const suites = [
  { project: 'model', options: ['--testNamePattern', 'breaks a guarantee'] },
  { project: 'unit', options: ['--bail'] },
  { project: 'model', options: [] },
];

/** Runs a suite on the copy. Returns what failed first, undefined if nothing did. */
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

/** What fails first in all suites. */
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
