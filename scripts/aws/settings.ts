/** Reads the settings of the operator's scripts: .env, or the fixed ones of the AWS emulator. */
import { parseEnv } from 'node:util';

export type Variables = Readonly<Record<string, string | undefined>>;

/**
 * Other names in .env are ignored: the file must not be able to change PATH. The two exceptions would have no effect
 * (see {@link checked}).
 */
const SETTING = /^(?!AWS_(?:REGION|DEFAULT_PROFILE)$)(?:AWS_\w+|SAM_CLI_\w+|STACK_NAME)$/;
const CREDENTIALS = [
  ...['AWS_ACCESS_KEY_ID', 'AWS_SECRET_ACCESS_KEY', 'AWS_SESSION_TOKEN', 'AWS_PROFILE'],
  // They belong to an access key. sam prefers the old name of the token, and refuses keys after the expiry.
  ...['AWS_SECURITY_TOKEN', 'AWS_CREDENTIAL_EXPIRATION', 'AWS_CREDENTIAL_SCOPE', 'AWS_ACCOUNT_ID'],
];

/**
 * Roles are named STACK_NAME-CreateJobRole-XXXXXXXXXXXXX by CloudFormation, which shortens STACK_NAME if the name
 * would exceed 64 characters. The deployer may only create roles STACK_NAME-*.
 */
export const MAX_STACK_NAME_LENGTH = 36;

/** Whether the shell's AWS_ENDPOINT_URL is on this machine (scripts/local.sh). */
export function usesEmulator({ AWS_ENDPOINT_URL }: Variables): boolean {
  return /^https?:\/\/(?:127\.0\.0\.1|localhost)(?::\d+)?\/?$/.test(AWS_ENDPOINT_URL ?? '');
}

/** The same settings that scripts/local.sh uses. The shell's own credentials are not sent to the emulator. */
export function emulatorSettings(shell: Variables): Variables {
  return checked({
    ...without(shell, CREDENTIALS),
    AWS_ACCESS_KEY_ID: 'test',
    AWS_SECRET_ACCESS_KEY: 'test',
    AWS_DEFAULT_REGION: 'us-east-1',
    STACK_NAME: shell['STACK_NAME'] || 'async-job-processing-demo',
  });
}

/**
 * The shell's variables, overridden by those of .env. Credentials of the two are never mixed.
 *
 * @param note is called with a sentence about each line that is not used
 * @throws Error that says what to change in .env. It never contains a value.
 */
export function settingsOf(shell: Variables, file: string, note: (text: string) => void): Variables {
  const found = new Map<string, string>();
  const lines = file.replace(/^\ufeff/, '').split(/\r?\n/);
  for (const [index, line] of lines.entries()) {
    if (/^\s*(?:#.*)?$/.test(line)) continue;
    const place = `line ${index + 1} of .env`;
    const [, name, raw = ''] = /^\s*(?:export\s+)?([A-Za-z_]\w*)\s*=\s*(.*)$/.exec(line) ?? [];
    if (name === undefined) throw new Error(`${place} is not KEY=value`);
    // Node accepts malformed lines.
    const value = parseEnv(line)[name] ?? '';
    if (/^["'`]/.test(raw) && raw.startsWith(value.slice(0, 1)) && value !== '') {
      throw new Error(`${place}: the value of ${name} has no closing quote`);
    }
    // Node would cut the value without an error.
    if (/^(?!["'`])[^#]*[^\s#]#/.test(raw)) {
      throw new Error(`${place}: the value of ${name} contains #, so it needs quotes`);
    }
    if (!SETTING.test(name)) {
      note(`${name} in ${place} is not used`);
      continue;
    }
    if (found.has(name)) throw new Error(`${place}: ${name} is set twice`);
    if (/^your[-_]/i.test(value)) throw new Error(`${place}: ${name} still has the placeholder of example.env`);
    found.set(name, value);
  }
  const set = Object.fromEntries([...found].filter(([, value]) => value !== ''));
  return checked({ ...without(shell, CREDENTIALS.some((name) => set[name]) ? CREDENTIALS : []), ...set });
}

/** Throws an Error unless region, stack name and one kind of credentials are set. */
function checked(settings: Variables): Variables {
  const { AWS_PROFILE, AWS_DEFAULT_REGION, STACK_NAME } = settings;
  for (const name of ['AWS_ACCESS_KEY_ID', 'AWS_SECRET_ACCESS_KEY']) {
    if (AWS_PROFILE && settings[name]) {
      throw new Error('AWS_PROFILE and access keys are both set, in .env or in the shell: remove one of them');
    }
    if (!AWS_PROFILE && !settings[name]) throw new Error(`${name} is not set in .env (nor is AWS_PROFILE)`);
  }
  if (!AWS_DEFAULT_REGION) throw new Error('AWS_DEFAULT_REGION is not set in .env');
  if (!STACK_NAME) throw new Error('STACK_NAME is not set in .env');
  if (!/^[a-z]{2}(?:-[a-z]+)+-\d+$/.test(AWS_DEFAULT_REGION)) {
    throw new Error('AWS_DEFAULT_REGION in .env is not an AWS region such as us-east-1');
  }
  if (!/^[A-Za-z][A-Za-z0-9-]*$/.test(STACK_NAME)) {
    throw new Error('STACK_NAME in .env must consist of letters, digits and hyphens, and begin with a letter');
  }
  if (STACK_NAME.length > MAX_STACK_NAME_LENGTH) {
    throw new Error(
      `STACK_NAME in .env must have at most ${MAX_STACK_NAME_LENGTH} characters, but has ${STACK_NAME.length}`,
    );
  }
  return {
    // sam prefers AWS_DEFAULT_PROFILE to AWS_PROFILE, and the AWS SDK for JavaScript does not read it.
    ...without(settings, ['AWS_DEFAULT_PROFILE']),
    // The AWS SDK for JavaScript reads only this name.
    AWS_REGION: AWS_DEFAULT_REGION,
  };
}

const without = (variables: Variables, names: readonly string[]): Variables =>
  Object.fromEntries(Object.entries(variables).filter(([name]) => !names.includes(name)));
