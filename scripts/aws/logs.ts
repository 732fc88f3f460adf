/**
 * Prints what the functions logged about a job in chronological order. Run by logs.sh.
 *
 * The lines that name the job are read first; they have the request ids of its invocations. Lambda's
 * own lines (a timeout, a crash, the memory used) do not name the job. They are found by request id.
 */
import { CloudWatchLogsClient, paginateFilterLogEvents } from '@aws-sdk/client-cloudwatch-logs';
import { requireEnv } from '../../src/config.ts';
import { formatEntry, type LogEntry } from './logEntry.ts';
import { requireStack, run } from './stack.ts';

/** A job has few invocations, except GETs that fail. */
const MAX_INVOCATIONS = 50;
/** How far apart the log lines of one invocation can be, in milliseconds. A timeout is at most 15 minutes. */
const NEIGHBOURHOOD_MS = 16 * 60 * 1000;

const client = new CloudWatchLogsClient();

await run(async () => {
  const [jobId, ...more] = process.argv.slice(2);
  if (jobId === undefined || more.length > 0 || !/^[A-Za-z0-9-]+$/.test(jobId)) {
    throw new Error('usage: bash scripts/logs.sh JOB_ID');
  }
  await requireStack();
  const group = `/${requireEnv('STACK_NAME')}/functions`;

  const entries = new Map<string, LogEntry>();
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
  // The sort is stable: lines of the same millisecond stay in the order of their stream.
  for (const entry of [...entries.values()].sort((a, b) => a.time - b.time)) {
    console.log(formatEntry(entry, names.get(entry.stream) ?? entry.stream));
  }
  return 0;
});

/** Adds the events of the log group that contain the phrase. */
async function collect(
  entries: Map<string, LogEntry>,
  logGroupName: string,
  phrase: string,
  range: { readonly startTime?: number; readonly endTime?: number } = {},
): Promise<void> {
  const pages = paginateFilterLogEvents({ client }, { logGroupName, filterPattern: `"${phrase}"`, ...range });
  for await (const { events = [] } of pages) {
    for (const { eventId, timestamp = 0, logStreamName: stream = '', message = '' } of events) {
      const fields = fieldsOf(message);
      // The time in the line is more precise than the event's.
      const logged = Date.parse(String(fields.get('timestamp') ?? fields.get('time')));
      const time = Number.isNaN(logged) ? timestamp : logged;
      entries.set(eventId ?? `${stream} ${timestamp} ${message}`, { time, stream, message, fields });
    }
  }
}

/** The logical names of the functions, such as WorkerFunction, by log stream. */
function functionNames(entries: Iterable<LogEntry>): Map<string, string> {
  const names = new Map<string, string>();
  for (const { stream, fields } of entries) {
    const name = fields.get('function_name');
    if (typeof name === 'string') names.set(stream, /(\w+Function)-\w+$/.exec(name)?.[1] ?? name);
  }
  return names;
}

function fieldsOf(message: string): Map<string, unknown> {
  try {
    const value: unknown = JSON.parse(message);
    return new Map(typeof value === 'object' && value !== null ? Object.entries(value) : []);
  } catch {
    return new Map();
  }
}
