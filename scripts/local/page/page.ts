/**
 * The local page. The server sends the jobs and what the functions do (observer.ts); submitting a job and
 * reading it go through the API, with the same client that users copy. Times are Unix milliseconds.
 */
import { JobsError, submitJob, waitForJob } from '../../../client/jobs.ts';
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
let isConnected = false;
let waiting = new AbortController();

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
  // A job that was just submitted may not be listed yet, and stays chosen.
  const mayBeNew = isConnected && jobOf(chosenId) === undefined;
  state = JSON.parse(data);
  isConnected = true;
  find('#send').toggleAttribute('disabled', false);
  reports = reports.filter(({ jobId }) => jobOf(jobId) !== undefined);
  const linked = jobOf(location.hash.slice(1)) ?? state.jobs[0];
  if (linked !== undefined && !mayBeNew && jobOf(chosenId) === undefined) choose(linked.jobId);
  render();
});
events.addEventListener('reports', ({ data }) => {
  reports.push(...JSON.parse(data));
  render();
});

find('#submit').addEventListener('submit', async (event) => {
  event.preventDefault();
  const idempotencyKey = find<HTMLInputElement>('#key').value;
  setText(find('#submit-error'), '');
  try {
    const text = find<HTMLTextAreaElement>('#text').value;
    const { jobId } = await submitJob(BASE_URL, text, idempotencyKey === '' ? {} : { idempotencyKey });
    choose(jobId);
  } catch (error) {
    setText(find('#submit-error'), messageOf(error));
  }
});
find('#kill').addEventListener('click', () => act(`/kill?jobId=${chosenId}`));
setText(find('#base-url'), BASE_URL);

/** Shows a job, and reads it until it ends. */
async function choose(jobId: string): Promise<void> {
  waiting.abort();
  waiting = new AbortController();
  const { signal } = waiting;
  chosenId = jobId;
  history.replaceState(null, '', `#${jobId}`);
  const show = (text: string) => {
    if (!signal.aborted) setText(find('#response'), text);
  };
  show('');
  render();
  try {
    const onStatus = (job: object) => show(JSON.stringify(job, null, 2));
    await waitForJob(jobUrl(), { signal, onStatus, interval: GET_INTERVAL, limit: GET_LIMIT });
  } catch (error) {
    if (error instanceof JobsError) show(error.message);
  }
}

/** One of the page's own actions. */
async function act(path: string): Promise<void> {
  setText(find('#action-error'), '');
  try {
    const body: { error?: string } = await (await fetch(path, { method: 'POST' })).json();
    setText(find('#action-error'), body.error ?? '');
  } catch (error) {
    setText(find('#action-error'), messageOf(error));
  }
}

// ------------------------------------------------------------------------------------------ what the page shows

function render(): void {
  find('#connection').dataset['status'] = isConnected ? 'DONE' : 'ERROR';
  const text = state.deployment.isRunning ? 'Deploying' : 'Live';
  setText(find('#connection'), isConnected ? text : 'Not connected: local.sh is not running. Looking for it');

  list('jobs', state.jobs, ({ jobId }) => jobId, showListed);
  list('failed', state.failedEvents, ({ messageId }) => messageId, showFailed);
  find('#no-failed').hidden = state.failedEvents.length > 0;
  find('#no-job').hidden = state.jobs.length > 0;
  find('#job').hidden = state.jobs.length === 0;
  const job = jobOf(chosenId);
  if (job !== undefined) showJob(job);
}

function showListed(row: HTMLElement, job: ListedJob): void {
  const button = find('button', row);
  button.setAttribute('aria-current', String(job.jobId === chosenId));
  button.onclick = () => {
    choose(job.jobId);
    find('#job').scrollIntoView({ block: 'nearest' });
  };
  setStatus(find('.chip', row), job.status);
  setText(find('small', row), `${age(Date.now() - job.createdAt * 1000)} ago`);
  setText(find('.text', row), job.text);
}

function showFailed(row: HTMLElement, { messageId, description }: State['failedEvents'][number]): void {
  setText(find('p', row), description);
  find('button', row).onclick = () => act(`/send-again?messageId=${messageId}`);
}

