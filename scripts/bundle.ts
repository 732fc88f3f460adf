import { execFile } from 'node:child_process';
import { basename, join, resolve } from 'node:path';
import { promisify } from 'node:util';

const execute = promisify(execFile);
const esbuild = resolve(import.meta.dirname, '..', 'node_modules', '.bin', 'esbuild');
const SAM_DEFAULTS = { Target: 'es2020', Format: 'cjs', Minify: true };

/**
 * Runs esbuild in a folder with the flags that SAM derives from BuildProperties (aws-lambda-builders,
 * nodejs_npm_esbuild), and with others. Returns the bundle's path. Throws an Error with esbuild's output.
 */
export async function bundleWith(
  build: Readonly<Record<string, unknown>>,
  directory: string,
  cwd: string,
  ...others: readonly string[]
): Promise<string> {
  const { EntryPoints: entryPoints, ...options }: Record<string, unknown> = { ...SAM_DEFAULTS, ...build };
  const entryPoint = String(entryPoints);
  const flags = Object.entries(options).flatMap(([key, value]) => {
    const flag = `--${key.replace(/(?!^)[A-Z]/g, '-$&').toLowerCase()}`;
    if (Array.isArray(value)) return value.map((item) => `${flag}:${item}`);
    if (typeof value === 'boolean') return value ? [flag] : [];
    return [`${flag}=${value}`];
  });
  await execute(
    esbuild,
    [entryPoint, '--bundle', '--platform=node', `--outdir=${directory}`, '--log-level=error', ...flags, ...others],
    { cwd, shell: process.platform === 'win32' },
  );
  return join(directory, basename(entryPoint).replace(/\.ts$/, '.js'));
}
