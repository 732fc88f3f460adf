import { setImmediate } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import { DeleteCommand } from '@aws-sdk/lib-dynamodb';
import type { APIGatewayProxyResult } from 'aws-lambda';
import { buildHandler as buildCreateJob } from '../../src/handlers/createJob.ts';
import { buildHandler as buildGetJob } from '../../src/handlers/getJob.ts';
import { buildHandler as buildWorker } from '../../src/handlers/worker.ts';
import { type End, isEnded, type Job, type Lease, MAX_ATTEMPTS } from '../../src/job.ts';
import { JobRepository } from '../../src/jobRepository.ts';
import type { Stage } from '../../src/stages.ts';
import { getJobs, postJobs } from '../support/events.ts';
import { lambdaContext } from '../support/lambdaContext.ts';
import type { WireAnswer } from './dynamodbEngine.ts';
import { type Cloud, TABLE } from './interceptedClient.ts';
import { Process } from './simulatedInvocation.ts';

/** As in template.yaml, but for the event's age. */
const LIFETIMES = { maxEventAge: 600, workerTimeout: 30 };
const HTTP_TIMEOUT_MS = 28_000;
const START_MS = Date.UTC(2030, 0, 1);

/** How much a clock may be ahead of true time; none is behind. */
export const MAX_SKEW_MS = 5000;
/** How much it may be ahead where a sequence tries what no real clock does. */
export const WILD_SKEW_MS = 3600_000;

/** What becomes of a call: `carried out` leaves the answer on its way; `late` is a time-out, and it happens all the same. */
export type Fate = 'served' | 'carried out' | 'timed out' | 'late' | 'refused';
/** What becomes of the call in which a process dies. */
export type LastFate = 'dropped' | 'carried out' | 'late';

/** An event in Lambda's queue, or among the dead letters. */
interface LambdaEvent {
  readonly jobId: string;
  readonly queuedAt: number;
  readonly failures: number;
}

/** An id: the job that has it now, and what was promised of that. */
interface Track {
  readonly jobId: string;
  /** Counts the jobs that had this id: it is free again after a withdrawal, or when the job has expired. */
  incarnation: number;
  record: Job | undefined;
  readonly texts: Set<string>;
  /** A POST answered 202. */
  isPromised: boolean;
  /** A POST was killed or lost calls, so that its job may stay without a 202. */
  isExcused: boolean;
  /** The end that a GET showed. */
  shown: object | undefined;
  /** How many processes there were by then. */
  shownAt: number;
}

/** What sequences came to, so that a test can tell that they come to everything. */
export const outcomes = new Map<string, number>();

/**
 * Lambda, DynamoDB, clients and clocks round the real handlers and the real repository. Nothing
 * moves but by a method called here, and every method checks the guarantees before it returns.
 */
export class World {
  readonly queue: LambdaEvent[] = [];
  readonly deadLetters: LambdaEvent[] = [];
  /** Calls that their sender gave up on, and that happen all the same. */
  readonly late: { readonly process: Process; readonly label: string; readonly land: () => Promise<WireAnswer> }[] = [];
  readonly #processes: Process[] = [];
  readonly #tracks = new Map<string, Track>();
  readonly #trace: string[] = [];
  readonly #cloud: Cloud;
  readonly #run: string;
  readonly #isWild: boolean;
  #now = START_MS;
  #ids = 0;
  #violation: string | undefined;

  /** @param run a number that no other world on this cloud has */
  constructor(cloud: Cloud, run: number, isWild: boolean) {
    this.#cloud = cloud;
    this.#run = run.toString(16).padStart(8, '0');
    this.#isWild = isWild;
  }

