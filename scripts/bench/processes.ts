import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createWriteStream } from 'node:fs';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import type { BuiltFunction } from './functions.ts';
import type { Findings, Plan } from './probe.ts';

export type ProcessFindings = Findings & {
  /** What the handlers have logged. */
  readonly log: string;
};

/** Runs fresh processes with the environment variables that Lambda and the template set. */
export class Processes {
  readonly #directory: string;
  readonly #probe: string;
  readonly #certificateFile: string;

  constructor(directory: string, probe: string, certificateFile: string) {
    this.#directory = directory;
    this.#probe = probe;
    this.#certificateFile = certificateFile;
  }

  /** @throws an Error if the process fails or a handler returns an error response */
  async run(
    { name, memoryMiB, environment }: BuiltFunction,
    endpoints: Readonly<Record<string, string>>,
    plan: Pick<Plan, 'load'> & Partial<Plan>,
  ): Promise<ProcessFindings> {
    const directory = await mkdtemp(join(this.#directory, 'process-'));
    const files = ['plan.json', 'findings.json', 'log.jsonl'].map((file) => join(directory, file));
    const [planFile = '', findingsFile = '', logFile = ''] = files;
    const defaults: Omit<Plan, 'load'> = { calls: [], rounds: 1, traceModules: false, functionName: name, memoryMiB };
    await writeFile(planFile, JSON.stringify({ ...defaults, ...plan }));
    const child = spawn(process.execPath, [this.#probe, planFile, findingsFile], {
      env: {
        SystemRoot: process.env['SystemRoot'],
        AWS_REGION: 'us-east-1',
        AWS_ACCESS_KEY_ID: 'bench',
        AWS_SECRET_ACCESS_KEY: 'bench',
        // Lambda's credentials include a token of about this length.
        AWS_SESSION_TOKEN: 'bench'.repeat(200),
        AWS_EXECUTION_ENV: 'AWS_Lambda_nodejs24.x',
        AWS_LAMBDA_FUNCTION_NAME: name,
        AWS_LAMBDA_FUNCTION_VERSION: '$LATEST',
        AWS_LAMBDA_FUNCTION_MEMORY_SIZE: String(memoryMiB),
        AWS_LAMBDA_LOG_FORMAT: 'JSON',
        NODE_EXTRA_CA_CERTS: this.#certificateFile,
        ...environment,
        ...endpoints,
      },
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const logged = pipeline(child.stdout, createWriteStream(logFile));
    const [code] = await once(child, 'close');
    await logged;
    const log = await readFile(logFile, 'utf8');
    if (code !== 0) throw new Error(`A process of ${name} exited with code ${code}:\n${log}`);
    const findings: Findings = JSON.parse(await readFile(findingsFile, 'utf8'));
    for (const response of findings.responses) {
      if (response?.statusCode !== undefined && response.statusCode >= 300) {
        throw new Error(`${name} returned ${JSON.stringify(response)}`);
      }
    }
    await rm(directory, { recursive: true });
    return { ...findings, log };
  }
}
