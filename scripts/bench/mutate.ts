/**
 * Mutation tests. Makes each clause of each condition in the repository always true (and always false,
 * if the condition has alternatives), and breaks each rule of the life cycle, one at a time in a copy of
 * the project. The model or the unit tests must fail for each of these mutants. Prints a table, and exits
 * with code 1 if a mutant survives. An argument selects the mutants whose names contain it:
 * npm run test:mutation -- worker.ts
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { copyProject } from '../local/copyProject.ts';

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
const CREATE_JOB = 'src/handlers/createJob.ts';
const GET_JOB = 'src/handlers/getJob.ts';
const AWS = 'src/aws.ts';
const TELEMETRY = 'src/telemetry.ts';
const REQUEST = 'src/createJobRequest.ts';

const read = (file: string) => readFileSync(file, 'utf8');
const lineOf = (source: string, index: number) => source.slice(0, index).split('\n').length;

/** The comparisons from which the clauses of the repository's conditions are built. */
const COMPARISON = /attribute_not_exists\(\w+\)|[#\w]+ IN \([^)]+\)|[#\w]+ (?:=|<=|<|>) [:\w]+/g;

/** Mutants of every comparison in every condition. */
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

/** One mutant for each occurrence of a piece of code, with only that occurrence replaced. */
function replacements(file: string, before: string, after: string): Mutant[] {
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
  ...replacements(REPOSITORY, 'REMOVE leaseToken', 'REMOVE spare'),
  ...replacements(REPOSITORY, 'ConsistentRead: true', 'ConsistentRead: false'),
  ...replacements(REPOSITORY, "':one': 1", "':one': 0"),
  ...replacements(REPOSITORY, 'isExpired(job, now) ? undefined : job', 'job'),
  ...replacements(REPOSITORY, "phaseOf(job, now) !== 'lapsed'", 'true'),
  ...replacements(REPOSITORY, "if (phaseOf(job, now) === 'ended')", 'if (false)'),
  ...replacements(REPOSITORY, IS_OWN_CLAIM, 'false'),
  ...replacements(REPOSITORY, IS_OWN_CLAIM, "job.status === 'IN_PROGRESS'"),
  ...replacements(JOB, ' + CLOCK_SKEW_SECONDS', ''),
  ...replacements(JOB, ' + lifetimes.workerTimeout', ''),
  ...replacements(JOB, 'job.expiresAt <= now', 'job.expiresAt < now'),
  ...replacements(JOB, 'job.leaseExpiresAt <= now', 'job.leaseExpiresAt < now'),
  ...replacements(JOB, 'job.attempt < MAX_ATTEMPTS', 'job.attempt <= MAX_ATTEMPTS'),
  ...replacements(JOB, 'job.deadline > now', 'job.deadline >= now'),
  ...replacements(JOB, "if (isEnded(job)) return 'ended';", ''),
  ...replacements(JOB, ' && !isLeaseOver(job, now)', ''),
  ...replacements(JOB, '!isPending(job) && !isLeaseOver(job, now)', 'false'),
  ...replacements(JOB, 'hasAttemptsLeft(job) && isBeforeDeadline(job, now)', 'hasAttemptsLeft(job)'),
  ...replacements(JOB, 'hasAttemptsLeft(job) && isBeforeDeadline(job, now)', 'isBeforeDeadline(job, now)'),
  ...replacements(JOB, 'Math.max(leaseOverAt, job.deadline)', 'job.deadline'),
  ...replacements(JOB, 'Math.max(leaseOverAt, job.deadline)', 'leaseOverAt'),
  ...replacements(JOB, '399 * 1024', '400 * 1024'),
  ...replacements(ACCEPT, 'stored.text !== job.text', 'false'),
  ...replacements(ACCEPT, "phaseOf(stored, now) === 'claimable'", 'true'),
  ...replacements(ACCEPT, "phaseOf(stored, now) === 'claimable'", "stored.status === 'PENDING'"),
  ...replacements(ACCEPT, "phaseOf(stored, now) === 'claimable'", 'stored === job'),
  ...replacements(ACCEPT, 'hasKey || ', ''),
  ...replacements(ACCEPT, '(await deleteUnlessClaimed(repository, job.jobId))', 'true'),
  ...replacements(ACCEPT, '(await deleteUnlessClaimed(repository, job.jobId))', 'false'),
  ...replacements(
    ACCEPT,
    'return await repository.deletePending(jobId)',
    'await repository.deletePending(jobId); return true',
  ),
  ...replacements(ATTEMPT, 'remainingMs() - RESERVE_MS', 'remainingMs()'),
  ...replacements(ATTEMPT, ` && ${IS_LATE_START}`, ''),
  ...replacements(ATTEMPT, IS_LATE_START, 'false'),
  ...replacements(ATTEMPT, 'signal.aborted && ', ''),
  ...replacements(ATTEMPT, 'hasAttemptsLeft(job) && ', ''),
  ...replacements(ATTEMPT, 'remainingMs() <= RESERVE_MS', 'false'),
  ...replacements(ATTEMPT, '  checkTime();\n', ''),
  ...replacements(ATTEMPT, 'stopTimer();', ''),
  ...replacements(
    ATTEMPT,
    'if (!(await repository.end(jobId, lease, outcome, endedAt)))',
    'if (!(await repository.end(jobId, lease, outcome, endedAt)) && false)',
  ),
  ...replacements(STAGES, '.finally(() => running.delete(name))', ''),
  ...replacements(STAGES, 'running.set(name, work);', ''),
  ...replacements(STAGES, 'signal.throwIfAborted();', ''),
  ...replacements(STAGES, 'if (stage !== stages.at(-1)) ', ''),
  ...replacements(STAGES, 'if (stage !== stages.at(-1)) checkTime();', ''),
  ...replacements(STAGES, 'Object.create(null)', '{}'),
  ...replacements(STAGES, 'return original === value;', 'return true;'),
  ...replacements(STAGES, 'Number.isFinite(value)', 'true'),
  ...replacements(STAGES, "typeof value === 'string' || typeof value === 'boolean'", 'true'),
  ...replacements(STAGES, "if (tagOf(value) !== 'Object')", 'if (Array.isArray(value))'),
  ...replacements(STAGES, 'isPlain || Object.keys(value).length > 0', 'true'),
  ...replacements(STAGES, 'isPlain || Object.keys(value).length > 0', 'isPlain'),
  ...replacements(STAGES, 'isPlain || Object.keys(value).length > 0', 'Object.keys(value).length > 0'),
  ...replacements(STAGES, "if (ancestors.includes(value)) throw new TypeError('JSON cannot represent a cycle');", ''),
  ...replacements(STAGES, 'raceWithAbort(work, signal)', 'work'),
  ...replacements(CREATE_JOB, 'caller === undefined ?', 'true ?'),
  ...replacements(CREATE_JOB, 'newJob(jobId, text, now, lifetimes, owner)', 'newJob(jobId, text, now, lifetimes)'),
  ...replacements(GET_JOB, ' || job.owner !== callerOf(event)', ''),
  ...replacements(WORKER, "if (result === 'held')", 'if (false)'),
  ...replacements(WORKER, 'if (running.size > 0)', 'if (false)'),
  ...replacements(WORKER, ', remainingMs() - STOP_MS', ''),
  ...replacements(WORKER, 'Promise.allSettled(running.values()), ', ''),
  ...replacements(WORKER, 'newToken: () => uuid()', "newToken: () => 'token'"),
  ...replacements(AWS, 'AbortSignal.timeout(CALL_BUDGET_MS)', 'AbortSignal.timeout(60_000)'),
  ...replacements(AWS, '      callOptions(),\n', ''),
  ...replacements(REPOSITORY, ', callOptions()', ''),
  ...replacements(TELEMETRY, '.slice(0, maxLength)', ''),
  ...replacements(TELEMETRY, ' || causesLeft === 0', ''),
  ...replacements(TELEMETRY, 'error: loggedError(error, MAX_CAUSES)', 'error'),
  ...replacements(REQUEST, ".replace(/^\\ufeff/, '')", ''),
  ...replacements(REQUEST, ', ignoreBOM: true', ''),
].filter(({ name }) => name.includes(process.argv[2] ?? ''));

const tree = mkdtempSync(join(tmpdir(), 'mutants-'));

interface Suite {
  readonly project: 'model' | 'unit';
  readonly options?: readonly string[];
  /** The number of random sequences of the model. Default: as in `npm test`. */
  readonly sequences?: string;
}

const UNIT: Suite = { project: 'unit' };
const MODEL: Suite = { project: 'model', sequences: '2000' };

/** The suites that can catch a mutant of a file, fastest first. */
function suitesOf(file: string): Suite[] {
  const own = `/${basename(file, '.ts')}\\.test\\.ts$`;
  return [
    { project: 'model', options: ['--testNamePattern', 'breaks a guarantee'] },
    { project: 'unit', options: ['--testPathPatterns', own] },
    UNIT,
    MODEL,
  ];
}

// For a unit test that waits for a mutant without end: a minute. All sequences are one test, and the model itself
// reports a mutant for which it would wait without end.
const LIMITS = { unit: '60000', model: '1800000' };

/** Runs a suite in the copy. Returns its first failure, or undefined if it passes. */
function failureOf({ project, options = [], sequences }: Suite): string | undefined {
  const jest = join('node_modules', 'jest', 'bin', 'jest.js');
  const args = [jest, '--selectProjects', project, '--bail', '--testTimeout', LIMITS[project], ...options];
  const { status, stderr } = spawnSync(process.execPath, args, {
    cwd: tree,
    encoding: 'utf8',
    env: { ...(sequences && { MODEL_RUNS: sequences }), ...process.env, MODEL_SHRINK: 'no' },
  });
  if (status === 0) return undefined;
  const violation = project === 'model' ? /Cause:\s+(.*)/.exec(stderr)?.[1] : undefined;
  const failure = violation ?? /● (?!Console)(.*)/.exec(stderr)?.[1];
  // A mutant is caught only by a test that fails, not by tests that cannot start.
  if (failure === undefined) throw new Error(`The tests do not run:\n${stderr}`);
  return `${project}: ${failure}`;
}

/** The first failure in the suites, or undefined if all pass. */
function firstFailure(suites: readonly Suite[]): string | undefined {
  return suites.reduce<string | undefined>((found, suite) => found ?? failureOf(suite), undefined);
}

try {
  copyProject(tree);
  const broken = firstFailure([UNIT, MODEL]);
  if (broken !== undefined) throw new Error(`The tests fail without a mutant: ${broken}`);
  console.log('| mutant | caught by |\n| --- | --- |');
  let survivors = 0;
  for (const { name, file, source } of mutants) {
    writeFileSync(join(tree, file), source);
    const failure = firstFailure(suitesOf(file));
    writeFileSync(join(tree, file), read(file));
    if (failure === undefined) survivors += 1;
    console.log(`| ${name} | ${failure ?? 'SURVIVED'} |`);
  }
  console.log(`${mutants.length} mutants, ${survivors} survived`);
  process.exitCode = survivors === 0 ? 0 : 1;
} finally {
  rmSync(tree, { recursive: true, force: true });
}