  get jobIds(): readonly string[] {
    return [...this.#tracks.keys()];
  }

  /** The processes that wait for a call. */
  get calling(): readonly Process[] {
    return this.#processes.filter(({ call, isDead }) => call !== undefined && !isDead);
  }

  /** The processes that wait for a stage. */
  get working(): readonly Process[] {
    return this.#processes.filter(({ work, isDead }) => work !== undefined && !isDead);
  }

  // ------------------------------------------------------------------------------------ beginnings

  async post(key: string | undefined, text: string, skew: number): Promise<Process> {
    const process = this.#newProcess('POST', HTTP_TIMEOUT_MS, skew);
    this.#log(process, `key ${key ?? '-'}, text '${text}', clock +${skew} ms`);
    const handle = buildCreateJob({
      repository: new JobRepository(this.#cloud.client, TABLE),
      startWorker: (jobId) => this.#invoke(process, jobId),
      lifetimes: LIFETIMES,
      idNamespace: this.#run,
      newId: () => this.#newId(),
      clock: () => this.#now + process.skew,
    });
    const event = postJobs(JSON.stringify({ text }), { headers: key === undefined ? {} : { 'Idempotency-Key': key } });
    return this.#start(process, async () => {
      const answer = await handle(event, lambdaContext(HTTP_TIMEOUT_MS));
      return () => this.#onPostAnswer(process, text, answer);
    });
  }

