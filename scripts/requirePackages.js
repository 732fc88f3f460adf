// npm runs this before scripts that need the packages. It is JavaScript because only Node 24 runs TypeScript, and
// that comes with the packages.
import { existsSync } from 'node:fs';

if (!existsSync('node_modules/.package-lock.json')) {
  console.error('The npm packages are not installed. Run this first: npm ci');
  process.exit(1);
}
