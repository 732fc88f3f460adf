/** Prints where the deployed stack answers, and how to submit a job. */
import { requireOutput, requireStack, run } from './stack.ts';

const SAMPLE = 'This product is great, the best I have seen.';

await run(async () => {
  const stack = await requireStack();
  const baseUrl = reachable(requireOutput(stack, 'ApiBaseUrl'));
  console.log(`
The stack ${stack.StackName} is deployed.
  Base URL    ${baseUrl}
  Submit      POST ${baseUrl}/jobs
  Read        GET  ${baseUrl}/jobs/{jobId}

Submit a job:
  curl -sS -X POST '${baseUrl}/jobs' -H 'Content-Type: application/json' -d '{"text": "${SAMPLE}"}'
Follow it, with the jobId of the answer:
  bash scripts/poll.sh '${baseUrl}' JOB_ID`);
  return 0;
});

/** A local AWS (AWS_ENDPOINT_URL on loopback) serves its APIs under names of its own. */
function reachable(url: string): string {
  const endpoint = process.env['AWS_ENDPOINT_URL'];
  if (endpoint === undefined || !/^(?:127\.|localhost$)/.test(new URL(endpoint).hostname)) return url;
  const { hostname, pathname } = new URL(url);
  const [apiId] = hostname.split('.');
  return `http://${apiId}.execute-api.localhost:${new URL(endpoint).port}${pathname}`;
}
