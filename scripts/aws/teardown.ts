/**
 * Deletes what deploy.sh created: the stack, its build artifacts with all versions, and SAM's bucket and stack
 * if no other application uses them. Run by teardown.sh. Running it again finishes an interrupted run.
 *
 * `sam delete` is not used: it exits 0 if the stack does not exist, and leaves all versions in the bucket.
 */
import { createInterface } from 'node:readline/promises';
import {
  CloudFormationClient,
  DeleteStackCommand,
  paginateDescribeStackEvents,
  paginateListStackResources,
  paginateListStacks,
  type Stack,
  type StackResourceSummary,
  type StackSummary,
  waitUntilStackDeleteComplete,
} from '@aws-sdk/client-cloudformation';
import { DescribeTableCommand, DynamoDBClient, ResourceNotFoundException } from '@aws-sdk/client-dynamodb';
import { GetCallerIdentityCommand, STSClient } from '@aws-sdk/client-sts';
import { requireEnv } from '../../src/config.ts';
import { deleteBucket, deleteVersions, foldersOfOthers, versionsUnder } from './artifacts.ts';
import { findStack, run } from './stack.ts';

/** The stack that `sam deploy --resolve-s3` creates once for all SAM applications of an account and region. */
const SAM_STACK_NAME = 'aws-sam-cli-managed-default';

const client = new CloudFormationClient();

await run(async () => {
  const args = process.argv.slice(2);
  if (args.some((arg) => arg !== '--yes')) throw new Error('usage: bash scripts/teardown.sh [--yes]');
  const stackName = requireEnv('STACK_NAME');
  // With the slash: the name of another stack may begin with this one.
  const folder = `${stackName}/`;
  const { Account: account } = await new STSClient().send(new GetCallerIdentityCommand());
  const place = `account ${account}, region ${requireEnv('AWS_REGION')}`;

  // All checks come before the first deletion.
  const stack = (await findStack(client, stackName)) ?? (await findDeletedStack(stackName));
  if (stack === undefined) throw new Error(`The stack ${stackName} does not exist in ${place}`);
  const resources = await resourcesOf(stack);
  if (stack.EnableTerminationProtection === true) {
    throw new Error(
      `The stack ${stackName} has termination protection; nothing was deleted. To turn it off: ` +
        `aws cloudformation update-termination-protection --no-enable-termination-protection --stack-name ${stackName}`,
    );
  }
  refuseInProgress(stack);
  const table = resources.find(({ LogicalResourceId }) => LogicalResourceId === 'JobsTable');
  if (table?.PhysicalResourceId !== undefined) await refuseProtected(table.PhysicalResourceId);
  const sam = await findSamStorage(folder);

  const isDeleted = stack.StackStatus === 'DELETE_COMPLETE';
  if (isDeleted && (sam === undefined || (sam.artifacts === 0 && sam.keptBecause !== undefined))) {
    console.log(`Nothing to delete: the stack ${stackName} and its artifacts are gone from ${place}`);
    return 0;
  }
  console.log(`Stack ${stackName} (${stack.StackStatus}) in ${place}\n\nThis will be deleted, with all jobs and logs:`);
  for (const { ResourceType, PhysicalResourceId = '-' } of resources)
    console.log(`  ${ResourceType}  ${PhysicalResourceId}`);
  if (sam && sam.artifacts > 0) {
    console.log(`  ${sam.artifacts} versions of build artifacts in s3://${sam.bucket}/${folder}`);
  }
  if (sam && sam.keptBecause === undefined) {
    console.log(`  SAM's bucket ${sam.bucket} and its stack ${SAM_STACK_NAME}`);
  }
  if (!args.includes('--yes') && !(await confirmed())) {
    console.log('\nCancelled: nothing was deleted.');
    return 1;
  }

  console.log('');
  const retained = isDeleted ? [] : await deleteStack(stack);
  const kept = sam && (await deleteSamStorage(sam, folder));
  console.log(`\nThe stack ${stackName} is deleted. What remains:`);
  for (const resource of retained) console.log(`  ${resource} (kept by its DeletionPolicy)`);
  if (kept !== undefined) console.log(`  SAM's bucket and its stack ${SAM_STACK_NAME}, because ${kept}`);
  console.log('  Past metrics in CloudWatch, for up to 15 months, free of charge');
  console.log('  On this machine: .env, .aws-sam/, node_modules/ and .tools/');
  return 0;
});

/** The last deleted stack with this name, or undefined if there is none. CloudFormation lists it for 90 days. */
async function findDeletedStack(stackName: string): Promise<Stack | undefined> {
  const found: StackSummary[] = [];
  for await (const page of paginateListStacks({ client }, { StackStatusFilter: ['DELETE_COMPLETE'] })) {
    found.push(...(page.StackSummaries ?? []).filter(({ StackName }) => StackName === stackName));
  }
  const [last] = found.sort((a, b) => Number(b.DeletionTime) - Number(a.DeletionTime));
  return last && findStack(client, last.StackId ?? '');
}

/** The resources that a stack still has. Throws an Error if the stack belongs to another application. */
async function resourcesOf({ StackName, StackId }: Stack): Promise<StackResourceSummary[]> {
  const all: StackResourceSummary[] = [];
  for await (const page of paginateListStackResources({ client }, { StackName: StackId })) {
    all.push(...(page.StackResourceSummaries ?? []));
  }
  if (all.length > 0 && !all.some(({ LogicalResourceId }) => LogicalResourceId === 'JobsTable')) {
    throw new Error(`The stack ${StackName} belongs to another application; nothing was deleted`);
  }
  return all.filter(({ ResourceStatus = '' }) => !/^DELETE_(?:COMPLETE|SKIPPED)$/.test(ResourceStatus));
}