  /** A POST with nothing in its way, unless another is under way. */
  async accept(key: string, text: string): Promise<void> {
    const process = await this.#runNew(() => this.post(key, text, 0));
    const { jobId, status } = process;
    if (jobId === undefined || this.#hasOpenPost(jobId)) return;
    const { record } = this.#track(jobId);
    if (record !== undefined && this.#mayBeExpired(record)) return;
    this.#check(status === 202 || status === 422, 'a POST without a fault is refused');
    this.#verify();
  }

  async get(jobId: string, skew: number): Promise<Process> {
    const process = this.#newProcess('GET', HTTP_TIMEOUT_MS, skew);
    this.#log(process, `${this.#short(jobId)}, clock +${skew} ms`);
    const handle = buildGetJob({
      repository: new JobRepository(this.#cloud.client, TABLE),
      clock: () => this.#now + process.skew,
    });
    const { incarnation, isPromised, shown } = this.#track(jobId);
    return this.#start(process, async () => {
      const answer = await handle(getJobs(jobId), lambdaContext(HTTP_TIMEOUT_MS));
      return () => this.#onGetAnswer(process, jobId, answer, { incarnation, isPromised, shown });
    });
  }

  /** Lambda delivers an event; `isDuplicate`: and will deliver it once more. */
  async deliver(index: number, isDuplicate: boolean, skew: number, isStubborn: boolean): Promise<Process> {
    const event = this.queue[index];
    if (event === undefined) throw new Error('There is no such event');
    if (!isDuplicate) this.queue.splice(index, 1);
    const process = this.#newProcess('worker', LIFETIMES.workerTimeout * 1000, skew);
    process.onFailure = () => this.#redeliver(event);
    const { jobId } = event;
    this.#log(
      process,
      `${this.#short(jobId)}, clock +${skew} ms${isDuplicate ? ', a duplicate' : ''}${isStubborn ? ', heeds no signal' : ''}`,
    );
    const stage = (name: string): Stage => ({
      name,
      run: async (text, { pause, signal }) => {
        this.#onStage(process, jobId, text);
        process.inStages += 1;
        try {
          await pause(1000, isStubborn ? new AbortController().signal : signal);
          return { stage: name, by: process.name };
        } finally {
          process.inStages -= 1;
        }
      },
    });
    const handle = buildWorker({
      repository: new WatchedRepository(this.#cloud, this),
      stages: [stage('first'), stage('second')],
      pause: (_, signal) => process.pause(signal),
      abortAfter: (milliseconds) => {
        process.abortAt = this.#now + milliseconds;
        return process.abort.signal;
      },
      newToken: () => this.#newId(),
      clock: () => this.#now + process.skew,
    });
    const { incarnation } = this.#track(jobId);
    return this.#start(process, async () => {
      await handle({ jobId }, lambdaContext(LIFETIMES.workerTimeout * 1000));
      return () => {
        count('worker done');
        const track = this.#track(jobId);
        const { record } = track;
        // Gone in between, and there again: whoever put it there sends an event of their own.
        const isAnother = track.incarnation !== incarnation;
        this.#check(
          record === undefined || isAnother || isEnded(record) || this.#mayBeExpired(record),
          'an event vanished whose job has not ended',
        );
      };
    });
  }

  /** An operator sends a dead letter again. */
  async redrive(index: number): Promise<void> {
    const [letter] = this.deadLetters.splice(index, 1);
    if (letter === undefined) return;
    this.#trace.push(`redrive ${this.#short(letter.jobId)}`);
    this.queue.push({ ...letter, failures: 0, queuedAt: this.#now });
  }

  // ---------------------------------------------------------------------------------------- moves

  /** Decides what becomes of the call that a process waits for. */
  async reply(process: Process, fate: Fate): Promise<void> {
    const { call } = process;
    if (call === undefined) return;
    const isOpen = call.outcome === undefined;
    if (fate === 'carried out' || (fate === 'served' && isOpen)) {
      if (!isOpen) return;
      call.outcome = await this.#perform(process, call.label, call.perform);
    }
    if (fate === 'carried out') return;
    if (fate === 'refused' && !isOpen) return;
    process.call = undefined;
    const { outcome } = call;
    if (fate === 'served' && outcome !== undefined) {
      await process.step(() => call.answer(outcome));
    } else if (fate === 'refused') {
      this.#log(process, `${call.label} -> refused`);
      this.#onLostCall(process, call.label);
      await process.step(() => call.answer(REFUSED));
    } else {
      this.#log(process, `${call.label} -> ${isOpen ? fate : 'answer lost'}`);
      if (fate === 'late' && isOpen) this.late.push({ process, label: call.label, land: call.perform });
      if (call.isRetry) this.#onLostCall(process, call.label);
      await process.step(() => call.fail(timeoutError()));
    }
    this.#verify();
  }

  /** A call happens, and no answer to it ever comes back. */
  async lose(process: Process): Promise<void> {
    await this.reply(process, 'carried out');
    await this.reply(process, 'timed out');
    if (process.call?.isRetry === true) await this.reply(process, 'timed out');
  }

  /** Lets a stage end. */
  async endStage(process: Process, isThrowing: boolean): Promise<void> {
    const { work } = process;
    if (work === undefined) return;
    process.work = undefined;
    this.#log(process, `stage ${isThrowing ? 'throws' : 'done'}`);
    const end = () => (isThrowing ? work.fail(new Error('the stage broke')) : work.finish());
    if (process.abort.signal.aborted) {
      // The handler went on without it.
      end();
      await setImmediate();
    } else {
      await process.step(end);
    }
    this.#verify();
  }

  /** Lets a process run, with nothing in its way, until it is through. */
  async runOut(process: Process): Promise<void> {
    for (let moves = 0; moves < 50 && !process.isDone && !process.isDead; moves += 1) {
      if (process.call !== undefined) await this.reply(process, 'served');
      else await this.endStage(process, false);
    }
  }

  /** Kills a process for good. */
  async kill(process: Process, fate: LastFate): Promise<void> {
    const { call, isDone } = process;
    process.isDead = true;
    this.#log(process, `killed${call === undefined ? '' : ` in ${call.label}, ${fate}`}`);
    if (call !== undefined && call.outcome === undefined) {
      if (fate === 'carried out') await this.#perform(process, call.label, call.perform);
      if (fate === 'late') this.late.push({ process, label: call.label, land: call.perform });
    }
    if (isDone) return;
    count(`${process.kind} killed`);
    if (process.kind === 'POST' && process.hasWritten) this.#excuse(process);
    process.onFailure();
    this.#verify();
  }

  /** A late call happens now. */
  async land(index: number): Promise<void> {
    const [write] = this.late.splice(index, 1);
    if (write === undefined) return;
    await this.#perform(write.process, `late ${write.label}`, write.land);
    if (write.process.kind === 'POST') this.#excuse(write.process);
    this.#verify();
  }

  /** Time passes: signals abort, invocations reach their end and are killed, Lambda gives up on old events. */
  async advance(milliseconds: number, fate: LastFate): Promise<void> {
    const target = this.#now + milliseconds;
    for (;;) {
      const due = this.#processes
        .filter(({ isDead, isDone, work }) => !isDead && (!isDone || work !== undefined))
        .map((process) => ({ process, at: Math.min(process.deadline, process.abortAt) }))
        .filter(({ at }) => at <= target)
        .sort((a, b) => a.at - b.at)[0];
      if (due === undefined) break;
      const { process, at } = due;
      this.#now = Math.max(this.#now, at);
      if (at === process.deadline) await this.kill(process, fate);
      else await this.#abort(process);
    }
    this.#now = target;
    for (const event of this.queue.filter(({ queuedAt }) => queuedAt + LIFETIMES.maxEventAge * 1000 < target)) {
      this.queue.splice(this.queue.indexOf(event), 1);
      this.deadLetters.push(event);
      count('event too old');
    }
    this.#trace.push(`${this.#time()} time passed`);
    this.#verify();
  }

  /** Time passes until a job expires, and so many milliseconds more. */
  async advanceToExpiry(jobId: string, milliseconds: number): Promise<void> {
    const { record } = this.#track(jobId);
    if (record !== undefined)
      await this.advance(Math.max(0, record.expiresAt * 1000 - this.#now + milliseconds), 'dropped');
  }

  async setClock(process: Process, skew: number): Promise<void> {
    process.skew = skew;
    this.#log(process, `clock steps to +${skew} ms`);
  }

  /** DynamoDB deletes an expired job. */
  async sweep(jobId: string): Promise<void> {
    const { record } = this.#track(jobId);
    if (record === undefined || record.expiresAt * 1000 > this.#now) return;
    await this.#cloud.client.send(new DeleteCommand({ TableName: TABLE, Key: { jobId } }));
    this.#trace.push(`${this.#time()} DynamoDB deletes ${this.#short(jobId)}`);
    await this.#observe(jobId);
    this.#verify();
  }

  /** All faults are over. Every job has ended by the bound, and stays so whatever is still delivered. */
  async settle(): Promise<void> {
    const jobs = [...this.#tracks.values()].flatMap(({ record }) => record ?? []);
    const { maxEventAge, workerTimeout } = LIFETIMES;
    const bound = Math.max(
      0,
      ...jobs.map(({ createdAt }) => createdAt + maxEventAge + 2 * workerTimeout + MAX_SKEW_MS / 1000),
    );
    await this.advance(Math.max(0, bound * 1000 - this.#now, this.#isWild ? 3 * WILD_SKEW_MS : 0), 'dropped');
    for (const round of ['before', 'after']) {
      for (const { jobId } of jobs) {
        const before = this.#track(jobId).record;
        if (before === undefined || this.#mayBeExpired(before)) continue;
        await this.#runNew(() => this.get(jobId, 0));
        const { record, shown } = this.#track(jobId);
        this.#check(
          record !== undefined && isEnded(record) && shown !== undefined,
          `${this.#short(jobId)} has not ended in time`,
        );
      }
      while (round === 'before' && this.queue.length > 0) await this.#runNew(() => this.deliver(0, false, 0, false));
    }
  }

  // --------------------------------------------------------------------------------------- answers

  #onPostAnswer(process: Process, text: string, { statusCode, body }: APIGatewayProxyResult): void {
    process.status = statusCode;
    const answer: unknown = JSON.parse(body);
    this.#log(process, `answers ${statusCode} ${body}`);
    count(`POST ${statusCode}`);
    const track = process.jobId === undefined ? undefined : this.#track(process.jobId);
    if (track === undefined) return;
    if (statusCode === 422)
      this.#check(
        [...track.texts].some((other) => other !== text),
        '422 without another text',
      );
    if (statusCode !== 202) return;
    const { record, jobId } = track;
    this.#check(isDeepStrictEqual(pick(answer, 'jobId'), jobId), '202 with the id of another job');
    if (record !== undefined && this.#mayBeExpired(record)) return;
    this.#check(record !== undefined, '202 without a job');
    this.#check(record?.text === text, '202 for the job of another text');
    const wasShown = track.shown !== undefined && track.shownAt <= process.number;
    this.#check(!wasShown || pick(answer, 'status') === record?.status, 'a POST tells another status than was shown');
    track.isPromised = true;
  }

  #onGetAnswer(
    process: Process,
    jobId: string,
    { statusCode, body }: APIGatewayProxyResult,
    before: Pick<Track, 'incarnation' | 'isPromised' | 'shown'>,
  ): void {
    this.#log(process, `answers ${statusCode} ${body}`);
    const answer: unknown = JSON.parse(body);
    const status = pick(answer, 'status');
    count(
      `GET ${statusCode} ${statusCode === 200 ? `${String(status)} ${String(pick(answer, 'errorMessage') ?? '')}`.trim() : ''}`.trim(),
    );
    if (statusCode === 500) return;
    const track = this.#track(jobId);
    const { record } = track;
    const isSame = track.incarnation === before.incarnation;
    if (isSame && record !== undefined && !this.#mayBeExpired(record)) {
      this.#check(!before.isPromised || statusCode === 200, 'an accepted job is not found');
      this.#check(
        before.shown === undefined || isDeepStrictEqual(answer, before.shown),
        'an end that was shown changed',
      );
    }
    if (!isSame || typeof answer !== 'object' || answer === null || (status !== 'DONE' && status !== 'ERROR')) return;
    this.#check(
      record !== undefined && isDeepStrictEqual(answer, publicFields(record)),
      'GET shows an end that is not stored',
    );
    if (track.shown !== undefined) return;
    track.shown = answer;
    track.shownAt = this.#processes.length;
  }

  #onStage(process: Process, jobId: string, text: string): void {
    const track = this.#track(jobId);
    const { record } = track;
    this.#log(process, 'a stage begins');
    count('stage');
    this.#check(record === undefined || record.text === text, "a stage got another job's text");
    this.#check(track.isPromised || track.isExcused || this.#hasOpenPost(jobId), 'a job runs that nobody was told of');
    if (this.#isWild) return;
    const others = this.#processes.filter(
      (other) => other !== process && other.jobId === jobId && other.inStages > 0 && !other.isDead,
    );
    this.#check(others.length === 0, 'two invocations are in stages of one job');
    this.#check(record?.status === 'IN_PROGRESS', 'a stage begins of a job that is not in progress');
  }

  /** An end that the repository says is stored is stored. */
  onEndStored(jobId: string, end: End): void {
    const { record } = this.#track(jobId);
    const isStored =
      record?.status === 'DONE'
        ? end.status === 'DONE' && isDeepStrictEqual(record.result, end.result)
        : record?.status === 'ERROR' && end.status === 'ERROR' && record.errorMessage === end.errorMessage;
    this.#check(isStored, 'the worker believes in an end that is not stored');
  }

  // ------------------------------------------------------------------------------------ invariants

  /** Looks at a record after something was written, and compares it with what it was. */
  async #observe(jobId: string): Promise<void> {
    const track = this.#track(jobId);
    const before = track.record;
    const after = await this.#cloud.peek(jobId);
    track.record = after;
    if (after !== undefined) track.texts.add(after.text);
    if (before === undefined && after === undefined) return;
    if (
      before === undefined ||
      after === undefined ||
      (this.#mayBeExpired(before) && after.createdAt > before.createdAt)
    ) {
      if (before !== undefined && !this.#mayBeExpired(before)) {
        this.#check(!track.isPromised, 'an accepted job is gone');
        this.#check(before.status === 'PENDING', 'a job is gone that had been started');
      }
      track.incarnation += 1;
      track.isPromised = false;
      track.isExcused = false;
      track.shown = undefined;
      return;
    }
    for (const name of ['text', 'createdAt', 'expiresAt', 'deadline', 'maxAttempts'] as const) {
      this.#check(before[name] === after[name], `${name} changed`);
    }
    this.#check(RANK[after.status] >= RANK[before.status], 'the status went back');
    this.#check(after.attempt >= before.attempt && after.attempt <= MAX_ATTEMPTS, 'the attempts are miscounted');
    if (isEnded(before)) this.#check(isDeepStrictEqual(publicFields(before), publicFields(after)), 'an end changed');
    if (after.status === 'DONE') {
      const by = new Set(Object.values(after.result).map((stage) => stage['by']));
      this.#check(Object.keys(after.result).length === 2 && by.size === 1, 'a result of two attempts');
    }
  }

  #verify(): void {
    for (const { jobId, record, isPromised, isExcused } of this.#tracks.values()) {
      if (record === undefined || isPromised || isExcused || this.#mayBeExpired(record)) continue;
      this.#check(this.#hasOpenPost(jobId), `${this.#short(jobId)} is there, and no POST answered 202`);
    }
    if (this.#violation !== undefined) throw new Error(this.#violation);
  }

  /** Notes a violation. It is not thrown here, because the product's code would catch it. */
  #check(holds: boolean, violation: string): void {
    if (!holds) this.#violation ??= `${violation}\n${this.#trace.join('\n')}`;
  }

  /** Whether some clock may say that a job has expired. */
  #mayBeExpired({ expiresAt }: Job): boolean {
    return expiresAt * 1000 <= this.#now + (this.#isWild ? 2 * WILD_SKEW_MS : MAX_SKEW_MS);
  }

  #hasOpenPost(jobId: string): boolean {
    return this.#processes.some(
      (process) => process.kind === 'POST' && process.jobId === jobId && !process.isDone && !process.isDead,
    );
  }

  // ------------------------------------------------------------------------------------- machinery

  #newProcess(kind: Process['kind'], timeout: number, skew: number): Process {
    const ordinal = this.#processes.filter((process) => process.kind === kind).length + 1;
    const process = new Process(kind, `${kind} ${ordinal}`, this.#processes.length, this.#now + timeout, skew);
    this.#processes.push(process);
    return process;
  }

  /** Begins an invocation. Its `work` answers what is to be done with its answer. */
  async #start(process: Process, work: () => Promise<() => void>): Promise<Process> {
    await process.step(() => {
      void this.#cloud
        .as(process, work)
        .catch((error: unknown) => () => {
          this.#log(process, `fails: ${error instanceof Error ? error.message : String(error)}`);
          count(`${process.kind} failed`);
          process.onFailure();
        })
        .then((onEnd) => {
          onEnd();
          process.finish();
        });
    });
    this.#verify();
    return process;
  }

  /** An invocation with nothing in its way. */
  async #runNew(begin: () => Promise<Process>): Promise<Process> {
    const process = await begin();
    await this.runOut(process);
    return process;
  }

  async #perform(process: Process, label: string, perform: () => Promise<WireAnswer>): Promise<WireAnswer> {
    const answer = await perform();
    const jobId = process.jobId ?? '';
    const isWrite = !label.includes('GetItem') && !label.includes('Invoke');
    if (isWrite) {
      process.hasWritten = true;
      await this.#observe(jobId);
    }
    const { record } = this.#track(jobId);
    const state = record === undefined ? 'no job' : `${record.status}, attempt ${record.attempt}`;
    const refusal = answer.statusCode === 200 ? '' : 'condition refused, ';
    this.#log(process, `${label} -> ${refusal}${this.#short(jobId)}: ${state}`);
    return answer;
  }

  /** Lambda's Invoke, sent again by the SDK when the answer is lost. */
  async #invoke(process: Process, jobId: string): Promise<void> {
    const perform = async () => {
      this.queue.push({ jobId, queuedAt: this.#now, failures: 0 });
      return EMPTY;
    };
    const answer = await process
      .send('Invoke', jobId, 'attempt=1; max=2', perform)
      .catch(() => process.send('Invoke', jobId, 'attempt=2; max=2', perform));
    if (answer.statusCode !== 200) throw new Error('Invoke was refused');
  }

  #redeliver(event: LambdaEvent): void {
    const failed = { ...event, failures: event.failures + 1 };
    if (failed.failures < 3) this.queue.push(failed);
    else this.deadLetters.push(failed);
  }

  async #abort(process: Process): Promise<void> {
    process.abortAt = Number.POSITIVE_INFINITY;
    this.#log(process, 'the signal aborts');
    if (process.work !== undefined && !process.isDone) await process.step(() => process.abort.abort());
    else process.abort.abort();
  }

  /** What a POST asked of DynamoDB after its first writes got no answer: it cannot know what it leaves behind. */
  #onLostCall(process: Process, label: string): void {
    if (process.kind === 'POST' && /^(UpdateItem DELETE|DeleteItem|GetItem|UpdateItem SET)/.test(label))
      this.#excuse(process);
  }

  #excuse({ jobId }: Process): void {
    if (jobId === undefined) return;
    const track = this.#track(jobId);
    track.isExcused = track.record !== undefined;
  }

  #track(jobId: string): Track {
    const known = this.#tracks.get(jobId);
    if (known !== undefined) return known;
    const track: Track = {
      jobId,
      incarnation: 0,
      record: undefined,
      texts: new Set(),
      isPromised: false,
      isExcused: false,
      shown: undefined,
      shownAt: 0,
    };
    this.#tracks.set(jobId, track);
    return track;
  }

  #newId(): string {
    this.#ids += 1;
    return `${this.#run}-0000-4000-8000-${String(this.#ids).padStart(12, '0')}`;
  }

  #short(jobId: string): string {
    return `job ${this.jobIds.indexOf(jobId) + 1}`;
  }

  #time(): string {
    return `${((this.#now - START_MS) / 1000).toFixed(3).padStart(8)} s `;
  }

  #log(process: Process, message: string): void {
    this.#trace.push(`${this.#time()} ${process.name}: ${message}`);
  }
}

