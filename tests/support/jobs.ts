import { ConditionalCheckFailedException } from '@aws-sdk/client-dynamodb';
import { type Job, newJob } from '../../src/job.ts';

/** The time of tests whose clock stands still, in Unix seconds. */
export const NOW = 1_700_000_000;
export const JOB_ID = '11111111-1111-4111-8111-111111111111';
export const LIFETIMES = { maxEventAge: 600, workerTimeout: 30 };

export const pending = newJob(JOB_ID, 'a secret of mine', NOW, LIFETIMES);
export const claimed: Job = {
  ...pending,
  status: 'IN_PROGRESS',
  attempt: 1,
  leaseToken: 'token',
  leaseExpiresAt: NOW + 35,
};
export const done: Job = { ...pending, status: 'DONE', result: '{"ocr":{"charCount":6}}' };
export const failed: Job = { ...pending, status: 'ERROR', errorMessage: 'No model for this' };

/** DynamoDB's error if the condition of a write is not met. */
export const conditionFailed = new ConditionalCheckFailedException({ message: 'no', $metadata: {} });