function showJob(job: ListedJob): void {
  const past = historyOf(reports.filter(({ jobId }) => jobId === job.jobId));
  const running = past.deliveries.findLast(isRunning);
  setText(find('#job-id'), job.jobId);
  setStatus(find('#status'), job.status);
  setText(find('#now'), sentence(job, past, Date.now()));
  setText(find('#curl'), `curl '${jobUrl()}'`);
  find('#kill').toggleAttribute('disabled', running === undefined);
  showMachine(job, past);
  showTimeline(job, past, Date.now());
  showLog(past);

  const crashed = past.deliveries.findLast(({ error, attempt }) => error !== undefined && attempt !== undefined);
  const event = running ? `, attempt ${running.attempt} is running` : crashed && `, attempt ${crashed.attempt} failed`;
  setText(find('#announcer'), `Job ${job.status}${isEnded(job) ? '' : (event ?? '')}`);
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
  const transitions = ['submit'];
  if (job.attempt > 0) transitions.push('claim');
  if (job.attempt > 1) transitions.push('claim again');
  if (job.status === 'DONE') transitions.push('all stages done');
  if (job.status === 'ERROR' && hasLapsed) transitions.push(job.attempt === 0 ? 'deadline passed' : 'no attempt left');
  if (job.status === 'ERROR' && !hasLapsed) transitions.push('a stage failed');
  for (const arrow of document.querySelectorAll<SVGElement>('[data-transition]')) {
    arrow.classList.toggle('taken', transitions.includes(arrow.dataset['transition'] ?? ''));
  }
  for (const node of document.querySelectorAll<SVGElement>('#machine [data-status]')) {
    const { status } = node.dataset;
    node.classList.toggle('current', status === job.status);
    node.classList.toggle('visited', status === 'PENDING' || (status === 'IN_PROGRESS' && job.attempt > 0));
  }
  const times = job.attempt > 2 ? `, ${job.attempt - 1} times` : '';
  const text = transitions.join(', ').replace('claim again', `claim again${times}`);
  setText(find('#machine-text'), `Current status: ${job.status}. Transitions: ${text}.`);
}

interface Row extends Span {
  readonly kind: 'attempt' | 'stage' | 'lease' | 'wait';
  readonly name: string;
  readonly value: string;
  readonly status?: string;
}
type Rows = [Row, ...Row[]];

function showTimeline(job: ListedJob, past: History, now: number): void {
  const start = startOf(job);
  const groups = [
    ...past.deliveries.map((delivery) => rowsOf(delivery, job, now)),
    ...past.waits.map((wait) => waitRows(wait, now)),
  ];
  const rows = groups.sort(([a], [b]) => a.from - b.from).flat();
  const ends = rows.filter(({ kind }) => kind !== 'lease').map(({ to }) => to ?? now);
  const length = Math.max(isEnded(job) ? start : now, ...ends) - start;
  const scale = SCALES_MS.find((long) => long >= length) ?? length;
  const share = (time: number) => Math.min((time - start) / scale, 1);

  const keyOf = (row: Row) => `${rows.indexOf(row)} ${row.kind}`;
  list('timeline', rows, keyOf, (element, { kind, name, value, status, from, to }) => {
    element.dataset['kind'] = kind;
    element.toggleAttribute('data-crashed', kind === 'attempt' && status === 'ERROR');
    setText(find('.name', element), name);
    setText(find('.value', element), value);
    const bar = find('.bar', element);
    bar.dataset['status'] = status ?? '';
    bar.style.left = `${100 * share(from)}%`;
    bar.style.width = `${100 * (share(to ?? now) - share(from))}%`;
  });
  for (const [index, tick] of [...find('#axis').children].entries()) setText(tick, `${(index * scale) / 5000} s`);
}

function rowsOf(delivery: Delivery, job: ListedJob, now: number): Rows {
  const { from, to, attempt, refused, error, stages, busySince } = delivery;
  if (attempt === undefined) {
    const value = refused !== undefined ? `claim refused: ${refused}` : (error ?? 'starting');
    return [{ kind: 'attempt', name: 'Delivery', from, to, value, status: 'PENDING' }];
  }
  const hasCrashed = to !== undefined && error !== undefined;
  const isOver = to !== undefined && !hasCrashed;
  const status = hasCrashed ? 'ERROR' : isOver ? 'DONE' : 'IN_PROGRESS';
  /** How long it took since a time, and what came of it. */
  const since = (time: number, failure: string) =>
    `${seconds((to ?? now) - time)}${hasCrashed ? `, ${failure}` : isOver ? '' : ', running'}`;
  const value = since(from, failureOf(delivery));
  const rows: Rows = [{ kind: 'attempt', name: `Attempt ${attempt}`, from, to, value, status }];
  for (const stage of stages) {
    rows.push({ ...stage, kind: 'stage', value: seconds(stage.to - stage.from), status: 'DONE' });
  }
  const unfinished = isOver ? undefined : runningStage(delivery);
  if (unfinished !== undefined) {
    rows.push({ kind: 'stage', name: unfinished, from: busySince, to, value: since(busySince, 'lost'), status });
  }
  if (attempt === job.attempt && job.leaseExpiresAt !== undefined) {
    const expiresAt = job.leaseExpiresAt * 1000;
    const lease = expiresAt > now ? `expires in ${countdown(expiresAt - now)}` : 'expired';
    rows.push({ kind: 'lease', name: 'lease', from, to: expiresAt, value: lease });
  }
  return rows;
}