class WatchedRepository extends JobRepository {
  readonly #world: World;

  constructor(cloud: Cloud, world: World) {
    super(cloud.client, TABLE);
    this.#world = world;
  }

  override async end(jobId: string, lease: Lease, end: End, now: number): Promise<End | undefined> {
    const stored = await super.end(jobId, lease, end, now);
    if (stored !== undefined) this.#world.onEndStored(jobId, stored);
    return stored;
  }
}

const EMPTY: WireAnswer = { statusCode: 200, headers: {}, body: Buffer.from('{}') };

const REFUSED: WireAnswer = {
  statusCode: 400,
  headers: {},
  body: Buffer.from('{"__type":"com.amazonaws.dynamodb.v20120810#AccessDeniedException","message":"refused"}'),
};

export type { Process };

const RANK = { PENDING: 0, IN_PROGRESS: 1, DONE: 2, ERROR: 2 };

/** What the API shows of a job. */
function publicFields(job: Job): object {
  const { jobId, status, text, createdAt, updatedAt } = job;
  const outcome =
    job.status === 'DONE' ? { result: job.result } : job.status === 'ERROR' ? { errorMessage: job.errorMessage } : {};
  return { jobId, status, text, createdAt, updatedAt, ...outcome };
}

/** One field of parsed JSON. */
function pick(value: unknown, name: string): unknown {
  return typeof value === 'object' && value !== null
    ? Object.entries(value).find(([key]) => key === name)?.[1]
    : undefined;
}

function count(outcome: string): void {
  outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
}

function timeoutError(): Error {
  const error = new Error('No answer in time');
  error.name = 'TimeoutError';
  return error;
}
