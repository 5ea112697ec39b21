/** The two ways in which a log goes to its reader (PROTOCOL.md): the body of an HTTP answer, or frames on the bare connection. */
import type { EventEmitter } from 'node:events';
import type { ServerResponse } from 'node:http';
import type { Duplex } from 'node:stream';
import { frameHeadBytes, headers } from './protocol.ts';
import type { EndReason } from './protocol.ts';

export interface LogBody {
  /** Room that `write` needs in front of the bytes. */
  readonly headBytes: number;
  /** The reader has enough to take: what is written now waits in memory. */
  readonly isFull: boolean;
  /** Sends `buffer` but for its first `headBytes`, which it fills. The buffer is free again, and the kernel has the bytes, when `onSent` is called. */
  write(buffer: Buffer, onSent: () => void): void;
  /** Says why nothing follows. Resolves when the kernel has all of it, or the reader is gone. */
  end(reason: EndReason): Promise<void>;
  /** Cuts the connection. */
  destroy(): void;
  /** Calls back once the reader is gone. */
  onClose(run: () => void): void;
}

/** For whoever asks by plain HTTP; the reason is a trailer. */
export class AnswerBody implements LogBody {
  readonly headBytes = 0;
  readonly #response: ServerResponse;

  constructor(response: ServerResponse) {
    this.#response = response;
  }

  get isFull(): boolean {
    return this.#response.writableNeedDrain;
  }

  write(buffer: Buffer, onSent: () => void): void {
    this.#response.write(buffer, onSent);
  }

  async end(reason: EndReason): Promise<void> {
    this.#response.addTrailers({ [headers.endReason]: reason });
    await endOf(this.#response, (done) => this.#response.end(done));
  }

  destroy(): void {
    this.#response.destroy();
  }

  onClose(run: () => void): void {
    this.#response.once('close', run);
  }
}

/** For whoever has asked for it: one write to the connection a piece, where an answer of HTTP takes three and a turn of the event loop. */
export class FrameBody implements LogBody {
  readonly headBytes = frameHeadBytes;
  readonly #socket: Duplex;

  constructor(socket: Duplex) {
    this.#socket = socket;
  }

  get isFull(): boolean {
    return this.#socket.writableNeedDrain;
  }

  write(buffer: Buffer, onSent: () => void): void {
    buffer.writeUInt32BE(buffer.length - frameHeadBytes, 0);
    this.#socket.write(buffer, onSent);
  }

  async end(reason: EndReason): Promise<void> {
    const last = Buffer.alloc(frameHeadBytes + 1 + reason.length);
    last[frameHeadBytes] = reason.length;
    last.write(reason, frameHeadBytes + 1, 'latin1');
    await endOf(this.#socket, (done) => this.#socket.end(last, done));
  }

  destroy(): void {
    this.#socket.destroy();
  }

  onClose(run: () => void): void {
    this.#socket.once('close', run);
  }
}

/** Before it resolves, the reader counts as one, and the sidecar does not end. */
async function endOf(stream: EventEmitter, end: (done: () => void) => void): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<undefined>();
  const done = (): void => {
    resolve(undefined);
  };
  stream.once('close', done);
  end(done);
  await promise;
}
