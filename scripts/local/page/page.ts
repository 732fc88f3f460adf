/**
 * The local page. The server sends the jobs and what the functions do (observer.ts); submitting a job and
 * reading it go through the API, with the same client that users copy. Times are Unix milliseconds.
 */
import { type Job, JobsError, submitJob, waitForJob } from '../../../client/jobs.ts';
import { MAX_ATTEMPTS } from '../../../src/job.ts';
import { formatEntry } from '../../aws/logEntry.ts';
import { type Delivery, type History, historyOf, type Span } from './history.ts';
import type { JobReport, ListedJob, State } from './observer.ts';

const BASE_URL = `${location.origin}/Prod`;
/** Seconds between two GETs of the chosen job. */
const GET_INTERVAL = 0.4;
/** Longer than a job can take. */
const GET_LIMIT = 24 * 60 * 60;
/** The lengths that the timeline can have, so that it does not change all the time. */
const SCALES_MS = [10, 20, 50, 75, 100, 150, 200, 250, 300, 600, 1200, 3600, 7200, 14400, 28800].map((s) => s * 1000);
const reducesMotion = matchMedia('(prefers-reduced-motion: reduce)');

let state: State = { deployment: { isRunning: false, lastAt: 0 }, jobs: [], failedEvents: [] };
let reports: JobReport[] = [];
let chosenId = '';
/** A job that the server has not listed yet. */
let submitted: ListedJob | undefined;
let isConnected = false;
let waiting = new AbortController();
let announced = '';

// ------------------------------------------------------------------------------------------ what changes the page

const events = new EventSource('/events');
events.addEventListener('open', () => {
  // The server sends all reports again.
  reports = [];
});
events.addEventListener('error', () => {
  isConnected = false;
  render();
});
events.addEventListener('state', ({ data }) => {
  state = JSON.parse(data);
  isConnected = true;
  if (state.jobs.some(({ jobId }) => jobId === submitted?.jobId)) submitted = undefined;
  if (submitted !== undefined) state = { ...state, jobs: [submitted, ...state.jobs] };
  byId('send', HTMLButtonElement).disabled = false;
  const listed = new Set(state.jobs.map(({ jobId }) => jobId));
  reports = reports.filter(({ jobId }) => listed.has(jobId));
  if (!listed.has(chosenId)) {
    const linked = location.hash.slice(1);
    choose(listed.has(linked) ? linked : (state.jobs[0]?.jobId ?? ''));
  }
  render();
});
events.addEventListener('reports', ({ data }) => {
  reports.push(...JSON.parse(data));
  render();
});

byId('submit', HTMLFormElement).addEventListener('submit', async (event) => {
  event.preventDefault();
  const key = byId('key', HTMLInputElement).value;
  const text = byId('text', HTMLTextAreaElement).value;
  const error = byId('submit-error', HTMLElement);
  error.textContent = '';
  try {
    const options = key === '' ? {} : { idempotencyKey: key };
    const { jobId, status } = await submitJob(BASE_URL, text, options);
    if (!state.jobs.some((job) => job.jobId === jobId)) {
      const createdAt = Math.floor(Date.now() / 1000);
      submitted = { jobId, status, text, createdAt, attempt: 0, leaseExpiresAt: undefined };
      state = { ...state, jobs: [submitted, ...state.jobs] };
    }
    choose(jobId);
  } catch (failure) {
    error.textContent = messageOf(failure);
  }
});
byId('kill', HTMLButtonElement).addEventListener('click', () => act(`/kill?jobId=${chosenId}`));
byId('base-url', HTMLElement).textContent = BASE_URL;

/** Shows a job, and reads it until it ends. */
async function choose(jobId: string): Promise<void> {
  waiting.abort();
  waiting = new AbortController();
  const { signal } = waiting;
  chosenId = jobId;
  history.replaceState(null, '', jobId === '' ? ' ' : `#${jobId}`);
  byId('log', HTMLElement).replaceChildren();
  showResponse('');
  announced = '';
  render();
  if (jobId === '') return;
  const onStatus = (job: Job) => {
    if (!signal.aborted) showResponse(JSON.stringify(job, null, 2));
  };
  try {
    await waitForJob(jobUrl(), { signal, onStatus, interval: GET_INTERVAL, limit: GET_LIMIT });
  } catch (error) {
    if (error instanceof JobsError && !signal.aborted) showResponse(error.message);
  }
}

/** One of the page's own actions. */
async function act(path: string): Promise<void> {
  const error = byId('action-error', HTMLElement);
  error.textContent = '';
  try {
    const response = await fetch(path, { method: 'POST' });
    const body: { error?: string } = await response.json();
    error.textContent = body.error ?? '';
  } catch (failure) {
    error.textContent = messageOf(failure);
  }
}

// ------------------------------------------------------------------------------------------ what the page shows

