/** A clock that stands still until a test moves it. */
import type { Timers } from '../master/ports.ts';

export interface FakeTimers extends Timers {
  /** Moves time on and runs what falls due on the way, in order. */
  advance(ms: number): void;
  /** Moves time on at once, as for a process that was held up: what fell due meanwhile runs late, once. */
  stall(ms: number): void;
  /** Timers that wait. */
  readonly pendingCount: number;
}

export function createFakeTimers(startMs = 1_700_000_000_000): FakeTimers {
  let nowMs = startMs;
  const timers = new Set<{ dueAtMs: number; run: () => void }>();
  return {
    nowMs: () => nowMs,
    after(delayMs, run) {
      const timer = { dueAtMs: nowMs + delayMs, run };
      timers.add(timer);
      return () => {
        timers.delete(timer);
      };
    },
    advance(ms) {
      const endMs = nowMs + ms;
      for (;;) {
        const [next] = [...timers].filter((timer) => timer.dueAtMs <= endMs).sort((a, b) => a.dueAtMs - b.dueAtMs);
        if (next === undefined) break;
        timers.delete(next);
        nowMs = Math.max(nowMs, next.dueAtMs);
        next.run();
      }
      nowMs = endMs;
    },
    stall(ms) {
      nowMs += ms;
      const late = [...timers].filter(({ dueAtMs }) => dueAtMs <= nowMs).sort((a, b) => a.dueAtMs - b.dueAtMs);
      for (const timer of late) if (timers.delete(timer)) timer.run();
    },
    get pendingCount() {
      return timers.size;
    },
  };
}
