/**
 * Takes away what deploy.sh made: the stack, its artifacts with all their versions and delete
 * markers, and SAM's bucket where nothing of another application is in it. Run by teardown.sh.
 *
 * Not by `sam delete`, which takes a stack that does not exist for a success, and leaves every
 * version of the artifacts in the bucket.
 */
import { createInterface } from 'node:readline/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  CloudFormationClient,
  DeleteStackCommand,
  paginateDescribeStackEvents,
  paginateListStackResources,
  type Stack,
} from '@aws-sdk/client-cloudformation';
import {
  DeleteBucketCommand,
  DeleteObjectsCommand,
  ListObjectVersionsCommand,
  type ListObjectVersionsCommandOutput,
  NoSuchBucket,
  type ObjectIdentifier,
  S3Client,
} from '@aws-sdk/client-s3';
import { GetCallerIdentityCommand, STSClient } from '@aws-sdk/client-sts';
import { requireEnv } from '../../src/config.ts';
import { findStack, run } from './stack.ts';

/** The stack that `sam deploy --resolve-s3` makes once for all SAM applications of an account and region. */
const SAM_STACK_NAME = 'aws-sam-cli-managed-default';

const STACK_DELETION_LIMIT_MS = 15 * 60 * 1000;
const STACK_POLL_MS = 1000;
/** The most that DeleteObjects takes. */
const BATCH_SIZE = 1000;

const cloudFormation = new CloudFormationClient();
const s3 = new S3Client();

await run(async () => {
  const args = process.argv.slice(2);
  if (args.some((arg) => arg !== '--yes')) throw new Error('usage: scripts/teardown.sh [--yes]');
  const stackName = requireEnv('STACK_NAME');
  const region = requireEnv('AWS_REGION');
  // With the slash: the folder of a stack whose name only begins with ours is another's.
  const prefix = `${stackName}/`;

  const { Account: account } = await new STSClient().send(new GetCallerIdentityCommand());
  const stack = await findStack(cloudFormation, stackName);
  const samStack = await findStack(cloudFormation, SAM_STACK_NAME);
  // Where SAM's own first deployment failed, its stack has no bucket.
  const bucket = samStack?.Outputs?.find(({ OutputKey }) => OutputKey === 'SourceBucket')?.OutputValue;
  const artifacts = bucket === undefined ? [] : await versionsUnder(bucket, prefix);

  if (stack === undefined && artifacts.length === 0) {
    throw new Error(`The stack ${stackName} does not exist in account ${account}, region ${region}`);
  }
  if (stack !== undefined) refuseInMotion(stack);

  const resources = stack === undefined ? [] : await resourcesOf(stack);
  console.log(
    `Account  ${account}\nRegion   ${region}\nStack    ${stackName} (${stack?.StackStatus ?? 'gone already'})`,
  );
  console.log('\nThis will be destroyed, with all jobs and logs:');
  for (const resource of resources) console.log(`  ${resource}`);
  if (bucket !== undefined) {
    console.log(`  ${artifacts.length} versions of build artifacts in s3://${bucket}/${prefix}`);
    console.log(`  the bucket itself and SAM's stack ${SAM_STACK_NAME}, if nothing else is in it`);
  }
  if (!args.includes('--yes') && !(await confirmed())) {
    console.log('\nCancelled: nothing was deleted.');
    return 1;
  }
  console.log('');

  const retained = stack === undefined ? [] : await deleteStack(stack);
  let bucketLine = 'Nothing in S3: SAM has no bucket in this account and region';
  if (samStack !== undefined && bucket !== undefined) {
    await deleteVersions(bucket, prefix);
    bucketLine = await deleteBucket(bucket, samStack);
  }

  console.log(`\nThe stack ${stackName} is gone. What remains:`);
  for (const resource of retained) console.log(`  ${resource} (its DeletionPolicy keeps it)`);
  console.log(`  ${bucketLine}`);
  console.log('  CloudWatch keeps past metrics for up to 15 months, free of charge');
  console.log('  On this machine: .env, .aws-sam/, node_modules/ and .tools/');
  return 0;
});

/** A stack that CloudFormation is at work on can't be deleted, except one whose deletion goes on. */
function refuseInMotion({ StackName, StackStatus }: Stack): void {
  // REVIEW_IN_PROGRESS waits for a change set that a failed deployment never executed.
  if (StackStatus === 'REVIEW_IN_PROGRESS' || StackStatus === 'DELETE_IN_PROGRESS') return;
  if (StackStatus?.includes('_IN_PROGRESS') !== true) return;
  throw new Error(`The stack ${StackName} is in ${StackStatus}: try again when that is over; nothing was deleted`);
}

/** @throws Error when there are some, and the table of template.yaml was never among them: the stack is another's */
async function resourcesOf(stack: Stack): Promise<string[]> {
  const resources: string[] = [];
  const names: (string | undefined)[] = [];
  for await (const page of paginateListStackResources({ client: cloudFormation }, { StackName: stack.StackId })) {
    for (const resource of page.StackResourceSummaries ?? []) {
      const { LogicalResourceId, ResourceType, PhysicalResourceId, ResourceStatus } = resource;
      names.push(LogicalResourceId);
      if (ResourceStatus !== 'DELETE_COMPLETE') resources.push(`${ResourceType}  ${PhysicalResourceId ?? '-'}`);
    }
  }
  if (names.length > 0 && !names.includes('JobsTable')) {
    throw new Error(`The stack ${stack.StackName} is none of this application's; nothing was deleted`);
  }
  return resources;
}

/** Whether the next line of the input is `yes`. The end of the input is a no. */
async function confirmed(): Promise<boolean> {
  process.stdout.write("\nType 'yes' to destroy all of this: ");
  const input = createInterface({ input: process.stdin });
  for await (const line of input) {
    input.close();
    return line === 'yes';
  }
  return false;
}

