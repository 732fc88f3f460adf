/**
 * The percentile by nearest rank. `share` is from 0 to 1; 0.5 is the median.
 *
 * @throws an Error if there are no values
 */
export function percentile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  const value = sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)];
  if (value === undefined) throw new Error('No values to take a percentile of');
  return value;
}
