import { setImmediate } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import { DeleteCommand } from '@aws-sdk/lib-dynamodb';
import type { APIGatewayProxyResult } from 'aws-lambda';
import { MAX_OVERHEAD_MS } from '../../src/attempt.ts';
import { buildHandler as buildCreateJob } from '../../src/handlers/createJob.ts';
import { buildHandler as buildGetJob } from '../../src/handlers/getJob.ts';
import { buildHandler as buildWorker } from '../../src/handlers/worker.ts';
import { type End, isEnded, type Job, type Lease, MAX_ATTEMPTS, phaseOf, unixSeconds } from '../../src/job.ts';
import { JobRepository } from '../../src/jobRepository.ts';
import { StageError } from '../../src/stageError.ts';
import type { Stage } from '../../src/stages.ts';
import { getJobEvent, postJobEvent } from '../support/events.ts';
import { lambdaContext } from '../support/lambdaContext.ts';
import type { WireResponse } from './dynamodbEngine.ts';
import { type InterceptedDynamodb, TABLE_NAME } from './interceptedClient.ts';
import { Invocation, Sandbox } from './simulatedInvocation.ts';

/** As in template.yaml, except for a shorter maximum age of events. */
const LIFETIMES = { maxEventAge: 600, workerTimeout: 30 };
const HTTP_TIMEOUT_MS = 28_000;
const START_MS = Date.UTC(2030, 0, 1);

/** How far a clock may be ahead of true time. No clock is behind. */
export const MAX_SKEW_MS = 5000;
/** The same for sequences with unrealistically wrong clocks. */
export const WILD_SKEW_MS = 3600_000;

/**
 * What happens to a call:
 * - `served`: it is carried out, and its response arrives.
 * - `carried out`: it is carried out, and its response has not arrived yet.
 * - `timed out`: the caller gives up on it. If it was not carried out yet, it never is.
 * - `late`: the caller gives up on it, and it is carried out later.
 * - `refused`: AWS returns an error.
 */
export type Fate = 'served' | 'carried out' | 'timed out' | 'late' | 'refused';
/** What happens to the call that is pending when its process is killed. */
export type LastFate = 'dropped' | 'carried out' | 'late';

/** An event in Lambda's queue, or a failed event. */
interface LambdaEvent {
  readonly jobId: string;
  readonly queuedAt: number;
  readonly failures: number;
}

/** What is known about a job id: the job that has it now, and what clients were told about that job. */
interface Track {
  readonly jobId: string;
  /** The id was made from an idempotency key. */
  readonly hasKey: boolean;
  /** Counts the jobs with this id, which can be reused once a job is deleted or expired. */
  incarnation: number;
  record: Job | undefined;
  readonly texts: Set<string>;
  /** A POST returned 202. */
  isAccepted: boolean;
  /** A POST was killed or cut off, so its job may remain although there was no 202. */
  isExcused: boolean;
  /** The end that a GET has returned, and how many invocations had started by then. */
  shown: object | undefined;
  shownAt: number;
}

/** How often each outcome has occurred. A test checks that the sequences reach all of them. */
export const outcomes = new Map<string, number>();

/**
 * Simulates Lambda, the network, clients and clocks around the real handlers, the real repository
 * and a real DynamoDB engine. Nothing happens unless a method of this class makes it happen, and each
 * method checks the guarantees before it returns.
 */
export class SimulatedWorld {
  readonly queue: LambdaEvent[] = [];
  readonly failedEvents: LambdaEvent[] = [];
  /** Calls that their callers have given up on, but that are still to be carried out. */
  readonly late: {
    readonly invocation: Invocation;
    readonly label: string;
    readonly land: () => Promise<WireResponse>;
  }[] = [];
  readonly #sandboxes: Sandbox[] = [];
  readonly #tracks = new Map<string, Track>();
  readonly #trace: string[] = [];
  readonly #dynamodb: InterceptedDynamodb;
  readonly #run: string;
  readonly #hasWildClocks: boolean;
  #now = START_MS;
  #ids = 0;
  #violation: string | undefined;

