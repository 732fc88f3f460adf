import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, jest, test } from '@jest/globals';
import { acceptJob } from '../../src/acceptJob.ts';
import { type Job, newJob } from '../../src/job.ts';
import { JobRepository } from '../../src/jobRepository.ts';
import { captureConsole } from '../support/consoleCapture.ts';
import { type JobsTable, startJobsTable, type Wire } from '../support/jobsTable.ts';

// The machine may be busy.
jest.setTimeout(60_000);

const NOW = 1_700_000_000;
const LEASE = { token: 'lease', expiresAt: NOW + 35 };
const LIFETIMES = { maxEventAge: 600, workerTimeout: 30 };

let table: JobsTable;
let repository: JobRepository;
let job: Job;
let log: readonly string[];
let count = 0;

beforeAll(async () => {
  table = await startJobsTable();
  repository = new JobRepository(table.connect(), table.name);
});
afterAll(() => table.stop());
beforeEach(() => {
  log = captureConsole();
  job = newJob(`job-${++count}`, 'a text', NOW, LIFETIMES);
});
afterEach(() => {
  jest.restoreAllMocks();
});

const claim = () => repository.claim(job.jobId, LEASE, NOW);
const read = () => table.read(job.jobId);
const through = (wire: Wire) => new JobRepository(table.connect(wire), table.name);

const starting = jest.fn(async (_jobId: string) => undefined);
beforeEach(() => {
  starting.mockClear();
});
const refusing = async () => {
  throw new Error('Rate exceeded');
};
/** Lambda has the event, and its response is lost. */
const losing = (meanwhile: () => Promise<unknown>) => async () => {
  await meanwhile();
  throw new Error('socket hang up');
};
/** The put is carried out, and its response is lost. */
const losingPut: Wire = async (command, send) => {
  const response = await send();
  if (command === 'PutItemCommand') throw new Error('socket hang up');
  return response;
};
/** The SDK sends the put again after its response was lost. */
const sendingPutTwice: Wire = async (command, send) => {
  if (command === 'PutItemCommand') await send();
  return send();
};

describe.each([
  ['without a key', false],
  ['with a key', true],
])('a POST %s', (_what, hasKey) => {
  test('stores the job before it starts the worker', async () => {
    const stored: unknown[] = [];
    const acceptance = await acceptJob(repository, async (id) => void stored.push(await table.read(id)), job, hasKey);
    expect(acceptance).toEqual({ kind: 'accepted', status: 'PENDING' });
    expect(stored).toEqual([job]);
  });

  test('is accepted if the SDK had to store the job twice', async () => {
    expect(await acceptJob(through(sendingPutTwice), starting, job, hasKey)).toEqual({
      kind: 'accepted',
      status: 'PENDING',
    });
    expect(starting.mock.calls).toEqual([[job.jobId]]);
  });

  test('starts nothing if the job cannot be stored, and has the cause', async () => {
    const unreachable = through(() => Promise.reject(new Error('No route')));
    const cause = new Error('No route');
    expect(await acceptJob(unreachable, starting, job, hasKey)).toEqual({ kind: 'notStored', cause });
    expect(starting).not.toHaveBeenCalled();
  });
});

describe('a POST without a key', () => {
  const accept = (start: (jobId: string) => Promise<void>, jobs = repository) => acceptJob(jobs, start, job, false);

  test('leaves no job if the worker cannot be started', async () => {
    expect(await accept(refusing)).toEqual({ kind: 'notStarted', cause: new Error('Rate exceeded') });
    expect(await read()).toBeUndefined();
  });

  test('leaves no job if the response to its put is lost', async () => {
    expect(await accept(starting, through(losingPut))).toEqual({
      kind: 'notStored',
      cause: new Error('socket hang up'),
    });
    expect(starting).not.toHaveBeenCalled();
    expect(await read()).toBeUndefined();
  });

  test.each(['IN_PROGRESS', 'DONE'])(
    'is accepted if only the response of Lambda is lost and the job is already %s',
    async (status) => {
      const run = async () => {
        await claim();
        if (status === 'DONE') await repository.end(job.jobId, LEASE, { status, result: '{}' }, NOW);
      };
      // No client knows the id yet, so IN_PROGRESS cannot contradict a later status.
      expect(await accept(losing(run))).toEqual({ kind: 'accepted', status: 'IN_PROGRESS' });
      expect(await read()).toMatchObject({ status });
    },
  );

  test('leaves no job if only the response of Lambda is lost and no worker has claimed the job', async () => {
    expect(await accept(losing(async () => undefined))).toMatchObject({ kind: 'notStarted' });
    expect(await claim()).toEqual({ kind: 'gone' });
    expect(await read()).toBeUndefined();
  });

  test('fails with the first cause if the job cannot be deleted either, and logs the second', async () => {
    const wire: Wire = (command, send) =>
      command === 'DeleteItemCommand' ? Promise.reject(new Error('No route')) : send();
    expect(await accept(refusing, through(wire))).toEqual({ kind: 'notStarted', cause: new Error('Rate exceeded') });
    expect(log).toHaveLength(1);
    expect(log[0]).toContain('left behind');
    expect(log[0]).toContain('No route');
  });
});

