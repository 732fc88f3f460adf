import { setImmediate } from 'node:timers/promises';
import { DeleteCommand } from '@aws-sdk/lib-dynamodb';
import { buildHandler as buildCreateJob } from '../../src/handlers/createJob.ts';
import { buildHandler as buildGetJob } from '../../src/handlers/getJob.ts';
import { buildHandler as buildWorker } from '../../src/handlers/worker.ts';
import { JobRepository } from '../../src/jobRepository.ts';
import { type Stage, StageError } from '../../src/stages/stage.ts';
import { getJobEvent, postJobEvent, signedIn } from '../support/events.ts';
import { lambdaContext } from '../support/lambdaContext.ts';
import { EMPTY, type WireResponse } from './dynamodbEngine.ts';
import {
  type Knowledge,
  type KnownJob,
  LIFETIMES,
  latestEnd,
  mayBeExpired,
  type User,
  WILD_SKEW_MS,
} from './guarantees.ts';
import { count, History } from './history.ts';
import { type InterceptedDynamodb, TABLE_NAME } from './interceptedClient.ts';
import { Invocation, Sandbox } from './simulatedInvocation.ts';

const HTTP_TIMEOUT_MS = 28_000;
const START_MS = Date.UTC(2030, 0, 1);

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

/**
 * How an event is delivered: `isDuplicate` leaves it in the queue, `ignoresSignal` is about the stages, and `reuse`
 * selects one of the worker's idle processes. If it is undefined or none is idle, a new process starts.
 */
type Delivery = { isDuplicate?: boolean; ignoresSignal?: boolean; skew?: number; reuse?: number | undefined };

/**
 * Simulates Lambda, the network, clients and clocks around the real handlers, the real repository
 * and a real DynamoDB engine. Nothing happens unless a method of this class makes it happen, and each
 * method checks the guarantees before it returns. An error has a trace of everything that happened.
 */
export class SimulatedWorld implements Knowledge {
  readonly queue: LambdaEvent[] = [];
  readonly failedEvents: LambdaEvent[] = [];
  /** Calls that their callers have given up on, but that are still to be carried out. */
  readonly late: {
    readonly invocation: Invocation;
    readonly label: string;
    readonly land: () => Promise<WireResponse>;
  }[] = [];
  readonly #sandboxes: Sandbox[] = [];
  readonly #history = new History(this);
  readonly #dynamodb: InterceptedDynamodb;
  readonly #run: string;
  readonly hasWildClocks: boolean;
  now = START_MS;
  #ids = 0;

  /** @param run a number that is unique among the worlds on this engine */
  constructor(dynamodb: InterceptedDynamodb, run: number, hasWildClocks: boolean) {
    this.#dynamodb = dynamodb;
    this.#run = run.toString(16).padStart(8, '0');
    this.hasWildClocks = hasWildClocks;
  }

  get jobs(): readonly KnownJob[] {
    return this.#history.jobs;
  }

  /** The invocations that are waiting for a call. */
  get calling(): readonly Invocation[] {
    return this.invocations.filter(({ call, isRunning }) => call !== undefined && isRunning);
  }

  /** The invocations with a running stage. */
  get working(): readonly Invocation[] {
    return this.invocations.filter(({ work, isRunning }) => work !== undefined && isRunning);
  }

  get invocations(): readonly Invocation[] {
    return this.#sandboxes.flatMap(({ invocations }) => invocations);
  }

  // ----------------------------------------------------------------------------------- new invocations

