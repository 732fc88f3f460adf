/** Uses the local page in a real browser, on its own AWS emulator. Skipped on machines without Chromium or Chrome. */
import { join, resolve } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, jest, test } from '@jest/globals';
import axe from 'axe-core';
import type { Browser, Locator, Page } from 'playwright-core';
import { build, deploy, type Emulator, type Stack, startEmulator } from '../../scripts/local/emulator.ts';
import { findBrowser, launchBrowser } from '../../scripts/local/page/browser.ts';
import { type PageServer, startPageServer } from '../../scripts/local/page/server.ts';
import { type Answer, pollUntilEnded, requestOnce, stringField, submit } from './deployment.ts';

// An outer limit, for a busy machine.
jest.setTimeout(900_000);

/** For one step of a job, on a slow machine. */
const LIMIT_MS = 120_000;
/** Longer than a lease: the worker's timeout below and 5 s of clock skew. */
const RETRIES = { LAMBDA_ASYNC_RETRY_BASE_SECONDS: '20', LAMBDA_ASYNC_RETRY_MAX_SECONDS: '20' };
const WORKER_TIMEOUT_SECONDS = '13';
const FIRST_PORT = 4800;

const root = resolve(import.meta.dirname, '..', '..');
const executable = findBrowser();
const describeWithBrowser = executable === undefined ? describe.skip : describe;

let aws: Emulator;
let stack: Stack;
let server: PageServer;

beforeAll(async () => {
  aws = await startEmulator({ env: RETRIES });
  const buildDir = join(root, '.aws-sam', 'page');
  await build(aws, { buildDir });
  stack = await deploy(aws, {
    stackName: 'page',
    buildDir,
    parameters: { WorkerTimeoutSeconds: WORKER_TIMEOUT_SECONDS },
  });
  server = await startPageServer(aws, FIRST_PORT);
  server.deployed(stack);
});

afterAll(async () => {
  server?.stop();
  await aws?.stop();
});

describe('the one address', () => {
  const withoutIds = ({ status, headers, text }: Answer) => {
    const { date: _, connection: _c, 'transfer-encoding': _t, 'keep-alive': _k, ...rest } = headers;
    const { 'x-amzn-requestid': _r, 'x-amz-request-id': _i, 'content-length': _l, ...kept } = rest;
    return { status, headers: kept, text };
  };

  test.each([
    ['a GET of an unknown job', '/jobs/none', {}],
    ['a query and escaped characters', '/jobs/a%2Fb%20c?x=1&x=%C3%A9', {}],
    ['a method that the API does not have', '/jobs', { method: 'DELETE' }],
    ['a preflight', '/jobs', { method: 'OPTIONS', headers: { Origin: 'https://example.com' } }],
    ['an invalid body', '/jobs', { method: 'POST', body: '{"text": 1}' }],
    ['a body that is not UTF-8', '/jobs', { method: 'POST', body: new Uint8Array([0x7b, 0xff, 0x7d]) }],
    ['an invalid header', '/jobs', { method: 'POST', headers: { 'Idempotency-Key': 'é' }, body: '{"text":"a"}' }],
  ])('the page server passes %s through unchanged in both directions', async (_name, path, options) => {
    const direct = await requestOnce(`${stack.baseUrl}${path}`, options);
    const passedOn = await requestOnce(`${server.baseUrl}${path}`, options);

    expect(withoutIds(passedOn)).toEqual(withoutIds(direct));
  });

  test('a job that is submitted through the page server is at the Location of the response, for clients that know no *.localhost', async () => {
    const response = await fetch(`${server.baseUrl}/jobs`, { method: 'POST', body: '{"text":"a text"}' });
    const location = response.headers.get('location') ?? '';
    const job = await fetch(new URL(location, response.url));

    expect(response.status).toBe(202);
    expect(location).toMatch(/^\/Prod\/jobs\/[0-9a-f-]{36}$/);
    expect(await job.json()).toMatchObject({ text: 'a text' });
  });
});

