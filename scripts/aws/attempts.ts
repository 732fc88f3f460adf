import type { LogEntry } from './logEntry.ts';

/** What the worker logs last, unless it crashes or is killed. */
const LAST_MESSAGES = ['Job ended', 'Invocation failed'];

/**
 * Adds an entry after the last line of each attempt that logged no outcome: it timed out, crashed, or may still be
 * running. The entries are those of one job, in order of time.
 */
export function withOutcomes(entries: readonly LogEntry[]): LogEntry[] {
  const starts = entries.filter(({ fields }) => fields.get('message') === 'Attempt started');
  const added = new Map<LogEntry, LogEntry[]>();
  for (const [index, start] of starts.entries()) {
    const next = starts[index + 1];
    const requestId = String(start.fields.get('function_request_id'));
    // Attempts that Lambda's own retries start have the same request id on AWS.
    const lines = entries
      .slice(entries.indexOf(start), next && entries.indexOf(next))
      .filter(({ message }) => message.includes(requestId));
    if (lines.some(({ fields }) => LAST_MESSAGES.includes(String(fields.get('message'))))) continue;
    const isOver = next !== undefined || entries.some(({ fields }) => fields.get('message') === 'Job lapsed');
    const last = lines.at(-1) ?? start;
    const message = `Attempt ${start.fields.get('attempt')} ${outcomeOf(lines, isOver)}`;
    added.set(last, [{ ...last, message, fields: new Map(Object.entries({ level: 'NOTE', message })) }]);
  }
  return entries.flatMap((entry) => [entry, ...(added.get(entry) ?? [])]);
}

/** Lambda's own last line about an invocation is JSON or text, as the function's log format says. */
function outcomeOf(lines: readonly LogEntry[], isOver: boolean): string {
  const has = (pattern: RegExp) => lines.some(({ message }) => pattern.test(message));
  if (has(/"status":\s*"timeout"|Status: timeout|Task timed out/)) return 'timed out';
  const hasReport = has(/^REPORT |"type":\s*"platform\.report"/);
  return hasReport || isOver ? 'crashed' : 'is still running, or has just crashed';
}
