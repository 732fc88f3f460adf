import { type EndedJob, type WaitOptions, waitForJob } from '../../client/jobs.ts';
import { localhostFetch } from './localhostFetch.ts';
import { oneLine } from './oneLine.ts';

/** Prints each status of a job once, with the seconds since the call, and then the job. See {@link waitForJob}. */
export async function followJob(jobUrl: string, options: WaitOptions): Promise<EndedJob> {
  const started = Date.now();
  let shown = '';
  const job = await waitForJob(jobUrl, {
    fetch: localhostFetch,
    onStatus({ status }) {
      if (status !== shown)
        console.log(`${String(Math.floor((Date.now() - started) / 1000)).padStart(4)} s  ${status}`);
      shown = status;
    },
    onRetry(failure, wait) {
      console.error(`${oneLine(failure.message)}; trying again in ${Math.ceil(wait)} s`);
    },
    ...options,
  });
  // JSON escapes only the control characters below U+0020. Those from U+007F can control a terminal too.
  const json = JSON.stringify(job, null, 2);
  console.log(json.replace(/[\x7f-\x9f]/g, (control) => `\\u00${control.charCodeAt(0).toString(16)}`));
  return job;
}
