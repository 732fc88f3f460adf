import { CloudFormationClient, DescribeStackResourcesCommand } from '@aws-sdk/client-cloudformation';
import { InvokeCommand, LambdaClient } from '@aws-sdk/client-lambda';
import getJobEvent from '../../events/get-job.json' with { type: 'json' };
import workerEvent from '../../events/worker.json' with { type: 'json' };
import { clientOptions, type Emulator } from './emulator.ts';

/** Events that change nothing: a GET, and a job that does not exist. createJob refuses a GET. */
const EVENTS = { CreateJobFunction: getJobEvent, GetJobFunction: getJobEvent, WorkerFunction: workerEvent };

/**
 * Invokes each function once and waits for it, so that no job, event or retry is left behind. Throws an Error with a
 * line for each function that fails, usually while it starts, because a variable is not set.
 */
export async function startFunctions(aws: Emulator, stackName: string): Promise<void> {
  const options = clientOptions(aws);
  const cloudFormation = new CloudFormationClient(options);
  const lambda = new LambdaClient(options);
  try {
    const { StackResources = [] } = await cloudFormation.send(
      new DescribeStackResourcesCommand({ StackName: stackName }),
    );
    const failures = await Promise.all(
      Object.entries(EVENTS).map(async ([name, event]) => {
        const resource = StackResources.find(({ LogicalResourceId }) => LogicalResourceId === name);
        // The template may no longer have this function.
        if (resource?.PhysicalResourceId === undefined) return [];
        const { FunctionError, Payload } = await lambda.send(
          new InvokeCommand({ FunctionName: resource.PhysicalResourceId, Payload: JSON.stringify(event) }),
        );
        if (FunctionError === undefined) return [];
        const { errorMessage }: { errorMessage?: string } = JSON.parse(Payload?.transformToString() ?? '{}');
        return [`${name} does not start: ${errorMessage}`];
      }),
    );
    if (failures.flat().length > 0) throw new Error(failures.flat().join('\n'));
  } finally {
    cloudFormation.destroy();
    lambda.destroy();
  }
}
