/** Waiting until this replica's own cache shows what a call has just written, so that the next read of the same client shows it too. */
import type { Timers } from '../ports.ts';

export interface Settling {
  /** Calls back for changes. Returns a function that ends it. */
  readonly onChange: (listener: () => void) => () => void;
  readonly isSettled: () => boolean;
  readonly timeoutMs: number;
  readonly clock: Timers;
}

/** Whether it was settled in time. Never rejects. */
export async function untilSettled({ onChange, isSettled, timeoutMs, clock }: Settling): Promise<boolean> {
  if (isSettled()) return true;
  const { promise, resolve } = Promise.withResolvers<boolean>();
  const stop = onChange(() => {
    if (isSettled()) resolve(true);
  });
  const cancel = clock.after(timeoutMs, () => {
    resolve(isSettled());
  });
  try {
    return await promise;
  } finally {
    cancel();
    stop();
  }
}
