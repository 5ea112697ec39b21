/** How many requests may go out: so many a second, after a burst, and so many at the same time. Nobody waits: who may not, is told. */
import type { Timers } from './ports.ts';

export interface GateLimits {
  readonly perSecond: number;
  readonly burst: number;
  readonly inFlightMax: number;
}

export interface Gate {
  /** Whether one more may go out; each yes is followed by one `leave`. */
  enter(): boolean;
  leave(): void;
}

export function createGate(limits: GateLimits, clock: Pick<Timers, 'nowMs'>): Gate {
  let inFlight = 0;
  let left = limits.burst;
  let countedAtMs = clock.nowMs();
  return {
    enter() {
      const nowMs = clock.nowMs();
      const passedMs = Math.max(0, nowMs - countedAtMs);
      left = Math.min(limits.burst, left + (passedMs * limits.perSecond) / 1_000);
      countedAtMs = nowMs;
      if (left < 1 || inFlight >= limits.inFlightMax) return false;
      left -= 1;
      inFlight += 1;
      return true;
    },
    leave() {
      inFlight -= 1;
    },
  };
}