  /** @param run a number that is unique among the worlds on this engine */
  constructor(dynamodb: InterceptedDynamodb, run: number, hasWildClocks: boolean) {
    this.#dynamodb = dynamodb;
    this.#run = run.toString(16).padStart(8, '0');
    this.#hasWildClocks = hasWildClocks;
  }

  get jobIds(): readonly string[] {
    return [...this.#tracks.keys()];
  }

  /** The invocations that are waiting for a call. */
  get calling(): readonly Invocation[] {
    return this.#invocations.filter(({ call, isRunning }) => call !== undefined && isRunning);
  }

  /** The invocations with a running stage. */
  get working(): readonly Invocation[] {
    return this.#invocations.filter(({ work, isRunning }) => work !== undefined && isRunning);
  }

  get #invocations(): readonly Invocation[] {
    return this.#sandboxes.flatMap(({ invocations }) => invocations);
  }

  // ----------------------------------------------------------------------------------- new invocations

  async post(key: string | undefined, text: string, skew: number): Promise<Invocation> {
    const invocation = this.#newInvocation('POST', HTTP_TIMEOUT_MS, skew);
    this.#log(invocation, `key ${key ?? '-'}, text '${text}', clock +${skew} ms`);
    const handle = buildCreateJob({
      repository: new JobRepository(this.#dynamodb.client, TABLE_NAME),
      startWorker: (jobId) => this.#invoke(invocation, jobId),
      lifetimes: LIFETIMES,
      idNamespace: this.#run,
      newId: () => this.#newId(),
      clock: () => this.#now + invocation.skew,
    });
    const event = postJobEvent(JSON.stringify({ text }), {
      headers: key === undefined ? {} : { 'Idempotency-Key': key },
    });
    return this.#start(invocation, async () => {
      const response = await handle(event, this.#contextOf(invocation));
      return () => this.#onPostResponse(invocation, text, response);
    });
  }

