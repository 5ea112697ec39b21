/** Time as an argument: everything that waits or looks at a clock takes one of these, so that a test can move it. */
export interface Clock {
  /** Wall-clock milliseconds since 1970; may jump. For time stamps that others read. */
  now(): number;
  /** Milliseconds since some fixed moment; never jumps or goes back. For durations and deadlines. */
  elapsed(): number;
  /** Resolves after `ms`; rejects with the signal's reason once it aborts, and leaves no timer behind. */
  after(ms: number, signal?: AbortSignal): Promise<void>;
}

/** Longer delays wrap around in Node and would fire at once. */
const timerDelayMsMax = 2 ** 31 - 1;

/** The machine's own clock. */
export const systemClock: Clock = {
  now: () => Date.now(),
  elapsed: () => performance.now(),
  after: waitFor,
};

async function waitFor(ms: number, signal?: AbortSignal): Promise<void> {
  signal?.throwIfAborted();
  const { promise, resolve, reject } = Promise.withResolvers<undefined>();
  const timer = setTimeout(
    () => {
      resolve(undefined);
    },
    Math.min(Math.max(ms, 0), timerDelayMsMax),
  );
  const signalOnAbort = (): void => {
    reject(signal?.reason as Error);
  };
  signal?.addEventListener('abort', signalOnAbort, { once: true });
  try {
    await promise;
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener('abort', signalOnAbort);
  }
}

/** Kubernetes' MicroTime: exactly six digits. */
export function toMicroTime(nowMs: number): string {
  return new Date(nowMs).toISOString().replace('Z', '000Z');
}
