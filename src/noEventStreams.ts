/**
 * Stands in for `@smithy/core/event-streams` in the bundles (`Alias` in template.yaml). No call of
 * ours streams events, and the SDK's dynamic import of that module keeps esbuild from leaving out
 * what else is not used of the SDK's core.
 */
export const resolveEventStreamSerdeConfig = <T>(config: T): T => config;

export function eventStreamSerdeProvider(): never {
  throw new Error('The bundle has no event streams');
}

export { eventStreamSerdeProvider as EventStreamSerde };
