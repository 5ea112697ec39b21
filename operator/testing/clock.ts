import { setImmediate } from 'node:timers/promises';
import type { Clock } from '../runtime/clock.ts';

interface Timer {
  readonly dueMs: number;
  readonly fire: () => void;
}

/** A clock that stands still until a test moves it. */
export class FakeClock implements Clock {
  readonly #startMs: number;
  #elapsedMs = 0;
  /** Added to the wall clock alone, to play a clock that jumps. */
  wallOffsetMs = 0;
  readonly #timers = new Set<Timer>();

  constructor(startMs = Date.UTC(2026, 0, 1)) {
    this.#startMs = startMs;
  }

  now(): number {
    return this.#startMs + this.#elapsedMs + this.wallOffsetMs;
  }

  elapsed(): number {
    return this.#elapsedMs;
  }

  /** How many `after` calls wait now. */
  get pending(): number {
    return this.#timers.size;
  }

  async after(ms: number, signal?: AbortSignal): Promise<void> {
    signal?.throwIfAborted();
    const { promise, resolve, reject } = Promise.withResolvers<undefined>();
    const timer = {
      dueMs: this.#elapsedMs + Math.max(ms, 0),
      fire: () => {
        resolve(undefined);
      },
    };
    const signalOnAbort = (): void => {
      reject(signal?.reason as Error);
    };
    this.#timers.add(timer);
    signal?.addEventListener('abort', signalOnAbort, { once: true });
    try {
      await promise;
    } finally {
      this.#timers.delete(timer);
      signal?.removeEventListener('abort', signalOnAbort);
    }
  }

  /** Moves time on; each timer fires at its own moment, and what it sets off in memory has run before the next one. */
  async advance(ms: number): Promise<void> {
    const targetMs = this.#elapsedMs + ms;
    await settle();
    let next = this.#earliest(targetMs);
    while (next !== undefined) {
      this.#elapsedMs = next.dueMs;
      this.#timers.delete(next);
      next.fire();
      await settle();
      next = this.#earliest(targetMs);
    }
    this.#elapsedMs = targetMs;
    await settle();
  }

  /** Moves time on as a process sees it that was stopped meanwhile: no timer has fired yet. */
  jump(ms: number): void {
    this.#elapsedMs += ms;
  }

  #earliest(limitMs: number): Timer | undefined {
    let earliest: Timer | undefined;
    for (const timer of this.#timers) {
      if (timer.dueMs <= limitMs && (earliest === undefined || timer.dueMs < earliest.dueMs)) earliest = timer;
    }
    // A jump may have passed it: time never goes back.
    return earliest === undefined ? undefined : { ...earliest, dueMs: Math.max(earliest.dueMs, this.#elapsedMs) };
  }
}

/** Resolves when everything that needs no timer and no I/O has run. */
export async function settle(): Promise<void> {
  await setImmediate();
  await setImmediate();
}
