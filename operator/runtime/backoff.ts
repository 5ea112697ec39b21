export interface BackoffOptions {
  readonly minMs: number;
  readonly maxMs: number;
  /** Uniform in [0, 1). */
  readonly random: () => number;
}

/** Growing delays with full jitter, so that many clients of a server that comes back do not call it in step. */
export class Backoff {
  readonly #options: BackoffOptions;
  #failures = 0;

  constructor(options: BackoffOptions) {
    this.#options = options;
  }

  /** The next delay: between the minimum and a bound that doubles each time, up to the maximum. */
  next(): number {
    const { minMs, maxMs, random } = this.#options;
    this.#failures += 1;
    const boundMs = Math.min(minMs * 2 ** this.#failures, maxMs);
    return minMs + random() * (boundMs - minMs);
  }

  reset(): void {
    this.#failures = 0;
  }
}
