/** Waiting that a signal or a deadline ends, without a listener or a timer left behind. */
import type { Clock } from './clock.ts';

/** Settles as `promise` does; rejects with the signal's reason when it aborts first (the work itself goes on and is no longer looked at). */
export async function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  const { promise: aborted, reject } = Promise.withResolvers<never>();
  const signalOnAbort = (): void => {
    reject(signal.reason as Error);
  };
  promise.catch(() => undefined);
  signal.throwIfAborted();
  signal.addEventListener('abort', signalOnAbort, { once: true });
  try {
    return await Promise.race([promise, aborted]);
  } finally {
    signal.removeEventListener('abort', signalOnAbort);
  }
}

/** Runs `work` with a signal that aborts with any of `signals`; what they held is released when the work ends. */
export async function withSignals<T>(
  signals: readonly (AbortSignal | undefined)[],
  work: (signal: AbortSignal, abort: (reason: Error) => void) => Promise<T>,
): Promise<T> {
  const controller = new AbortController();
  const links = signals.flatMap((signal) => (signal === undefined ? [] : [link(signal, controller)]));
  try {
    return await work(controller.signal, (reason) => {
      controller.abort(reason);
    });
  } finally {
    for (const unlink of links) unlink();
  }
}

/** Aborts `controller` with `signal`; the result undoes that. */
export function link(signal: AbortSignal, controller: AbortController): () => void {
  const signalOnAbort = (): void => {
    controller.abort(signal.reason);
  };
  if (signal.aborted) signalOnAbort();
  signal.addEventListener('abort', signalOnAbort, { once: true });
  return () => {
    signal.removeEventListener('abort', signalOnAbort);
  };
}

export interface Deadline {
  readonly clock: Clock;
  readonly timeoutMs: number;
  readonly signal?: AbortSignal;
  /** What was not done in time, for the message. */
  readonly what: string;
}

/** Runs `work` with a signal that aborts after `timeoutMs`; rejects then even if the work does not listen. */
export async function withDeadline<T>(deadline: Deadline, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const { clock, timeoutMs, what } = deadline;
  return await withSignals([deadline.signal], async (signal, abort) => {
    const finished = new AbortController();
    const timer = clock.after(timeoutMs, finished.signal).then(
      () => {
        abort(new Error(`Cannot ${what}: no result within ${timeoutMs} ms`));
      },
      () => undefined,
    );
    try {
      return await unlessAborted(work(signal), signal);
    } finally {
      finished.abort();
      await timer;
    }
  });
}
