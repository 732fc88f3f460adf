/** What happened to a job, from the reports about it. Runs in the browser. Times are Unix milliseconds. */
import { type LogEntry, parseEntry } from '../../aws/logEntry.ts';
import type { JobReport } from './observer.ts';

export interface Span {
  readonly from: number;
  /** Undefined while it lasts. */
  readonly to: number | undefined;
}

/** One delivery of the job's event to a worker. */
export interface Delivery extends Span {
  /** The number of the attempt; undefined before the claim, or if the claim was refused. */
  readonly attempt: number | undefined;
  /** Why the claim was refused. */
  readonly refused: string | undefined;
  /** Why Lambda counts the delivery as failed. */
  readonly error: string | undefined;
  /** The stages that have finished. */
  readonly stages: readonly { readonly name: string; readonly from: number; readonly to: number }[];
  /** When the last of them, or else the claim, was done. */
  readonly busySince: number;
}

export interface History {
  readonly deliveries: readonly Delivery[];
  /** How long Lambda waits before it delivers the event again. */
  readonly waits: readonly Span[];
  readonly hasLapsed: boolean;
  readonly entries: readonly LogEntry[];
}

type Writable<T> = { -readonly [K in keyof T]: T[K] };

export function historyOf(reports: readonly JobReport[]): History {
  const deliveries = new Map<string, Writable<Delivery>>();
  const waits: Writable<Span>[] = [];
  const entries: LogEntry[] = [];
  for (const report of reports) {
    const { time } = report;
    if (report.kind === 'start') {
      const nothing = { to: undefined, attempt: undefined, refused: undefined, error: undefined, stages: [] };
      deliveries.set(report.requestId, { from: time, busySince: time, ...nothing });
      const wait = waits.at(-1);
      if (wait?.to !== undefined && wait.to > time) wait.to = time;
    } else if (report.kind === 'retry') {
      waits.push({ from: time, to: report.at });
    } else if (report.kind === 'end') {
      const delivery = deliveries.get(report.requestId);
      if (delivery !== undefined) Object.assign(delivery, { to: time, error: report.error ?? undefined });
    } else {
      const entry = parseEntry(time, report.function, report.text);
      // Metrics, and warnings of Node about the emulator's own code.
      if (entry.fields.has('_aws') || /^\((?:node:\d+\)|Use `node)/.test(report.text)) continue;
      entries.push(entry);
      const delivery = deliveries.get(report.requestId);
      if (delivery !== undefined) addEntry(delivery, entry);
    }
  }
  const hasLapsed = entries.some(({ fields }) => fields.get('message') === 'Job lapsed');
  return { deliveries: [...deliveries.values()], waits, hasLapsed, entries };
}

function addEntry(delivery: Writable<Delivery>, { time, fields }: LogEntry): void {
  const message = fields.get('message');
  if (message === 'Attempt started') Object.assign(delivery, { attempt: fields.get('attempt'), busySince: time });
  if (message === 'Claim refused') delivery.refused = String(fields.get('outcome'));
  if (message !== 'Stage done' && message !== 'Stage failed') return;
  const from = time - Number(fields.get('durationMs'));
  delivery.stages = [...delivery.stages, { name: String(fields.get('stage')), from, to: time }];
  delivery.busySince = time;
}
