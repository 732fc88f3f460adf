/**
 * Prints what the functions logged about a job in chronological order. Run by logs.sh.
 *
 * The lines that name the job are read first; they have the request ids of its invocations. Lambda's
 * own lines (a timeout, a crash, the memory used) do not name the job. They are found by request id.
 */
import { parseArgs } from 'node:util';
import { CloudWatchLogsClient, paginateFilterLogEvents } from '@aws-sdk/client-cloudwatch-logs';
import { requireEnv } from '../../src/config.ts';
import { withOutcomes } from './attempts.ts';
import { formatEntry, type LogEntry, parseEntry } from './logEntry.ts';
import { frameResolver } from './sourceLines.ts';
import { requireStack, run } from './stack.ts';

/** A job has few invocations, except GETs that fail. */
const MAX_INVOCATIONS = 50;
/** How far apart the log lines of one invocation can be, in milliseconds. A timeout is at most 15 minutes. */
const NEIGHBORHOOD_MS = 16 * 60 * 1000;

const USAGE = 'usage: bash scripts/logs.sh JOB_ID [--since 90m|6h|14d]';
const UNIT_MS: Readonly<Record<string, number>> = { m: 60_000, h: 3_600_000, d: 86_400_000 };

const client = new CloudWatchLogsClient();

await run(async () => {
  const { jobId, since, startTime } = readArguments();
  await requireStack();
  const group = `/${requireEnv('STACK_NAME')}/functions`;

  const found = new Map<string, LogEntry>();
  await collect(found, group, jobId, { startTime });
  if (found.size === 0) {
    throw new Error(`${group} has no line about the job ${jobId} in the last ${since}; see --since`);
  }

  const times = [...found.values()].map(({ time }) => time);
  const range = { startTime: Math.min(...times) - NEIGHBORHOOD_MS, endTime: Math.max(...times) + NEIGHBORHOOD_MS };
  const requestIds = new Set([...found.values()].flatMap(({ fields }) => fields.get('function_request_id') ?? []));
  for (const requestId of [...requestIds].slice(0, MAX_INVOCATIONS)) {
    await collect(found, group, String(requestId), range);
  }

  // The sort is stable: lines of the same millisecond stay in the order of their stream.
  const entries = withOutcomes([...found.values()].sort((a, b) => a.time - b.time));
  const named = entries.filter(({ fields }) => fields.has('function_name'));
  const names = new Map(named.map(({ stream, fields }) => [stream, String(fields.get('function_name'))]));
  const failed = entries.filter(({ fields }) => fields.has('error')).map(({ stream }) => names.get(stream) ?? '');
  const resolveFrame = await frameResolver(new Map(failed.map((name) => [logicalId(name), name])));
  for (const entry of entries) {
    console.log(formatEntry(entry, logicalId(names.get(entry.stream) ?? entry.stream), resolveFrame));
  }
  return 0;
});

function readArguments(): { jobId: string; since: string; startTime: number } {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { since: { type: 'string', default: '1d' } },
  });
  const [jobId = '', ...more] = positionals;
  const [, count, unit = ''] = /^([1-9]\d{0,4})([mhd])$/.exec(values.since) ?? [];
  if (!/^[A-Za-z0-9-]+$/.test(jobId) || more.length > 0 || count === undefined) throw new Error(USAGE);
  return { jobId, since: values.since, startTime: Date.now() - Number(count) * (UNIT_MS[unit] ?? 0) };
}

/** Adds the events of the log group that contain the phrase. */
async function collect(
  entries: Map<string, LogEntry>,
  logGroupName: string,
  phrase: string,
  range: { readonly startTime: number; readonly endTime?: number },
): Promise<void> {
  const pages = paginateFilterLogEvents({ client }, { logGroupName, filterPattern: `"${phrase}"`, ...range });
  for await (const { events = [] } of pages) {
    for (const { eventId, timestamp = 0, logStreamName: stream = '', message = '' } of events) {
      entries.set(eventId ?? `${stream} ${timestamp} ${message}`, parseEntry(timestamp, stream, message));
    }
  }
}

/** The function's name in the template, such as WorkerFunction. */
function logicalId(functionName: string): string {
  return /(\w+Function)-\w+$/.exec(functionName)?.[1] ?? functionName;
}
