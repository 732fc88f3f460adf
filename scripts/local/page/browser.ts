/** The browser of this machine, for the tests of the page and for its picture. */
import { spawnSync } from 'node:child_process';
import { type Browser, chromium } from 'playwright-core';

/** The path of a Chromium or Chrome; undefined if there is none on PATH. */
export function findBrowser(): string | undefined {
  const names = ['chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable'];
  const found = spawnSync('which', names, { encoding: 'utf8' });
  return found.stdout?.split('\n')[0] || undefined;
}

/** Starts the browser without a window. It calls nothing but the pages that it opens. */
export function launchBrowser(executablePath: string): Promise<Browser> {
  const quiet = ['--disable-background-networking', '--disable-component-update', '--disable-sync', '--no-first-run'];
  // Chromium's sandbox does not work for root.
  const sandbox = process.getuid?.() === 0 ? ['--no-sandbox'] : [];
  return chromium.launch({ executablePath, args: ['--disable-gpu', '--disable-quic', ...quiet, ...sandbox] });
}
