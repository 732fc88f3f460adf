/** The part of `scripts/local.sh` that runs after the installation. */
import { randomUUID } from 'node:crypto';
import { constants } from 'node:os';
import { resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { submitJob } from '../../client/jobs.ts';
import { followJob } from '../aws/followJob.ts';
import { build, deploy, type Emulator, type Stack, startEmulator, typeErrors } from './emulator.ts';
import { type PageServer, startPageServer } from './page/server.ts';
import { startFunctions } from './startFunctions.ts';
import { watchSources } from './watchSources.ts';

const STACK_NAME = 'async-job-processing-demo';
const SAMPLE_TEXT = 'AWS Lambda is a great serverless compute service';

let aws: Emulator | undefined;
let pageServer: PageServer | undefined;
let isServing = false;
let isStopping = false;

// A second signal has no handler, so it ends this process immediately, and the AWS emulator with it.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.once(signal, async () => {
    isStopping = true;
    console.log('\nStopping');
    await aws?.stop();
    process.exit(isServing && signal === 'SIGINT' ? 0 : 128 + constants.signals[signal]);
  });
}

try {
  await main();
} catch (error) {
  pageServer?.stop();
  await aws?.stop();
  if (!isStopping) console.error(`Error: ${messageOf(error)}`);
  process.exitCode = 1;
}

async function main(): Promise<void> {
  const { port, pagePort, once, text } = readArguments();
  // Started before the build, so that no change is missed.
  const changes = once ? undefined : watchSources(resolve(import.meta.dirname, '..', '..'));
  const local = await step(`Starting the AWS emulator on 127.0.0.1:${port}`, () => startEmulator({ port }));
  aws = local;
  const page = await startPageServer(local, pagePort);
  pageServer = page;
  console.log(`Watch it at ${page.url}`);
  await buildAndDeploy(local, page);
  let jobUrl: string | undefined;
  try {
    await start(local);
    console.log(`\nPOST ${page.baseUrl}/jobs\n${JSON.stringify({ text })}`);
    const accepted = await submitJob(page.baseUrl, text);
    jobUrl = accepted.jobUrl;
    console.log(`202 ${JSON.stringify({ jobId: accepted.jobId, status: accepted.status })}\n\nGET ${jobUrl}`);
    const { status } = await followJob(jobUrl, { interval: 0.5, limit: 60 });
    if (status === 'ERROR') throw new Error('The job ended as ERROR');
  } catch (error) {
    if (changes === undefined || isStopping) throw error;
    console.error(`\nWarning: ${messageOf(error)}. The application is served anyway.`);
  }
  if (changes === undefined) {
    page.stop();
    return local.stop();
  }

  isServing = true;
  console.log(usage(page, local, jobUrl));
  await Promise.race([local.ended, deployChanges(local, page, changes)]);
}

function readArguments(): { port: number; pagePort: number; once: boolean; text: string } {
  const { values } = parseArgs({
    options: {
      once: { type: 'boolean', default: false },
      port: { type: 'string', default: process.env['PORT'] ?? '4566' },
      'page-port': { type: 'string', default: '4580' },
      text: { type: 'string', default: SAMPLE_TEXT },
    },
  });
  const [port = 0, pagePort = 0] = [values.port, values['page-port']].map(Number);
  for (const one of [port, pagePort]) {
    if (!(one >= 1 && one <= 65_535)) throw new Error('The port must be a number from 1 to 65535');
  }
  return { port, pagePort, once: values.once, text: values.text };
}

/** Also shows type errors, which stop neither the build nor the deployment. */
async function buildAndDeploy(local: Emulator, page: PageServer): Promise<void> {
  const types = typeErrors(local);
  let stack: Stack | undefined;
  page.deploying();
  try {
    await step('Building (sam build)', () => build(local));
    stack = await step('Deploying (sam deploy)', () => deploy(local, { stackName: STACK_NAME }));
  } finally {
    page.deployed(stack);
    const errors = await types;
    if (errors !== '' && !isStopping) console.error(`Type errors (tsc -p src):\n${errors}`);
  }
}

/** Shows at once if a function cannot start. Otherwise only the emulator's log would say so, while jobs stay PENDING. */
function start(local: Emulator): Promise<void> {
  return step('Starting each function once', () => startFunctions(local, STACK_NAME));
}

/** Deploys each change. If that fails, the previous version keeps running. */
async function deployChanges(local: Emulator, page: PageServer, changes: AsyncIterable<string>): Promise<void> {
  for await (const file of changes) {
    const started = Date.now();
    console.log(`\n${file} has changed`);
    try {
      await buildAndDeploy(local, page);
      if (!isStopping) console.log(`Deployed after ${seconds(started)} s, at the same URL`);
    } catch (error) {
      if (!isStopping) console.error(`Error: ${messageOf(error)}\nNot deployed: the previous version is still served.`);
      continue;
    }
    await start(local).catch((error: unknown) => {
      if (!isStopping) console.error(`Error: ${messageOf(error)}`);
    });
  }
}

/** Prints the title of a step, and how long the step took. */
async function step<T>(title: string, work: () => Promise<T>): Promise<T> {
  process.stdout.write(`${title} ... `);
  const started = Date.now();
  try {
    const result = await work();
    console.log(`${seconds(started)} s`);
    return result;
  } catch (error) {
    if (!isStopping) console.log('failed');
    throw error;
  }
}

function usage(
  { url, baseUrl }: PageServer,
  { endpoint, logFile }: Emulator,
  jobUrl = `${baseUrl}/jobs/JOB_ID`,
): string {
  const post = `curl -i -X POST '${baseUrl}/jobs' -H 'Content-Type: application/json'`;
  const body = JSON.stringify({ text: SAMPLE_TEXT });
  return `
Watch it at ${url}
The API is at ${baseUrl}

Submit a job:
  ${post} -d '${body}'

Read a job:
  curl -i '${jobUrl}'

Submit a job that is safe to repeat:
  ${post} -H 'Idempotency-Key: ${randomUUID()}' -d '${body}'

Kill the worker of a job that is running, and see the job survive (also a button of the page):
  curl -X POST '${url}/kill'

Show the failed events (logs.sh and the other scripts work the same way):
  AWS_ENDPOINT_URL=${endpoint} bash scripts/redrive.sh

The AWS emulator is at ${endpoint}, its log in ${logFile}
A change in src/ or template.yaml is built and deployed; a job that is running is then retried.
Ctrl-C stops everything.`;
}

function seconds(since: number): string {
  return ((Date.now() - since) / 1000).toFixed(1);
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
