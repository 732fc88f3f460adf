/**
 * Deletes what deploy.sh created: the stack, its build artifacts with all versions, and SAM's bucket
 * and stack if no other application uses them. Run by teardown.sh. Running it again
 * finishes an interrupted run.
 *
 * `sam delete` is not used: it exits 0 if the stack does not exist, and leaves all versions in the bucket.
 */
import { createInterface } from 'node:readline/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  CloudFormationClient,
  DeleteStackCommand,
  paginateDescribeStackEvents,
  paginateListStackResources,
  paginateListStacks,
  type Stack,
} from '@aws-sdk/client-cloudformation';
import { DescribeTableCommand, DynamoDBClient, ResourceNotFoundException } from '@aws-sdk/client-dynamodb';
import { GetCallerIdentityCommand, STSClient } from '@aws-sdk/client-sts';
import { requireEnv } from '../../src/config.ts';
import { deleteBucket, deleteVersions, foldersOfOthers, versionsUnder } from './artifacts.ts';
import { findStack, run } from './stack.ts';

/** The stack that `sam deploy --resolve-s3` creates once for all SAM applications of an account and region. */
const SAM_STACK_NAME = 'aws-sam-cli-managed-default';

const STACK_DELETION_LIMIT_MS = 15 * 60 * 1000;
const STACK_POLL_MS = 1000;

/** SAM's stack and its bucket. */
interface SamStorage {
  readonly stack: Stack;
  readonly bucket: string;
  /** How many versions and delete markers the application's folder has. */
  readonly artifacts: number;
  /** Why both are kept; undefined if they are deleted. */
  readonly keptBecause: string | undefined;
}

const cloudFormation = new CloudFormationClient();

await run(async () => {
  const args = process.argv.slice(2);
  if (args.some((arg) => arg !== '--yes')) throw new Error('usage: bash scripts/teardown.sh [--yes]');
  const stackName = requireEnv('STACK_NAME');
  // With the slash: the name of another stack may begin with this one.
  const folder = `${stackName}/`;
  const { Account: account } = await new STSClient().send(new GetCallerIdentityCommand());
  const place = `account ${account}, region ${requireEnv('AWS_REGION')}`;

  // All checks come before the first deletion.
  const stack = (await findStack(cloudFormation, stackName)) ?? (await findDeletedStack(stackName));
  if (stack === undefined) throw new Error(`The stack ${stackName} does not exist in ${place}`);
  const { resources, table } = await resourcesOf(stack);
  refuseProtected(stack);
  refuseInProgress(stack);
  await refuseProtectedTable(table);
  const sam = await findSamStorage(folder);

  const isDeleted = stack.StackStatus === 'DELETE_COMPLETE';
  if (isDeleted && (sam === undefined || (sam.artifacts === 0 && sam.keptBecause !== undefined))) {
    console.log(`Nothing to delete: the stack ${stackName} and its artifacts are gone from ${place}`);
    return 0;
  }
  console.log(`Stack ${stackName} (${stack.StackStatus}) in ${place}\n\nThis will be deleted, with all jobs and logs:`);
  for (const line of [...resources, ...(sam === undefined ? [] : deletionsOf(sam, folder))]) console.log(`  ${line}`);
  if (!args.includes('--yes') && !(await confirmed())) {
    console.log('\nCancelled: nothing was deleted.');
    return 1;
  }

  console.log('');
  const retained = isDeleted ? [] : await deleteStack(stack);
  const kept = sam === undefined ? undefined : await deleteSamStorage(sam, folder);
  console.log(`\nThe stack ${stackName} is deleted. What remains:`);
  for (const resource of retained) console.log(`  ${resource} (kept by its DeletionPolicy)`);
  if (kept !== undefined) console.log(`  SAM's bucket and its stack ${SAM_STACK_NAME}, because ${kept}`);
  console.log('  Past metrics in CloudWatch, for up to 15 months, free of charge');
  console.log('  On this machine: .env, .aws-sam/, node_modules/ and .tools/');
  return 0;
});

/** The last deleted stack with this name, or undefined if there is none. CloudFormation lists it for 90 days. */
async function findDeletedStack(stackName: string): Promise<Stack | undefined> {
  const pages = paginateListStacks({ client: cloudFormation }, { StackStatusFilter: ['DELETE_COMPLETE'] });
  const found: { readonly id: string; readonly deletedAt: number }[] = [];
  for await (const { StackSummaries = [] } of pages) {
    for (const { StackName, StackId: id = '', DeletionTime } of StackSummaries) {
      if (StackName === stackName) found.push({ id, deletedAt: DeletionTime?.getTime() ?? 0 });
    }
  }
  const [last] = found.sort((a, b) => b.deletedAt - a.deletedAt);
  return last && findStack(cloudFormation, last.id);
}

/**
 * The resources that a stack still has, and the name of its jobs table if that is one of them. Throws an
 * Error if the stack belongs to another application.
 */
