import { cpSync, symlinkSync } from 'node:fs';
import { join, relative, resolve } from 'node:path';

const root = resolve(import.meta.dirname, '..', '..');
/** Installed, built and private files. */
const LEFT_OUT = new Set(['.git', '.aws-sam', '.tools', '.env', 'coverage', 'node_modules']);

/** Copies the project into a folder. The copy shares the project's npm packages: never install into it. */
export function copyProject(target: string): void {
  cpSync(root, target, { recursive: true, filter: (source) => !LEFT_OUT.has(relative(root, source)) });
  symlinkSync(join(root, 'node_modules'), join(target, 'node_modules'), 'junction');
}