describe('a POST with a key', () => {
  const accept = (start: (jobId: string) => Promise<void> = starting, jobs = repository) =>
    acceptJob(jobs, start, job, true);

  test('that fails leaves the job, and the next POST with the key starts it', async () => {
    expect(await accept(refusing)).toMatchObject({ kind: 'notStarted' });
    expect(await read()).toEqual(job);
    expect(await accept()).toEqual({ kind: 'accepted', status: 'PENDING' });
    expect(starting.mock.calls).toEqual([[job.jobId]]);
  });

  test('that was stored although its response was lost leaves the job for the next POST', async () => {
    expect(await accept(starting, through(losingPut))).toMatchObject({ kind: 'notStored' });
    expect(starting).not.toHaveBeenCalled();
    expect(await accept()).toEqual({ kind: 'accepted', status: 'PENDING' });
  });

  test('starts a pending job again, because nobody knows whether its event is there', async () => {
    await accept();
    await accept();
    expect(starting).toHaveBeenCalledTimes(2);
  });

  test('starts a job again whose attempt has crashed', async () => {
    await accept();
    await table.put({ ...job, status: 'IN_PROGRESS', attempt: 1, leaseToken: 'lease', leaseExpiresAt: NOW });
    expect(await accept()).toEqual({ kind: 'accepted', status: 'IN_PROGRESS' });
    expect(starting).toHaveBeenCalledTimes(2);
  });

  test.each(['IN_PROGRESS', 'DONE', 'ERROR'] as const)(
    'starts nothing if the job is %s, and tells so',
    async (status) => {
      await repository.create(job);
      await claim();
      if (status === 'DONE') await repository.end(job.jobId, LEASE, { status, result: '{}' }, NOW);
      if (status === 'ERROR') await repository.end(job.jobId, LEASE, { status, errorMessage: 'no' }, NOW);
      expect(await accept()).toEqual({ kind: 'accepted', status });
      expect(starting).not.toHaveBeenCalled();
    },
  );

  test.each(['PENDING', 'IN_PROGRESS'])('and another text is refused while the job is %s', async (status) => {
    await repository.create(job);
    if (status === 'IN_PROGRESS') await claim();
    const before = await read();
    expect(await acceptJob(repository, starting, { ...job, text: 'another' }, true)).toEqual({ kind: 'otherText' });
    expect(starting).not.toHaveBeenCalled();
    expect(await read()).toEqual(before);
  });

  test('starts nothing after the deadline of the job, and tells that it has ended', async () => {
    await repository.create(job);
    const late = newJob(job.jobId, job.text, job.deadline, LIFETIMES);
    expect(await acceptJob(repository, starting, late, true)).toEqual({ kind: 'accepted', status: 'ERROR' });
    expect(starting).not.toHaveBeenCalled();
  });

  test('creates a new job once the first one has expired', async () => {
    await table.put({ ...job, status: 'DONE', result: '{}', expiresAt: NOW });
    expect(await accept()).toEqual({ kind: 'accepted', status: 'PENDING' });
    expect(await read()).toEqual(job);
  });

  test('fails if the first job expires while it is being read', async () => {
    await table.put({ ...job, status: 'DONE', result: '{}', expiresAt: NOW + 1 });
    const wire: Wire = async (command, send) => {
      if (command === 'GetItemCommand') await table.put({ ...job, status: 'DONE', result: '{}', expiresAt: NOW });
      return send();
    };
    expect(await accept(starting, through(wire))).toEqual({
      kind: 'notStarted',
      cause: new Error('The earlier job with this idempotency key has just expired'),
    });
    expect(starting).not.toHaveBeenCalled();
  });
});
