/** What the functions do on the AWS emulator while they do it, as emulator.py reports it. */
import { createReadStream } from 'node:fs';
import { buffer } from 'node:stream/consumers';

/** Times are Unix milliseconds. `start`, `end` and `retry` are about the worker, `line` about any function. */
export type Report = { readonly time: number; readonly function: string } & (
  | { readonly kind: 'start'; readonly jobId: string; readonly requestId: string }
  | { readonly kind: 'line'; readonly requestId: string; readonly pid: number; readonly text: string }
  | { readonly kind: 'end'; readonly jobId: string; readonly requestId: string; readonly error: string | null }
  /** Lambda will deliver the job's event again at this time. */
  | { readonly kind: 'retry'; readonly jobId: string; readonly at: number }
);

/** Returns a function whose first call reads all reports, and each later call those that were added since. */
export function reportReader(file: string): () => Promise<Report[]> {
  let offset = 0;
  return async () => {
    const added = await buffer(createReadStream(file, { start: offset }));
    const end = added.lastIndexOf('\n') + 1;
    offset += end;
    const lines = added.subarray(0, end).toString().split('\n');
    return lines.slice(0, -1).map((line): Report => JSON.parse(line));
  };
}

/**
 * Kills the processes that are running an attempt of a job, or of any job if none is given. Returns how many.
 * A worker that has not claimed its job yet is left alone: its death would use up a try of Lambda, but no attempt.
 */
export async function killWorkers(reportsFile: string, jobId?: string): Promise<number> {
  const running = new Map<string, number | undefined>();
  for (const report of await reportReader(reportsFile)()) {
    if (report.kind === 'start' && (jobId ?? report.jobId) === report.jobId) running.set(report.requestId, undefined);
    const isClaim = report.kind === 'line' && report.text.includes('"message":"Attempt started"');
    if (isClaim && running.has(report.requestId)) running.set(report.requestId, report.pid);
    if (report.kind === 'end') running.delete(report.requestId);
  }
  return [...running.values()].filter((pid) => pid !== undefined && kill(pid)).length;
}

/** Returns false if the process has just ended by itself. */
function kill(pid: number): boolean {
  try {
    return process.kill(pid, 'SIGKILL');
  } catch {
    return false;
  }
}