function render(): void {
  const connection = byId('connection', HTMLElement);
  connection.dataset['status'] = isConnected ? 'DONE' : 'ERROR';
  const text = state.deployment.isRunning ? 'Deploying' : 'Live';
  setText(connection, isConnected ? text : 'Not connected: local.sh is not running. Looking for it');

  list('jobs', state.jobs, ({ jobId }) => jobId, showListed);
  list('failed', state.failedEvents, ({ messageId }) => messageId, showFailed);
  byId('no-failed', HTMLElement).hidden = state.failedEvents.length > 0;

  const job = state.jobs.find(({ jobId }) => jobId === chosenId);
  byId('no-job', HTMLElement).hidden = job !== undefined;
  byId('job', HTMLElement).hidden = job === undefined;
  if (job !== undefined) showJob(job);
}

function showListed(row: HTMLElement, job: ListedJob): void {
  const button = part(row, 'button');
  button.setAttribute('aria-current', String(job.jobId === chosenId));
  button.onclick = () => {
    choose(job.jobId);
    byId('job', HTMLElement).scrollIntoView({ block: 'nearest' });
  };
  setStatus(part(row, '.chip'), job.status);
  setText(part(row, '.age'), `${age(Date.now() - job.createdAt * 1000)} ago`);
  setText(part(row, '.text'), job.text);
}

function showFailed(row: HTMLElement, { messageId, description }: State['failedEvents'][number]): void {
  setText(part(row, 'p'), description);
  part(row, 'button').onclick = () => act(`/send-again?messageId=${messageId}`);
}

function showJob(job: ListedJob): void {
  const past = historyOf(reports.filter(({ jobId }) => jobId === job.jobId));
  const now = Date.now();
  setText(byId('job-id', HTMLElement), job.jobId);
  setStatus(byId('status', HTMLElement), job.status);
  setText(byId('now', HTMLElement), sentence(job, past, now));
  setText(byId('curl', HTMLElement), `curl '${jobUrl()}'`);
  byId('kill', HTMLButtonElement).disabled = !past.deliveries.some(isRunning);
  showMachine(job, past);
  showTimeline(job, past, now);
  showLog(past);

  const running = past.deliveries.findLast(isRunning);
  const crashed = past.deliveries.findLast(({ error, attempt }) => error !== undefined && attempt !== undefined);
  const event = running ? `attempt ${running.attempt} is running` : crashed ? `attempt ${crashed.attempt} failed` : '';
  const announcement = [`Job ${job.status}`, isEnded(job) ? '' : event].filter(Boolean).join(', ');
  if (announcement !== announced) setText(byId('announcer', HTMLElement), announcement);
  announced = announcement;
}

/** What the job does or waits for now. */
function sentence(job: ListedJob, { deliveries, waits, hasLapsed }: History, now: number): string {
  const last = deliveries.findLast(({ attempt }) => attempt !== undefined);
  const total = last?.to === undefined ? '' : ` ${seconds(last.to - startOf(job))} after it was submitted`;
  if (job.status === 'DONE') return `Done${total}, in attempt ${job.attempt}.`;
  if (hasLapsed) return 'Ended: there is no attempt left.';
  if (job.status === 'ERROR') return `Ended by a stage that failed${total}, in attempt ${job.attempt}.`;
  const running = deliveries.findLast(isRunning);
  if (running !== undefined) {
    return `Attempt ${running.attempt} of ${MAX_ATTEMPTS} runs ${runningStage(running) ?? 'the final write'}.`;
  }
  const failed = last === undefined ? '' : `Attempt ${last.attempt} ${failureOf(last)}. `;
  const next = waits.findLast(({ to }) => to !== undefined && to > now);
  if (next?.to !== undefined) return `${failed}Lambda tries again in ${countdown(next.to - now)}.`;
  const lease = (job.leaseExpiresAt ?? 0) * 1000 - now;
  if (job.attempt === MAX_ATTEMPTS && lease > 0) {
    return `${failed}It was the last one: the job ends as ERROR when the lease expires, in ${countdown(lease)}.`;
  }
  return `${failed}Waiting for a worker.`;
}

function showMachine(job: ListedJob, { hasLapsed }: History): void {
  const ways = ['submit'];
  if (job.attempt > 0) ways.push('claim');
  if (job.attempt > 1) ways.push('claim again');
  if (job.status === 'DONE') ways.push('all stages done');
  if (job.status === 'ERROR' && hasLapsed) ways.push(job.attempt === 0 ? 'deadline passed' : 'no attempt left');
  if (job.status === 'ERROR' && !hasLapsed) ways.push('a stage failed');
  for (const way of document.querySelectorAll('[data-way]')) {
    way.classList.toggle('taken', ways.includes(way.getAttribute('data-way') ?? ''));
  }
  for (const node of document.querySelectorAll('#machine [data-status]')) {
    const status = node.getAttribute('data-status');
    node.classList.toggle('current', status === job.status);
    node.classList.toggle('visited', status === 'PENDING' || (status === 'IN_PROGRESS' && job.attempt > 0));
  }
  const times = job.attempt > 2 ? `, ${job.attempt - 1} times` : '';
  const title = document.getElementById('machine-text');
  setText(
    title,
    `Current status: ${job.status}. Ways taken: ${ways.join(', ').replace('claim again', `claim again${times}`)}.`,
  );
}

