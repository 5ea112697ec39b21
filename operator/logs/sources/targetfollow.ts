/** What every source does that follows an instance from pod to pod: it wakes up when the target changes, and ends with its reader. */
import { messageOf } from '../../errors.ts';
import type { Logger } from '../../log.ts';
import type { LogEvent, Start } from '../source.ts';
import type { LogTarget, TargetWatch } from '../target.ts';
import type { SourceObserver } from './kubernetes.ts';
import type { Timer } from './podlog.ts';

export interface TargetFollowOptions {
  readonly target: TargetWatch;
  readonly clock: Timer;
  readonly log: Logger;
  readonly observer?: SourceObserver | undefined;
  /** The reader's. */
  readonly signal: AbortSignal;
  /** Whatever else waits looks anew. */
  readonly onChange: () => void;
}

export class TargetFollow {
  /** Aborts when the reader has gone, or `run` is over. */
  readonly signal: AbortSignal;
  readonly #options: TargetFollowOptions;
  readonly #stop = new AbortController();
  #wake: (() => void) | undefined;

  constructor(options: TargetFollowOptions) {
    this.#options = options;
    this.signal = AbortSignal.any([options.signal, this.#stop.signal]);
  }

  /** Gives the events of `pods` until they or the reader end. Nothing but `end` where nothing new can come and nothing old was asked for. */
  async *run(start: Start, pods: AsyncIterable<LogEvent>): AsyncGenerator<LogEvent> {
    if ('tail' in start && start.tail === 0 && this.#options.target.current().isFinished) {
      yield { type: 'end' };
      return;
    }
    void this.#watch();
    try {
      for await (const event of pods) {
        if (event.type === 'gap') {
          this.#options.observer?.gap?.(event.cause);
        }
        yield event;
      }
    } catch (error) {
      if (!this.signal.aborted) {
        throw error;
      }
    } finally {
      this.#stop.abort();
    }
  }

  /** A changed target cuts it short; returns at once if it is no longer the one that was acted on. */
  async sleep(delayMs: number, seen: LogTarget): Promise<void> {
    if (this.#options.target.current() !== seen) {
      return;
    }
    const woken = new AbortController();
    this.#wake = () => {
      woken.abort();
    };
    try {
      await this.#options.clock.after(delayMs, AbortSignal.any([this.signal, woken.signal]));
    } catch {
      // Woken early or stopped: the loop looks for itself.
    } finally {
      this.#wake = undefined;
    }
  }

  async #watch(): Promise<void> {
    const { target, onChange, log } = this.#options;
    try {
      for (let seen = target.current(); !this.signal.aborted;) {
        seen = await target.changed(seen, this.signal);
        this.#wake?.();
        onChange();
      }
    } catch (error) {
      if (!this.signal.aborted) {
        log.error({ cause: messageOf(error) }, 'Cannot watch the log target any more');
      }
    }
  }
}

/** The instance is finished and its pod is gone: what followed a position in one of its pods (0: before the first) cannot be had any more. */
export function* endWithoutPod(podSequence: number): Generator<LogEvent> {
  if (podSequence > 0) {
    yield { type: 'gap', lines: undefined, cause: 'pod-deleted' };
  }
  yield { type: 'end' };
}
