/** A reader of a log source that takes lines directly, as the hub does, and gives them in the order in which they came, whichever way that was. */
import type { LogBatch, LogEvent, LogSource, Start } from '../logs/source.ts';

/** Holds one batch at most that came directly. */
export async function* openDirectly(source: LogSource, start: Start, signal: AbortSignal): AsyncGenerator<LogEvent> {
  const taken: LogBatch[] = [];
  let isWaiting = false;
  let wake = (): void => undefined;
  const iterator = source
    .open(start, signal, {
      get isReady() {
        return isWaiting && taken.length === 0;
      },
      take(batch) {
        taken.push(batch);
        wake();
      },
    })
    [Symbol.asyncIterator]();
  let pending: Promise<IteratorResult<LogEvent>> | undefined;
  try {
    for (;;) {
      isWaiting = true;
      pending ??= iterator.next().finally(() => {
        isWaiting = false;
      });
      const { promise: woken, resolve } = Promise.withResolvers<undefined>();
      wake = () => {
        resolve(undefined);
      };
      const next: IteratorResult<LogEvent> | undefined = await Promise.race([pending, woken]);
      yield* taken.splice(0);
      if (next === undefined) continue;
      pending = undefined;
      if (next.done === true) return;
      yield next.value;
    }
  } finally {
    await iterator.return?.();
  }
}