interface Row extends Span {
  readonly kind: 'attempt' | 'stage' | 'lease' | 'wait';
  readonly name: string;
  readonly value: string;
  readonly status?: string;
  readonly hasCrashed?: boolean;
}

function showTimeline(job: ListedJob, past: History, now: number): void {
  const start = startOf(job);
  const groups = [
    ...past.deliveries.map((delivery) => ({ from: delivery.from, rows: rowsOf(delivery, job, now) })),
    ...past.waits.map((wait) => ({ from: wait.from, rows: [waitRow(wait, now)] })),
  ];
  const rows = groups.sort((a, b) => a.from - b.from).flatMap((group) => group.rows);
  const end = Math.max(
    now * Number(!isEnded(job)),
    start,
    ...rows.filter(({ kind }) => kind !== 'lease').map(({ to }) => to ?? now),
  );
  const scale = SCALES_MS.find((length) => length >= end - start) ?? end - start;

  const keyOf = (row: Row) => `${rows.indexOf(row)} ${row.kind}`;
  list('timeline', rows, keyOf, (element, row) => {
    element.dataset['kind'] = row.kind;
    element.toggleAttribute('data-crashed', row.hasCrashed === true);
    setText(part(element, '.name'), row.name);
    setText(part(element, '.value'), row.value);
    const bar = part(element, '.bar');
    bar.dataset['status'] = row.status ?? '';
    const left = Math.min((row.from - start) / scale, 1);
    bar.style.left = `${100 * left}%`;
    bar.style.width = `${100 * (Math.min(((row.to ?? now) - start) / scale, 1) - left)}%`;
  });
  const ticks = [0, 1, 2, 3, 4, 5].map((tick) => (tick * scale) / 5_000);
  list('axis', ticks, String, (element, tick) => setText(element, `${tick} s`));
}

function rowsOf(delivery: Delivery, job: ListedJob, now: number): Row[] {
  const { from, to, attempt, refused, error, stages } = delivery;
  const took = seconds((to ?? now) - from);
  if (attempt === undefined) {
    const value = refused !== undefined ? `claim refused: ${refused}` : (error ?? 'starting');
    return [{ kind: 'attempt', name: 'Delivery', from, to, value, status: 'PENDING' }];
  }
  const hasCrashed = to !== undefined && error !== undefined;
  const status = to === undefined ? 'IN_PROGRESS' : hasCrashed ? 'ERROR' : 'DONE';
  const value = to === undefined ? `${took}, running` : hasCrashed ? `${took}, ${failureOf(delivery)}` : took;
  const rows: Row[] = [{ kind: 'attempt', name: `Attempt ${attempt}`, from, to, value, status, hasCrashed }];
  for (const stage of stages) {
    rows.push({ ...stage, kind: 'stage', value: seconds((stage.to ?? now) - stage.from), status: 'DONE' });
  }
  const unfinished = to === undefined || hasCrashed ? runningStage(delivery) : undefined;
  if (unfinished !== undefined) {
    const lasted = seconds((to ?? now) - delivery.busySince);
    const row = {
      from: delivery.busySince,
      to,
      name: unfinished,
      value: hasCrashed ? `${lasted}, lost` : `${lasted}, running`,
    };
    rows.push({ ...row, kind: 'stage', status: hasCrashed ? 'ERROR' : 'IN_PROGRESS' });
  }
  if (attempt === job.attempt && job.leaseExpiresAt !== undefined) {
    const expiresAt = job.leaseExpiresAt * 1000;
    const lease = expiresAt > now ? `expires in ${countdown(expiresAt - now)}` : 'expired';
    rows.push({ kind: 'lease', name: 'lease', from, to: expiresAt, value: lease });
  }
  return rows;
}

function waitRow({ from, to = from }: Span, now: number): Row {
  const value = to > now ? `next try in ${countdown(to - now)}` : seconds(to - from);
  return { kind: 'wait', name: 'Lambda waits', from, to, value };
}

