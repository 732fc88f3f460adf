/**
 * Runs the AWS emulator (ministack, on loopback) and the real SAM CLI against it. `scripts/local/install.sh`
 * installs both. Needs no AWS account, and ignores credentials that are set in the shell.
 */
import { type ChildProcess, type SpawnOptions, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { delimiter, dirname, join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { CloudFormationClient } from '@aws-sdk/client-cloudformation';
import { findStack } from '../aws/stack.ts';

export interface Emulator {
  /** `http://127.0.0.1:<port>`, the endpoint of every AWS service. */
  readonly endpoint: string;
  readonly port: number;
  /** The environment for child processes: Node 24 and sam on PATH, the endpoint, credentials, region. */
  readonly env: Readonly<Record<string, string>>;
  /** The emulator's output, with the functions' logs. */
  readonly logFile: string;
  /** What the functions do, as JSON lines written while they do it. See emulator.py. */
  readonly reportsFile: string;
  /** Rejects when the emulator ends. */
  readonly ended: Promise<never>;
  /** Stops the emulator, its functions, and commands that are still running. Never throws. */
  stop(): Promise<void>;
}

export interface Stack {
  readonly stackName: string;
  /** `http://<apiId>.execute-api.localhost:<port>/Prod`; curl resolves such names, Node does not. */
  readonly baseUrl: string;
  readonly outputs: Readonly<Record<string, string>>;
}

const root = resolve(import.meta.dirname, '..', '..');
const isWindows = process.platform === 'win32';
const START_LIMIT_MS = 60_000;
const STOP_LIMIT_MS = 5_000;
const SHOWN_LINES = 30;

/** Running commands, by the port of their emulator. */
const running = new Map<number, Set<ChildProcess>>();

/**
 * Starts the AWS emulator, on any free port if none is given, with these additional environment variables. It is
 * stopped by {@link Emulator.stop}, or when this process ends, even if it is killed. Throws an Error if it does not start.
 */
export async function startEmulator(
  options: { readonly port?: number; readonly env?: Readonly<Record<string, string>> } = {},
): Promise<Emulator> {
  const port = await freePort(options.port);
  const endpoint = `http://127.0.0.1:${port}`;
  // For all temporary files of SAM and the emulator. Deleted when the emulator stops.
  const scratch = mkdtempSync(join(tmpdir(), 'local-sam-'));
  const env = { ...environment(endpoint), TMPDIR: scratch, TEMP: scratch, TMP: scratch };
  const logFile = join(root, '.tools', 'logs', `emulator-${port}.log`);
  mkdirSync(dirname(logFile), { recursive: true });
  const log = openSync(logFile, 'w');
  const reportsFile = join(scratch, 'reports.jsonl');

  const python = join(root, '.tools', 'ministack', isWindows ? 'Scripts/python.exe' : 'bin/python');
  const emulator = spawn(python, [join(root, 'scripts', 'local', 'emulator.py'), String(port)], {
    cwd: root,
    // Without AWS_ENDPOINT_URL, which is meant for the emulator's clients.
    env: {
      // As on AWS. By then, the lease of a crashed attempt has expired.
      LAMBDA_ASYNC_RETRY_BASE_SECONDS: '60',
      LAMBDA_ASYNC_RETRY_MAX_SECONDS: '120',
      ...withoutAws(env),
      BIND_HOST: '127.0.0.1',
      LAMBDA_EXECUTOR: 'local',
      IOT_MTLS_ENABLED: '0',
      SFTP_ENABLED: '0',
      PYTHONUNBUFFERED: '1',
      REPORTS_FILE: reportsFile,
      ...options.env,
    },
    stdio: ['pipe', log, log],
    // In its own process group, so that Ctrl-C does not reach it before stop() is called.
    detached: !isWindows,
  });
  closeSync(log);
  const exited = once(emulator, 'exit').catch((error: unknown) => error);
  const stop = async () => {
    await Promise.all([...(running.get(port) ?? [])].map(killGroup));
    emulator.stdin?.on('error', () => undefined).end();
    await Promise.race([exited, sleep(STOP_LIMIT_MS, undefined, { ref: false })]);
    await killGroup(emulator);
    rmSync(scratch, { recursive: true, force: true });
  };

  const ended = exited.then((reason): never => {
    if (!(reason instanceof Error)) throw new Error(`The AWS emulator has ended:\n${lastLinesOf(logFile)}`);
    throw new Error(`The AWS emulator could not be started (${reason.message}). 'bash scripts/local.sh' installs it.`);
  });
  ended.catch(() => undefined);
  try {
    await Promise.race([waitUntilHealthy(endpoint, logFile), ended]);
  } catch (error) {
    await stop();
    throw error;
  }
  return { endpoint, port, env, logFile, reportsFile, ended, stop };
}

/** Runs `sam build`. Paths in the template are relative to the project's root. Throws an Error with sam's last lines. */
export async function build(aws: Emulator, options: { template?: string; buildDir?: string } = {}): Promise<void> {
  const template = options.template === undefined ? [] : ['--template-file', resolve(options.template)];
  // SAM's cache holds only one set of functions.
  const buildDir = options.buildDir === undefined ? [] : ['--build-dir', resolve(options.buildDir), '--no-cached'];
  await sam(aws, ['build', '--base-dir', root, ...template, ...buildDir]);
}

/** Runs `sam deploy` with the output of {@link build}. Throws an Error with sam's last lines. */
export async function deploy(
  aws: Emulator,
  options: { stackName: string; buildDir?: string; parameters?: Record<string, string> },
): Promise<Stack> {
  const { stackName, buildDir = join(root, '.aws-sam', 'build'), parameters = {} } = options;
  const overrides = Object.entries(parameters).map(([name, value]) => `${name}="${value}"`);
  await sam(aws, [
    'deploy',
    ...['--template-file', join(resolve(buildDir), 'template.yaml')],
    ...['--stack-name', stackName, '--s3-prefix', stackName],
    ...(overrides.length === 0 ? [] : ['--parameter-overrides', ...overrides]),
  ]);
  const client = new CloudFormationClient(clientOptions(aws));
  const { Outputs = [] } = (await findStack(client, stackName)) ?? {};
  client.destroy();
  const outputs = Object.fromEntries(Outputs.map(({ OutputKey, OutputValue = '' }) => [OutputKey, OutputValue]));
  const [apiId] = new URL(outputs['ApiBaseUrl'] ?? '').hostname.split('.');
  return { stackName, outputs, baseUrl: `http://${apiId}.execute-api.localhost:${aws.port}/Prod` };
}

/** Options of AWS SDK clients for the AWS emulator. */
export function clientOptions({ endpoint }: Pick<Emulator, 'endpoint'>) {
  return { endpoint, region: 'us-east-1', credentials: { accessKeyId: 'test', secretAccessKey: 'test' } };
}

/** The type errors in `src/`, as printed by tsc; an empty string if there are none. */
export async function typeErrors(aws: Emulator): Promise<string> {
  const tsc = join(root, 'node_modules', 'typescript', 'bin', 'tsc');
  const { code, output } = await run(aws, process.execPath, [tsc, '-p', join(root, 'src'), '--pretty', 'false']);
  return code === 0 ? '' : lastLines(output);
}

/** Runs sam with the project's samconfig.toml. */
async function sam(aws: Emulator, args: readonly string[]): Promise<void> {
  const { code, output } = await run(aws, 'sam', [...args, '--config-file', join(root, 'samconfig.toml')]);
  if (code !== 0) throw new Error(`sam ${args[0]} failed:\n${lastLines(output)}`);
}

/**
 * Kills its process group when file descriptor 3 is closed, a pipe whose other end only this Node process holds.
 * The command therefore ends with this process, even if this process is killed.
 */
const GUARD = '(cat <&3; kill -s KILL 0) >/dev/null 2>&1 & exec "$@" 3<&-';

/** Runs a command. It is stopped by {@link Emulator.stop}, or when this process ends, even if it is killed. */
async function run(aws: Emulator, command: string, args: readonly string[]): Promise<{ code: number; output: string }> {
  const options: SpawnOptions = { cwd: root, env: aws.env, stdio: ['ignore', 'pipe', 'pipe', 'pipe'] };
  const child = isWindows
    ? spawn(command, args, options)
    : spawn('sh', ['-c', GUARD, 'sh', command, ...args], { ...options, detached: true });
  const siblings = running.get(aws.port) ?? new Set();
  running.set(aws.port, siblings.add(child));
  const chunks: Buffer[] = [];
  for (const stream of [child.stdout, child.stderr]) stream?.on('data', (chunk: Buffer) => chunks.push(chunk));
  child.once('exit', () => child.stdio[3]?.destroy());
  try {
    const [code] = await once(child, 'close');
    return { code: Number(code ?? 1), output: Buffer.concat(chunks).toString() };
  } finally {
    siblings.delete(child);
  }
}

/** This process's environment, with the settings for the AWS emulator instead of those for AWS. */
function environment(endpoint: string): Record<string, string> {
  const env = withoutAws(process.env);
  const pathName = Object.keys(env).find((name) => name.toUpperCase() === 'PATH') ?? 'PATH';
  const noProxy = [env['NO_PROXY'] ?? env['no_proxy'], '127.0.0.1', 'localhost', '.localhost'].filter(Boolean).join();
  return {
    ...env,
    [pathName]: [
      // The Node version of the functions, and esbuild for sam.
      join(root, 'node_modules', 'node', 'bin'),
      join(root, 'node_modules', '.bin'),
      env[pathName] ?? '',
      // Last, because an installed sam is used unless it is too old. Then install.sh has put this first.
      join(root, '.tools', 'sam', isWindows ? 'Scripts' : 'bin'),
    ].join(delimiter),
    AWS_ENDPOINT_URL: endpoint,
    AWS_ACCESS_KEY_ID: 'test',
    AWS_SECRET_ACCESS_KEY: 'test',
    AWS_DEFAULT_REGION: 'us-east-1',
    AWS_REGION: 'us-east-1',
    AWS_CONFIG_FILE: join(root, '.tools', 'no-aws-config'),
    AWS_SHARED_CREDENTIALS_FILE: join(root, '.tools', 'no-aws-credentials'),
    AWS_EC2_METADATA_DISABLED: 'true',
    SAM_CLI_TELEMETRY: '0',
    // Seconds between two checks of the stack's status. The default is 5.
    SAM_CLI_POLL_DELAY: '0.2',
    NO_PROXY: noProxy,
    no_proxy: noProxy,
  };
}

/** The variables that are not settings for AWS. */
function withoutAws(env: Readonly<Record<string, string | undefined>>): Record<string, string> {
  return Object.fromEntries(
    Object.entries(env).flatMap(([name, value]) =>
      value === undefined || name.toUpperCase().startsWith('AWS_') ? [] : [[name, value]],
    ),
  );
}

/** Returns the given port if it is free, or any free port if none is given. */
async function freePort(port = 0): Promise<number> {
  const server = createServer();
  try {
    await once(server.listen(port, '127.0.0.1'), 'listening');
  } catch (error) {
    const reason = Object(error).code === 'EADDRINUSE' ? 'in use' : 'not usable';
    throw new Error(`Port ${port} is ${reason}; choose another (scripts/local.sh --port PORT)`, { cause: error });
  }
  const address = server.address();
  server.close();
  await once(server, 'close');
  return typeof address === 'object' && address !== null ? address.port : port;
}

async function waitUntilHealthy(endpoint: string, logFile: string): Promise<void> {
  for (const deadline = Date.now() + START_LIMIT_MS; Date.now() < deadline; await sleep(100)) {
    const signal = AbortSignal.timeout(2_000);
    const response = await fetch(`${endpoint}/_ministack/health`, { signal }).catch(() => undefined);
    if (response?.ok) return;
  }
  throw new Error(`The AWS emulator is not up after ${START_LIMIT_MS / 1000} s:\n${lastLinesOf(logFile)}`);
}

/** Kills what is left of a process's group, and waits until it is gone. */
async function killGroup(child: ChildProcess): Promise<void> {
  const { pid } = child;
  if (isWindows) child.kill();
  if (pid === undefined || isWindows) return;
  for (let tries = 0; tries < 50; tries += 1) {
    try {
      process.kill(-pid, 'SIGKILL');
    } catch {
      return;
    }
    await sleep(20);
  }
}

function lastLinesOf(logFile: string): string {
  return lastLines(readFileSync(logFile, 'utf8'));
}

function lastLines(output: string): string {
  return output.trimEnd().split('\n').slice(-SHOWN_LINES).join('\n');
}
