/**
 * Keys that wait for a worker. A key waits at most once, and at most one worker has it: added again meanwhile, it comes back once the worker
 * is done. So a thousand events about one object cost one or two reconciles, and two workers never act on the same object.
 *
 * Adding a key at once replaces what was planned for later: that reconcile decides anew when to come back.
 */
import type { Clock } from './clock.ts';

const defaultBackoffMinMs = 50;
const defaultBackoffMaxMs = 60_000;

/** For metrics. The numbers are of the whole queue, never of a key. */
export interface QueueObserver {
  /** Keys that wait for a worker now. */
  onDepth?(keys: number): void;
  /** A key was added that did not wait already. */
  onAdd?(): void;
  /** A key was put back because it failed. */
  onRetry?(): void;
  /** From added to taken. */
  onLatency?(ms: number): void;
}

export interface WorkQueueOptions {
  readonly clock: Clock;
  /** Uniform in [0, 1). */
  readonly random: () => number;
  readonly backoffMinMs?: number;
  readonly backoffMaxMs?: number;
  readonly observer?: QueueObserver;
}

interface Delayed {
  readonly dueMs: number;
  readonly timer: AbortController;
}

export class WorkQueue {
  readonly #options: WorkQueueOptions;
  /** In the order of arrival, each with the time of it. */
  readonly #waiting = new Map<string, number>();
  readonly #processing = new Set<string>();
  /** Added while a worker had them. */
  readonly #again = new Set<string>();
  readonly #delayed = new Map<string, Delayed>();
  readonly #failures = new Map<string, number>();
  readonly #takers: ((key: string | undefined) => void)[] = [];
  #isShutDown = false;

  constructor(options: WorkQueueOptions) {
    this.#options = options;
  }

  /** Keys that wait for a worker; those planned for later are not among them. */
  get depth(): number {
    return this.#waiting.size;
  }

  add(key: string): void {
    if (this.#isShutDown) return;
    this.#cancelDelayed(key);
    if (this.#processing.has(key)) {
      if (!this.#again.has(key)) this.#options.observer?.onAdd?.();
      this.#again.add(key);
      return;
    }
    if (this.#waiting.has(key)) return;
    this.#options.observer?.onAdd?.();
    this.#enqueue(key);
  }

  /** Adds the key after `delayMs`, or earlier if that was planned already. */
  addAfter(key: string, delayMs: number): void {
    if (this.#isShutDown) return;
    if (delayMs <= 0) {
      this.add(key);
      return;
    }
    if (this.#waiting.has(key) || this.#again.has(key)) return;
    const dueMs = this.#options.clock.elapsed() + delayMs;
    const planned = this.#delayed.get(key);
    if (planned !== undefined && planned.dueMs <= dueMs) return;
    planned?.timer.abort();
    const timer = new AbortController();
    this.#delayed.set(key, { dueMs, timer });
    this.#options.clock.after(delayMs, timer.signal).then(
      () => {
        this.add(key);
      },
      // Replaced by an earlier time.
      () => undefined,
    );
  }

  /** Adds the key after its backoff, which doubles with each call until `forget`; at least after `delayMinMs`. */
  addRateLimited(key: string, delayMinMs = 0): void {
    const { backoffMinMs = defaultBackoffMinMs, backoffMaxMs = defaultBackoffMaxMs, random, observer } = this.#options;
    const failures = this.#failures.get(key) ?? 0;
    this.#failures.set(key, failures + 1);
    observer?.onRetry?.();
    // Between three quarters and the whole: keys that failed together do not come back together.
    const backoffMs = Math.min(backoffMinMs * 2 ** failures, backoffMaxMs) * (0.75 + 0.25 * random());
    this.addAfter(key, Math.max(backoffMs, delayMinMs));
  }

  /** The key did well: its next backoff is the shortest again. */
  forget(key: string): void {
    this.#failures.delete(key);
  }

  /** How often the key has failed in a row. */
  failures(key: string): number {
    return this.#failures.get(key) ?? 0;
  }

  /** The next key, now this worker's own until `done`; undefined once the queue is shut down. */
  async next(): Promise<string | undefined> {
    if (this.#isShutDown) return undefined;
    const [first] = this.#waiting.keys();
    if (first !== undefined) return this.#take(first);
    return await new Promise<string | undefined>((resolve) => {
      this.#takers.push(resolve);
    });
  }

  /** Gives the key back; throws if no worker has it. */
  done(key: string): void {
    if (!this.#processing.delete(key)) throw new RangeError(`Cannot finish key "${key}": no worker has it`);
    if (this.#again.delete(key) && !this.#isShutDown) this.#enqueue(key);
  }

  /** Hands out no more keys and takes none; idle workers get undefined. Keys that workers have stay theirs. */
  shutDown(): void {
    this.#isShutDown = true;
    for (const { timer } of this.#delayed.values()) timer.abort();
    this.#delayed.clear();
    this.#waiting.clear();
    this.#again.clear();
    this.#failures.clear();
    this.#options.observer?.onDepth?.(0);
    for (const taker of this.#takers.splice(0)) taker(undefined);
  }

  #enqueue(key: string): void {
    this.#waiting.set(key, this.#options.clock.elapsed());
    const taker = this.#takers.shift();
    if (taker === undefined) this.#options.observer?.onDepth?.(this.#waiting.size);
    else taker(this.#take(key));
  }

  #take(key: string): string {
    const addedAtMs = this.#waiting.get(key) ?? 0;
    this.#waiting.delete(key);
    this.#processing.add(key);
    this.#options.observer?.onDepth?.(this.#waiting.size);
    this.#options.observer?.onLatency?.(this.#options.clock.elapsed() - addedAtMs);
    return key;
  }

  #cancelDelayed(key: string): void {
    this.#delayed.get(key)?.timer.abort();
    this.#delayed.delete(key);
  }
}
