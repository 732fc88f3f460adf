import { expect, test } from '@jest/globals';
import { stages } from '../../src/stages.ts';

test('every listed stage has its own name, which is its key in the result', () => {
  const names = stages.map(({ name }) => name);
  expect(names).not.toContain('');
  expect(new Set(names).size).toBe(names.length);
});