function showLog({ entries }: History): void {
  const log = byId('log', HTMLElement);
  for (const entry of entries.slice(log.childElementCount)) {
    const line = document.createElement('li');
    const name = /(\w+Function)-\w+$/.exec(entry.stream)?.[1] ?? entry.stream;
    // Without what is the same in most lines.
    const text = formatEntry(entry, name.replace('Function', ''), (frame) => frame).slice('2026-01-01T'.length);
    line.textContent = text
      .replace(/ ?function_request_id=\S+/, '')
      .replace(/ {2}INFO /, '')
      .replace(/ {2,}/g, '  ');
    log.append(line);
  }
}

function showResponse(text: string): void {
  setText(byId('response', HTMLElement), text);
}

// ------------------------------------------------------------------------------------------ words and numbers

/** The stage that runs, or ran when the worker crashed. The logs name only stages that have finished, so the
 * name is that of the same position in a job that has run all stages of this version. */
function runningStage({ stages }: Delivery): string | undefined {
  const done = stages.map(({ name }) => name);
  const names = stageNames();
  if (names === undefined) return `stage ${done.length + 1}`;
  return names[done.length];
}

function stageNames(): string[] | undefined {
  const done = state.jobs.filter(
    ({ status, createdAt }) => status === 'DONE' && createdAt * 1000 > state.deployment.lastAt,
  );
  for (const { jobId } of done) {
    const last = historyOf(reports.filter((report) => report.jobId === jobId)).deliveries.findLast(
      ({ stages }) => stages.length > 0,
    );
    if (last !== undefined) return last.stages.map(({ name }) => name);
  }
  return undefined;
}

function isRunning({ attempt, to }: Delivery): boolean {
  return attempt !== undefined && to === undefined;
}

function isEnded({ status }: { readonly status: string }): boolean {
  return status === 'DONE' || status === 'ERROR';
}

function failureOf({ error = '' }: Delivery): string {
  return error === 'Worker process died' ? 'crashed' : /timed out/.test(error) ? 'timed out' : 'failed';
}

/** The first report is about the POST. `createdAt` is in whole seconds. */
function startOf(job: ListedJob): number {
  return reports.find(({ jobId }) => jobId === job.jobId)?.time ?? job.createdAt * 1000;
}

function seconds(milliseconds: number): string {
  return `${(Math.max(0, milliseconds) / 1000).toFixed(1)} s`;
}

function countdown(milliseconds: number): string {
  return `${Math.ceil(milliseconds / 1000)} s`;
}

function age(milliseconds: number): string {
  const minutes = Math.floor(milliseconds / 60_000);
  if (minutes < 1) return `${Math.max(0, Math.floor(milliseconds / 1000))} s`;
  return minutes < 120 ? `${minutes} min` : `${Math.floor(minutes / 60)} h`;
}

function jobUrl(): string {
  return `${BASE_URL}/jobs/${chosenId}`;
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

// ------------------------------------------------------------------------------------------ elements

/** Makes the children of an element match the items. An item's child is a copy of the template `ID-row`. */
function list<T>(
  id: string,
  items: readonly T[],
  keyOf: (item: T) => string,
  show: (row: HTMLElement, item: T) => void,
): void {
  const parent = byId(id, HTMLElement);
  const rows = new Map([...parent.children].map((row) => [row.getAttribute('data-key'), row]));
  for (const [index, item] of items.entries()) {
    const key = keyOf(item);
    const row =
      rows.get(key) ?? document.importNode(byId(`${id}-row`, HTMLTemplateElement).content, true).firstElementChild;
    if (!(row instanceof HTMLElement)) throw new Error(`The template ${id}-row is empty`);
    rows.delete(key);
    row.dataset['key'] = key;
    // A row that is where it belongs is not moved, because it would lose the focus.
    if (parent.children[index] !== row) parent.insertBefore(row, parent.children[index] ?? null);
    show(row, item);
  }
  for (const row of rows.values()) row.remove();
}

function byId<T extends Element>(id: string, type: new () => T): T {
  const element = document.getElementById(id);
  if (element instanceof type) return element;
  throw new Error(`The page has no ${id}`);
}

function part(row: HTMLElement, selector: string): HTMLElement {
  const element = row.querySelector(selector);
  if (element instanceof HTMLElement) return element;
  throw new Error(`The row has no ${selector}`);
}

function setStatus(element: HTMLElement, status: string): void {
  element.dataset['status'] = status;
  setText(element, status);
}

/** Leaves the element alone if it already has this text, so that a selection stays and nothing is announced twice. */
function setText(element: Element | null, text: string): void {
  if (element !== null && element.textContent !== text) element.textContent = text;
}

/** Bars grow and countdowns run while the chosen job has not ended. Otherwise only ages change. */
function tick(): void {
  if (!document.hidden && isConnected) render();
  const job = state.jobs.find(({ jobId }) => jobId === chosenId);
  const isMoving = job !== undefined && !isEnded(job) && !reducesMotion.matches;
  setTimeout(tick, isMoving ? 100 : 1000);
}
tick();
