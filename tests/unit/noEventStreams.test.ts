import { expect, test } from '@jest/globals';
import * as standIn from '../../src/noEventStreams.ts';

test('a client is configured without event streams', () => {
  const config = { region: 'us-east-1' };
  expect(standIn.resolveEventStreamSerdeConfig(config)).toBe(config);
});

test.each([standIn.eventStreamSerdeProvider, standIn.EventStreamSerde])(
  'an event stream that comes all the same is a fault that says so',
  (entry) => {
    expect(entry).toThrow('The bundle has no event streams');
  },
);
