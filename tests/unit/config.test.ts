import { afterEach, expect, test } from '@jest/globals';
import { optionalEnv, requireEnv, requireSeconds } from '../../src/config.ts';

const NAME = 'CONFIG_TEST_VARIABLE';

afterEach(() => {
  delete process.env[NAME];
});

test('requireEnv returns the value unchanged', () => {
  process.env[NAME] = ' a value ';

  expect(requireEnv(NAME)).toBe(' a value ');
});

test('optionalEnv returns the value, or an empty string if there is none', () => {
  expect(optionalEnv(NAME)).toBe('');
  process.env[NAME] = 'https://www.example.com';
  expect(optionalEnv(NAME)).toBe('https://www.example.com');
});

test('an absent or empty variable throws an error that names it', () => {
  expect(() => requireEnv(NAME)).toThrow(`Environment variable ${NAME} is not set`);
  expect(() => requireSeconds(NAME)).toThrow(`Environment variable ${NAME} is not set`);

  process.env[NAME] = '';

  expect(() => requireEnv(NAME)).toThrow(`Environment variable ${NAME} is not set`);
});

test.each([
  ['1', 1],
  ['30', 30],
  ['999999999', 999_999_999],
])("requireSeconds accepts '%s'", (value, seconds) => {
  process.env[NAME] = value;

  expect(requireSeconds(NAME)).toBe(seconds);
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
