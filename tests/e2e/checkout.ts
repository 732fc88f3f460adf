import { mkdtempSync, readFileSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { copyProject } from '../../scripts/local/copyProject.ts';
import { command } from './command.ts';

/** Copies the project with its npm packages, as somebody may have checked it out. The path contains spaces. */
export function checkOut(name: string) {
  const folder = mkdtempSync(join(tmpdir(), `${name} `));
  const path = join(folder, 'check out');
  copyProject(path);
  // The packages are already installed.
  utimesSync(join(path, 'package-lock.json'), 0, 0);
  return {
    /** For files of the test. The copy is a folder in it. */
    folder,
    path,

    /** Runs one of the scripts, in a folder other than the copy. */
    script: (file: string, args: readonly string[] = [], options: Parameters<typeof command>[2] = {}) =>
      command('bash', [join(path, 'scripts', file), ...args], { cwd: folder, ...options }),

    /** Edits a file. Throws an Error if that does not change it. */
    edit: (file: string, pattern: string | RegExp, replacement: string) => {
      const before = readFileSync(join(path, file), 'utf8');
      const after = before.replace(pattern, replacement);
      if (after === before) throw new Error(`${file} has no ${pattern}`);
      writeFileSync(join(path, file), after);
    },

    remove: () => rmSync(folder, { recursive: true, force: true }),
  };
}
