import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, jest, test } from '@jest/globals';
import { type Acceptance, acceptJob } from '../../src/acceptJob.ts';
import { type Job, newJob } from '../../src/job.ts';
import { JobRepository } from '../../src/jobRepository.ts';
import { captureConsole } from '../support/consoleCapture.ts';
import { type JobsTable, startJobsTable, type Wire } from '../support/jobsTable.ts';

// The machine may be busy with other things.
jest.setTimeout(60_000);

const NOW = 1_700_000_000;
const LEASE = { token: 'lease', expiresAt: NOW + 35 };

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
  job = newJob(`job-${++count}`, 'a text', NOW, { maxEventAge: 600, workerTimeout: 30 });
});
afterEach(() => {
  jest.restoreAllMocks();
});

const claim = () => repository.claim(job.jobId, LEASE, NOW);
const read = () => table.read(job.jobId);
const starting = async () => undefined;
const refusing = async () => {
  throw new Error('Rate exceeded');
};
/** Lambda has the event, and its answer is lost. */
const losing = (event: () => Promise<unknown>) => async () => {
  await event();
  throw new Error('socket hang up');
};

describe('a job', () => {
  test('is stored before the worker is started, and then accepted', async () => {
    const stored: unknown[] = [];
    const acceptance = await acceptJob(repository, async (id) => void stored.push(await table.read(id)), job, 'post');
    expect(acceptance).toEqual({ outcome: 'accepted', status: 'PENDING' });
    expect(stored).toMatchObject([{ status: 'PENDING', text: 'a text' }]);
  });

  test('whose worker is refused is gone', async () => {
    expect(await acceptJob(repository, refusing, job, 'post')).toEqual({
      outcome: 'notStarted',
      cause: new Error('Rate exceeded'),
    });
    expect(await read()).toBeUndefined();
  });

  test('whose worker has begun although the answer was lost is accepted, with the status that it has', async () => {
    expect(await acceptJob(repository, losing(claim), job, 'post')).toEqual({
      outcome: 'accepted',
      status: 'IN_PROGRESS',
    });
    expect(await read()).toMatchObject({ status: 'IN_PROGRESS' });
  });

  test('whose worker is done although the answer was lost is accepted, with the status that it has', async () => {
    const run = async () => {
      await claim();
      await repository.end(job.jobId, LEASE, { status: 'DONE', result: {} }, NOW);
    };
    expect(await acceptJob(repository, losing(run), job, 'post')).toEqual({ outcome: 'accepted', status: 'DONE' });
  });

  test('whose event is on its way although the answer was lost is gone, and the event finds nothing', async () => {
    expect(await acceptJob(repository, losing(starting), job, 'post')).toMatchObject({ outcome: 'notStarted' });
    expect(await claim()).toEqual({ outcome: 'unknown' });
    expect(await read()).toBeUndefined();
  });

  test('that can be neither started nor withdrawn is not accepted, and both causes are told', async () => {
    const wire: Wire = (command, send) =>
      command === 'UpdateItemCommand' ? Promise.reject(new Error('No route')) : send();
    const broken = new JobRepository(table.connect(wire), table.name);
    expect(await acceptJob(broken, refusing, job, 'post')).toEqual({
      outcome: 'notStarted',
      cause: new Error('Rate exceeded'),
    });
    expect(log).toHaveLength(1);
    expect(log[0]).toContain('left behind');
    expect(log[0]).toContain('No route');
  });

  test('that was stored although the answer was lost is taken back', async () => {
    const wire: Wire = async (command, send) => {
      const answer = await send();
      if (command === 'PutItemCommand') throw new Error('socket hang up');
      return answer;
    };
    const lossy = new JobRepository(table.connect(wire), table.name);
    const start = jest.fn(starting);
    await expect(acceptJob(lossy, start, job, 'post')).rejects.toThrow('socket hang up');
    expect(start).not.toHaveBeenCalled();
    expect(await read()).toBeUndefined();
  });

  test('that was stored although the answer was lost, and has begun by the event of an earlier POST, is accepted', async () => {
    const wire: Wire = async (command, send) => {
      const answer = await send();
      if (command !== 'PutItemCommand') return answer;
      await claim();
      throw new Error('socket hang up');
    };
    const lossy = new JobRepository(table.connect(wire), table.name);
    expect(await acceptJob(lossy, starting, job, 'post')).toEqual({ outcome: 'accepted', status: 'IN_PROGRESS' });
  });

  test('that is not accepted because one with another text has begun under its id is told so, and nothing of that one', async () => {
    const other = async () => {
      await table.put({ ...job, text: 'another', status: 'IN_PROGRESS', attempt: 1, leaseExpiresAt: NOW + 35 });
      throw new Error('socket hang up');
    };
    expect(await acceptJob(repository, other, job, 'post')).toMatchObject({ outcome: 'notStarted' });
  });

  test('that cannot be stored is not started, and the first cause is told', async () => {
    const wire: Wire = () => Promise.reject(new Error('No route'));
    const start = jest.fn(starting);
    const unreachable = new JobRepository(table.connect(wire), table.name);
    await expect(acceptJob(unreachable, start, job, 'post')).rejects.toThrow('No route');
    expect(start).not.toHaveBeenCalled();
  });
});

