/**
 * Replaces `@smithy/core/event-streams` in createJob and getJob (`Alias` in template.yaml). None of
 * their calls stream events, but the SDK's dynamic import of that module makes esbuild keep unused code.
 */
export const resolveEventStreamSerdeConfig = <T>(config: T): T => config;

export function eventStreamSerdeProvider(): never {
  throw new Error('No event streams in this bundle: see Alias in template.yaml');
}

export { eventStreamSerdeProvider as EventStreamSerde };