function waitRows({ from, to = from }: Span, now: number): Rows {
  const value = to > now ? `next try in ${countdown(to - now)}` : seconds(to - from);
  return [{ kind: 'wait', name: 'Lambda waits', from, to, value }];
}

function showLog({ entries }: History): void {
  const lines = entries.map((entry) => {
    const name = /(\w+)Function-\w+$/.exec(entry.stream)?.[1] ?? entry.stream;
    const line = formatEntry(entry, name, (frame) => frame).slice('2026-01-01T'.length);
    // Without what is the same in most lines.
    return line.replace(/ ?function_request_id=\S+| {2}INFO /g, '').replace(/ {2,}/g, '  ');
  });
  setText(find('#log'), lines.join('\n'));
}

// ------------------------------------------------------------------------------------------ words and numbers

/** The stage that runs, or ran when the worker crashed. The logs name only stages that have finished, so the
 * name is that of the same position in a job that has run all stages of this version. */
function runningStage({ stages }: Delivery): string | undefined {
  const finished = new Set(
    state.jobs
      .filter(({ status, createdAt }) => status === 'DONE' && createdAt * 1000 > state.deployment.lastAt)
      .map(({ jobId }) => jobId),
  );
  const { deliveries } = historyOf(reports.filter(({ jobId }) => finished.has(jobId)));
  const names = deliveries.findLast(({ error, stages: all }) => error === undefined && all.length > 0)?.stages;
  return names === undefined ? `stage ${stages.length + 1}` : names[stages.length]?.name;
}

const jobOf = (id: string): ListedJob | undefined => state.jobs.find(({ jobId }) => jobId === id);

const isRunning = ({ attempt, to }: Delivery): boolean => attempt !== undefined && to === undefined;

const isEnded = ({ status }: ListedJob): boolean => status === 'DONE' || status === 'ERROR';

const failureOf = ({ error = '' }: Delivery): string =>
  error === 'Worker process died' ? 'crashed' : /timed out/.test(error) ? 'timed out' : 'failed';

/** The first report is about the POST. `createdAt` is in whole seconds. */
const startOf = (job: ListedJob): number =>
  reports.find(({ jobId }) => jobId === job.jobId)?.time ?? job.createdAt * 1000;

const seconds = (milliseconds: number): string => `${(Math.max(0, milliseconds) / 1000).toFixed(1)} s`;

const countdown = (milliseconds: number): string => `${Math.ceil(milliseconds / 1000)} s`;

function age(milliseconds: number): string {
  const minutes = Math.floor(milliseconds / 60_000);
  if (minutes < 1) return `${Math.max(0, Math.floor(milliseconds / 1000))} s`;
  return minutes < 120 ? `${minutes} min` : `${Math.floor(minutes / 60)} h`;
}

const jobUrl = (): string => `${BASE_URL}/jobs/${chosenId}`;

const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

// ------------------------------------------------------------------------------------------ elements

/** Makes the children of an element match the items. An item's child is a copy of the template `ID-row`. */
function list<T>(
  id: string,
  items: readonly T[],
  keyOf: (item: T) => string,
  show: (row: HTMLElement, item: T) => void,
): void {
  const parent = find(`#${id}`);
  const rows = new Map([...parent.children].map((row) => [row.getAttribute('data-key'), row]));
  for (const [index, item] of items.entries()) {
    const key = keyOf(item);
    const template = find<HTMLTemplateElement>(`#${id}-row`);
    const row = rows.get(key) ?? document.importNode(template.content, true).firstElementChild;
    if (!(row instanceof HTMLElement)) throw new Error(`The template ${id}-row is empty`);
    rows.delete(key);
    row.dataset['key'] = key;
    // A row that is where it belongs is not moved, because it would lose the focus.
    if (parent.children[index] !== row) parent.insertBefore(row, parent.children[index] ?? null);
    show(row, item);
  }
  for (const row of rows.values()) row.remove();
}

function find<T extends HTMLElement>(selector: string, parent: ParentNode = document): T {
  const element = parent.querySelector<T>(selector);
  if (element === null) throw new Error(`The page has no ${selector}`);
  return element;
}

function setStatus(element: HTMLElement, status: string): void {
  element.dataset['status'] = status;
  setText(element, status);
}

/** Leaves the element alone if it already has this text, so that a selection stays and nothing is announced twice. */
function setText(element: Element, text: string): void {
  if (element.textContent !== text) element.textContent = text;
}

/** Bars grow and countdowns run while the chosen job has not ended. Otherwise only ages change. */
function tick(): void {
  if (!document.hidden && isConnected) render();
  const job = jobOf(chosenId);
  const isMoving = job !== undefined && !isEnded(job) && !reducesMotion.matches;
  setTimeout(tick, isMoving ? 100 : 1000);
}
tick();