  /** A POST without faults. It must be accepted and its job started, unless the key was used with a different text. */
  async accept(key: string, text: string): Promise<void> {
    const invocation = await this.#runNew(() => this.post(key, text, 0));
    const { jobId, status } = invocation;
    if (jobId === undefined) return;
    const { record } = this.#track(jobId);
    if (record !== undefined && this.#mayBeExpired(record)) return;
    this.#check(status === 202 || status === 422, 'a POST failed without a fault');
    if (status !== 202 || record === undefined || phaseOf(record, unixSeconds(this.#now)) !== 'claimable') return;
    this.#check(
      this.queue.some((event) => event.jobId === jobId),
      '202 for a job that no event will start',
    );
    this.#verify();
  }

  async get(jobId: string, skew: number): Promise<Invocation> {
    const invocation = this.#newInvocation('GET', HTTP_TIMEOUT_MS, skew);
    this.#log(invocation, `${this.#short(jobId)}, clock +${skew} ms`);
    const handle = buildGetJob({
      repository: new JobRepository(this.#dynamodb.client, TABLE_NAME),
      clock: () => this.#now + invocation.skew,
    });
    const { incarnation, isAccepted, shown } = this.#track(jobId);
    return this.#start(invocation, async () => {
      const response = await handle(getJobEvent(jobId), this.#contextOf(invocation));
      return () => this.#onGetResponse(invocation, jobId, response, { incarnation, isAccepted, shown });
    });
  }

  /**
   * Delivers an event to the worker.
   *
   * @param isDuplicate whether the event stays in the queue and is delivered again
   * @param ignoresSignal whether the stages ignore their signal
   * @param reuse selects one of the worker's idle processes; if undefined or none is idle, a new process starts
   */
  async deliver(
    index: number,
    {
      isDuplicate = false,
      ignoresSignal = false,
      skew = 0,
      reuse,
    }: { isDuplicate?: boolean; ignoresSignal?: boolean; skew?: number; reuse?: number | undefined } = {},
  ): Promise<Invocation> {
    const event = this.queue[index];
    if (event === undefined) throw new Error('There is no such event');
    if (!isDuplicate) this.queue.splice(index, 1);
    const { jobId } = event;
    const idle = this.#sandboxes.filter(
      ({ invocations, isDead, isFrozen }) => invocations[0]?.kind === 'worker' && !isDead && isFrozen,
    );
    const sandbox = reuse === undefined ? undefined : idle[reuse % idle.length];
    if (sandbox !== undefined) count('process reused');
    const invocation = this.#newInvocation('worker', LIFETIMES.workerTimeout * 1000, skew, sandbox);
    invocation.jobId = jobId;
    invocation.onFailure = () => this.#redeliver(event);
    this.#log(
      invocation,
      [
        this.#short(jobId),
        `clock +${skew} ms`,
        ...(isDuplicate ? ['a duplicate'] : []),
        ...(ignoresSignal ? ['ignores its signal'] : []),
        ...(sandbox === undefined ? [] : [`process of ${sandbox.invocations[0]?.name}`]),
      ].join(', '),
    );
    const stage = (name: string): Stage => ({
      name,
      run: async (text, { results, signal }) => {
        this.#onStageStart(invocation, jobId, text);
        invocation.unsettledStages += 1;
        try {
          await invocation.doWork(ignoresSignal ? undefined : signal);
          return { by: invocation.name, after: Object.keys(results) };
        } finally {
          invocation.unsettledStages -= 1;
        }
      },
    });
    const handle = buildWorker({
      repository: new WatchedRepository(this.#dynamodb, this, invocation),
      stages: [stage('first'), stage('second')],
      workerTimeout: LIFETIMES.workerTimeout,
      startTimer: (milliseconds, onTime) => {
        invocation.timerDueAt = this.#now + Math.max(0, milliseconds);
        invocation.onTimer = onTime;
        return () => {
          invocation.timerDueAt = Number.POSITIVE_INFINITY;
        };
      },
      newToken: () => this.#newId(),
      clock: () => this.#now + invocation.skew,
      endProcess: () => {
        this.#log(invocation, 'ends its process');
        count('process ended');
        const ended = invocation.endProcess();
        invocation.onFailure();
        return ended;
      },
    });
    const { incarnation } = this.#track(jobId);
    return this.#start(invocation, async () => {
      await handle({ jobId }, this.#contextOf(invocation));
      return () => {
        count('worker done');
        const track = this.#track(jobId);
        const { record } = track;
        // If the job was deleted and another one created, the POST of the new job sends its own event.
        const isReplaced = track.incarnation !== incarnation;
        this.#check(
          record === undefined || isReplaced || isEnded(record) || this.#mayBeExpired(record),
          'an event is gone, but its job has not ended',
        );
      };
    });
  }

