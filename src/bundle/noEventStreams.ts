/**
 * Replaces `@smithy/core/event-streams` in the bundles (`Alias` in template.yaml). No call of ours
 * streams events, and the SDK's dynamic import of that module makes esbuild keep much that is unused.
 */
export const resolveEventStreamSerdeConfig = <T>(config: T): T => config;

export function eventStreamSerdeProvider(): never {
  throw new Error('No event streams in this bundle: see Alias in template.yaml');
}

export { eventStreamSerdeProvider as EventStreamSerde };
