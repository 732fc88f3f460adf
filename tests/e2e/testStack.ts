import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { build, deploy, type Emulator, type Stack } from '../../scripts/local/emulator.ts';
import { senderBanner } from './faultProxy.ts';

const root = resolve(import.meta.dirname, '..', '..');

/**
 * Builds and deploys the template and the sources with three changes: the stages come from
 * faultyStages.ts, the functions call AWS through `proxyUrl`, and each call names its sender.
 */
export async function deployTestStack(
  aws: Emulator,
  options: { readonly proxyUrl: string; readonly parameters: Record<string, string> },
): Promise<Stack> {
  const folder = join(root, '.aws-sam', 'faults');
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  cpSync(join(root, 'src'), join(folder, 'src'), { recursive: true });
  cpSync(join(root, 'tsconfig.json'), join(folder, 'tsconfig.json'));
  const stages = readFileSync(join(root, 'tests', 'e2e', 'faultyStages.ts'), 'utf8');
  writeFileSync(join(folder, 'src', 'stages', 'index.ts'), stages.replaceAll("'../../src/", "'../"));

  let template = readFileSync(join(root, 'template.yaml'), 'utf8');
  const edit = (pattern: RegExp, count: number, replacement: (...groups: string[]) => string) => {
    const found = template.match(pattern)?.length ?? 0;
    if (found !== count) throw new Error(`template.yaml contains ${pattern} ${found} times instead of ${count}`);
    template = template.replace(pattern, (_match, ...groups: string[]) => replacement(...groups));
  };
  // Relative to the project's root, as in template.yaml.
  edit(/CodeUri: src\//g, 1, () => 'CodeUri: .aws-sam/faults/src/');
  edit(/(AWS_ENDPOINT_URL_(?:DYNAMODB|LAMBDA)): (?:''|"")/g, 2, (name) => `${name}: ${options.proxyUrl}`);
  edit(
    /^( *)(EntryPoints: \[handlers\/(\w+)\.ts\])/gm,
    3,
    (indent, entryPoints, caller = '') =>
      `${indent}Banner: [${JSON.stringify(`js=${senderBanner(caller)}`)}]\n${indent}${entryPoints}`,
  );
  writeFileSync(join(folder, 'template.yaml'), template);

  const buildDir = join(folder, 'build');
  await build(aws, { template: join(folder, 'template.yaml'), buildDir });
  return deploy(aws, { stackName: 'faults', buildDir, parameters: options.parameters });
}
