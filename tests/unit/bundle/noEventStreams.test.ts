import { expect, test } from '@jest/globals';
import * as replacement from '../../../src/bundle/noEventStreams.ts';

test('a client is configured without event streams', () => {
  const config = { region: 'us-east-1' };
  expect(replacement.resolveEventStreamSerdeConfig(config)).toBe(config);
});

test.each([replacement.eventStreamSerdeProvider, replacement.EventStreamSerde])(
  'a call that streams events fails, and says which setting to change',
  (entry) => {
    expect(entry).toThrow('No event streams in this bundle: see Alias in template.yaml');
  },
);