  /** An operator sends a failed event again. */
  async redrive(index: number): Promise<void> {
    const [event] = this.failedEvents.splice(index, 1);
    if (event === undefined) return;
    this.#trace.push(`redrive ${this.#short(event.jobId)}`);
    this.queue.push({ ...event, failures: 0, queuedAt: this.#now });
  }

  // ---------------------------------------------------------------------------------------------- moves

  /** Decides what happens to the call that an invocation is waiting for. */
  async reply(invocation: Invocation, fate: Fate): Promise<void> {
    const { call } = invocation;
    if (call === undefined) return;
    const isOpen = call.response === undefined;
    if (fate === 'carried out' || (fate === 'served' && isOpen)) {
      if (!isOpen) return;
      call.response = await this.#perform(invocation, call.label, call.perform);
    }
    if (fate === 'carried out') return;
    if (fate === 'refused' && !isOpen) return;
    invocation.call = undefined;
    const { response } = call;
    if (fate === 'served' && response !== undefined) {
      await invocation.step(() => call.respond(response));
    } else if (fate === 'refused') {
      this.#log(invocation, `${call.label} -> refused`);
      this.#onLostCall(invocation, call.label);
      await invocation.step(() => call.respond(REFUSED));
    } else {
      this.#log(invocation, `${call.label} -> ${isOpen ? fate : 'response lost'}`);
      if (fate === 'late' && isOpen) this.late.push({ invocation, label: call.label, land: call.perform });
      if (call.isRetry) this.#onLostCall(invocation, call.label);
      await invocation.step(() => call.fail(timeoutError()));
    }
    this.#verify();
  }

  /** A call is carried out, but its response never arrives. */
  async lose(invocation: Invocation): Promise<void> {
    await this.reply(invocation, 'carried out');
    await this.reply(invocation, 'timed out');
    if (invocation.call?.isRetry === true) await this.reply(invocation, 'timed out');
  }

  /** A running stage settles. */
  async endStage(invocation: Invocation, isThrowing: boolean): Promise<void> {
    const { work } = invocation;
    if (work === undefined) return;
    invocation.work = undefined;
    this.#log(invocation, `stage ${isThrowing ? 'throws' : 'done'}`);
    const settle = () => (isThrowing ? work.fail(new StageError('the stage broke')) : work.finish());
    if (invocation.timerDueAt === Number.POSITIVE_INFINITY) {
      // After the timeout, the handler no longer waits for the stage.
      settle();
      await setImmediate();
    } else {
      await invocation.step(settle);
    }
    this.#verify();
  }

  /** Runs an invocation to its end without further faults. */
  async runOut(invocation: Invocation): Promise<void> {
    for (let moves = 0; moves < 50 && !invocation.isDone && !invocation.isDead; moves += 1) {
      if (invocation.call !== undefined) await this.reply(invocation, 'served');
      else await this.endStage(invocation, false);
    }
  }

  /** Kills the process of an invocation. */
  async kill(invocation: Invocation, fate: LastFate): Promise<void> {
    const { call, isDone, sandbox } = invocation;
    sandbox.isDead = true;
    this.#log(invocation, `killed${call === undefined ? '' : ` in ${call.label}, ${fate}`}`);
    if (call !== undefined && call.response === undefined) {
      if (fate === 'carried out') await this.#perform(invocation, call.label, call.perform);
      if (fate === 'late') this.late.push({ invocation, label: call.label, land: call.perform });
    }
    if (isDone) return;
    count(`${invocation.kind} killed`);
    if (invocation.kind === 'POST' && invocation.hasWritten) this.#excuse(invocation);
    invocation.onFailure();
    this.#verify();
  }

  /** A late call is carried out. */
  async land(index: number): Promise<void> {
    const [write] = this.late.splice(index, 1);
    if (write === undefined) return;
    await this.#perform(write.invocation, `late ${write.label}`, write.land);
    if (write.invocation.kind === 'POST') this.#excuse(write.invocation);
    this.#verify();
  }

  /** Time passes: timers fire, Lambda kills invocations at their timeout and gives up on old events. */
  async advance(milliseconds: number, fate: LastFate): Promise<void> {
    const target = this.#now + milliseconds;
    for (;;) {
      const due = this.#invocations
        .filter(({ isDead, isDone }) => !isDead && !isDone)
        .map((invocation) => ({ invocation, at: Math.min(invocation.killedAt, invocation.timerDueAt) }))
        .filter(({ at }) => at <= target)
        .sort((a, b) => a.at - b.at)[0];
      if (due === undefined) break;
      const { invocation, at } = due;
      this.#now = Math.max(this.#now, at);
      if (at === invocation.killedAt) await this.kill(invocation, fate);
      else await this.#fireTimer(invocation);
    }
    this.#now = target;
    for (const event of this.queue.filter(({ queuedAt }) => queuedAt + LIFETIMES.maxEventAge * 1000 < target)) {
      this.queue.splice(this.queue.indexOf(event), 1);
      this.failedEvents.push(event);
      count('event too old');
    }
    this.#trace.push(`${this.#time()} time passed`);
    this.#verify();
  }

  /** Time passes until the given number of milliseconds after a job expires. */
  async advanceToExpiry(jobId: string, milliseconds: number): Promise<void> {
    const { record } = this.#track(jobId);
    if (record !== undefined)
      await this.advance(Math.max(0, record.expiresAt * 1000 - this.#now + milliseconds), 'dropped');
  }

  async setClock(invocation: Invocation, skew: number): Promise<void> {
    invocation.skew = skew;
    this.#log(invocation, `clock steps to +${skew} ms`);
  }

  /** DynamoDB deletes an expired job. */
  async sweep(jobId: string): Promise<void> {
    const { record } = this.#track(jobId);
    if (record === undefined || record.expiresAt * 1000 > this.#now) return;
    await this.#dynamodb.client.send(new DeleteCommand({ TableName: TABLE_NAME, Key: { jobId } }));
    this.#trace.push(`${this.#time()} DynamoDB deletes ${this.#short(jobId)}`);
    await this.#observe(jobId);
    this.#verify();
  }

  /** Checks that every job ends within the bound and that later deliveries do not change it. No more faults occur. */
  async settle(): Promise<void> {
    const jobs = [...this.#tracks.values()].flatMap(({ record }) => record ?? []);
    const { maxEventAge, workerTimeout } = LIFETIMES;
    const bound = Math.max(
      0,
      ...jobs.map(({ createdAt }) => createdAt + maxEventAge + 2 * workerTimeout + MAX_SKEW_MS / 1000),
    );
    await this.advance(Math.max(0, bound * 1000 - this.#now, this.#hasWildClocks ? 3 * WILD_SKEW_MS : 0), 'dropped');
    for (const round of ['before', 'after']) {
      for (const { jobId } of jobs) {
        const before = this.#track(jobId).record;
        if (before === undefined || this.#mayBeExpired(before)) continue;
        await this.#runNew(() => this.get(jobId, 0));
        const { record, shown } = this.#track(jobId);
        this.#check(
          record !== undefined && isEnded(record) && shown !== undefined,
          `${this.#short(jobId)} did not end in time`,
        );
      }
      while (round === 'before' && this.queue.length > 0) await this.#runNew(() => this.deliver(0, { reuse: 0 }));
    }
    this.#verify();
  }

  // ------------------------------------------------------------------------------------------ responses

  #onPostResponse(invocation: Invocation, text: string, { statusCode, body }: APIGatewayProxyResult): void {
    invocation.status = statusCode;
    const response: unknown = JSON.parse(body);
    this.#log(invocation, `returns ${statusCode} ${body}`);
    count(`POST ${statusCode}`);
    const track = invocation.jobId === undefined ? undefined : this.#track(invocation.jobId);
    if (track === undefined) return;
    if (statusCode === 422)
      this.#check(
        [...track.texts].some((other) => other !== text),
        '422 for the same text',
      );
    if (statusCode !== 202) return;
    const { record, jobId } = track;
    this.#check(isDeepStrictEqual(pick(response, 'jobId'), jobId), '202 with the id of another job');
    if (record !== undefined && this.#mayBeExpired(record)) return;
    // The job that it read has expired, and another POST has created the next one.
    if (track.incarnation !== invocation.incarnation) return;
    this.#check(record !== undefined, '202 without a job');
    if (record === undefined) return;
    this.#check(record.text === text, '202 for a job with a different text');
    const told = STATUSES.find((status) => status === pick(response, 'status'));
    this.#check(
      told !== undefined && RANK[told] <= RANK[record.status],
      '202 with a status that the job has not reached yet',
    );
    const wasShown = track.shown !== undefined && track.shownAt <= invocation.number;
    this.#check(!wasShown || told === record.status, '202 with a status other than the end that a GET returned');
    track.isAccepted = true;
  }

  #onGetResponse(
    invocation: Invocation,
    jobId: string,
    { statusCode, body }: APIGatewayProxyResult,
    before: Pick<Track, 'incarnation' | 'isAccepted' | 'shown'>,
  ): void {
    this.#log(invocation, `returns ${statusCode} ${body}`);
    const response: unknown = JSON.parse(body);
    const status = pick(response, 'status');
    count(
      `GET ${statusCode} ${statusCode === 200 ? `${String(status)} ${String(pick(response, 'errorMessage') ?? '')}`.trim() : ''}`.trim(),
    );
    if (statusCode === 500) return;
    const track = this.#track(jobId);
    const { record } = track;
    const isSame = track.incarnation === before.incarnation;
    if (isSame && record !== undefined && !this.#mayBeExpired(record)) {
      this.#check(!before.isAccepted || statusCode === 200, 'an accepted job is not found');
      this.#check(
        before.shown === undefined || isDeepStrictEqual(response, before.shown),
        'an end has changed since a GET returned it',
      );
    }
    if (!isSame || typeof response !== 'object' || response === null || (status !== 'DONE' && status !== 'ERROR'))
      return;
    this.#check(
      record !== undefined && isDeepStrictEqual(response, publicFields(record)),
      'a GET returned an end that is not stored',
    );
    if (track.shown !== undefined) return;
    track.shown = response;
    track.shownAt = this.#invocations.length;
  }

  #onStageStart(invocation: Invocation, jobId: string, text: string): void {
    const track = this.#track(jobId);
    const { record } = track;
    invocation.stagesStartedAt ??= this.#now;
    this.#log(invocation, 'a stage starts');
    count('stage');
    this.#check(record === undefined || record.text === text, "a stage got another job's text");
    this.#check(
      track.hasKey || track.isAccepted || track.isExcused || this.#hasOpenPost(jobId),
      'a job is running although its POST failed',
    );
    const inProcess = invocation.sandbox.invocations.filter(
      (other) => other !== invocation && other.unsettledStages > 0,
    );
    this.#check(inProcess.length === 0, "an earlier invocation's stage is running in this process");
    if (this.#hasWildClocks) return;
    const others = this.#invocations.filter(
      (other) => other !== invocation && other.jobId === jobId && other.unsettledStages > 0 && !other.isDead,
    );
    this.#check(others.length === 0, 'two invocations are running stages of the same job');
    this.#check(record?.status === 'IN_PROGRESS', 'a stage started although the job is not IN_PROGRESS');
  }

  /** Checks that the end is stored, and that stages that timed out had their full time. */
  onEndStored(invocation: Invocation, jobId: string, end: End): void {
    const { record } = this.#track(jobId);
    const isStored =
      record?.status === 'DONE'
        ? end.status === 'DONE' && record.result === end.result
        : record?.status === 'ERROR' && end.status === 'ERROR' && record.errorMessage === end.errorMessage;
    this.#check(isStored, 'the repository reported an end as stored, but it is not');
    if (end.status === 'ERROR' && end.errorMessage.endsWith('took too long')) {
      this.#check(
        invocation.stagesHadMs >= LIFETIMES.workerTimeout * 1000 - MAX_OVERHEAD_MS,
        'a job ended as too slow without having had its full time',
      );
    }
  }

