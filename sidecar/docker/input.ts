import { closeSync, constants, fstatSync, openSync } from 'node:fs';
import { Socket } from 'node:net';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { Duplex } from 'node:stream';
import { closed } from './engine.ts';
import type { Engine } from './engine.ts';

const retryMsMin = 50;
const retryMsMax = 2000;

/**
 * The pipe of the shared volume, held open for reading and writing: the sidecar sees that the workload runs, and no end ever comes. What it
 * holds is taken at the pace of the Engine, so a workload that reads nothing fills the pipe, which the sidecar reports.
 */
export class Input {
  readonly #pipe: Socket;
  /** Taken from the pipe, or typed by the launcher, and not yet handed to the Engine. */
  readonly #waiting: Buffer[] = [];
  #wake: (() => void) | undefined;

  private constructor(pipe: Socket) {
    this.#pipe = pipe;
    pipe.on('data', (bytes: Buffer) => {
      pipe.pause();
      this.#waiting.push(bytes);
      this.#wake?.();
    });
    // A fault of the pipe itself ends nothing: the workload goes on without standard input.
    pipe.on('error', () => undefined);
    pipe.pause();
  }

  /** Opens the pipe; the sidecar has made it. Throws if it is missing or no pipe. */
  static open(directory: string): Input {
    const path = join(directory, 'stdin');
    const fd = openSync(path, constants.O_RDWR | constants.O_NONBLOCK | constants.O_NOFOLLOW);
    if (!fstatSync(fd).isFIFO()) {
      closeSync(fd);
      throw new Error(`Cannot open "${path}": it is not a pipe`);
    }
    return new Input(new Socket({ fd, readable: true, writable: false }));
  }

  /** Hands the input to the container until the signal; attaches again when the Engine was away. */
  async run(engine: Engine, container: string, signal: AbortSignal): Promise<void> {
    let waitMs = retryMsMin;
    while (!signal.aborted) {
      try {
        const stream = await engine.attach(container, signal);
        waitMs = retryMsMin;
        await this.#feed(stream, signal);
      } catch {
        // The log copy speaks of an Engine that is away; here it is only tried again.
        waitMs = Math.min(waitMs * 2, retryMsMax);
      }
      await delay(waitMs, undefined, { signal }).catch(() => undefined);
    }
  }

  /** Types one line, before whatever waits in the pipe. */
  type(line: string): void {
    this.#waiting.push(Buffer.from(`${line}\n`));
    this.#wake?.();
  }

  /** From here on the workload does not run. What was not taken is dropped: a successor must not get it. */
  close(): void {
    this.#pipe.destroy();
  }

  async #feed(stream: Duplex, signal: AbortSignal): Promise<void> {
    const stop = new AbortController();
    const end = (): void => {
      stop.abort();
      stream.destroy();
      this.#wake?.();
    };
    stream.on('error', () => undefined);
    stream.resume();
    signal.addEventListener('abort', end);
    void closed(stream).then(end);
    try {
      while (!stop.signal.aborted && !signal.aborted) {
        const bytes = this.#waiting[0];
        if (bytes === undefined) {
          await this.#more();
        } else if (await write(stream, bytes)) {
          this.#waiting.shift();
        }
      }
    } finally {
      signal.removeEventListener('abort', end);
      stream.destroy();
    }
  }

  async #more(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<undefined>();
    this.#wake = () => {
      resolve(undefined);
    };
    this.#pipe.resume();
    await promise;
    this.#wake = undefined;
  }
}

/** Resolves once the socket has taken the bytes; false if it broke before. */
async function write(stream: Duplex, bytes: Buffer): Promise<boolean> {
  const { promise, resolve } = Promise.withResolvers<boolean>();
  const broke = (): void => {
    resolve(false);
  };
  stream.once('close', broke);
  stream.write(bytes, (error) => {
    resolve(error === null || error === undefined);
  });
  const isTaken = await promise;
  stream.off('close', broke);
  return isTaken;
}
