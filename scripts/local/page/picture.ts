/**
 * `npm run picture`: makes docs/images/local.png, a job in its second attempt after a crash, with the browser of
 * this machine. `bash scripts/local.sh` must be serving; PAGE_URL says where if not at the default address.
 */
import { statSync } from 'node:fs';
import { resolve } from 'node:path';
import { findBrowser, launchBrowser } from './browser.ts';

const MAX_BYTES = 200_000;
/** Lambda's first retry comes after about a minute. */
const RETRY_LIMIT_MS = 120_000;

const url = process.env['PAGE_URL'] ?? 'http://127.0.0.1:4580';
const file = resolve(import.meta.dirname, '../../../docs/images/local.png');
const executable = findBrowser();
if (executable === undefined) throw new Error('There is no Chromium or Chrome on PATH');

const browser = await launchBrowser(executable);
const page = await browser.newPage({ viewport: { width: 1280, height: 860 }, colorScheme: 'light' });
await page.goto(url);
await page.locator('#submit button').click();
const now = page.locator('#now');
await now.filter({ hasText: 'Attempt 1 of 3 runs mlInference' }).waitFor();
await page.locator('#kill').click();
await now.filter({ hasText: 'Attempt 2 of 3 runs mlInference' }).waitFor({ timeout: RETRY_LIMIT_MS });
await page.waitForTimeout(1000);
await page.evaluate('scrollTo(0, 0)');
await page.screenshot({ path: file });
await browser.close();

const { size } = statSync(file);
console.log(`${file}: ${size} bytes`);
if (size > MAX_BYTES) throw new Error(`The picture has more than ${MAX_BYTES} bytes`);
