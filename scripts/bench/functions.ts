import { execFile } from 'node:child_process';
import { readFile, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { promisify } from 'node:util';
import { parse } from 'yaml';

const run = promisify(execFile);
const repository = join(import.meta.dirname, '../..');

export const functionNames = ['createJob', 'getJob', 'worker'] as const;
export type FunctionName = (typeof functionNames)[number];
export type PerFunction<T> = Readonly<Record<FunctionName, T>>;

/** A value for each of the functions. */
export function perFunction<T>(value: (name: FunctionName) => T): PerFunction<T> {
  return { createJob: value('createJob'), getJob: value('getJob'), worker: value('worker') };
}

/** A function of the template, built twice: with the template's build properties, and with SAM's defaults. */
export interface BuiltFunction {
  readonly name: FunctionName;
  readonly memoryMiB: number;
  /** Its variables from the template. `!Ref` resolves to the parameter's default or the resource's logical id. */
  readonly environment: Readonly<Record<string, string>>;
  readonly bundle: string;
  readonly bundleBytes: number;
  readonly defaultBundle: string;
  readonly defaultBytes: number;
}

type Properties = Readonly<Record<string, unknown>>;

/** Builds the functions of template.yaml into a directory. */
export async function buildFunctions(directory: string): Promise<PerFunction<BuiltFunction>> {
  // The parser ignores CloudFormation's tags: `!Ref X` becomes the string X.
  const template: unknown = parse(await readFile(join(repository, 'template.yaml'), 'utf8'), { logLevel: 'error' });
  const resources = Object.values(propertiesOf(template, 'Resources'));
  const parameters = propertiesOf(template, 'Parameters');
  const globals = propertiesOf(template, 'Globals', 'Function');

  const buildFunction = async (name: FunctionName): Promise<BuiltFunction> => {
    const resource = resources.find((one) => propertiesOf(one, 'Properties')['Handler'] === `${name}.handler`);
    const properties = propertiesOf(resource, 'Properties');
    const build = propertiesOf(resource, 'Metadata', 'BuildProperties');
    const bundle = await bundleWith(build, join(directory, 'template'));
    const defaultBundle = await bundleWith({ EntryPoints: build['EntryPoints'] }, join(directory, 'default'));
    return {
      name,
      memoryMiB: Number(properties['MemorySize'] ?? globals['MemorySize'] ?? 128),
      environment: variablesOf(parameters, globals, properties),
      bundle,
      bundleBytes: (await stat(bundle)).size,
      defaultBundle,
      defaultBytes: (await stat(defaultBundle)).size,
    };
  };

  return {
    createJob: await buildFunction('createJob'),
    getJob: await buildFunction('getJob'),
    worker: await buildFunction('worker'),
  };
}

/** Bundles a script of the benchmark. `entryPoint` is relative to the directory of this file. */
export async function buildScript(entryPoint: string, directory: string): Promise<string> {
  return bundleWith(
    { EntryPoints: [entryPoint], Target: 'node24', MainFields: 'module,main' },
    directory,
    import.meta.dirname,
  );
}

const SAM_DEFAULTS = { Target: 'es2020', Format: 'cjs', Minify: true };

/** Runs esbuild with the flags that SAM derives from BuildProperties (aws-lambda-builders, nodejs_npm_esbuild). */
async function bundleWith(build: Properties, directory: string, cwd = join(repository, 'src')): Promise<string> {
  const { EntryPoints: entryPoints, ...options }: Properties = { ...SAM_DEFAULTS, ...build };
  const [entryPoint] = Array.isArray(entryPoints) ? entryPoints.map(String) : [];
  if (entryPoint === undefined) throw new Error('BuildProperties has no EntryPoints');
  const flags = Object.entries(options).flatMap(([key, value]) => {
    const flag = `--${key.replace(/(?!^)[A-Z]/g, '-$&').toLowerCase()}`;
    if (Array.isArray(value)) return value.map((item) => `${flag}:${item}`);
    if (typeof value === 'boolean') return value ? [flag] : [];
    return [`${flag}=${value}`];
  });
  await run(
    join(repository, 'node_modules/.bin/esbuild'),
    [entryPoint, '--bundle', '--platform=node', `--outdir=${directory}`, '--log-level=error', ...flags],
    { cwd, shell: process.platform === 'win32' },
  );
  return join(directory, basename(entryPoint).replace(/\.ts$/, '.js'));
}

function variablesOf(parameters: Properties, ...holders: readonly Properties[]): Record<string, string> {
  const variables: Record<string, string> = {};
  for (const holder of holders) {
    for (const [name, value] of Object.entries(propertiesOf(holder, 'Environment', 'Variables'))) {
      const parameter = propertiesOf(parameters, String(value));
      variables[name] = String(parameter['Default'] ?? value);
    }
  }
  return variables;
}

/** The properties of the object at this path, or an empty object if there is none. */
function propertiesOf(value: unknown, ...path: readonly string[]): Properties {
  const [key, ...rest] = path;
  const found = typeof value === 'object' && value !== null ? Object.fromEntries(Object.entries(value)) : {};
  return key === undefined ? found : propertiesOf(found[key], ...rest);
}
