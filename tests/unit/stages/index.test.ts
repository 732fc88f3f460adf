import { expect, test } from '@jest/globals';
import { stages } from '../../../src/stages/index.ts';

test('every listed stage has a unique name', () => {
  const names = stages.map(({ name }) => name);

  expect(names).not.toContain('');
  expect(new Set(names).size).toBe(names.length);
});
