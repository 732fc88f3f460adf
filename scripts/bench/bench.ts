/**
 * Measures the application's own part of the functions: bundle size, load time, AWS calls, DynamoDB units, log,
 * CPU time and memory. `npm run bench`, or `npm run bench -- --json` for JSON. Fresh processes load the functions,
 * built as in the template, and call them. Their AWS calls go over TLS to a stand-in on this machine. Exits with
 * code 1 if a goal is missed.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { measure } from './measure.ts';
import { judge, memoryTable, print } from './report.ts';

const { values: options } = parseArgs({ options: { json: { type: 'boolean', default: false } } });

const directory = await mkdtemp(join(tmpdir(), 'bench-'));
try {
  const findings = await measure(directory);
  const memory = memoryTable(findings);
  const goals = judge(findings);
  if (options.json) console.log(JSON.stringify({ ...findings, memory, goals }, null, 2));
  else print(findings, memory, goals);
  if (!goals.every(({ isMet }) => isMet)) process.exitCode = 1;
} finally {
  await rm(directory, { recursive: true });
}
