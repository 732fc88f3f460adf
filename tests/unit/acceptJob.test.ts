import { afterAll, beforeAll, beforeEach, describe, expect, jest, test } from '@jest/globals';
import { acceptJob } from '../../src/acceptJob.ts';
import { type Job, newJob } from '../../src/job.ts';
import { JobRepository } from '../../src/jobRepository.ts';
import { captureConsole } from '../support/consoleCapture.ts';
import { LIFETIMES, NOW } from '../support/jobs.ts';
import { type JobsTable, startJobsTable, type Wire } from '../support/jobsTable.ts';

const LEASE = { token: 'lease', expiresAt: NOW + 35 };

let table: JobsTable;
let repository: JobRepository;
let job: Job;
let count = 0;

beforeAll(async () => {
  table = await startJobsTable();
  repository = new JobRepository(table.connect(), table.name);
});
afterAll(() => table.stop());
const log = captureConsole();

beforeEach(() => {
  job = newJob(`job-${++count}`, 'a text', NOW, LIFETIMES);
});

const claim = () => repository.claim(job.jobId, LEASE, NOW);
const read = () => table.read(job.jobId);
const repositoryVia = (wire: Wire) => new JobRepository(table.connect(wire), table.name);

const startWorker = jest.fn(async (_jobId: string) => undefined);
beforeEach(() => {
  startWorker.mockClear();
});
const refuse = async () => {
  throw new Error('Rate exceeded');
};
/** Lambda has queued the event, but its response is lost. */
const loseResponseAfter = (meanwhile: () => Promise<unknown>) => async () => {
  await meanwhile();
  throw new Error('socket hang up');
};
/** The put succeeds, but its response is lost. */
const losePutResponse: Wire = async (command, send) => {
  const response = await send();
  if (command === 'PutItemCommand') throw new Error('No response');
  return response;
};
/** The response to the put is lost, and the SDK sends it again. */
const sendPutTwice: Wire = async (command, send) => {
  if (command === 'PutItemCommand') await send();
  return send();
};

describe.each([
  ['without a key', false],
  ['with a key', true],
])('a POST %s', (what, hasKey) => {
  test(`a POST ${what} stores the job before it starts the worker`, async () => {
    const stored: unknown[] = [];
    const start = async (id: string) => void stored.push(await table.read(id));

    const acceptance = await acceptJob(repository, start, job, hasKey);

    expect(acceptance).toEqual({ kind: 'accepted', status: 'PENDING' });
    expect(stored).toEqual([job]);
  });

  test(`a POST ${what} is accepted if the SDK sends the put twice`, async () => {
    const acceptance = await acceptJob(repositoryVia(sendPutTwice), startWorker, job, hasKey);

    expect(acceptance).toMatchObject({ kind: 'accepted', status: 'PENDING' });
    expect(startWorker.mock.calls).toEqual([[job.jobId]]);
  });

  test(`a POST ${what} starts no worker if the job cannot be stored, and returns the cause`, async () => {
    const unreachable = repositoryVia(() => Promise.reject(new Error('No route')));

    const acceptance = await acceptJob(unreachable, startWorker, job, hasKey);

    expect(acceptance).toEqual({ kind: 'notStored', cause: new Error('No route') });
    expect(startWorker).not.toHaveBeenCalled();
  });
});

const acceptWithoutKey = (start: (jobId: string) => Promise<void>, jobs = repository) =>
  acceptJob(jobs, start, job, false);

test.each([
  ['the worker cannot be started', refuse, undefined, { kind: 'notStarted', cause: new Error('Rate exceeded') }],
  [
    'the response to the put is lost',
    startWorker,
    losePutResponse,
    { kind: 'notStored', cause: new Error('No response') },
  ],
])('a POST without a key leaves no job and starts no worker if %s', async (_why, start, wire, failure) => {
  const acceptance = await acceptWithoutKey(start, wire && repositoryVia(wire));

  expect(acceptance).toEqual(failure);
  expect(startWorker).not.toHaveBeenCalled();
  expect(await read()).toBeUndefined();
});

