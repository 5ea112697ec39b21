/** The bytes of a log as they arrive: of the body of an answer, or of frames on a connection. */
import type { IncomingMessage } from 'node:http';
import type { Readable } from 'node:stream';
import { ownBytes } from '../runtime/ownbytes.ts';
import { frameHeadBytes, headers } from '../../sidecar/protocol.ts';
import type { Tap } from './tap.ts';

/** More than this, not yet taken, stops the other side; what the connection already holds may come on top. */
const queueBytesMax = 65_536;

interface Waiter {
  resolve(result: IteratorResult<Buffer, undefined>): void;
  reject(error: Error): void;
}

/**
 * What a Readable's own iterator gives, but each piece in the turn of the event loop that brought it: the other takes some turns more for each,
 * a tenth of the time that a line needs from the file to the client. One call of `next` at a time. Throws when what it reads was cut.
 */
abstract class ArrivingBytes implements AsyncIterableIterator<Buffer, undefined> {
  /** Is offered each piece that comes while a `next` waits. True: it was taken, and `next` goes on waiting. */
  onPiece: ((chunk: Buffer) => boolean) | undefined;
  readonly #stream: Readable;
  readonly #queue: Buffer[] = [];
  #queuedBytes = 0;
  #waiter: Waiter | undefined;
  #isFlowing = false;
  #isOver = false;
  #failure: Error | undefined;

  /** Takes nothing before the first `next`. */
  constructor(stream: Readable) {
    this.#stream = stream;
    stream.on('error', (error) => {
      this.finish(error);
    });
    stream.once('close', () => {
      this.finish(new Error('The connection was closed before the answer had ended'));
    });
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  next(): Promise<IteratorResult<Buffer, undefined>> {
    const chunk = this.#queue.shift();
    if (chunk !== undefined) {
      this.#queuedBytes -= chunk.length;
      if (this.#queue.length === 0 && this.#stream.isPaused()) {
        this.#stream.resume();
      }
      return Promise.resolve({ done: false, value: chunk });
    }
    const failure = this.#failure;
    if (failure !== undefined) {
      this.#failure = undefined;
      return Promise.reject(failure);
    }
    if (this.#isOver) {
      return Promise.resolve({ done: true, value: undefined });
    }
    const { promise, resolve, reject } = Promise.withResolvers<IteratorResult<Buffer, undefined>>();
    this.#waiter = { resolve, reject };
    if (!this.#isFlowing) {
      this.#isFlowing = true;
      this.flow();
    }
    return promise;
  }

  return(): Promise<IteratorResult<Buffer, undefined>> {
    this.#stream.destroy();
    return Promise.resolve({ done: true, value: undefined });
  }

  /** What has come. */
  protected abstract take(data: Buffer): void;

  /** Gives a piece of the log to whoever waits for it. */
  protected give(chunk: Buffer): void {
    const waiter = this.#waiter;
    if (waiter !== undefined) {
      if (this.onPiece?.(chunk) === true) {
        return;
      }
      this.#waiter = undefined;
      waiter.resolve({ done: false, value: chunk });
      return;
    }
    this.#queue.push(chunk);
    this.#queuedBytes += chunk.length;
    if (this.#queuedBytes > queueBytesMax) {
      this.#stream.pause();
    }
  }

  /** Undefined: that was all. Only the first call counts. */
  protected finish(failure: Error | undefined): void {
    if (this.#isOver) {
      return;
    }
    this.#isOver = true;
    const waiter = this.#waiter;
    this.#waiter = undefined;
    if (failure === undefined) {
      waiter?.resolve({ done: true, value: undefined });
    } else if (waiter === undefined) {
      this.#failure = failure;
    } else {
      waiter.reject(failure);
    }
  }

  /** Has everything that comes from now on given to `take`. Called once. */
  protected flow(): void {
    this.#stream.on('data', (data: Buffer) => {
      this.take(data);
    });
  }
}

/** The body of an answer. */
export class BodyBytes extends ArrivingBytes {
  readonly #response: IncomingMessage;

  constructor(response: IncomingMessage) {
    super(response);
    this.#response = response;
    response.once('end', () => {
      this.finish(undefined);
    });
  }

  /** Why the log ended; undefined before, and where it was cut. */
  get reason(): string | undefined {
    return this.#response.complete ? this.#response.trailers[headers.endReason] : undefined;
  }

  protected override take(data: Buffer): void {
    this.give(data);
  }
}

/** The frames of a connection that was changed to them, as sidecar/PROTOCOL.md describes them. */
export class FrameBytes extends ArrivingBytes {
  /** Of the frame that has begun, what is still to come. */
  #frameBytes = 0;
  /** The beginning of a head, or of the end, that has not come as a whole. */
  #rest: Buffer | undefined;
  #reason: string | undefined;
  readonly #tap: Tap | undefined;

  /** `head`: what came with the answer's headers. `tap`: a shorter way for what comes, where there is one. */
  constructor(connection: Readable, head: Buffer, tap?: Tap) {
    super(connection);
    this.#tap = tap;
    connection.once('end', () => {
      this.finish(new Error('The connection was ended before the log was'));
    });
    // Whatever has been pushed back comes first.
    if (head.length > 0) {
      connection.unshift(head);
    }
  }

  /** Why the log ended; undefined before, and where it was cut. */
  get reason(): string | undefined {
    return this.#reason;
  }

  protected override flow(): void {
    if (this.#tap === undefined) {
      super.flow();
      return;
    }
    this.#tap.open((data) => {
      this.take(data);
    });
  }

  protected override take(data: Buffer): void {
    let bytes = data;
    if (this.#rest !== undefined) {
      bytes = ownBytes([this.#rest, data]);
      this.#rest = undefined;
    }
    let at = 0;
    while (at < bytes.length && this.#reason === undefined) {
      if (this.#frameBytes > 0) {
        const end = Math.min(at + this.#frameBytes, bytes.length);
        this.#frameBytes -= end - at;
        this.give(bytes.subarray(at, end));
        at = end;
        continue;
      }
      const next = this.#enterFrame(bytes, at);
      if (next === undefined) {
        this.#rest = Buffer.from(bytes.subarray(at));
        return;
      }
      at = next;
    }
  }

  /** Where what follows the head begins; undefined if the head, or the end, is not there as a whole. */
  #enterFrame(bytes: Buffer, at: number): number | undefined {
    const from = at + frameHeadBytes;
    if (from > bytes.length) {
      return undefined;
    }
    this.#frameBytes = bytes.readUInt32BE(at);
    if (this.#frameBytes > 0) {
      return from;
    }
    const end = from + 1 + (bytes[from] ?? Infinity);
    if (end > bytes.length) {
      return undefined;
    }
    this.#reason = bytes.toString('latin1', from + 1, end);
    this.finish(undefined);
    return end;
  }
}
