/**
 * Measures the time, memory, AWS calls and DynamoDB units of the functions: `npm run bench`, or
 * `npm run bench -- --json` for JSON. Fresh processes load the functions, built as in the template, and
 * call them. The functions' AWS calls go over TLS to local stubs of DynamoDB and Lambda.
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { startDatabase } from './database.ts';
import { buildFunctions, buildScript, perFunction } from './functions.ts';
import { followJobs } from './jobs.ts';
import { estimateMemory } from './memory.ts';
import { Processes } from './processes.ts';
import { type Findings, judge, table } from './report.ts';
import { selfSigned } from './stub.ts';
import { timeFunctions } from './timing.ts';

const { values: options } = parseArgs({ options: { json: { type: 'boolean', default: false } } });

const directory = await mkdtemp(join(tmpdir(), 'bench-'));
try {
  const findings = await measure();
  const goals = judge(findings);
  console.log(options.json ? JSON.stringify({ ...findings, goals }, null, 2) : table(findings, goals));
} finally {
  await rm(directory, { recursive: true });
}

async function measure(): Promise<Findings> {
  const certificate = await selfSigned();
  const certificateFile = join(directory, 'certificate.pem');
  await writeFile(certificateFile, certificate.cert);
  const functions = await buildFunctions(directory);
  const bareCalls = await buildScript('bareCalls.ts', directory);
  const processes = new Processes(directory, await buildScript('probe.ts', directory), certificateFile);

  console.error('Running jobs with texts of every size from POST to DONE (takes half a minute)');
  const database = await startDatabase(functions.createJob.environment['JOBS_TABLE_NAME'] ?? '');
  const jobs = await followJobs({ functions, processes, database, certificate });
  database.stop();
  const [smallest, largest] = [jobs[0]?.sample, jobs.at(-1)?.sample];
  if (smallest === undefined || largest === undefined) throw new Error('No jobs were run');

  console.error('Loading and calling each function in turn (takes a minute)');
  const timings = await timeFunctions({ functions, processes, certificate, bareCalls, smallest, largest });

  return {
    machine: { node: process.version, cpu: cpus()[0]?.model ?? 'unknown', cores: cpus().length },
    memoryMiB: perFunction((name) => functions[name].memoryMiB),
    bundleBytes: perFunction((name) => functions[name].bundleBytes),
    defaultBytes: perFunction((name) => functions[name].defaultBytes),
    timings,
    memory: estimateMemory(timings),
    jobs: jobs.map(({ findings }) => findings),
  };
}