  // ----------------------------------------------------------------------------------------- invariants

  /** Reads a record after a write and compares it with its previous state. */
  async #observe(jobId: string): Promise<void> {
    const track = this.#track(jobId);
    const before = track.record;
    const after = await this.#dynamodb.peek(jobId);
    track.record = after;
    if (after !== undefined) track.texts.add(after.text);
    if (before === undefined && after === undefined) return;
    if (
      before === undefined ||
      after === undefined ||
      (this.#mayBeExpired(before) && after.createdAt > before.createdAt)
    ) {
      if (before !== undefined && !this.#mayBeExpired(before)) {
        this.#check(!track.isAccepted, 'an accepted job is gone');
        this.#check(!track.hasKey, 'a job with a key is gone');
        this.#check(before.status === 'PENDING', 'a job is gone although a worker had claimed it');
      }
      track.incarnation += 1;
      track.isAccepted = false;
      track.isExcused = false;
      track.shown = undefined;
      return;
    }
    for (const name of ['text', 'createdAt', 'expiresAt', 'deadline'] as const) {
      this.#check(before[name] === after[name], `${name} changed`);
    }
    this.#check(RANK[after.status] >= RANK[before.status], 'the status moved backwards');
    this.#check(after.attempt >= before.attempt && after.attempt <= MAX_ATTEMPTS, 'the attempts are miscounted');
    if (isEnded(before)) this.#check(isDeepStrictEqual(publicFields(before), publicFields(after)), 'an end changed');
    else if (after.status === 'ERROR' && after.errorMessage.startsWith('Processing failed') && !this.#hasWildClocks) {
      const latest = unixSeconds(this.#now + MAX_SKEW_MS);
      this.#check(phaseOf(before, latest) === 'lapsed', 'a job lapsed although it could still have ended otherwise');
    }
    if (after.status === 'DONE') {
      const results: unknown = JSON.parse(after.result);
      const by = ['first', 'second'].map((stage) => pick(pick(results, stage), 'by'));
      this.#check(by[0] !== undefined && by[0] === by[1], 'a result is from two attempts');
      this.#check(
        isDeepStrictEqual(pick(pick(results, 'second'), 'after'), ['first']),
        'the second stage did not get the result of the first',
      );
    }
  }

