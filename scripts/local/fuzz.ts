/** Deploys the application to the AWS emulator and runs schemathesis against it. Run by fuzz.sh. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join, resolve } from 'node:path';
import { build, deploy, startEmulator } from './emulator.ts';

const MAX_SECONDS = 60;
const root = resolve(import.meta.dirname, '..', '..');
/** Requests per second, more than schemathesis sends. */
const UNLIMITED = '10000';

const aws = await startEmulator();
try {
  await build(aws);
  const { baseUrl } = await deploy(aws, {
    stackName: 'fuzz',
    parameters: { ReadRateLimit: UNLIMITED, ReadBurstLimit: '5000' },
  });
  // Python does not resolve names under .localhost.
  const url = `${aws.endpoint}/restapis/${new URL(baseUrl).hostname.split('.')[0]}/Prod/_user_request_`;
  const schemathesis = spawn(
    'schemathesis',
    [
      ...['--config-file', join(import.meta.dirname, 'schemathesis.toml')],
      ...['run', join(root, 'openapi.yaml'), '--url', url, '--phases', 'examples,coverage,fuzzing,stateful'],
      ...['--max-time', String(MAX_SECONDS), ...process.argv.slice(2)],
    ],
    // In .tools, for the examples that it stores.
    { cwd: join(root, '.tools'), stdio: 'inherit' },
  );
  const [code] = await once(schemathesis, 'close');
  process.exitCode = Number(code ?? 1);
} finally {
  await aws.stop();
}
