import type { Job, JobResult, Json, StageResult } from './job.ts';

/** Reads a record of the jobs table, where `unknown` becomes a job. Throws an Error that names the attribute in the way. */
export function parseJob(item: unknown): Job {
  if (!isObject(item)) throw new Error('Job record is not an object');
  const base = {
    jobId: stringOf(item, 'jobId'),
    text: stringOf(item, 'text'),
    createdAt: integerOf(item, 'createdAt'),
    updatedAt: integerOf(item, 'updatedAt'),
    expiresAt: integerOf(item, 'expiresAt'),
    deadline: integerOf(item, 'deadline'),
    attempt: integerOf(item, 'attempt'),
    maxAttempts: integerOf(item, 'maxAttempts'),
  };
  const token = item['leaseToken'] === undefined ? {} : { leaseToken: stringOf(item, 'leaseToken') };
  const status = item['status'];
  switch (status) {
    case 'PENDING':
      return { ...base, status };
    case 'IN_PROGRESS':
      return { ...base, status, leaseExpiresAt: integerOf(item, 'leaseExpiresAt'), ...token };
    case 'DONE':
      return { ...base, status, result: resultOf(item), ...token };
    case 'ERROR':
      return { ...base, status, errorMessage: stringOf(item, 'errorMessage'), ...token };
    default:
      throw new Error('Job record has no valid status');
  }
}

type Attributes = { readonly [name: string]: unknown };

function isObject(value: unknown): value is Attributes {
  return typeof value === 'object' && value !== null && Object.getPrototypeOf(value) === Object.prototype;
}

function isJson(value: unknown): value is Json {
  if (Array.isArray(value)) return value.every(isJson);
  if (isObject(value)) return Object.values(value).every(isJson);
  if (typeof value === 'number') return Math.abs(value) <= Number.MAX_SAFE_INTEGER;
  return value === null || typeof value === 'string' || typeof value === 'boolean';
}

/** Whether a stage's answer is a plain object that the table can hold: the document client refuses other numbers. */
export function isStageResult(value: unknown): value is StageResult {
  return isObject(value) && typeof value['stage'] === 'string' && isJson(value);
}

function isJobResult(value: unknown): value is JobResult {
  return isObject(value) && Object.values(value).every(isStageResult);
}

function stringOf(item: Attributes, name: string): string {
  const value = item[name];
  if (typeof value !== 'string') throw new Error(`Job record has no valid ${name}`);
  return value;
}

function integerOf(item: Attributes, name: string): number {
  const value = item[name];
  if (typeof value !== 'number' || !Number.isSafeInteger(value)) throw new Error(`Job record has no valid ${name}`);
  return value;
}

function resultOf(item: Attributes): JobResult {
  const value = item['result'];
  if (!isJobResult(value)) throw new Error('Job record has no valid result');
  return value;
}