/** CloudFormation would delete the functions and the API before it fails to delete the table. */
async function refuseProtected(table: string): Promise<void> {
  try {
    const { Table } = await new DynamoDBClient().send(new DescribeTableCommand({ TableName: table }));
    if (Table?.DeletionProtectionEnabled !== true) return;
  } catch (error) {
    // An operator or an interrupted deletion may have deleted it.
    if (error instanceof ResourceNotFoundException) return;
    throw error;
  }
  const advice = 'To turn it off: deploy with TableDeletionProtection=false';
  throw new Error(`The table ${table} has deletion protection; nothing was deleted. ${advice}`);
}

function refuseInProgress({ StackName, StackStatus }: Stack): void {
  // REVIEW_IN_PROGRESS is the status of a stack whose first change set was never executed.
  if (!/^(?!REVIEW_|DELETE_).*_IN_PROGRESS$/.test(StackStatus ?? '')) return;
  throw new Error(`The stack ${StackName} is in ${StackStatus}: try again when this has finished; nothing was deleted`);
}

/**
 * SAM's stack and its bucket, with the number of versions in the application's folder, and why both are kept.
 * SAM's stack without its bucket would break every later `sam deploy` of the account and region, so the
 * bucket is only deleted if the stack can be deleted too.
 */
async function findSamStorage(folder: string) {
  const stack = await findStack(client, SAM_STACK_NAME);
  const bucket = stack?.Outputs?.find(({ OutputKey }) => OutputKey === 'SourceBucket')?.OutputValue;
  if (stack === undefined || bucket === undefined) return undefined;
  refuseInProgress(stack);
  const artifacts = (await versionsUnder(bucket, folder)).length;
  const others = await foldersOfOthers(bucket, folder);
  let keptBecause: string | undefined;
  if (stack.EnableTerminationProtection === true) keptBecause = 'the stack has termination protection';
  if (others.length > 0) keptBecause = `other applications have artifacts in the bucket: ${others.join(', ')}`;
  return { stack, bucket, artifacts, keptBecause };
}

/** Returns true if the next line of the input is `yes`. */
async function confirmed(): Promise<boolean> {
  process.stdout.write("\nType 'yes' to delete all of this: ");
  const input = createInterface({ input: process.stdin });
  for await (const line of input) {
    input.close();
    return line === 'yes';
  }
  return false;
}

/**
 * Deletes the application's artifacts, then SAM's bucket and stack, or returns why they are kept. The bucket comes
 * first, because S3 refuses to delete it if another application has just put something into it.
 */
async function deleteSamStorage(
  { stack, bucket, keptBecause }: NonNullable<Awaited<ReturnType<typeof findSamStorage>>>,
  folder: string,
): Promise<string | undefined> {
  console.log(`Deleting the artifacts in s3://${bucket}/${folder} ...`);
  await deleteVersions(bucket, await versionsUnder(bucket, folder));
  if (keptBecause !== undefined) return keptBecause;
  try {
    await deleteBucket(bucket);
  } catch (error) {
    if (error instanceof Error && error.name === 'BucketNotEmpty') return 'new artifacts are in the bucket';
    throw error;
  }
  await deleteStack(stack);
  return undefined;
}

/**
 * Deletes a stack, waits, and returns the resources that CloudFormation left because of their DeletionPolicy.
 * Throws an Error with CloudFormation's reasons if the stack cannot be deleted within the limit.
 */
async function deleteStack({ StackName: name = '', StackId: id = name }: Stack): Promise<string[]> {
  console.log(`Deleting the stack ${name} ...`);
  const started = Date.now();
  const limits = { minDelay: 1, maxDelay: 1, maxWaitTime: 15 * 60 };
  await client.send(new DeleteStackCommand({ StackName: id }));
  try {
    await waitUntilStackDeleteComplete({ client, ...limits }, { StackName: id });
  } catch (error) {
    const limit = error instanceof Error && error.name === 'TimeoutError' ? ' within 15 minutes' : '';
    const message = `The stack ${name} could not be deleted${limit}. Remove the cause, then run this again:`;
    throw new Error([message, ...(await events(id, 'DELETE_FAILED', started))].join('\n  '), { cause: error });
  }
  console.log(`  done (${Math.round((Date.now() - started) / 1000)} s)`);
  return events(id, 'DELETE_SKIPPED', started);
}

/** The events of a stack's resources with this status since a time (Unix milliseconds), one line each. */
async function events(stackId: string, status: string, since: number): Promise<string[]> {
  const lines = new Set<string>();
  for await (const page of paginateDescribeStackEvents({ client }, { StackName: stackId })) {
    for (const event of page.StackEvents ?? []) {
      // The clock of this machine may be a minute off.
      if ((event.Timestamp?.getTime() ?? 0) < since - 60_000) return [...lines];
      if (event.ResourceStatus !== status || event.PhysicalResourceId === stackId) continue;
      const reason = event.ResourceStatusReason ? `: ${event.ResourceStatusReason}` : '';
      lines.add(`${event.ResourceType}  ${event.PhysicalResourceId}${reason}`);
    }
  }
  return [...lines];
}
