/**
 * Shows what the functions logged about one job, one line each, in the order of time. Run by logs.sh.
 *
 * Lines that name the job come first; they tell which invocations had it. Lambda's own lines (a
 * time-out, a crash, the memory used) do not name the job, and are found by those invocations.
 */
import { CloudWatchLogsClient, paginateFilterLogEvents } from '@aws-sdk/client-cloudwatch-logs';
import { requireEnv } from '../../src/config.ts';
import { requireStack, run } from './stack.ts';

/** A job has at most a handful of invocations besides those of GET, which are only logged when they fail. */
const MAX_INVOCATIONS = 50;
/** Lambda's own lines about an invocation are this near to those that name the job, in milliseconds. */
const NEIGHBOURHOOD_MS = 16 * 60 * 1000;

interface Entry {
  /** Unix milliseconds. */
  readonly time: number;
  readonly stream: string;
  readonly message: string;
  readonly fields: ReadonlyMap<string, unknown>;
}

/** Fields that are shown otherwise, or say the same on every line. */
const OMITTED =
  /^(?:timestamp|time|level|message|service|jobId|cold_start|sampling_rate|function_(?!request_id).*|xray_.*)$/;

const client = new CloudWatchLogsClient();

await run(async () => {
  const [jobId, ...more] = process.argv.slice(2);
  if (jobId === undefined || more.length > 0 || !/^[A-Za-z0-9-]+$/.test(jobId)) {
    throw new Error('usage: scripts/logs.sh JOB_ID');
  }
  await requireStack();
  const group = `/${requireEnv('STACK_NAME')}/functions`;

  const entries = new Map<string, Entry>();
  await collect(entries, group, jobId);
  if (entries.size === 0) throw new Error(`${group} has no line about the job ${jobId}`);

  const times = [...entries.values()].map(({ time }) => time);
  const requestIds = new Set([...entries.values()].flatMap(({ fields }) => fields.get('function_request_id') ?? []));
  for (const requestId of [...requestIds].slice(0, MAX_INVOCATIONS)) {
    await collect(entries, group, String(requestId), {
      startTime: Math.min(...times) - NEIGHBOURHOOD_MS,
      endTime: Math.max(...times) + NEIGHBOURHOOD_MS,
    });
  }

  const names = functionNames(entries.values());
  // A stable sort: lines of the same millisecond stay in the order of their stream.
  for (const entry of [...entries.values()].sort((a, b) => a.time - b.time)) console.log(lineOf(entry, names));
  return 0;
});

/** Adds the log group's events that contain the phrase. */
async function collect(
  entries: Map<string, Entry>,
  logGroupName: string,
  phrase: string,
  range: { readonly startTime?: number; readonly endTime?: number } = {},
): Promise<void> {
  const pages = paginateFilterLogEvents({ client }, { logGroupName, filterPattern: `"${phrase}"`, ...range });
  for await (const { events = [] } of pages) {
    for (const { eventId, timestamp = 0, logStreamName: stream = '', message = '' } of events) {
      const fields = fieldsOf(message);
      // The functions' own time of a line is the exact one.
      const own = Date.parse(String(fields.get('timestamp') ?? fields.get('time')));
      const time = Number.isNaN(own) ? timestamp : own;
      entries.set(eventId ?? `${stream} ${timestamp} ${message}`, { time, stream, message, fields });
    }
  }
}

/** The functions' short names, by log stream: `worker`, `createJob`, `getJob`. */
function functionNames(entries: Iterable<Entry>): Map<string, string> {
  const names = new Map<string, string>();
  for (const { stream, fields } of entries) {
    const name = fields.get('function_name');
    if (typeof name === 'string') names.set(stream, /(\w+Function)-\w+$/.exec(name)?.[1] ?? name);
  }
  return names;
}

function lineOf({ time, stream, message, fields }: Entry, names: ReadonlyMap<string, string>): string {
  const start = [new Date(time).toISOString(), (names.get(stream) ?? stream).padEnd(17)];
  if (fields.size === 0) return [...start, oneLine(message)].join('  ');
  const shown = [...fields].filter(([name]) => !OMITTED.test(name));
  const details = shown.map(([name, value]) => `${name}=${typeof value === 'string' ? value : JSON.stringify(value)}`);
  const level = String(fields.get('level') ?? 'LAMBDA').padEnd(6);
  return oneLine([...start, level, fields.get('message') ?? '', details.join(' ')].join('  '));
}

function fieldsOf(message: string): Map<string, unknown> {
  try {
    const value: unknown = JSON.parse(message);
    return new Map(typeof value === 'object' && value !== null ? Object.entries(value) : []);
  } catch {
    return new Map();
  }
}

/** Without what would break the line, or talk to the terminal. */
function oneLine(text: string): string {
  return text.replace(/[\p{Cc}\p{Cf}\u2028\u2029]+/gu, ' ').trimEnd();
}
