/**
 * Bytes of a connection past its Readable. Node reads into one buffer then, the same for all connections, and calls back in the turn that brought them
 * (`onread` of `net.Socket`), in place of a new buffer of 64 KiB and an event for each read. Until it is opened it feeds the Readable, for HTTP.
 *
 * `pause()` and `resume()` of the socket stop and start the reading, as they do without it.
 */
import type { OnReadOpts } from 'node:net';
import type { Readable } from 'node:stream';
import { ownBytes } from '../runtime/ownbytes.ts';

/** What is in it is copied before anything else is read. */
const readBuffer = Buffer.allocUnsafeSlow(65_536);

export class Tap {
  #socket: Readable | undefined;
  #take: ((bytes: Buffer) => void) | undefined;

  /** An option of the connection. */
  readonly onread: OnReadOpts = {
    buffer: readBuffer,
    callback: (length, buffer) => {
      const bytes = ownBytes([buffer.subarray(0, length)]);
      if (this.#take === undefined) return this.#socket?.push(bytes) === true;
      this.#take(bytes);
      return true;
    },
  };

  /** The connection that `onread` was given to. Before anything is read. */
  attach(socket: Readable): void {
    this.#socket = socket;
  }

  /** What has come and was not read yet, and everything that comes from now on, is given to `take`. What it throws ends the process. */
  open(take: (bytes: Buffer) => void): void {
    const socket = this.#socket;
    if (socket === undefined) throw new Error('Nothing is attached to the tap');
    for (;;) {
      const bytes = socket.read() as Buffer | null;
      if (bytes === null) break;
      take(bytes);
    }
    this.#take = take;
    socket.resume();
  }
}
