import { afterEach, expect, test } from '@jest/globals';
import { optionalEnv, requireEnv, requireSeconds } from '../../src/config.ts';

const NAME = 'CONFIG_TEST_VARIABLE';

afterEach(() => {
  delete process.env[NAME];
});

test('a variable is returned unchanged, and optionalEnv returns an empty string if there is none', () => {
  expect(optionalEnv(NAME)).toBe('');

  process.env[NAME] = ' a value ';

  expect([requireEnv(NAME), optionalEnv(NAME)]).toEqual([' a value ', ' a value ']);
});

test('an absent or empty variable throws an error that names it', () => {
  expect(() => requireEnv(NAME)).toThrow(`Environment variable ${NAME} is not set`);
  expect(() => requireSeconds(NAME)).toThrow(`Environment variable ${NAME} is not set`);

  process.env[NAME] = '';

  expect(() => requireEnv(NAME)).toThrow(`Environment variable ${NAME} is not set`);
});

test.each(['1', '30', '999999999'])("requireSeconds returns '%s' as a number", (value) => {
  process.env[NAME] = value;

  expect(requireSeconds(NAME)).toBe(Number(value));
});

test.each(['0', '-1', '030', '1.5', '1e3', ' 30', '30s', 'thirty', '1000000000'])(
  'requireSeconds rejects %j',
  (value) => {
    process.env[NAME] = value;

    expect(() => requireSeconds(NAME)).toThrow(
      `Environment variable ${NAME} must be a positive whole number of seconds, not '${value}'`,
    );
  },
);