  async post(user: User, key: string | undefined, text: string, skew: number): Promise<Invocation> {
    const invocation = this.#newInvocation('POST', HTTP_TIMEOUT_MS, skew);
    invocation.user = user;
    invocation.hasKey = key !== undefined;
    this.#log(invocation, `user ${user}, key ${key ?? '-'}, text '${text}', clock +${skew} ms`);
    const handle = buildCreateJob({
      repository: this.#repository(),
      startWorker: (jobId) => this.#invoke(invocation, jobId),
      lifetimes: LIFETIMES,
      expectedJobSeconds: 5,
      corsOrigin: '',
      idNamespace: this.#run,
      newId: () => this.#newId(),
      clock: () => this.now + invocation.skew,
    });
    const event = postJobEvent(JSON.stringify({ text }), {
      headers: key === undefined ? {} : { 'Idempotency-Key': key },
    });
    return this.#start(invocation, async () => {
      const response = await handle(signedIn(event, user), this.#contextOf(invocation));
      return () => {
        const { statusCode, body } = response;
        invocation.status = statusCode;
        this.#log(invocation, `returns ${statusCode} ${body}`);
        this.#history.seePostResponse(invocation, text, statusCode, body);
      };
    });
  }

  /** A POST without faults. It must be accepted and its job started, unless the key was used with a different text. */
  async accept(user: User, key: string, text: string): Promise<void> {
    const invocation = await this.#runNew(() => this.post(user, key, text, 0));
    const { jobId, status } = invocation;
    if (jobId === undefined) return;
    this.#history.see({ what: 'response to a POST without faults', job: this.#history.job(jobId), status });
    this.#history.verify();
  }

  /** A GET by the job's owner, or by another caller. */
  async get(jobId: string, skew: number, user = this.#history.job(jobId).owner): Promise<Invocation> {
    const invocation = this.#newInvocation('GET', HTTP_TIMEOUT_MS, skew);
    invocation.user = user;
    this.#log(invocation, `user ${user}, ${this.#history.job(jobId).name}, clock +${skew} ms`);
    const handle = buildGetJob({
      repository: this.#repository(),
      corsOrigin: '',
      clock: () => this.now + invocation.skew,
    });
    const before = { ...this.#history.job(jobId) };
    return this.#start(invocation, async () => {
      const response = await handle(signedIn(getJobEvent(jobId), user), this.#contextOf(invocation));
      return () => {
        const { statusCode, body } = response;
        this.#log(invocation, `returns ${statusCode} ${body}`);
        this.#history.seeGetResponse(invocation, before, statusCode, body);
      };
    });
  }

  /** Delivers an event to the worker. */
  async deliver(
    index: number,
    { isDuplicate = false, ignoresSignal = false, skew = 0, reuse }: Delivery = {},
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
    const how = JSON.stringify({ skew, isDuplicate, ignoresSignal, processOf: sandbox?.invocations[0]?.name });
    this.#log(invocation, `${this.#history.job(jobId).name}, ${how}`);
    const stage = (name: string): Stage => ({
      name,
      run: async (_text, { signal }) => {
        this.#log(invocation, 'a stage starts');
        this.#history.see({ what: 'stage start', job: this.#history.job(jobId), invocation });
        invocation.unsettledStages += 1;
        try {
          await invocation.doWork(ignoresSignal ? undefined : signal);
          return { by: invocation.name };
        } finally {
          invocation.unsettledStages -= 1;
        }
      },
    });
    const repository = this.#repository();
    const finalWrite = repository.end.bind(repository);
    repository.end = async (id, lease, end, now) => {
      const isStored = await finalWrite(id, lease, end, now);
      if (isStored) this.#history.see({ what: 'final write', job: this.#history.job(id), end });
      return isStored;
    };
    const handle = buildWorker({
      repository,
      stages: [stage('first'), stage('second')],
      workerTimeout: LIFETIMES.workerTimeout,
      startTimer: (milliseconds, onTime) => {
        invocation.timerDueAt = this.now + Math.max(0, milliseconds);
        invocation.onTimer = onTime;
        if (invocation.unsettledStages > 0) invocation.waitForStage();
        return () => {
          invocation.timerDueAt = Number.POSITIVE_INFINITY;
        };
      },
      newToken: () => this.#newId(),
      clock: () => this.now + invocation.skew,
      endProcess: () => {
        this.#log(invocation, 'ends its process');
        count('process ended');
        const ended = invocation.endProcess();
        invocation.onFailure();
        return ended;
      },
    });
    const before = { ...this.#history.job(jobId) };
    return this.#start(invocation, async () => {
      await handle({ jobId }, this.#contextOf(invocation));
      return () => {
        count('worker done');
        this.#history.see({ what: 'success of the worker', job: this.#history.job(jobId), before });
      };
    });
  }

  /** An operator sends a failed event again. */
  async redrive(index: number): Promise<void> {
    const [event] = this.failedEvents.splice(index, 1);
    if (event === undefined) return;
    this.#history.log(`redrive ${this.#history.job(event.jobId).name}`);
    this.queue.push({ ...event, failures: 0, queuedAt: this.now });
  }

  /** AWS deletes an event from the queue without delivering it. */
  async drop(index: number): Promise<void> {
    const [event] = this.queue.splice(index, 1);
    if (event === undefined) return;
    this.#history.log(`${this.#time()} AWS drops the event of ${this.#history.job(event.jobId).name}`);
    count('event dropped');
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
      await this.#step(invocation, () => call.respond(response));
    } else if (fate === 'refused') {
      this.#log(invocation, `${call.label} -> refused`);
      this.#onLostCall(invocation, call.label);
      await this.#step(invocation, () => call.respond(REFUSED));
    } else {
      this.#log(invocation, `${call.label} -> ${isOpen ? fate : 'response lost'}`);
      if (fate === 'late' && isOpen) this.late.push({ invocation, label: call.label, land: call.perform });
      if (call.isRetry) this.#onLostCall(invocation, call.label);
      await this.#step(invocation, () =>
        call.fail(Object.assign(new Error('No response in time'), { name: 'TimeoutError' })),
      );
    }
    this.#history.verify();
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
    if (invocation.isStopping) count('stage stopped in time');
    const settle = () => (isThrowing ? work.fail(new StageError('the stage broke')) : work.finish());
    if (invocation.timerDueAt === Number.POSITIVE_INFINITY) {
      // After the timeout, the handler no longer waits for the stage.
      settle();
      await setImmediate();
    } else {
      await this.#step(invocation, settle);
    }
    this.#history.verify();
  }

  /** A running stage blocks its process, so that no timer fires there, and then settles. */
  async block(invocation: Invocation, milliseconds: number, fate: LastFate): Promise<void> {
    const { timerDueAt } = invocation;
    if (timerDueAt === Number.POSITIVE_INFINITY) return;
    this.#log(invocation, `stage blocks the process for ${milliseconds} ms`);
    invocation.timerDueAt = Number.POSITIVE_INFINITY;
    await this.advance(milliseconds, fate);
    if (invocation.isDead) return;
    invocation.timerDueAt = timerDueAt;
    if (timerDueAt <= this.now) count('stage blocked past its time');
    await this.endStage(invocation, false);
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
    if (invocation.kind === 'POST' && invocation.hasWritten) this.#history.excuse(invocation);
    invocation.onFailure();
    this.#history.verify();
  }

  /** A late call is carried out. */
  async land(index: number): Promise<void> {
    const [write] = this.late.splice(index, 1);
    if (write === undefined) return;
    await this.#perform(write.invocation, `late ${write.label}`, write.land);
    if (write.invocation.kind === 'POST') this.#history.excuse(write.invocation);
    this.#history.verify();
  }

  /** Time passes: timers fire, Lambda kills invocations at their timeout and gives up on old events. */
  async advance(milliseconds: number, fate: LastFate): Promise<void> {
    const target = this.now + milliseconds;
    for (;;) {
      const due = this.invocations
        .filter(({ isDead, isDone }) => !isDead && !isDone)
        .map((invocation) => ({ invocation, at: Math.min(invocation.killedAt, invocation.timerDueAt) }))
        .filter(({ at }) => at <= target)
        .sort((a, b) => a.at - b.at)[0];
      if (due === undefined) break;
      const { invocation, at } = due;
      this.now = Math.max(this.now, at);
      if (at === invocation.killedAt) await this.kill(invocation, fate);
      else await this.#fireTimer(invocation);
    }
    this.now = target;
    for (const event of this.queue.filter(({ queuedAt }) => queuedAt + LIFETIMES.maxEventAge * 1000 < target)) {
      this.queue.splice(this.queue.indexOf(event), 1);
      this.failedEvents.push(event);
      count('event too old');
    }
    this.#history.log(`${this.#time()} time passed`);
    this.#history.verify();
  }

  /** Time passes until the given number of milliseconds after a job expires. */
  async advanceToExpiry(jobId: string, milliseconds: number): Promise<void> {
    const { record } = this.#history.job(jobId);
    if (record !== undefined)
      await this.advance(Math.max(0, record.expiresAt * 1000 - this.now + milliseconds), 'dropped');
  }

  async setClock(invocation: Invocation, skew: number): Promise<void> {
    invocation.skew = skew;
    this.#log(invocation, `clock steps to +${skew} ms`);
  }

  /** DynamoDB deletes an expired job. */
  async sweep(jobId: string): Promise<void> {
    const { record } = this.#history.job(jobId);
    if (record === undefined || record.expiresAt * 1000 > this.now) return;
    await this.#dynamodb.client.send(new DeleteCommand({ TableName: TABLE_NAME, Key: { jobId } }));
    this.#history.log(`${this.#time()} DynamoDB deletes ${this.#history.job(jobId).name}`);
    this.#history.seeRecord(jobId, await this.#dynamodb.peek(jobId));
    this.#history.verify();
  }

  /** Checks that every job ends within the bound and that later deliveries do not change it. No more faults occur. */
  async settle(): Promise<void> {
    const jobs = this.jobs.filter(({ record }) => record !== undefined);
    const bound = Math.max(0, ...jobs.flatMap(({ record }) => (record === undefined ? [] : latestEnd(record))));
    await this.advance(Math.max(0, bound * 1000 - this.now, this.hasWildClocks ? 3 * WILD_SKEW_MS : 0), 'dropped');
    for (const round of ['before', 'after']) {
      for (const job of jobs) {
        if (job.record === undefined || mayBeExpired(job.record, this)) continue;
        await this.#runNew(() => this.get(job.jobId, 0));
        this.#history.see({ what: 'end of time', job });
      }
      while (round === 'before' && this.queue.length > 0) await this.#runNew(() => this.deliver(0, { reuse: 0 }));
    }
    this.#history.verify();
  }

  // ------------------------------------------------------------------------------------------ machinery

  #newInvocation(kind: Invocation['kind'], timeout: number, skew: number, reused?: Sandbox): Invocation {
    const sandbox = reused ?? new Sandbox();
    if (reused === undefined) this.#sandboxes.push(sandbox);
    const number = this.invocations.length;
    const ordinal = this.invocations.filter((invocation) => invocation.kind === kind).length + 1;
    return new Invocation(kind, { name: `${kind} ${ordinal}`, number, sandbox, killedAt: this.now + timeout, skew });
  }

  #contextOf({ killedAt }: Invocation) {
    return { ...lambdaContext(), getRemainingTimeInMillis: () => killedAt - this.now };
  }

  /** Starts an invocation. The function that `work` returns is called once the handler has returned. */
  async #start(invocation: Invocation, work: () => Promise<() => void>): Promise<Invocation> {
    await this.#step(invocation, () => {
      void this.#dynamodb
        .runAs(invocation, work)
        .catch((error: unknown) => () => {
          const message = error instanceof Error ? error.message : String(error);
          this.#log(invocation, `fails: ${message}`);
          count(`${invocation.kind} failed`);
          invocation.onFailure();
        })
        .then((onEnd) => {
          onEnd();
          this.#history.see({ what: 'end of an invocation', invocation });
          invocation.finish();
        });
    });
    this.#history.verify();
    return invocation;
  }

  async #step(invocation: Invocation, go: () => void): Promise<void> {
    await invocation.step(go).catch((error: Error) => {
      throw new Error(this.#history.withTrace(error.message));
    });
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
      this.#history.seeRecord(jobId, await this.#dynamodb.peek(jobId));
    }
    const { record, incarnation } = this.#history.job(jobId);
    if (!label.startsWith('late')) invocation.incarnation = incarnation;
    const state = record === undefined ? 'no job' : `${record.status}, attempt ${record.attempt}`;
    const refusal = response.statusCode === 200 ? '' : 'condition failed, ';
    this.#log(invocation, `${label} -> ${refusal}${this.#history.job(jobId).name}: ${state}`);
    return response;
  }

  /** Lambda's Invoke, which the SDK retries if the response is lost. */
  async #invoke(invocation: Invocation, jobId: string): Promise<void> {
    const perform = async () => {
      this.queue.push({ jobId, queuedAt: this.now, failures: 0 });
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
    this.#log(invocation, invocation.isStopping ? 'a stage has not stopped' : "the stages' time is up");
    await this.#step(invocation, () => invocation.onTimer());
  }

  /** If a POST is cut off from DynamoDB while it deletes its job, it cannot know whether the job is gone. */
  #onLostCall(invocation: Invocation, label: string): void {
    if (invocation.kind === 'POST' && label.startsWith('DeleteItem')) this.#history.excuse(invocation);
  }

  #repository(): JobRepository {
    return new JobRepository(this.#dynamodb.client, TABLE_NAME);
  }

  #newId(): string {
    this.#ids += 1;
    return `${this.#run}-0000-4000-8000-${String(this.#ids).padStart(12, '0')}`;
  }

  #time(): string {
    return `${((this.now - START_MS) / 1000).toFixed(3).padStart(8)} s `;
  }

  #log(invocation: Invocation, message: string): void {
    this.#history.log(`${this.#time()} ${invocation.name}: ${message}`);
  }
}

const REFUSED: WireResponse = {
  statusCode: 400,
  headers: {},
  body: Buffer.from('{"__type":"com.amazonaws.dynamodb.v20120810#AccessDeniedException","message":"refused"}'),
};