describeWithBrowser('the page', () => {
  let browser: Browser;
  let page: Page;
  /** What the console of the browser says about errors. */
  const errors: string[] = [];

  beforeAll(async () => {
    browser = await launchBrowser(executable ?? '');
    page = await browser.newPage();
    page.setDefaultTimeout(LIMIT_MS);
    page.on('console', (message) => {
      if (message.type() === 'error' || message.type() === 'warning') errors.push(message.text());
    });
    page.on('pageerror', (error) => errors.push(String(error)));
    await page.goto(server.url);
  });

  afterEach(() => expect(errors).toEqual([]));

  afterAll(() => browser?.close());

  /** Submits a text in the form. */
  async function submitForm(text: string, key = ''): Promise<void> {
    await page.fill('#text', text);
    await page.fill('#key', key);
    await page.click('#send');
  }

  /** Submits a text in the form, and waits until the page shows the new job. Returns its id. */
  async function submitJob(text: string, key = ''): Promise<string> {
    await submitForm(text, key);
    await wait(page.locator('#jobs button[aria-current=true] .text'), text);
    return (await page.locator('#job-id').textContent()) ?? '';
  }

  /** Waits until the element has the text. */
  async function wait(target: Locator, text: string | RegExp): Promise<void> {
    await target.filter({ hasText: text }).first().waitFor();
  }

  const ended = async (status: 'DONE' | 'ERROR') => wait(page.locator('#status'), status);

  /** Kills the worker once this attempt runs, as a person would. */
  async function kill(attempt: number): Promise<void> {
    await wait(page.locator('#now'), `Attempt ${attempt} of 3 runs`);
    await page.click('#kill');
    await wait(page.locator('#timeline [data-crashed] .name'), `Attempt ${attempt}`);
  }

  const violations = async () => {
    await page.evaluate(axe.source);
    const found = await page.evaluate<axe.AxeResults>('axe.run()');
    return found.violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(' ')}`);
  };

  test('the page shows a job until it is DONE: its stages, its transitions, its log lines and what GET returns', async () => {
    const jobId = await submitJob('What a great day');

    await ended('DONE');
    await wait(page.locator('#response'), '"status": "DONE"');

    const { end } = await pollUntilEnded(server.baseUrl, jobId, LIMIT_MS);
    expect(JSON.parse((await page.locator('#response').textContent()) ?? '')).toEqual(end.json);
    expect(await page.locator('#curl').textContent()).toBe(`curl '${server.baseUrl}/jobs/${jobId}'`);
    const names = await page.locator('#timeline .name').allTextContents();
    const stages = Object.keys(Object(end.json).result);
    expect(names).toEqual(expect.arrayContaining(['Attempt 1', ...stages]));
    // On a slow machine, the stages of an attempt may have had too little time.
    expect(await page.locator('#machine-text').textContent()).toMatch(
      /^Current status: DONE\. Transitions: submit, claim(?:, claim again.*)?, all stages done\.$/,
    );
    expect(await page.locator('#announcer').textContent()).toBe('Job DONE');
    expect(await page.locator('#kill').isDisabled()).toBe(true);
    const log = await page.locator('#log').textContent();
    for (const line of ['POST handled', 'Attempt started', 'Stage done', 'Job ended']) expect(log).toContain(line);
  });

  test('after the worker is killed once, the page shows the crash and the wait, and the second attempt ends as DONE', async () => {
    await submitJob('Kill me once');
    await kill(1);

    await wait(page.locator('#now'), /^Attempt 1 crashed\. Lambda tries again in \d+ s\.$/);
    const rows = await page.locator('#timeline [data-kind]').count();
    const wait1 = await page.locator('#timeline [data-kind=wait] .value').textContent();
    const lease = await page.locator('#timeline [data-kind=lease] .value').textContent();
    await ended('DONE');

    expect(rows).toBeGreaterThanOrEqual(4);
    expect(wait1).toMatch(/^next try in (?:\d|1\d|20) s$/);
    expect(lease).toMatch(/^expires in (?:\d|1\d) s$|^expired$/);
    expect(await page.locator('#now').textContent()).toMatch(/, in attempt [23]\.$/);
    expect(await page.locator('#machine-text').textContent()).toMatch(
      /^Current status: DONE\. Transitions: submit, claim, claim again(?:, 2 times)?, all stages done\.$/,
    );
  });

  test('after the worker is killed three times, the page shows an ERROR, and can send the failed event again', async () => {
    const jobId = await submitJob('Kill me three times');
    for (const attempt of [1, 2, 3]) await kill(attempt);
    const failed = page.locator('#failed li').filter({ hasText: jobId });
    await failed.waitFor();
    await ended('ERROR');
    await wait(page.locator('#response'), 'all 3 attempts ended without a result');

    await failed.locator('button').click();
    await failed.waitFor({ state: 'detached' });
    await wait(page.locator('#log'), 'Claim refused');

    expect(await page.locator('#status').textContent()).toBe('ERROR');
    expect(await page.locator('#machine-text').textContent()).toBe(
      'Current status: ERROR. Transitions: submit, claim, claim again, 2 times, no attempt left.',
    );
    expect(await page.locator('#timeline .name').allTextContents()).toContain('Delivery');
  });

  test('the page shows one job for the same idempotency key, and the error of the API if the text is another one', async () => {
    const before = await page.locator('#jobs li').count();
    const first = await submitJob('The same text', 'one-key');
    await page.locator('#jobs li:last-child button').click();
    const second = await submitJob('The same text', 'one-key');
    await ended('DONE');

    await submitForm('Another text', 'one-key');
    await wait(page.locator('#submit-error'), /Idempotency-Key/);

    expect(second).toBe(first);
    expect(await page.locator('#jobs li').count()).toBe(before + 1);
    // The browser itself reports the 422.
    expect(errors.splice(0)).toEqual([expect.stringContaining('422')]);
  });

  test('the page shows a text with HTML in it as text', async () => {
    const text = '<img src=x onerror="document.title=1"><b>bold</b>';

    const jobId = await submitJob(text);
    await ended('DONE');

    expect(await page.locator('#jobs button[aria-current=true] .text').textContent()).toBe(text);
    expect(await page.locator('#response').textContent()).toContain(JSON.stringify(text));
    expect(await page.locator('main img, main b').count()).toBe(0);
    expect(page.url()).toBe(`${server.url}/#${jobId}`);
  });

  test('the page shows a job that another program has submitted, and the same job after it is reloaded', async () => {
    const jobId = stringField(await submit(server.baseUrl, 'From a program'), 'jobId');
    await submit(server.baseUrl, 'Another one');

    await page.locator('#jobs button').filter({ hasText: 'From a program' }).click();
    await wait(page.locator('#job-id'), jobId);
    await page.reload();

    await wait(page.locator('#job-id'), jobId);
    await ended('DONE');
    await wait(page.locator('#response'), jobId);
  });

  test('the page can be used with the keyboard alone', async () => {
    await page.focus('#text');
    await page.keyboard.press('ControlOrMeta+A');
    await page.keyboard.type('Typed');
    for (const key of ['Tab', 'Tab', 'Enter']) await page.keyboard.press(key);
    await wait(page.locator('#jobs li:first-child .text'), 'Typed');
    const jobId = await page.locator('#job-id').textContent();
    for (const key of ['Tab', 'Tab', 'Enter']) await page.keyboard.press(key);
    // Any text but this one.
    await wait(page.locator('#job-id'), new RegExp(`^(?!${jobId}$).`));

    expect(await page.locator('#jobs li:nth-child(2) button').getAttribute('aria-current')).toBe('true');
  });

  test('the page has no accessibility violation and fits into 360 pixels, in light and dark, while a job runs, waits and has ended', async () => {
    const look = async () => {
      for (const colorScheme of ['light', 'dark'] as const) {
        await page.emulateMedia({ colorScheme });
        for (const width of [360, 1280]) {
          await page.setViewportSize({ width, height: 800 });
          expect(await violations()).toEqual([]);
          expect(await page.evaluate('document.documentElement.scrollWidth')).toBeLessThanOrEqual(width);
        }
      }
    };
    await submitJob('Look at me');
    await wait(page.locator('#now'), 'Attempt 1 of 3 runs');
    await look();
    await submitJob('Look at the crash');
    await kill(1);
    await look();
    await page.locator('#jobs button').filter({ hasText: 'What a great day' }).click();
    await ended('DONE');

    await look();
  });

  test('the page says that it is not connected when the server is gone, and finds the next one', async () => {
    const port = Number(new URL(server.url).port);

    server.stop();
    await wait(page.locator('#connection'), 'Not connected');
    server = await startPageServer(aws, port);
    server.deployed(stack);
    await wait(page.locator('#connection'), 'Live');

    // The browser itself reports the failed connections.
    for (const error of errors.splice(0)) expect(error).toMatch(/net::ERR_|Failed to load resource/);
    expect(await page.locator('#jobs li').count()).toBeGreaterThan(0);
  });
});