async function resourcesOf(stack: Stack): Promise<{ resources: string[]; table: string | undefined }> {
  const resources: string[] = [];
  let table: string | undefined;
  const names = new Set<string | undefined>();
  for await (const page of paginateListStackResources({ client: cloudFormation }, { StackName: stack.StackId })) {
    for (const resource of page.StackResourceSummaries ?? []) {
      const { LogicalResourceId, ResourceType, PhysicalResourceId = '-', ResourceStatus } = resource;
      names.add(LogicalResourceId);
      if (!/^DELETE_(?:COMPLETE|SKIPPED)$/.test(ResourceStatus ?? '')) {
        resources.push(`${ResourceType}  ${PhysicalResourceId}`);
        if (LogicalResourceId === 'JobsTable') table = resource.PhysicalResourceId;
      }
    }
  }
  if (names.size > 0 && !names.has('JobsTable')) {
    throw new Error(`The stack ${stack.StackName} belongs to another application; nothing was deleted`);
  }
  return { resources, table };
}

function refuseProtected({ StackName, EnableTerminationProtection }: Stack): void {
  if (EnableTerminationProtection !== true) return;
  throw new Error(
    `The stack ${StackName} has termination protection; nothing was deleted. To turn it off: ` +
      `aws cloudformation update-termination-protection --no-enable-termination-protection --stack-name ${StackName}`,
  );
}

/** CloudFormation would delete the functions and the API before it fails to delete the table. */
async function refuseProtectedTable(table: string | undefined): Promise<void> {
  if (table === undefined) return;
  const description = await new DynamoDBClient()
    .send(new DescribeTableCommand({ TableName: table }))
    .catch((error: unknown) => {
      // An operator or an interrupted deletion may have deleted it.
      if (error instanceof ResourceNotFoundException) return undefined;
      throw error;
    });
  if (description?.Table?.DeletionProtectionEnabled !== true) return;
  throw new Error(
    `The table ${table} has deletion protection; nothing was deleted. ` +
      'To turn it off: deploy with TableDeletionProtection=false',
  );
}

function refuseInProgress({ StackName, StackStatus }: Stack): void {
  // REVIEW_IN_PROGRESS is the status of a stack whose first change set was never executed.
  if (!/^(?!REVIEW_|DELETE_).*_IN_PROGRESS$/.test(StackStatus ?? '')) return;
  throw new Error(`The stack ${StackName} is in ${StackStatus}: try again when this has finished; nothing was deleted`);
}

/**
 * SAM's stack without its bucket would break every later `sam deploy` of the account and region, so the
 * bucket is only deleted if the stack can be deleted too.
 */
async function findSamStorage(folder: string): Promise<SamStorage | undefined> {
  const stack = await findStack(cloudFormation, SAM_STACK_NAME);
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

function deletionsOf({ bucket, artifacts, keptBecause }: SamStorage, folder: string): string[] {
  return [
    ...(artifacts === 0 ? [] : [`${artifacts} versions of build artifacts in s3://${bucket}/${folder}`]),
    ...(keptBecause === undefined ? [`SAM's bucket ${bucket} and its stack ${SAM_STACK_NAME}`] : []),
  ];
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
 * Deletes the application's artifacts, then SAM's bucket and stack unless they are kept. The bucket comes first,
 * because S3 refuses to delete it if another application has just put something into it.
 *
 * @returns why bucket and stack are kept, or undefined if they are deleted
 */
async function deleteSamStorage({ stack, bucket, keptBecause }: SamStorage, folder: string) {
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
 * Deletes a stack and waits until it is deleted.
 *
 * @returns the resources that CloudFormation left because of their DeletionPolicy
 * @throws an Error with CloudFormation's reasons if the stack cannot be deleted within the limit
 */
async function deleteStack({ StackName: name = '', StackId: id = name }: Stack): Promise<string[]> {
  console.log(`Deleting the stack ${name} ...`);
  const started = Date.now();
  await cloudFormation.send(new DeleteStackCommand({ StackName: id }));
  for (;;) {
    const stack = await findStack(cloudFormation, id);
    const seconds = Math.round((Date.now() - started) / 1000);
    if (stack === undefined || stack.StackStatus === 'DELETE_COMPLETE') {
      console.log(`  done (${seconds} s)`);
      return events(id, 'DELETE_SKIPPED', started);
    }
    if (stack.StackStatus === 'DELETE_FAILED') {
      const reasons = await events(id, 'DELETE_FAILED', started);
      const message = `The stack ${name} could not be deleted. Remove the cause, then run this again:`;
      throw new Error([message, ...reasons].join('\n  '));
    }
    if (Date.now() - started > STACK_DELETION_LIMIT_MS) {
      throw new Error(`The stack ${name} is still in ${stack.StackStatus} after ${seconds} s: run this again later`);
    }
    await sleep(STACK_POLL_MS);
  }
}

/** The events of a stack's resources with this status since a time (Unix milliseconds), one line each. */
async function events(stackId: string, status: string, since: number): Promise<string[]> {
  const lines = new Set<string>();
  for await (const page of paginateDescribeStackEvents({ client: cloudFormation }, { StackName: stackId })) {
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
