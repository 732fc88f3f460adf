import { existsSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { expect, test } from '@jest/globals';
import {
  emulatorSettings,
  MAX_STACK_NAME_LENGTH,
  settingsOf,
  usesEmulator,
  type Variables,
} from '../../../scripts/aws/settings.ts';

const root = resolve(import.meta.dirname, '..', '..', '..');

const KEYS = ['AWS_ACCESS_KEY_ID=key', 'AWS_SECRET_ACCESS_KEY=secret'];
const PLACE = ['AWS_DEFAULT_REGION=us-east-1', 'STACK_NAME=mine'];

/** The settings from a .env with these lines, and the notes about it. */
function read(lines: readonly string[], shell: Variables = {}, end = '\n') {
  const notes: string[] = [];
  const settings = settingsOf(shell, lines.map((line) => line + end).join(''), (text) => notes.push(text));
  return { settings, notes };
}

test('.env may have quotes, comments, blank lines, export, spaces, a byte order mark and CRLF, and is never executed', () => {
  const mark = join(root, 'executed');
  const lines = [
    '\ufeff# comment',
    '',
    `export AWS_PROFILE = "a b$(touch '${mark}')" # comment`,
    "AWS_DEFAULT_REGION='us-east-1'",
    '  STACK_NAME=mine # comment',
    `AWS_CONFIG_FILE='\`touch ${mark}\`#1'`,
  ];

  const { settings, notes } = read(lines, {}, '\r\n');

  expect(settings).toEqual({
    AWS_PROFILE: `a b$(touch '${mark}')`,
    AWS_DEFAULT_REGION: 'us-east-1',
    AWS_REGION: 'us-east-1',
    STACK_NAME: 'mine',
    AWS_CONFIG_FILE: `\`touch ${mark}\`#1`,
  });
  expect(notes).toEqual([]);
  expect(existsSync(mark)).toBe(false);
});

test.each(['PATH', 'NODE_OPTIONS', 'AWS_REGION', 'AWS_DEFAULT_PROFILE'])(
  '.env cannot set %s, and a note says which line is not used',
  (name) => {
    const { settings, notes } = read([...KEYS, ...PLACE, `${name}=other`], { PATH: '/bin' });

    expect(settings).toMatchObject({ PATH: '/bin', AWS_REGION: 'us-east-1' });
    expect(Object.values(settings)).not.toContain('other');
    expect(notes).toEqual([`${name} in line 5 of .env is not used`]);
  },
);

test.each([
  ['no secret', ['AWS_ACCESS_KEY_ID=x', ...PLACE], 'AWS_SECRET_ACCESS_KEY is not set in .env (nor is AWS_PROFILE)'],
  ['no credentials', PLACE, 'AWS_ACCESS_KEY_ID is not set in .env (nor is AWS_PROFILE)'],
  ['no region', [...KEYS, 'STACK_NAME=x'], 'AWS_DEFAULT_REGION is not set in .env'],
  ['an empty stack name', [...KEYS, 'AWS_DEFAULT_REGION=us-east-1', 'STACK_NAME='], 'STACK_NAME is not set in .env'],
  [
    'keys and a profile',
    [...KEYS, 'AWS_PROFILE=mine', ...PLACE],
    'AWS_PROFILE and access keys are both set, in .env or in the shell: remove one of them',
  ],
  ['a line that is not KEY=value', [...KEYS, 'touch pwned', ...PLACE], 'line 3 of .env is not KEY=value'],
  ['a name with a space', [...KEYS, 'STACK NAME=x', ...PLACE], 'line 3 of .env is not KEY=value'],
  ['a name that begins with a digit', ['1AWS=x'], 'line 1 of .env is not KEY=value'],
  ['a name twice', [...KEYS, ...PLACE, 'STACK_NAME=other'], 'line 5 of .env: STACK_NAME is set twice'],
  [
    'a region that is not one',
    [...KEYS, 'AWS_DEFAULT_REGION=Ireland', 'STACK_NAME=x'],
    'AWS_DEFAULT_REGION in .env is not an AWS region such as us-east-1',
  ],
  [
    'a stack name with a space',
    [...KEYS, 'AWS_DEFAULT_REGION=us-east-1', 'STACK_NAME="a b"'],
    'STACK_NAME in .env must consist of letters, digits and hyphens, and begin with a letter',
  ],
  [
    'a stack name that is too long',
    [...KEYS, 'AWS_DEFAULT_REGION=us-east-1', `STACK_NAME=${'x'.repeat(37)}`],
    'STACK_NAME in .env must have at most 36 characters, but has 37',
  ],
  ['an open double quote', ['AWS_PROFILE="x'], 'line 1 of .env: the value of AWS_PROFILE has no closing quote'],
  ['an open single quote', ["AWS_PROFILE='x # y"], 'line 1 of .env: the value of AWS_PROFILE has no closing quote'],
  ['a value with #', ['AWS_PROFILE=team#1'], 'line 1 of .env: the value of AWS_PROFILE contains #, so it needs quotes'],
])('.env is refused if it has %s', (_what, lines, message) => {
  expect(() => read(lines)).toThrow(new Error(message));
});

test('an unchanged example.env as .env is refused', () => {
  const example = readFileSync(join(root, 'example.env'), 'utf8').split('\n');

  expect(() => read(example)).toThrow(/^line \d+ of \.env: AWS_PROFILE still has the placeholder of example\.env$/);
});

test('a value of .env is never in an error message', () => {
  const bad = ['AWS_SECRET_ACCESS_KEY="s3cret', 'AWS_SECRET_ACCESS_KEY=a#s3cret', 's3cret', 'AWS_PROFILE=your_s3cret'];

  for (const line of bad) expect(() => read([line])).toThrow(/^(?!.*s3cret)/);
});

const OF_THE_SHELL = { AWS_ACCESS_KEY_ID: 'shell', AWS_SECRET_ACCESS_KEY: 'shell', AWS_SESSION_TOKEN: 'shell' };

test('the credentials of the shell are used if .env has none', () => {
  const { settings } = read(PLACE, OF_THE_SHELL);

  expect(settings).toMatchObject(OF_THE_SHELL);
});

test('the credentials of the shell are not mixed with those of .env, even if .env has only a part', () => {
  expect(() => read(['AWS_SESSION_TOKEN=x', ...PLACE], OF_THE_SHELL)).toThrow(
    'AWS_ACCESS_KEY_ID is not set in .env (nor is AWS_PROFILE)',
  );
});

test('the credentials of the shell are dropped, with all that belongs to them, if .env has keys or a profile, and for the emulator', () => {
  const names = ['AWS_SECURITY_TOKEN', 'AWS_CREDENTIAL_EXPIRATION', 'AWS_CREDENTIAL_SCOPE', 'AWS_ACCOUNT_ID'];
  const shell = { ...OF_THE_SHELL, ...Object.fromEntries(names.map((name) => [name, 'shell'])) };

  const withKeys = read([...KEYS, ...PLACE], { ...shell, AWS_PROFILE: 'shell' }).settings;
  const withProfile = read(['AWS_PROFILE=mine', ...PLACE], shell).settings;
  const ofEmulator = emulatorSettings({ ...shell, AWS_PROFILE: 'shell', AWS_REGION: 'shell' });

  const values = [withKeys, withProfile, ofEmulator].flatMap((settings) => Object.values(settings));
  expect(values).not.toContain('shell');
});

// sam prefers AWS_DEFAULT_PROFILE to AWS_PROFILE. The SDK for JavaScript does not read it.
test('the credentials of the shell do not include AWS_DEFAULT_PROFILE', () => {
  const shell = { AWS_DEFAULT_PROFILE: 'other' };

  const { settings } = read(PLACE, { ...shell, ...OF_THE_SHELL });

  expect(settings).not.toHaveProperty('AWS_DEFAULT_PROFILE');
});

test.each([
  ['http://127.0.0.1:4566', true],
  ['http://localhost/', true],
  ['http://127.0.0.1.example.com', false],
  ['https://dynamodb.us-east-1.amazonaws.com', false],
  [undefined, false],
])('the AWS emulator is used if AWS_ENDPOINT_URL is on this machine: %s %s', (AWS_ENDPOINT_URL, expected) => {
  expect(usesEmulator({ AWS_ENDPOINT_URL })).toBe(expected);
});

test('the AWS emulator has its own credentials and region', () => {
  const shell = { AWS_DEFAULT_PROFILE: 'x', AWS_DEFAULT_REGION: 'eu-west-1', PATH: '/bin', STACK_NAME: 'mine' };

  const settings = emulatorSettings(shell);

  expect(settings).toEqual({
    AWS_ACCESS_KEY_ID: 'test',
    AWS_SECRET_ACCESS_KEY: 'test',
    AWS_DEFAULT_REGION: 'us-east-1',
    AWS_REGION: 'us-east-1',
    PATH: '/bin',
    STACK_NAME: 'mine',
  });
});

test('the names of all roles begin with the longest stack name', () => {
  const template = readFileSync(join(root, 'template.yaml'), 'utf8');
  const roles = [...template.matchAll(/^ {2}(\w+):\n {4}Type: AWS::IAM::Role$/gm)].map(([, name = '']) => name);

  // CloudFormation adds the logical name and 12 or 13 characters, and cuts the stack name if there is no room.
  const room = roles.map((name) => 64 - `-${name}-`.length - 13);

  expect(roles.length).toBeGreaterThan(0);
  expect(Math.min(...room)).toBeGreaterThanOrEqual(MAX_STACK_NAME_LENGTH);
});
