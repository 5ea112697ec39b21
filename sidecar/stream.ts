/**
 * Sends the log to one reader, at the reader's pace. What was just written goes out in the very turn of the event loop that learned of it, with
 * nothing awaited between the look at the file and the write; a backlog is read piece by piece, the next when the last has gone to the kernel.
 */
import type { LogBody } from './body.ts';
import { ReclaimedError } from './log.ts';
import type { LogFile } from './log.ts';
import { limits } from './protocol.ts';
import type { EndReason } from './protocol.ts';

/** A backlog is read and sent in pieces of this size; each reader owns one such buffer while it is behind. */
const backlogChunkBytes = 131_072;
/** Closer to the end than this, what is there is read and sent at once, as long as the reader takes it. */
const liveBytesMax = 16_384;

export interface LogStream {
  readonly log: LogFile;
  readonly body: LogBody;
  readonly offset: number;
  /** Where to stop; undefined follows. */
  readonly endOffset: number | undefined;
  /** Where the body must end because the workload was started anew there; Infinity while it was not. */
  readonly boundary: () => number;
  readonly onSent: (bytes: number) => void;
  /** Called when everything that is there is with the kernel. */
  readonly onCaughtUp: () => void;
}

/** Sends the log from an offset on. Returns why it ended; undefined if the reader went away. */
export async function sendLog(stream: LogStream, signal: AbortSignal): Promise<EndReason | undefined> {
  return await new LogSender(stream, signal).run();
}

/** What is to be done next: send as far as `to`, end, or (undefined) wait. */
type Step = { readonly to: number } | { readonly end: EndReason } | undefined;

class LogSender {
  readonly #stream: LogStream;
  readonly #signal: AbortSignal;
  readonly #epoch: string;
  readonly #ended = Promise.withResolvers<EndReason | undefined>();
  /** Handed to the connection so far. */
  #offset: number;
  /** With the kernel so far. */
  #sentOffset: number;
  /** A backlog is being sent, or the reader has enough to take; whoever does that goes on by itself. */
  #isBusy = false;
  /** Nothing may follow while the trailer is on its way. */
  #isEnded = false;

  constructor(stream: LogStream, signal: AbortSignal) {
    this.#stream = stream;
    this.#signal = signal;
    this.#epoch = stream.log.epoch;
    this.#offset = stream.offset;
    this.#sentOffset = stream.offset;
  }

  async run(): Promise<EndReason | undefined> {
    const advance = (): void => {
      this.#advance();
    };
    const stop = this.#stream.log.file.follow(advance);
    const leave = (): void => {
      this.#ended.resolve(undefined);
    };
    this.#signal.addEventListener('abort', leave);
    if (this.#signal.aborted) {
      leave();
    }
    this.#advance();
    try {
      return await this.#ended.promise;
    } finally {
      stop();
      this.#signal.removeEventListener('abort', leave);
    }
  }

  /** Sends what there is. Never throws: it runs inside the look at the file, which has other readers. */
  #advance(): void {
    if (this.#isBusy || this.#isEnded || this.#signal.aborted) {
      return;
    }
    try {
      for (let step = this.#next(); step !== undefined; step = this.#next()) {
        if ('end' in step) {
          this.#end(step.end);
          return;
        }
        if (step.to - this.#offset > liveBytesMax || this.#stream.body.isFull) {
          void this.#sendPieces(step.to);
          return;
        }
        if (!this.#sendNow(step.to)) {
          return;
        }
      }
    } catch (error) {
      this.#fail(error);
    }
  }

  #next(): Step {
    const { log, endOffset } = this.#stream;
    if (log.epoch !== this.#epoch) {
      return { end: 'replaced' };
    }
    // The end first: whoever wrote below it had noted its start before.
    const limit = endOffset ?? log.end;
    const boundary = this.#stream.boundary();
    const to = Math.min(limit, boundary);
    if (this.#offset < to) {
      return { to };
    }
    this.#noteCaughtUp();
    if (this.#offset >= boundary) {
      return { end: 'restarted' };
    }
    if (endOffset !== undefined) {
      return { end: 'complete' };
    }
    return log.isEnded ? { end: 'stopping' } : undefined;
  }

  /** What was written a moment ago. False: there is nothing to be had there now, and the file is about to say why. */
  #sendNow(to: number): boolean {
    const { log, body } = this.#stream;
    const { headBytes } = body;
    const bytes = Buffer.allocUnsafe(headBytes + to - this.#offset);
    const length = log.readNow(headBytes === 0 ? bytes : bytes.subarray(headBytes), this.#offset);
    if (length === 0) {
      return false;
    }
    const end = headBytes + length;
    body.write(end === bytes.length ? bytes : bytes.subarray(0, end), () => {
      this.#onSent(length);
    });
    this.#offset += length;
    return true;
  }

  async #sendPieces(to: number): Promise<void> {
    this.#isBusy = true;
    try {
      await this.#sendBacklog(to);
    } catch (error) {
      this.#fail(error);
    }
    this.#isBusy = false;
    this.#advance();
  }

  async #sendBacklog(to: number): Promise<void> {
    const { log, body } = this.#stream;
    const { headBytes } = body;
    const buffer = Buffer.allocUnsafeSlow(headBytes + Math.min(backlogChunkBytes, to - this.#offset));
    while (this.#offset < to && !this.#signal.aborted) {
      const room = buffer.subarray(headBytes, headBytes + to - this.#offset);
      const length = await log.read(room, this.#offset);
      // Truncated under us: what was read is not what was asked for.
      if (length === 0 || log.epoch !== this.#epoch) {
        return;
      }
      await writePiece(body, buffer.subarray(0, headBytes + length), this.#signal);
      this.#offset += length;
      this.#onSent(length);
    }
  }

  #onSent(bytes: number): void {
    this.#sentOffset += bytes;
    this.#stream.onSent(bytes);
    this.#noteCaughtUp();
  }

  #noteCaughtUp(): void {
    const { log, endOffset, onCaughtUp } = this.#stream;
    if (this.#sentOffset >= (endOffset ?? log.end)) {
      onCaughtUp();
    }
  }

  #end(reason: EndReason): void {
    this.#isEnded = true;
    this.#ended.resolve(reason);
  }

  #fail(error: unknown): void {
    if (error instanceof ReclaimedError) {
      this.#end('reclaimed');
    } else {
      this.#isEnded = true;
      this.#ended.reject(error);
    }
  }
}

/** Resolves when the kernel has the bytes, so that the buffer may be used again. A reader that takes nothing for long is cut off. */
async function writePiece(body: LogBody, bytes: Buffer, signal: AbortSignal): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<undefined>();
  const done = (): void => {
    resolve(undefined);
  };
  const timer = setTimeout(() => {
    body.destroy();
  }, limits.stallTimeoutMs);
  signal.addEventListener('abort', done);
  body.write(bytes, done);
  await promise;
  clearTimeout(timer);
  signal.removeEventListener('abort', done);
}
