/** How the readers of streams wait for something to arrive, and notice that nothing does. */
import type { Timer } from './podlog.ts';

/**
 * One wait at a time, with a deadline. One timer, too, re-armed for what is left when it fires: a busy stream must not pay for a timer with each
 * chunk.
 */
export class QuietWait<Outcome extends string> {
  readonly #clock: Timer;
  #waiter: ((outcome: Outcome | 'quiet') => void) | undefined;
  #timer: { readonly deadline: number; readonly abort: AbortController } | undefined;
  #deadline = 0;

  constructor(clock: Timer) {
    this.#clock = clock;
  }

  /** Resolves with what `wake` gives, or with `quiet` when the clock has come to `deadline`. */
  async until(deadline: number): Promise<Outcome | 'quiet'> {
    const { promise, resolve } = Promise.withResolvers<Outcome | 'quiet'>();
    this.#waiter = resolve;
    this.#deadline = deadline;
    this.#setTimer();
    return await promise;
  }

  /** Whether somebody waits. */
  get isWaiting(): boolean {
    return this.#waiter !== undefined;
  }

  /** Puts the deadline of the present wait off. */
  extend(deadline: number): void {
    this.#deadline = deadline;
  }

  /** Ends the wait; nothing happens while there is none. */
  wake(outcome: Outcome | 'quiet'): void {
    const waiter = this.#waiter;
    this.#waiter = undefined;
    waiter?.(outcome);
  }

  /** Ends the timer. A wait that is under way ends by `wake` alone. */
  close(): void {
    this.#timer?.abort.abort();
    this.#timer = undefined;
  }

  #setTimer(): void {
    if (this.#timer !== undefined && this.#timer.deadline <= this.#deadline) {
      return;
    }
    this.#timer?.abort.abort();
    const timer = { deadline: this.#deadline, abort: new AbortController() };
    this.#timer = timer;
    const delayMs = Math.max(1, timer.deadline - this.#clock.elapsed());
    this.#clock.after(delayMs, timer.abort.signal).then(
      () => {
        this.#onTimer(timer);
      },
      () => undefined,
    );
  }

  #onTimer(timer: { readonly abort: AbortController }): void {
    if (this.#timer !== timer || timer.abort.signal.aborted) {
      return;
    }
    this.#timer = undefined;
    if (this.#waiter === undefined) {
      return;
    }
    if (this.#clock.elapsed() >= this.#deadline) {
      this.wake('quiet');
    } else {
      this.#setTimer();
    }
  }
}
