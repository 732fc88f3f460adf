/**
 * Shared by the operator's scripts: finds the deployed stack, and handles errors. Credentials, region
 * and stack name come from the environment, which environment.ts sets.
 */
import { CloudFormationClient, DescribeStacksCommand, type Stack } from '@aws-sdk/client-cloudformation';
import { requireEnv } from '../../src/config.ts';
import { messageOf } from './errors.ts';

/** Runs a script. The exit status is what `main` returns, or 1 if it throws, with the error as one line. */
export async function run(main: () => Promise<number>): Promise<void> {
  try {
    process.exitCode = await main();
  } catch (error) {
    console.error(`Error: ${messageOf(error)}`);
    process.exitCode = 1;
  }
}

/** Returns a stack by its name or id, or undefined if there is none. A deleted stack is found only by its id. */
export async function findStack(client: CloudFormationClient, nameOrId: string): Promise<Stack | undefined> {
  try {
    const { Stacks: [stack] = [] } = await client.send(new DescribeStacksCommand({ StackName: nameOrId }));
    return stack;
  } catch (error) {
    // CloudFormation has no specific error name for this.
    if (error instanceof Error && error.name === 'ValidationError' && error.message.includes('does not exist')) {
      return undefined;
    }
    throw error;
  }
}

/** The stack that STACK_NAME names. Throws an Error if there is none. */
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

/** An output of a stack. Throws an Error if the stack does not have it. */
export function requireOutput(stack: Stack, name: string): string {
  const value = stack.Outputs?.find(({ OutputKey }) => OutputKey === name)?.OutputValue;
  if (value === undefined) throw new Error(`The stack ${stack.StackName} (${stack.StackStatus}) has no output ${name}`);
  return value;
}