  #verify(): void {
    for (const { jobId, hasKey, record, isAccepted, isExcused } of this.#tracks.values()) {
      if (record === undefined || hasKey || isAccepted || isExcused || this.#mayBeExpired(record)) continue;
      this.#check(this.#hasOpenPost(jobId), `${this.#short(jobId)} exists although its POST failed`);
    }
    if (this.#violation !== undefined) throw new Error(this.#violation);
  }

  /** Records a violation. It is thrown later, because the product's code could catch it here. */
  #check(holds: boolean, violation: string): void {
    if (!holds) this.#violation ??= `${violation}\n${this.#trace.join('\n')}`;
  }

  /** Whether the job has expired by any clock. */
  #mayBeExpired({ expiresAt }: Job): boolean {
    return expiresAt * 1000 <= this.#now + (this.#hasWildClocks ? 2 * WILD_SKEW_MS : MAX_SKEW_MS);
  }

  #hasOpenPost(jobId: string): boolean {
    return this.#invocations.some(
      (invocation) =>
        invocation.kind === 'POST' && invocation.jobId === jobId && !invocation.isDone && !invocation.isDead,
    );
  }

  // ------------------------------------------------------------------------------------------ machinery

  #newInvocation(kind: Invocation['kind'], timeout: number, skew: number, reused?: Sandbox): Invocation {
    const sandbox = reused ?? new Sandbox();
    if (reused === undefined) this.#sandboxes.push(sandbox);
    const number = this.#invocations.length;
    const ordinal = this.#invocations.filter((invocation) => invocation.kind === kind).length + 1;
    return new Invocation(kind, { name: `${kind} ${ordinal}`, number, sandbox, killedAt: this.#now + timeout, skew });
  }

  #contextOf({ killedAt }: Invocation) {
    return { ...lambdaContext(), getRemainingTimeInMillis: () => killedAt - this.#now };
  }

  /** Starts an invocation. The function that `work` returns is called once the handler has returned. */
  async #start(invocation: Invocation, work: () => Promise<() => void>): Promise<Invocation> {
    await invocation.step(() => {
      void this.#dynamodb
        .runAs(invocation, work)
        .catch((error: unknown) => () => {
          this.#log(invocation, `fails: ${error instanceof Error ? error.message : String(error)}`);
          count(`${invocation.kind} failed`);
          invocation.onFailure();
        })
        .then((onEnd) => {
          onEnd();
          this.#check(invocation.unsettledStages === 0, 'a stage is still running after its attempt');
          invocation.finish();
        });
    });
    this.#verify();
    return invocation;
  }

  /** Runs an invocation without faults. */
  async #runNew(start: () => Promise<Invocation>): Promise<Invocation> {
    const invocation = await start();
    await this.runOut(invocation);
    return invocation;
  }

  async #perform(invocation: Invocation, label: string, perform: () => Promise<WireResponse>): Promise<WireResponse> {
    const response = await perform();
    const jobId = invocation.jobId ?? '';
    const isWrite = !label.includes('GetItem') && !label.includes('Invoke');
    if (isWrite) {
      invocation.hasWritten = true;
      await this.#observe(jobId);
    }
    const { record, incarnation } = this.#track(jobId);
    if (!label.startsWith('late')) invocation.incarnation = incarnation;
    const state = record === undefined ? 'no job' : `${record.status}, attempt ${record.attempt}`;
    const refusal = response.statusCode === 200 ? '' : 'condition failed, ';
    this.#log(invocation, `${label} -> ${refusal}${this.#short(jobId)}: ${state}`);
    return response;
  }

  /** Lambda's Invoke, which the SDK retries if the response is lost. */
  async #invoke(invocation: Invocation, jobId: string): Promise<void> {
    const perform = async () => {
      this.queue.push({ jobId, queuedAt: this.#now, failures: 0 });
      return EMPTY;
    };
    const response = await invocation
      .send('Invoke', jobId, 'attempt=1; max=2', perform)
      .catch(() => invocation.send('Invoke', jobId, 'attempt=2; max=2', perform));
    if (response.statusCode !== 200) throw new Error('Invoke was refused');
  }

  #redeliver(event: LambdaEvent): void {
    const failed = { ...event, failures: event.failures + 1 };
    if (failed.failures < 3) this.queue.push(failed);
    else this.failedEvents.push(failed);
  }

  async #fireTimer(invocation: Invocation): Promise<void> {
    invocation.timerDueAt = Number.POSITIVE_INFINITY;
    invocation.stagesHadMs = this.#now - (invocation.stagesStartedAt ?? this.#now);
    this.#log(invocation, "the stages' time is up");
    await invocation.step(() => invocation.onTimer());
  }

  /** If a POST is cut off from DynamoDB while it deletes its job, it cannot know whether the job is gone. */
  #onLostCall(invocation: Invocation, label: string): void {
    if (invocation.kind === 'POST' && label.startsWith('DeleteItem')) this.#excuse(invocation);
  }

  #excuse({ jobId }: Invocation): void {
    if (jobId === undefined) return;
    const track = this.#track(jobId);
    track.isExcused = track.record !== undefined;
  }

  #track(jobId: string): Track {
    const known = this.#tracks.get(jobId);
    if (known !== undefined) return known;
    const track: Track = {
      jobId,
      hasKey: !jobId.startsWith(`${this.#run}-`),
      incarnation: 0,
      record: undefined,
      texts: new Set(),
      isAccepted: false,
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

  #log(invocation: Invocation, message: string): void {
    this.#trace.push(`${this.#time()} ${invocation.name}: ${message}`);
  }
}

