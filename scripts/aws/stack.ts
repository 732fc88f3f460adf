/**
 * What the operator's scripts share: the deployed stack as CloudFormation knows it, and how a
 * script ends. Credentials, region and stack come from the environment; scripts/aws/env.sh sets it.
 */
import { CloudFormationClient, DescribeStacksCommand, type Stack } from '@aws-sdk/client-cloudformation';
import { requireEnv } from '../../src/config.ts';

/** Runs a script: its exit status is what `main` answers, or 1 with one line of the error that it throws. */
export async function run(main: () => Promise<number>): Promise<void> {
  try {
    process.exitCode = await main();
  } catch (error) {
    console.error(`Error: ${messageOf(error)}`);
    process.exitCode = 1;
  }
}

/** An error in one line; the SDK's have names that tell more than their messages. */
export function messageOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return error.name === 'Error' ? error.message : `${error.name}: ${error.message}`;
}

/**
 * A stack by its name, or by its id, by which even a deleted one is found.
 *
 * @returns undefined where there is none
 */
export async function findStack(client: CloudFormationClient, nameOrId: string): Promise<Stack | undefined> {
  try {
    const { Stacks: [stack] = [] } = await client.send(new DescribeStacksCommand({ StackName: nameOrId }));
    return stack;
  } catch (error) {
    // CloudFormation has no error of its own for this.
    if (error instanceof Error && error.name === 'ValidationError' && error.message.includes('does not exist')) {
      return undefined;
    }
    throw error;
  }
}

/** The stack that STACK_NAME names; throws an Error when there is none. */
export async function requireStack(): Promise<Stack> {
  const stackName = requireEnv('STACK_NAME');
  const stack = await findStack(new CloudFormationClient(), stackName);
  if (stack === undefined) {
    throw new Error(
      `The stack ${stackName} does not exist in ${requireEnv('AWS_REGION')}: run scripts/deploy.sh first`,
    );
  }
  return stack;
}

/** An output of a stack; throws an Error when it does not have it. */
export function requireOutput(stack: Stack, name: string): string {
  const value = stack.Outputs?.find(({ OutputKey }) => OutputKey === name)?.OutputValue;
  if (value === undefined) throw new Error(`The stack ${stack.StackName} (${stack.StackStatus}) has no output ${name}`);
  return value;
}
