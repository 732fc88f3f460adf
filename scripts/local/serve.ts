/** What `scripts/local.sh` does once all is installed; see there. */
import { randomUUID } from 'node:crypto';
import { request } from 'node:http';
import { text as readAll } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { build, deploy, type LocalAws, type Stack, startLocalAws } from './localAws.ts';

const STACK_NAME = 'async-job-processing-demo';
const SAMPLE = JSON.stringify({ text: 'AWS Lambda is a great serverless compute service' });
const DEFAULT_PORT = 4566;
const JOB_LIMIT_MS = 60_000;
const POLL_MS = 500;

let aws: LocalAws | undefined;
let isServing = false;

// A second signal finds no handler, and ends this process at once; the local AWS goes with it.
for (const [signal, code] of [
  ['SIGINT', 130],
  ['SIGTERM', 143],
  ['SIGHUP', 129],
] as const) {
  process.once(signal, async () => {
    console.log('\nStopping');
    await aws?.stop();
    process.exit(isServing && signal === 'SIGINT' ? 0 : code);
  });
}

try {
  const { port, once } = readArguments();
  aws = await step(`Starting the local AWS on 127.0.0.1:${port}`, () => startLocalAws({ port }));
  const running = aws;
  await step('Building (sam build)', () => build(running));
  const stack = await step('Deploying (sam deploy)', () => deploy(running, { stackName: STACK_NAME }));
  const jobPath = await runSample(stack);
  if (once) {
    await aws.stop();
  } else {
    isServing = true;
    console.log(usage(stack, jobPath, running));
  }
} catch (error) {
  await aws?.stop();
  console.error(`Error: ${error instanceof Error ? error.message : error}`);
  process.exitCode = 1;
}

function readArguments(): { port: number; once: boolean } {
  const { values } = parseArgs({ options: { once: { type: 'boolean', default: false }, port: { type: 'string' } } });
  const port = Number(values.port ?? process.env['PORT'] ?? DEFAULT_PORT);
  if (!Number.isInteger(port) || port < 1 || port > 65_535)
    throw new Error('The port must be a number from 1 to 65535');
  return { port, once: values.once };
}

/** Says what is being done, and how long it took. */
async function step<T>(title: string, work: () => Promise<T>): Promise<T> {
  process.stdout.write(`${title} ... `);
  const started = Date.now();
  try {
    const result = await work();
    console.log(`${seconds(started)} s`);
    return result;
  } catch (error) {
    console.log('failed');
    throw error;
  }
}

/** Runs the sample text as a job, showing each status. Returns the job's path. Throws an Error unless it ends as DONE. */
async function runSample({ baseUrl }: Stack): Promise<string> {
  const started = Date.now();
  console.log(`\nPOST ${baseUrl}/jobs\n${SAMPLE}`);
  const accepted = await send('POST', `${baseUrl}/jobs`, SAMPLE);
  if (accepted.status !== 202) throw new Error(`POST answered ${accepted.status}: ${accepted.body}`);
  console.log(`202 ${accepted.body}\n`);

  const url = new URL(accepted.location ?? '', baseUrl).href;
  console.log(`GET ${url}`);
  let shown = '';
  while (Date.now() - started < JOB_LIMIT_MS) {
    const answer = await send('GET', url);
    if (answer.status !== 200) throw new Error(`GET answered ${answer.status}: ${answer.body}`);
    const job: { status: string } = JSON.parse(answer.body);
    if (job.status !== shown) console.log(`${seconds(started).padStart(5)} s  ${job.status}`);
    shown = job.status;
    if (job.status === 'DONE' || job.status === 'ERROR') console.log(JSON.stringify(job, null, 2));
    if (job.status === 'DONE') return url;
    if (job.status === 'ERROR') throw new Error('The sample job ended as ERROR');
    await sleep(POLL_MS);
  }
  throw new Error(`The sample job has not ended within ${JOB_LIMIT_MS / 1000} s`);
}

/** Calls the API. Node's resolver does not know `*.localhost`, so the name goes into the Host header only. */
async function send(method: string, url: string, body?: string) {
  const { host, port, pathname } = new URL(url);
  const { promise, resolve, reject } = Promise.withResolvers<import('node:http').IncomingMessage>();
  const headers = { Host: host, 'Content-Type': 'application/json' };
  request({ host: '127.0.0.1', port, path: pathname, method, headers, timeout: JOB_LIMIT_MS }, resolve)
    .on('timeout', () => reject(new Error(`${method} ${url} is not answered`)))
    .on('error', reject)
    .end(body);
  const response = await promise;
  return { status: response.statusCode, location: response.headers.location, body: await readAll(response) };
}

function usage({ baseUrl }: Stack, jobUrl: string, { endpoint, logFile }: LocalAws): string {
  const post = `curl -i -X POST '${baseUrl}/jobs' -H 'Content-Type: application/json'`;
  return `
The API is at ${baseUrl}

Submit a job:
  ${post} -d '${SAMPLE}'

Read this job:
  curl -i '${jobUrl}'

Submit a job that is safe to repeat:
  ${post} -H 'Idempotency-Key: ${randomUUID()}' -d '${SAMPLE}'

The local AWS is at ${endpoint}, its log in ${logFile}
Ctrl-C stops it.`;
}

function seconds(since: number): string {
  return ((Date.now() - since) / 1000).toFixed(1);
}
