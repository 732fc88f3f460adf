import { expect, test } from '@jest/globals';
import * as replacement from '../../../src/bundle/noEventStreams.ts';

test('a client configuration is returned unchanged', () => {
  const config = { region: 'us-east-1' };
  expect(replacement.resolveEventStreamSerdeConfig(config)).toBe(config);
});

test.each([replacement.eventStreamSerdeProvider, replacement.EventStreamSerde])(
  'streaming events fails with an error that names the setting to change',
  (entry) => {
    expect(entry).toThrow('No event streams in this bundle: see Alias in template.yaml');
  },
);
