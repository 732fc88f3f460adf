import { afterEach, expect, test } from '@jest/globals';
import { requireEnv, requireSeconds } from '../../src/config.ts';

const NAME = 'CONFIG_TEST_VARIABLE';

afterEach(() => {
  delete process.env[NAME];
});

test('a variable that is set gives its value', () => {
  process.env[NAME] = ' a value ';
  expect(requireEnv(NAME)).toBe(' a value ');
});

test('a variable that is absent or empty is refused by its name', () => {
  expect(() => requireEnv(NAME)).toThrow(`Environment variable ${NAME} is not set`);
  expect(() => requireSeconds(NAME)).toThrow(`Environment variable ${NAME} is not set`);
  process.env[NAME] = '';
  expect(() => requireEnv(NAME)).toThrow(`Environment variable ${NAME} is not set`);
});

test.each([
  ['1', 1],
  ['30', 30],
  ['999999999', 999_999_999],
])('%s is so many seconds', (value, seconds) => {
  process.env[NAME] = value;
  expect(requireSeconds(NAME)).toBe(seconds);
});

test.each(['0', '-1', '030', '1.5', '1e3', ' 30', '30s', 'thirty', '1000000000'])(
  '%j is no number of seconds',
  (value) => {
    process.env[NAME] = value;
    expect(() => requireSeconds(NAME)).toThrow(
      `Environment variable ${NAME} must be a positive whole number of seconds, not '${value}'`,
    );
  },
);
