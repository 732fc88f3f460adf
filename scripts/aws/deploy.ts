/** Builds and deploys the application, then prints the outputs of the stack. Run by deploy.sh. */
import { spawnSync } from 'node:child_process';
import { CloudFormationClient, GetTemplateSummaryCommand, type Stack } from '@aws-sdk/client-cloudformation';
import { requireEnv } from '../../src/config.ts';
import { usesEmulator } from './settings.ts';
import { requireOutput, requireStack, run } from './stack.ts';

const SAMPLE = 'This product is great, the best I have seen.';

await run(async () => {
  if (process.argv.length > 2) throw new Error('usage: bash scripts/deploy.sh');
  const stackName = requireEnv('STACK_NAME');
  const region = requireEnv('AWS_REGION');

  console.log('Checking types ...');
  must('src/ has type errors: nothing was deployed', process.execPath, 'node_modules/typescript/bin/tsc', '-p', 'src');
  console.log('Building ...');
  must('sam build failed: nothing was deployed', 'sam', 'build');
  console.log(`Deploying the stack ${stackName} to ${region} ...`);
  must(
    'sam deploy failed. After a failed first deployment (ROLLBACK_COMPLETE), run scripts/teardown.sh before the next one',
    'sam',
    'deploy',
    // A folder of its own in the bucket that all SAM applications share. teardown.sh deletes only that folder.
    ...['--stack-name', stackName, '--s3-prefix', stackName, '--region', region],
  );

  const stack = await requireStack();
  const baseUrl = reachable(requireOutput(stack, 'ApiBaseUrl'));
  const outputs = (stack.Outputs ?? []).map(
    ({ OutputKey = '', OutputValue = '' }) => `  ${OutputKey.padEnd(21)} ${reachable(OutputValue)}`,
  );
  console.log(`
The stack ${stack.StackName} is deployed. Its outputs:
${outputs.join('\n')}
${await ownParameters(stack)}
Submit a job:
  curl -sS -X POST '${baseUrl}/jobs' -H 'Content-Type: application/json' -d '{"text": "${SAMPLE}"}'
Follow it, with the jobId of the response:
  bash scripts/poll.sh '${baseUrl}' JOB_ID`);
  return 0;
});

/** Runs a command with this process's output. Throws an Error with this message if it fails. */
function must(message: string, command: string, ...args: string[]): void {
  if (spawnSync(command, args, { stdio: 'inherit' }).status !== 0) throw new Error(message);
}

/** The parameters whose values differ from the template's defaults: set now, or kept from an earlier deployment. */
async function ownParameters({ StackName, Parameters = [] }: Stack): Promise<string> {
  const { Parameters: declared = [] } = await new CloudFormationClient().send(
    new GetTemplateSummaryCommand({ StackName }),
  );
  const defaults = new Map(declared.map(({ ParameterKey, DefaultValue }) => [ParameterKey, DefaultValue]));
  const lines = Parameters.flatMap(({ ParameterKey, ParameterValue }) => {
    const value = defaults.get(ParameterKey);
    return value === ParameterValue ? [] : [`  ${ParameterKey} is ${ParameterValue} (default: ${value})`];
  });
  return lines.length === 0
    ? ''
    : `\nParameters that differ from their defaults, which each deployment keeps unless it sets them:\n${lines.join('\n')}\n`;
}

/** The AWS emulator (AWS_ENDPOINT_URL on loopback) serves its APIs under other host names than AWS. */
function reachable(value: string): string {
  if (!usesEmulator(process.env)) return value;
  const { port } = new URL(requireEnv('AWS_ENDPOINT_URL'));
  return value.replace(/^https:\/\/(\w+)\.execute-api\.[^/]+/, `http://$1.execute-api.localhost:${port}`);
}
