import { once } from 'node:events';
import { closeSync, constants, fstatSync, openSync, readSync, watch } from 'node:fs';
import type { FSWatcher } from 'node:fs';
import { Socket } from 'node:net';
import { join } from 'node:path';
import type { Writable } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';

const chunkBytes = 65_536;
const pollMs = 500;
const stepMs = 20;

/**
 * Copies the log to the launcher's own standard output: a reader of its own, so if nobody takes the output it waits, and the workload
 * does not.
 */
export class Mirror {
  readonly #fd: number;
  readonly #path: string;
  readonly #output: Writable;
  #at: number;

  /** Copies what is written from this offset on. */
  constructor(directory: string, offset: number, output: Writable = openOutput()) {
    this.#path = join(directory, 'log');
    this.#fd = openSync(this.#path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    this.#at = offset;
    this.#output = output;
    output.on('error', () => undefined);
  }

  async run(signal: AbortSignal): Promise<void> {
    let wake: (() => void) | undefined;
    const watcher = watchFile(this.#path, () => wake?.());
    const timer = setInterval(() => wake?.(), pollMs);
    signal.addEventListener('abort', () => wake?.());
    while (!signal.aborted && !this.#output.destroyed) {
      const changed = new Promise<void>((resolve) => {
        wake = resolve;
      });
      if (!(await this.#copySome(signal))) {
        await changed;
      }
    }
    watcher?.close();
    clearInterval(timer);
    closeSync(this.#fd);
  }

  /** Waits until the output has everything, it has not got on for `quietMs`, or `timeoutMs` are over. */
  async settle(quietMs: number, timeoutMs: number): Promise<void> {
    const isDone = (): boolean => this.#at >= fstatSync(this.#fd).size && this.#output.writableLength === 0;
    const deadline = Date.now() + timeoutMs;
    let [seen, movedAtMs] = [-1, Date.now()];
    while (!isDone() && Date.now() < Math.min(deadline, movedAtMs + quietMs) && !this.#output.destroyed) {
      await delay(stepMs);
      const taken = this.#at - this.#output.writableLength;
      if (taken !== seen) [seen, movedAtMs] = [taken, Date.now()];
    }
  }

  async #copySome(signal: AbortSignal): Promise<boolean> {
    const bytes = Buffer.alloc(chunkBytes);
    const length = readSync(this.#fd, bytes, 0, chunkBytes, this.#at);
    if (length === 0) {
      return false;
    }
    this.#at += length;
    if (!this.#output.write(bytes.subarray(0, length))) {
      await once(this.#output, 'drain', { signal }).catch(() => undefined);
    }
    return true;
  }
}

/** Undefined where the node's watches are used up: the timer alone must do. */
function watchFile(path: string, onEvent: () => void): FSWatcher | undefined {
  try {
    return watch(path, onEvent);
  } catch {
    return undefined;
  }
}

/** A pipe that does not block; Node's own standard output for anything else. */
function openOutput(): Writable {
  return fstatSync(1).isFIFO() || fstatSync(1).isSocket()
    ? new Socket({ fd: 1, readable: false, writable: true })
    : process.stdout;
}
