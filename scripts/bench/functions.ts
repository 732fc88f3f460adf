import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { bundleWith } from '../bundle.ts';
import { nodeAt, readTemplate } from '../template.ts';

const repository = join(import.meta.dirname, '../..');

/** Builds a function of template.yaml twice: with the template's build properties, and with SAM's defaults. */
export async function buildFunction(name: string, directory: string) {
  const template = readTemplate();
  const globals = nodeAt(template, 'Globals', 'Function');
  const resources = Object.values(nodeAt(template, 'Resources'));
  const resource = resources.find((one) => nodeAt(one, 'Properties')['Handler'] === `${name}.handler`);
  const properties = nodeAt(resource, 'Properties');
  const build = nodeAt(resource, 'Metadata', 'BuildProperties');
  const variables = [globals, properties].flatMap((node) => Object.entries(nodeAt(node, 'Environment', 'Variables')));
  // A reference is resolved to the parameter's default or the resource's logical id.
  const resolveValue = (value: unknown): string => {
    const { Ref = value } = Object(value);
    return String(nodeAt(template, 'Parameters', String(Ref))['Default'] ?? Ref);
  };
  const memoryMb = Number(properties['MemorySize'] ?? globals['MemorySize']);
  const cwd = join(repository, 'src');
  const bundle = await bundleWith(build, join(directory, 'template'), cwd);
  const defaultBundle = await bundleWith({ EntryPoints: build['EntryPoints'] }, join(directory, 'default'), cwd);
  return {
    memoryMb,
    /** The variables that Lambda and the template set. */
    environment: {
      SystemRoot: process.env['SystemRoot'],
      AWS_REGION: 'us-east-1',
      AWS_ACCESS_KEY_ID: 'bench',
      AWS_SECRET_ACCESS_KEY: 'bench',
      // Lambda's credentials include a token of about this length.
      AWS_SESSION_TOKEN: 'bench'.repeat(200),
      AWS_EXECUTION_ENV: 'AWS_Lambda_nodejs24.x',
      AWS_LAMBDA_FUNCTION_NAME: name,
      AWS_LAMBDA_FUNCTION_MEMORY_SIZE: String(memoryMb),
      AWS_LAMBDA_LOG_FORMAT: 'JSON',
      ...Object.fromEntries(variables.map(([key, value]) => [key, resolveValue(value)])),
    },
    bundle,
    bundleBytes: (await stat(bundle)).size,
    defaultBundle,
    defaultBytes: (await stat(defaultBundle)).size,
  };
}

/** Bundles a script of the benchmark. */
export const buildScript = (file: string, directory: string): Promise<string> =>
  bundleWith({ EntryPoints: [file], Target: 'node24', MainFields: 'module,main' }, directory, import.meta.dirname);
