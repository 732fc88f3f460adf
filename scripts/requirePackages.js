// npm runs this before scripts that need its packages. In JavaScript, because only those bring a Node.js that runs
// TypeScript.
import { existsSync } from 'node:fs';

if (!existsSync('node_modules/.package-lock.json')) {
  console.error('The npm packages are not installed. Run this first: npm ci');
  process.exit(1);
}
