/** The call limit of PUBLIC keys: a fixed window for each key. What it keeps is bounded by the number of keys, not by what strangers send. */
import type { KeyTable } from './keys.ts';
import type { Timers } from './ports.ts';

export interface RateLimit {
  /** Counts one call. Undefined: it may go on; else the time until the key may call again. */
  take(keyName: string): number | undefined;
  close(): void;
}

interface Window {
  readonly endsAtMs: number;
  calls: number;
}

export function createRateLimit(options: {
  callsMax: number;
  windowMs: number;
  clock: Timers;
  keys: KeyTable;
}): RateLimit {
  const { callsMax, windowMs, clock, keys } = options;
  const windows = new Map<string, Window>();
  // A key that changes starts afresh, one that is removed is forgotten.
  const stop = keys.onChange((name) => windows.delete(name));
  return {
    take(keyName) {
      const nowMs = clock.nowMs();
      let window = windows.get(keyName);
      if (window === undefined || window.endsAtMs <= nowMs) {
        window = { endsAtMs: nowMs + windowMs, calls: 0 };
        windows.set(keyName, window);
      }
      if (window.calls >= callsMax) return window.endsAtMs - nowMs;
      window.calls++;
      return undefined;
    },
    close: stop,
  };
}
