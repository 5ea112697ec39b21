/** Whether a series of measurements stays flat: robust against noise and single spikes, and a straight answer for a leak. */

export interface Trend {
  /** Median of the first window, in the unit of the values. */
  readonly first: number;
  /** Of the last one. */
  readonly last: number;
  /** What the slope adds from the first window to the last. */
  readonly growth: number;
}

const windowsMax = 10;

/**
 * The Theil-Sen slope (the median of the slopes between all pairs) of the medians of at most ten windows of equal size. Values are equally far apart
 * in time. Throws a RangeError for fewer than six values.
 */
export function trendOf(values: readonly number[]): Trend {
  if (values.length < 6)
    throw new RangeError(`Cannot tell a trend from ${values.length} values: at least 6 are needed`);
  const count = Math.min(windowsMax, Math.floor(values.length / 2));
  const medians = Array.from({ length: count }, (_, index) =>
    median(
      values.slice(Math.floor((index * values.length) / count), Math.floor(((index + 1) * values.length) / count)),
    ),
  );
  const slopes = medians.flatMap((one, index) =>
    medians.slice(index + 1).map((other, distance) => (other - one) / (distance + 1)),
  );
  return { first: medians[0] ?? 0, last: medians.at(-1) ?? 0, growth: median(slopes) * (count - 1) };
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length / 2;
  const [low = 0, high = 0] = [sorted[Math.ceil(middle) - 1], sorted[Math.floor(middle)]];
  return (low + high) / 2;
}

/** A generator of numbers in [0, 1) that gives the same ones for the same seed (mulberry32). */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
