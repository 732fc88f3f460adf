/** Loaded before each of the operator's scripts: replaces this process's environment by their settings. */
import { existsSync, readFileSync } from 'node:fs';
import { emulatorSettings, settingsOf, usesEmulator } from './settings.ts';

try {
  const settings = usesEmulator(process.env)
    ? emulatorSettings(process.env)
    : settingsOf(process.env, readDotEnv(), (text) => console.error(`Note: ${text}`));
  for (const name of Object.keys(process.env)) if (settings[name] === undefined) delete process.env[name];
  Object.assign(process.env, settings);
} catch (error) {
  console.error(`Error: ${error instanceof Error ? error.message : error}`);
  process.exit(1);
}

function readDotEnv(): string {
  if (existsSync('.env')) return readFileSync('.env', 'utf8');
  throw new Error(
    `there is no '.env' in ${process.cwd()}: copy example.env to .env and fill it in, or set AWS_ENDPOINT_URL for the AWS emulator`,
  );
}