/**
 * Deletes a stack and waits until it is gone.
 *
 * @returns the resources that it left because of their DeletionPolicy
 * @throws Error with CloudFormation's reasons when it can't be deleted, or is not gone within the limit
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
      break;
    }
    if (stack.StackStatus === 'DELETE_FAILED') {
      const reasons = await events(id, 'DELETE_FAILED', started);
      throw new Error(
        [`The stack ${name} could not be deleted. Remove what is in the way, and run this again:`, ...reasons].join(
          '\n  ',
        ),
      );
    }
    if (Date.now() - started > STACK_DELETION_LIMIT_MS) {
      throw new Error(`The stack ${name} is still in ${stack.StackStatus} after ${seconds} s; run this again to go on`);
    }
    await sleep(STACK_POLL_MS);
  }
  if ((await findStack(cloudFormation, name)) !== undefined) throw new Error(`The stack ${name} is there again`);
  return events(id, 'DELETE_SKIPPED', started);
}

/** What happened to the stack's resources since a moment (Unix milliseconds), as one line each. */
async function events(stackId: string, status: string, since: number): Promise<string[]> {
  const lines = new Set<string>();
  for await (const page of paginateDescribeStackEvents({ client: cloudFormation }, { StackName: stackId })) {
    for (const event of page.StackEvents ?? []) {
      // A minute of grace for the clock of this machine. The stack's own event tells nothing more.
      if ((event.Timestamp?.getTime() ?? 0) < since - 60_000) return [...lines];
      if (event.ResourceStatus !== status || event.PhysicalResourceId === stackId) continue;
      const reason = event.ResourceStatusReason ? `: ${event.ResourceStatusReason}` : '';
      lines.add(`${event.ResourceType}  ${event.PhysicalResourceId}${reason}`);
    }
  }
  return [...lines];
}

/** All versions and delete markers whose keys begin with the prefix. None where there is no such bucket. */
async function versionsUnder(bucket: string, prefix: string): Promise<ObjectIdentifier[]> {
  const found: ObjectIdentifier[] = [];
  let next: { readonly KeyMarker?: string | undefined; readonly VersionIdMarker?: string | undefined } | undefined = {};
  while (next !== undefined) {
    const page: ListObjectVersionsCommandOutput | undefined = await s3
      .send(new ListObjectVersionsCommand({ Bucket: bucket, Prefix: prefix, ...next }))
      .catch(undefinedWhereNoBucket);
    for (const { Key, VersionId } of [...(page?.Versions ?? []), ...(page?.DeleteMarkers ?? [])]) {
      found.push({ Key, VersionId });
    }
    next =
      page?.IsTruncated === true
        ? { KeyMarker: page.NextKeyMarker, VersionIdMarker: page.NextVersionIdMarker }
        : undefined;
  }
  return found;
}

function undefinedWhereNoBucket(error: unknown): undefined {
  if (!(error instanceof NoSuchBucket)) throw error;
}

/** @throws Error when something under the prefix could not be deleted */
async function deleteVersions(bucket: string, prefix: string): Promise<void> {
  console.log(`Deleting the artifacts in s3://${bucket}/${prefix} ...`);
  const versions = await versionsUnder(bucket, prefix);
  for (let start = 0; start < versions.length; start += BATCH_SIZE) {
    const batch = versions.slice(start, start + BATCH_SIZE);
    const { Errors: [error, ...more] = [] } = await s3.send(
      new DeleteObjectsCommand({ Bucket: bucket, Delete: { Objects: batch, Quiet: true } }),
    );
    if (error !== undefined) {
      throw new Error(
        `${1 + more.length} artifacts could not be deleted: ${error.Key}: ${error.Message ?? error.Code}`,
      );
    }
  }
  const left = await versionsUnder(bucket, prefix);
  if (left.length > 0) throw new Error(`${left.length} artifacts came in meanwhile: is a deployment under way?`);
  console.log(`  done (${versions.length} versions)`);
}

/**
 * Deletes SAM's bucket and then its stack, unless something is in the bucket. The bucket first,
 * because S3 itself refuses to delete one into which another application has just put something.
 *
 * @returns what became of it, as one line
 */
async function deleteBucket(bucket: string, samStack: Stack): Promise<string> {
  const kept = (others: readonly string[]) =>
    `SAM's bucket ${bucket} and its stack ${SAM_STACK_NAME}, kept because other applications have artifacts there: ${others.join(', ')}`;
  const others = await foldersOf(bucket);
  if (others.length > 0) return kept(others);
  try {
    await s3.send(new DeleteBucketCommand({ Bucket: bucket })).catch(undefinedWhereNoBucket);
  } catch (error) {
    if (error instanceof Error && error.name === 'BucketNotEmpty') return kept(await foldersOf(bucket));
    throw error;
  }
  await deleteStack(samStack);
  return `Nothing in S3: SAM's bucket ${bucket} was empty, and is gone with its stack ${SAM_STACK_NAME}`;
}

/** The first folders and files of a bucket that hold any version or delete marker. */
async function foldersOf(bucket: string): Promise<string[]> {
  const page = await s3
    .send(new ListObjectVersionsCommand({ Bucket: bucket, Delimiter: '/' }))
    .catch(undefinedWhereNoBucket);
  const folders = (page?.CommonPrefixes ?? []).map(({ Prefix = '' }) => Prefix);
  const files = [...(page?.Versions ?? []), ...(page?.DeleteMarkers ?? [])].map(({ Key = '' }) => Key);
  const names = [...new Set([...folders, ...files])];
  return names.length > 5 || page?.IsTruncated === true ? [...names.slice(0, 5), '...'] : names;
}
