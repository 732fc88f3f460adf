/** The build artifacts in the versioned bucket that SAM shares between all applications of an account and region. */
import {
  DeleteBucketCommand,
  DeleteObjectsCommand,
  ListObjectVersionsCommand,
  type ListObjectVersionsCommandOutput,
  NoSuchBucket,
  type ObjectIdentifier,
  S3Client,
} from '@aws-sdk/client-s3';

/** The most objects that DeleteObjects accepts. */
const BATCH_SIZE = 1000;
const SHOWN_NAMES = 5;

const s3 = new S3Client();

/** Returns all versions and delete markers whose keys begin with the prefix; none if the bucket does not exist. */
export async function versionsUnder(bucket: string, prefix: string): Promise<ObjectIdentifier[]> {
  const found: ObjectIdentifier[] = [];
  let next: { readonly KeyMarker?: string | undefined; readonly VersionIdMarker?: string | undefined } | undefined = {};
  while (next !== undefined) {
    const page: ListObjectVersionsCommandOutput | undefined = await s3
      .send(new ListObjectVersionsCommand({ Bucket: bucket, Prefix: prefix, ...next }))
      .catch(ignoreMissingBucket);
    for (const { Key, VersionId } of [...(page?.Versions ?? []), ...(page?.DeleteMarkers ?? [])]) {
      found.push({ Key, VersionId });
    }
    const { NextKeyMarker: KeyMarker, NextVersionIdMarker: VersionIdMarker } = page ?? {};
    next = page?.IsTruncated === true ? { KeyMarker, VersionIdMarker } : undefined;
  }
  return found;
}

/** Deletes versions and delete markers. Throws an Error if one could not be deleted. */
export async function deleteVersions(bucket: string, versions: readonly ObjectIdentifier[]): Promise<void> {
  for (let start = 0; start < versions.length; start += BATCH_SIZE) {
    const batch = versions.slice(start, start + BATCH_SIZE);
    const deletion = new DeleteObjectsCommand({ Bucket: bucket, Delete: { Objects: batch, Quiet: true } });
    const { Errors: [error, ...more] = [] } = await s3.send(deletion);
    if (error === undefined) continue;
    throw new Error(`${1 + more.length} artifacts could not be deleted: ${error.Key}: ${error.Message ?? error.Code}`);
  }
}

/** Returns the first folders and files of the bucket, except `own`, including those that have only delete markers. */
export async function foldersOfOthers(bucket: string, own: string): Promise<string[]> {
  const page = await s3
    .send(new ListObjectVersionsCommand({ Bucket: bucket, Delimiter: '/' }))
    .catch(ignoreMissingBucket);
  const { CommonPrefixes: folders = [], Versions: files = [], DeleteMarkers: deleted = [] } = page ?? {};
  const all = [...folders.map(({ Prefix = '' }) => Prefix), ...[...files, ...deleted].map(({ Key = '' }) => Key)];
  const names = [...new Set(all)].filter((name) => name !== own);
  return names.length > SHOWN_NAMES ? [...names.slice(0, SHOWN_NAMES), '...'] : names;
}

/** Deletes an empty bucket, if it exists. S3 refuses with BucketNotEmpty if it is not empty. */
export async function deleteBucket(bucket: string): Promise<void> {
  await s3.send(new DeleteBucketCommand({ Bucket: bucket })).catch(ignoreMissingBucket);
}

function ignoreMissingBucket(error: unknown): undefined {
  if (!(error instanceof NoSuchBucket)) throw error;
}
