import { type IncomingMessage, request } from 'node:http';
import { text as readAll } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';

const LIMIT_MS = 60_000;
const POLL_MS = 500;

/** Submits a text as a job. Returns the job's URL. */
export async function submit(baseUrl: string, text: string): Promise<string> {
  const body = JSON.stringify({ text });
  console.log(`\nPOST ${baseUrl}/jobs\n${body}`);
  const response = await send('POST', `${baseUrl}/jobs`, body);
  if (response.status !== 202) throw new Error(`POST returned ${response.status}: ${response.body}`);
  console.log(`202 ${response.body}\n`);
  return new URL(response.location ?? '', baseUrl).href;
}

/** Prints each status of a job, then the job. Throws an Error unless it ends as DONE within {@link LIMIT_MS}. */
export async function follow(jobUrl: string): Promise<void> {
  console.log(`GET ${jobUrl}`);
  const started = Date.now();
  let shown = '';
  while (Date.now() - started < LIMIT_MS) {
    const response = await send('GET', jobUrl);
    if (response.status !== 200) throw new Error(`GET returned ${response.status}: ${response.body}`);
    const job: { status: string } = JSON.parse(response.body);
    if (job.status !== shown) console.log(`${((Date.now() - started) / 1000).toFixed(1).padStart(5)} s  ${job.status}`);
    shown = job.status;
    if (job.status === 'DONE' || job.status === 'ERROR') console.log(JSON.stringify(job, null, 2));
    if (job.status === 'DONE') return;
    if (job.status === 'ERROR') throw new Error('The job ended as ERROR');
    await sleep(POLL_MS);
  }
  throw new Error(`The job did not end within ${LIMIT_MS / 1000} s`);
}

/** Calls the API. Node does not resolve `*.localhost`, so the name is only sent as the Host header. */
async function send(method: string, url: string, body?: string) {
  const { host, port, pathname } = new URL(url);
  const { promise, resolve, reject } = Promise.withResolvers<IncomingMessage>();
  const headers = { Host: host, 'Content-Type': 'application/json' };
  request({ host: '127.0.0.1', port, path: pathname, method, headers, timeout: LIMIT_MS }, resolve)
    .on('timeout', () => reject(new Error(`${method} ${url} timed out`)))
    .on('error', reject)
    .end(body);
  const response = await promise;
  return { status: response.statusCode, location: response.headers.location, body: await readAll(response) };
}
