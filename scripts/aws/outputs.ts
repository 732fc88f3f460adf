/** Prints the outputs of the deployed stack, and how to submit a job. Run by deploy.sh. */
import { requireOutput, requireStack, run } from './stack.ts';

const SAMPLE = 'This product is great, the best I have seen.';

await run(async () => {
  const stack = await requireStack();
  const baseUrl = reachable(requireOutput(stack, 'ApiBaseUrl'));
  const outputs = (stack.Outputs ?? []).map(
    ({ OutputKey = '', OutputValue = '' }) => `  ${OutputKey.padEnd(21)} ${reachable(OutputValue)}`,
  );
  console.log(`
The stack ${stack.StackName} is deployed. Its outputs:
${outputs.join('\n')}

Submit a job:
  curl -sS -X POST '${baseUrl}/jobs' -H 'Content-Type: application/json' -d '{"text": "${SAMPLE}"}'
Follow it, with the jobId of the response:
  bash scripts/poll.sh '${baseUrl}' JOB_ID`);
  return 0;
});

/** A local AWS (AWS_ENDPOINT_URL on loopback) serves its APIs under other host names than AWS. */
function reachable(value: string): string {
  const endpoint = process.env['AWS_ENDPOINT_URL'];
  if (endpoint === undefined || !/^(?:127\.|localhost$)/.test(new URL(endpoint).hostname)) return value;
  return value.replace(
    /^https:\/\/(\w+)\.execute-api\.[^/]+/,
    `http://$1.execute-api.localhost:${new URL(endpoint).port}`,
  );
}