describe('a second POST with the key of a job', () => {
  const start = jest.fn(starting);
  const second = () => acceptJob(repository, start, job, 'second');
  beforeEach(() => {
    start.mockClear();
  });

  test('starts it when the first died before it did', async () => {
    await repository.create(job, 'first');
    expect(await second()).toEqual({ outcome: 'accepted', status: 'PENDING' });
    expect(start.mock.calls).toEqual([[job.jobId]]);
  });

  test.each(['IN_PROGRESS', 'DONE', 'ERROR'])('starts nothing once it is %s, and tells so', async (status) => {
    await acceptJob(repository, starting, job, 'first');
    await claim();
    if (status === 'DONE') await repository.end(job.jobId, LEASE, { status, result: {} }, NOW);
    if (status === 'ERROR') await repository.end(job.jobId, LEASE, { status, errorMessage: 'no' }, NOW);
    expect(await second()).toEqual({ outcome: 'accepted', status });
    expect(start).not.toHaveBeenCalled();
  });

  test.each(['PENDING', 'IN_PROGRESS'])(
    'and another text is told so while it is %s, and changes nothing',
    async (status) => {
      await acceptJob(repository, starting, job, 'first');
      if (status === 'IN_PROGRESS') await claim();
      const before = await read();
      expect(await acceptJob(repository, start, { ...job, text: 'another' }, 'second')).toEqual({
        outcome: 'otherText',
      });
      expect(start).not.toHaveBeenCalled();
      expect(await read()).toEqual(before);
    },
  );

  test('starts nothing once its deadline has passed, and tells that it has ended', async () => {
    await repository.create(job, 'first');
    const late = newJob(job.jobId, job.text, job.deadline, { maxEventAge: 600, workerTimeout: 30 });
    expect(await acceptJob(repository, start, late, 'second')).toEqual({ outcome: 'accepted', status: 'ERROR' });
    expect(start).not.toHaveBeenCalled();
  });

  test('is a new job once the first has expired', async () => {
    await table.put({ ...job, status: 'DONE', result: {}, expiresAt: NOW });
    expect(await second()).toEqual({ outcome: 'accepted', status: 'PENDING' });
    expect(await read()).toMatchObject({ status: 'PENDING' });
  });

  test('that cannot start it leaves it to the first', async () => {
    await acceptJob(repository, starting, job, 'first');
    expect(await acceptJob(repository, refusing, job, 'second')).toMatchObject({ outcome: 'notStarted' });
    expect(await read()).toMatchObject({ status: 'PENDING', acceptedBy: new Set(['first']) });
  });

  test.each([
    ['withdraws it', async () => void (await repository.withdraw(job.jobId, 'first', NOW))],
    [
      'withdraws it and a third creates it again',
      async () => {
        await repository.withdraw(job.jobId, 'first', NOW);
        await repository.create(job, 'third');
      },
    ],
  ])('is not accepted where the first just %s', async (_what, event) => {
    await repository.create(job, 'first');
    const wire: Wire = async (command, send) => {
      if (command === 'UpdateItemCommand') await repository.withdraw(job.jobId, 'first', NOW);
      if (command === 'GetItemCommand') await event();
      return send();
    };
    const late = new JobRepository(table.connect(wire), table.name);
    expect(await acceptJob(late, start, job, 'second')).toMatchObject({ outcome: 'notStarted' });
    expect(start).not.toHaveBeenCalled();
  });
});

/**
 * Runs two POSTs with one key in every order that their calls can take, one at a time. Where both
 * behave the same, it is enough that the first one begins.
 */
async function everyInterleaving(
  start: (post: number) => Promise<void>,
  areAlike: boolean,
  check: (answers: readonly Acceptance[]) => Promise<void>,
): Promise<number> {
  let orders = 0;
  // The choices at the points where either POST could go on; each round changes the last that still can.
  let choices: number[] = [];
  for (;;) {
    const taken: number[] = [];
    job = { ...job, jobId: `${job.jobId}+` };
    const waiting = new Map<number, () => void>();
    const turn = (post: number) => new Promise<void>((go) => waiting.set(post, go));
    const unfinished = new Set([0, 1]);
    const posts = [0, 1].map(async (post) => {
      const wire: Wire = async (_command, send) => {
        await turn(post);
        return send();
      };
      const own = new JobRepository(table.connect(wire), table.name);
      const startInTurn = async () => {
        await turn(post);
        await start(post);
      };
      const answer = await acceptJob(own, startInTurn, job, `post-${post}`);
      unfinished.delete(post);
      return answer;
    });
    while (unfinished.size > 0) {
      for (let turns = 0; waiting.size < unfinished.size; turns++) {
        if (turns > 1_000_000) throw new Error('A POST does not go on');
        await new Promise(setImmediate);
      }
      const ready = [...waiting.keys()].sort();
      const choice = ready.length === 1 ? 0 : (choices[taken.length] ?? 0);
      if (ready.length > 1) taken.push(choice);
      const post = ready[choice] ?? 0;
      const go = waiting.get(post);
      waiting.delete(post);
      go?.();
    }
    await check(await Promise.all(posts));
    orders++;
    const last = taken.lastIndexOf(0);
    if (last < 0 || (last === 0 && areAlike)) return orders;
    choices = [...taken.slice(0, last), 1];
  }
}

describe('two POSTs with one key at once, in every order of their calls', () => {
  test.each([
    ['both can start the worker', [true, true], 4],
    ['one of them cannot start the worker', [false, true], 26],
    ['neither can start the worker', [false, false], 56],
  ])(
    'where %s: accepted means there and started, and not accepted by both means gone',
    async (_what, canStart, fewest) => {
      let events = 0;
      const start = async (post: number) => {
        if (canStart[post] !== true) throw new Error('Rate exceeded');
        events++;
      };
      const orders = await everyInterleaving(start, canStart[0] === canStart[1], async (answers) => {
        const isAccepted = answers.some(({ outcome }) => outcome === 'accepted');
        const stored = await read();
        expect({ isStored: stored !== undefined, isStarted: events > 0 }).toEqual({
          isStored: isAccepted,
          isStarted: isAccepted,
        });
        events = 0;
      });
      expect(orders).toBeGreaterThanOrEqual(fewest);
    },
  );
});