test.each(['IN_PROGRESS', 'DONE'])(
  "a POST without a key is accepted if only Lambda's response is lost and the job is already %s",
  async (status) => {
    const run = async () => {
      await claim();
      if (status === 'DONE') await repository.end(job.jobId, LEASE, { status, result: '{}' }, NOW);
    };

    const acceptance = await acceptWithoutKey(loseResponseAfter(run));

    // No client knows the id yet, so IN_PROGRESS cannot contradict a later status.
    expect(acceptance).toEqual({ kind: 'accepted', status: 'IN_PROGRESS' });
    expect(await read()).toMatchObject({ status });
  },
);

test('a POST without a key returns the first error if the delete fails too, and logs the second', async () => {
  const wire: Wire = (command, send) =>
    command === 'DeleteItemCommand' ? Promise.reject(new Error('No route')) : send();

  const acceptance = await acceptWithoutKey(refuse, repositoryVia(wire));

  expect(acceptance).toEqual({ kind: 'notStarted', cause: new Error('Rate exceeded') });
  expect(log).toHaveLength(1);
  expect(log[0]).toContain('left behind');
  expect(log[0]).toContain('No route');
});

const acceptWithKey = (start: (jobId: string) => Promise<void> = startWorker, jobs = repository) =>
  acceptJob(jobs, start, job, true);

test.each([
  ['the worker cannot be started', refuse, undefined, 'notStarted'],
  ['the response to the put is lost', startWorker, losePutResponse, 'notStored'],
])('a POST with a key keeps the job if %s, and the next POST starts it', async (_why, start, wire, kind) => {
  const first = await acceptWithKey(start, wire && repositoryVia(wire));
  const kept = await read();
  const second = await acceptWithKey();

  expect(first).toMatchObject({ kind });
  expect(kept).toEqual(job);
  expect(second).toEqual({ kind: 'accepted', status: 'PENDING', earlier: job });
  expect(startWorker.mock.calls).toEqual([[job.jobId]]);
});

test('a POST with a key starts the worker again for a job whose attempt crashed', async () => {
  await acceptWithKey();
  await table.put({ ...job, status: 'IN_PROGRESS', attempt: 1, leaseToken: 'lease', leaseExpiresAt: NOW });

  const acceptance = await acceptWithKey();

  expect(acceptance).toEqual({
    kind: 'accepted',
    status: 'IN_PROGRESS',
    earlier: await repository.find(job.jobId, NOW),
  });
  expect(startWorker).toHaveBeenCalledTimes(2);
});

test.each(['IN_PROGRESS', 'DONE', 'ERROR'] as const)(
  'a POST with a key starts no worker for a job that is %s, and returns that status',
  async (status) => {
    await repository.create(job);
    await claim();
    if (status === 'DONE') await repository.end(job.jobId, LEASE, { status, result: '{}' }, NOW);
    if (status === 'ERROR') await repository.end(job.jobId, LEASE, { status, errorMessage: 'no' }, NOW);

    const acceptance = await acceptWithKey();

    expect(acceptance).toEqual({ kind: 'accepted', status, earlier: await repository.find(job.jobId, NOW) });
    expect(startWorker).not.toHaveBeenCalled();
  },
);

test('a POST with a key is rejected if its text is different', async () => {
  await repository.create(job);

  const acceptance = await acceptJob(repository, startWorker, { ...job, text: 'another' }, true);

  expect(acceptance).toEqual({ kind: 'otherText' });
  expect(startWorker).not.toHaveBeenCalled();
  expect(await read()).toEqual(job);
});

test("a POST with a key starts no worker after the job's deadline, and returns ERROR", async () => {
  await repository.create(job);
  const late = newJob(job.jobId, job.text, job.deadline, LIFETIMES);

  const acceptance = await acceptJob(repository, startWorker, late, true);

  expect(acceptance).toMatchObject({ kind: 'accepted', status: 'ERROR' });
  expect(startWorker).not.toHaveBeenCalled();
});

test('a POST with a key fails if the first job expires while it is being read', async () => {
  await table.put({ ...job, status: 'DONE', result: '{}', expiresAt: NOW + 1 });
  const wire: Wire = async (command, send) => {
    if (command === 'GetItemCommand') await table.put({ ...job, status: 'DONE', result: '{}', expiresAt: NOW });
    return send();
  };

  const acceptance = await acceptWithKey(startWorker, repositoryVia(wire));

  expect(acceptance).toEqual({
    kind: 'notStarted',
    cause: new Error('The earlier job with this idempotency key has just expired'),
  });
  expect(startWorker).not.toHaveBeenCalled();
});
