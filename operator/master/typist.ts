/**
 * Types lines into the standard input of programs, whatever their runtime.
 *
 *   type(uid, line) -> the instance's queue -> one batch at a time -> StdinWriter (the sidecar, or an attach)
 *
 * What comes while a batch is under way waits and goes as the next one, so that ten thousand lines cost some hundred calls and none overtakes
 * another. A batch that fails is never sent again: a line that was typed twice may do twice what it says.
 */
import { OperatorError } from '../errors.ts';

/** The one way to a program's standard input; the REST call and the console share it. */
export interface Typist {
  /**
   * Resolves when the line, which has no line end and no control characters, was handed over. Lines of one instance are typed in the order of
   * the calls. Rejects with an `OperatorError` (`NOT_RUNNING`, `STDIN_…`); with the signal's reason when it aborts while the line still waits.
   */
  type(instanceUid: string, line: string, signal?: AbortSignal): Promise<void>;
}

/** Writes whole lines, each with its line end. Rejects with a `StdinFault`, or an `OperatorError` where nothing was written. */
export type StdinWriter = (instanceUid: string, lines: Uint8Array) => Promise<void>;

/** A batch of which only the first `linesWritten` lines were taken. */
export class StdinFault extends Error {
  readonly linesWritten: number;
  readonly fault: OperatorError;

  constructor(linesWritten: number, fault: OperatorError) {
    super(fault.message, { cause: fault });
    this.name = 'StdinFault';
    this.linesWritten = linesWritten;
    this.fault = fault;
  }
}

export const typistLimits = {
  /** Lines that may wait for one instance, those under way not counted. */
  waitingMax: 256,
  /** Bytes of one batch; what a sidecar takes at once is four times that. */
  batchBytesMax: 64 * 1024,
} as const;

interface Waiting {
  readonly bytes: Buffer;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

interface Queue {
  waiting: Waiting[];
}

/** Holds nothing of an instance for which nothing waits. */
export function createTypist(
  write: StdinWriter,
  limits: { readonly [K in keyof typeof typistLimits]: number } = typistLimits,
): Typist {
  const queues = new Map<string, Queue>();
  return {
    async type(instanceUid, line, signal) {
      signal?.throwIfAborted();
      const queue = queues.get(instanceUid) ?? { waiting: [] };
      if (queue.waiting.length >= limits.waitingMax) {
        throw new OperatorError(
          'STDIN_OVERLOADED',
          `Cannot type: ${queue.waiting.length} commands are waiting already`,
        );
      }
      const done = enqueue(queue, line, signal);
      if (!queues.has(instanceUid)) {
        queues.set(instanceUid, queue);
        void drain(queue, (lines) => write(instanceUid, lines), limits.batchBytesMax).finally(() =>
          queues.delete(instanceUid),
        );
      }
      await done;
    },
  };
}

async function enqueue(queue: Queue, line: string, signal: AbortSignal | undefined): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<undefined>();
  const entry: Waiting = {
    bytes: Buffer.from(`${line}\n`),
    resolve: () => {
      resolve(undefined);
    },
    reject,
  };
  const signalOnAbort = (): void => {
    const index = queue.waiting.indexOf(entry);
    // Once it is on its way it cannot be taken back.
    if (index >= 0) {
      queue.waiting.splice(index, 1);
      reject(signal?.reason as Error);
    }
  };
  queue.waiting.push(entry);
  signal?.addEventListener('abort', signalOnAbort, { once: true });
  try {
    await promise;
  } finally {
    signal?.removeEventListener('abort', signalOnAbort);
  }
}

/** Batch after batch, until nothing waits. Never rejects. */
async function drain(queue: Queue, write: (lines: Uint8Array) => Promise<void>, bytesMax: number): Promise<void> {
  while (queue.waiting.length > 0) {
    const batch = takeBatch(queue, bytesMax);
    try {
      await write(Buffer.concat(batch.map(({ bytes }) => bytes)));
      batch.forEach(({ resolve }) => {
        resolve();
      });
    } catch (error) {
      fail(batch, error);
    }
  }
}

function takeBatch(queue: Queue, bytesMax: number): Waiting[] {
  let [count, size] = [0, 0];
  for (const { bytes } of queue.waiting) {
    size += bytes.length;
    if (count > 0 && size > bytesMax) {
      break;
    }
    count += 1;
  }
  return queue.waiting.splice(0, count);
}

function fail(batch: readonly Waiting[], error: unknown): void {
  const [linesWritten, reason] = error instanceof StdinFault ? [error.linesWritten, error.fault] : [0, error];
  batch.forEach(({ resolve, reject }, index) => {
    if (index < linesWritten) {
      resolve();
    } else {
      reject(reason);
    }
  });
}