class WatchedRepository extends JobRepository {
  readonly #world: SimulatedWorld;
  readonly #invocation: Invocation;

  constructor(dynamodb: InterceptedDynamodb, world: SimulatedWorld, invocation: Invocation) {
    super(dynamodb.client, TABLE_NAME);
    this.#world = world;
    this.#invocation = invocation;
  }

  override async end(jobId: string, lease: Lease, end: End, now: number): Promise<boolean> {
    const isStored = await super.end(jobId, lease, end, now);
    if (isStored) this.#world.onEndStored(this.#invocation, jobId, end);
    return isStored;
  }
}

const EMPTY: WireResponse = { statusCode: 200, headers: {}, body: Buffer.from('{}') };

const REFUSED: WireResponse = {
  statusCode: 400,
  headers: {},
  body: Buffer.from('{"__type":"com.amazonaws.dynamodb.v20120810#AccessDeniedException","message":"refused"}'),
};

export type { Invocation };

const STATUSES = ['PENDING', 'IN_PROGRESS', 'DONE', 'ERROR'] as const;
const RANK = { PENDING: 0, IN_PROGRESS: 1, DONE: 2, ERROR: 2 };

/** What the API shows of a job. */
function publicFields(job: Job): object {
  const { jobId, status, text, createdAt, updatedAt } = job;
  const common = { jobId, status, text, createdAt, updatedAt };
  if (job.status === 'DONE') return { ...common, result: JSON.parse(job.result) };
  return job.status === 'ERROR' ? { ...common, errorMessage: job.errorMessage } : common;
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
  const error = new Error('No response in time');
  error.name = 'TimeoutError';
  return error;
}
