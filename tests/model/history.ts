import type { Job } from '../../src/job.ts';
import { guarantees, isFinal, type Knowledge, type KnownJob, mayBeExpired, pick, type Seen } from './guarantees.ts';
import type { Invocation } from './simulatedInvocation.ts';

/** How often each outcome has occurred. A test checks that the sequences reach all of them. */
export const outcomes = new Map<string, number>();

export function count(outcome: string): void {
  outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
}

/** What is known about a job id, as it is recorded. */
type Track = { -readonly [Name in keyof KnownJob]: KnownJob[Name] } & { readonly texts: Set<string> };

/** What was seen in one sequence. Everything is passed to the guarantees and written into a trace. */
export class History {
  readonly #known: Knowledge;
  readonly #tracks = new Map<string, Track>();
  readonly #trace: string[] = [];
  #violation: string | undefined;

  constructor(known: Knowledge) {
    this.#known = known;
  }

  get jobs(): readonly KnownJob[] {
    return [...this.#tracks.values()];
  }

  job(jobId: string): KnownJob {
    return this.#track(jobId);
  }

  /** Adds a line to the trace. */
  log(line: string): void {
    this.#trace.push(line);
  }

  withTrace(message: string): string {
    return `${message}\n${this.#trace.join('\n')}`;
  }

  /** Records the first violation of a guarantee. It is thrown later, because the product's code could catch it here. */
  see(seen: Seen): void {
    for (const [name, guarantee] of Object.entries(guarantees)) {
      for (const violation of guarantee(seen, this.#known)) this.#violation ??= this.withTrace(`${name}: ${violation}`);
    }
  }

  /** Throws an error with a trace if a guarantee was violated. */
  verify(): void {
    this.see({ what: 'end of a move' });
    if (this.#violation !== undefined) throw new Error(this.#violation);
  }

  /** Compares a record after a write with its previous state. */
  seeRecord(jobId: string, after: Job | undefined): void {
    const job = this.#track(jobId);
    const before = job.record;
    job.record = after;
    if (after !== undefined) job.texts.add(after.text);
    if (before === undefined && after === undefined) return;
    const wasExpired = before !== undefined && mayBeExpired(before, this.#known);
    if (before !== undefined && after !== undefined && !(wasExpired && after.createdAt > before.createdAt)) {
      this.see({ what: 'change', job, before, after });
      return;
    }
    if (before !== undefined && !wasExpired) this.see({ what: 'loss', job, before });
    job.incarnation += 1;
    job.isAccepted = false;
    job.isExcused = false;
    job.shown = undefined;
  }

  seePostResponse(invocation: Invocation, text: string, status: number, body: string): void {
    count(`POST ${status}`);
    if (invocation.jobId === undefined) return;
    const job = this.#track(invocation.jobId);
    this.see({ what: 'POST response', job, invocation, text, status, body: JSON.parse(body) });
    // Otherwise the job that it read has expired, and another POST has created the next one.
    if (status === 202 && job.incarnation === invocation.incarnation) job.isAccepted = true;
  }

  /** @param before what was known about the job when the GET started */
  seeGetResponse({ user }: Invocation, before: KnownJob, status: number, body: string): void {
    const response: unknown = JSON.parse(body);
    const job = this.#track(before.jobId);
    if (user !== job.owner) {
      count(`GET for another caller ${status}`);
      this.see({ what: 'GET response for another caller', job, status, body: response });
      return;
    }
    const shown = status === 200 ? [pick(response, 'status'), pick(response, 'errorMessage')] : [];
    count(['GET', status, ...shown].filter((part) => part !== undefined).join(' '));
    this.see({ what: 'GET response', job, before, status, body: response });
    if (job.incarnation !== before.incarnation || job.shown !== undefined || !isFinal(response)) return;
    job.shown = response;
    job.shownAt = this.#known.invocations.length;
  }

  /** A POST was killed, or cut off from DynamoDB while it deleted its job. It cannot know whether the job is gone. */
  excuse({ jobId }: Invocation): void {
    if (jobId === undefined) return;
    const job = this.#track(jobId);
    job.isExcused = job.record !== undefined;
  }

  #track(jobId: string): Track {
    const known = this.#tracks.get(jobId);
    if (known !== undefined) return known;
    const first = this.#known.invocations.find((other) => other.kind === 'POST' && other.jobId === jobId);
    const track: Track = {
      jobId,
      name: `job ${this.#tracks.size + 1}`,
      owner: first?.user ?? 'A',
      hasKey: first?.hasKey ?? false,
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
}
