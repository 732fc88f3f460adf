import { oneLine } from './oneLine.ts';
import type { FrameResolver } from './sourceLines.ts';

/** An event of the log group. */
export interface LogEntry {
  /** Unix milliseconds. */
  readonly time: number;
  readonly stream: string;
  readonly message: string;
  /** The fields of a message that is a JSON object; empty for other messages. */
  readonly fields: ReadonlyMap<string, unknown>;
}

/** Reads an event of a log stream. Its time is that of the line, if it has one, which is more precise. */
export function parseEntry(eventTime: number, stream: string, message: string): LogEntry {
  const fields = fieldsOf(message);
  const logged = Date.parse(String(fields.get('timestamp') ?? fields.get('time')));
  return { time: Number.isNaN(logged) ? eventTime : logged, stream, message, fields };
}

function fieldsOf(message: string): Map<string, unknown> {
  try {
    return new Map(Object.entries(Object(JSON.parse(message))));
  } catch {
    return new Map();
  }
}

/** Fields that are printed elsewhere, or are the same in every line. */
const OMITTED =
  /^(?:timestamp|time|level|message|error|service|jobId|cold_start|sampling_rate|function_(?!request_id).*|xray_.*)$/;

/** An entry as one line, followed by its error, if it has one, with stack and causes. */
export function formatEntry(
  { time, message, fields }: LogEntry,
  functionName: string,
  resolveFrame: FrameResolver,
): string {
  const start = [new Date(time).toISOString(), functionName.padEnd(17)];
  if (fields.size === 0) return oneLine([...start, message].join('  '));
  const level = String(fields.get('level') ?? 'LAMBDA').padEnd(6);
  const details = detailsOf([...fields].filter(([name]) => !OMITTED.test(name)));
  const line = oneLine([...start, level, textOf(fields.get('message') ?? ''), details].join('  '));
  const error = fields.has('error') ? errorLines(fields.get('error'), resolveFrame) : [];
  return [line, ...error.map((text) => `    ${text}`)].join('\n');
}

/** An error as src/telemetry.ts logs it: name, message, code, stack and cause, each if there is one. */
function errorLines(error: unknown, resolveFrame: FrameResolver): string[] {
  if (typeof error !== 'object' || error === null || !('message' in error)) {
    return textOf(error).split('\n').map(oneLine);
  }
  const { name, message, stack, cause, ...others } = Object.fromEntries<unknown>(Object.entries(error));
  const frames = typeof stack === 'string' ? stack.split('\n').filter((line) => /^\s+at /.test(line)) : [];
  const [first = '', ...rest] = cause === undefined ? [] : errorLines(cause, resolveFrame);
  return [
    oneLine(`${textOf(name ?? 'Error')}: ${textOf(message)}  ${detailsOf(Object.entries(others))}`),
    ...frames.map((frame) => oneLine(resolveFrame(frame))),
    ...(cause === undefined ? [] : [`caused by: ${first}`, ...rest]),
  ];
}

const detailsOf = (fields: readonly (readonly [string, unknown])[]): string =>
  fields.map(([name, value]) => `${name}=${textOf(value)}`).join(' ');

const textOf = (value: unknown): string => (typeof value === 'string' ? value : JSON.stringify(value));
