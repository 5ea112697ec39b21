/**
 * One client of a live log: a WebSocket that pulls from a subscription.
 *
 * Log frames do not go through `ws.send`. They come from the hub ready-made and shared, and are written to the TCP socket as they are, many in one
 * write. That this mixes safely with the frames that ws writes on its own (ping, pong, close) rests on three facts:
 * - Every write here ends at a frame boundary, and so does every write of ws: it makes a control frame and hands it to `socket.write` in the
 *   same turn (it queues frames only while it compresses or reads a Blob; compression is off and nothing is sent through `ws.send`).
 * - `socket.write` keeps order, and nothing else writes to the socket.
 * - After ws has written a close frame its `readyState` is not OPEN, and nothing is written here any more.
 *
 * Memory: a socket holds at most `sendBufferBytesMax` plus one batch (or one frame, where a single line is larger). It is not pulled for until
 * that has drained, so a client that does not read costs no more than one that does, and loses nothing: its position waits in the subscription.
 */
import type { Socket } from 'node:net';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { OperatorError, messageOf } from '../errors.ts';
import type { Logger } from '../log.ts';
import type { Chunk } from '../logs/subscription.ts';
import type { Metrics } from '../metrics.ts';
import { encodeEvent, encoderFor, frameBoundary } from './frames.ts';
import type { Limits } from './ports.ts';
import type { ClientSocket } from './sockets.ts';
import { openState } from './sockets.ts';
import type { AcceptedLog } from './upgrade.ts';

export interface LiveOptions {
  readonly limits: Limits;
  readonly log: Logger;
  readonly metrics: Metrics;
}

/** Longest reason that fits a close frame. */
const reasonBytesMax = 123;

/** Serves the client until the log ends, the client goes, or the socket is closed from elsewhere. Never rejects. */
export async function serveLive(
  ws: ClientSocket,
  tcp: Socket,
  accepted: AcceptedLog,
  options: LiveOptions,
): Promise<void> {
  const { slot, subscription } = accepted;
  ws.on('error', ignoreClientFault);
  const client = new Client(ws, tcp, accepted, options);
  slot.attach(ws, tcp);
  try {
    if (await client.pump()) {
      slot.close({ code: 1000, reason: 'instance stopped', cause: 'stopped', isPatient: true });
    }
  } catch (error) {
    const { code, reason } = closingFor(error, options.log);
    slot.close({ code, reason, cause: 'fault', isPatient: false });
  } finally {
    subscription.close();
  }
}

/** Encoded lines that are not all written yet. */
interface Rest {
  readonly bytes: Buffer;
  position: number;
}

class Client {
  readonly #ws: ClientSocket;
  readonly #tcp: Socket;
  readonly #accepted: AcceptedLog;
  readonly #options: LiveOptions;
  #rest: Rest | undefined;
  #wake: (() => void) | undefined;

  constructor(ws: ClientSocket, tcp: Socket, accepted: AcceptedLog, options: LiveOptions) {
    this.#ws = ws;
    this.#tcp = tcp;
    this.#accepted = accepted;
    this.#options = options;
    const wake = (): void => {
      this.#wake?.();
    };
    tcp.on('drain', wake);
    tcp.on('close', wake);
  }

  /** Writes until the end of the log (true), or until the socket is not open any more (false). */
  async pump(): Promise<boolean> {
    while (this.#isOpen) {
      switch (this.#fill()) {
        case 'dry':
          await this.#accepted.subscription.readable();
          break;
        case 'full':
          await this.#room();
          break;
        case 'ended':
          await this.#flushed();
          return this.#isOpen;
      }
    }
    return false;
  }

  get #isOpen(): boolean {
    return this.#ws.readyState === openState && this.#tcp.writable;
  }

  /** Writes what there is and what there is room for, as one `writev`. Never waits: a corked socket sends nothing, pings neither. */
  #fill(): 'dry' | 'full' | 'ended' {
    this.#tcp.cork();
    try {
      for (;;) {
        const roomBytes = this.#options.limits.sendBufferBytesMax - this.#tcp.writableLength;
        if (roomBytes <= 0 || !this.#isOpen) return 'full';
        if (this.#rest !== undefined) {
          this.#writeRest(this.#rest, roomBytes);
          continue;
        }
        const chunk = this.#accepted.subscription.next();
        if (chunk === undefined) return 'dry';
        this.#take(chunk);
        if (chunk.type === 'end') return 'ended';
      }
    } finally {
      this.#tcp.uncork();
    }
  }

  #take(chunk: Chunk): void {
    const { metrics } = this.#options;
    const { format } = this.#accepted;
    if (chunk.type === 'lines') {
      metrics.linesSent.inc(chunk.to - chunk.from);
      this.#rest = { bytes: chunk.encoded(encoderFor(format)), position: 0 };
      return;
    }
    const bytes = encodeEvent(format, chunk);
    if (bytes === undefined) return;
    metrics.eventsSent.inc({ type: chunk.type });
    this.#write(bytes);
  }

  #writeRest(rest: Rest, roomBytes: number): void {
    const end = frameBoundary(rest.bytes, rest.position, roomBytes);
    this.#write(rest.bytes.subarray(rest.position, end));
    rest.position = end;
    if (end === rest.bytes.length) this.#rest = undefined;
  }

  #write(bytes: Buffer): void {
    if (bytes.length === 0) return;
    this.#options.metrics.bytesSent.inc(bytes.length);
    this.#tcp.write(bytes);
  }

  /** There is room again. At least a turn of the event loop: with a fast client nothing else here would let others run. */
  async #room(): Promise<void> {
    if (this.#tcp.writableLength < this.#options.limits.sendBufferBytesMax) {
      await nextTurn();
      return;
    }
    // Above the stream's own high-water mark, so 'drain' comes, or 'close'.
    if (!this.#isOpen) return;
    await new Promise<void>((resolve) => {
      this.#wake = resolve;
    });
    this.#wake = undefined;
  }

  /** Everything is with the kernel. An empty write is called back after all before it, or when the socket dies. */
  async #flushed(): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#tcp.write(Buffer.alloc(0), () => {
        resolve();
      });
    });
  }
}

/** A frame too big, not UTF-8 or against the protocol: ws has closed with the right code, and the stream's end is seen in `pump`. */
function ignoreClientFault(): void {
  // Nothing is left to do.
}

function closingFor(error: unknown, log: Logger): { code: number; reason: string } {
  if (!(error instanceof OperatorError)) {
    log.error({ err: error }, 'Live log failed');
    return { code: 1011, reason: 'internal error' };
  }
  return { code: error.closeCode, reason: cutReason(messageOf(error)) };
}

/** At most `reasonBytesMax` bytes, cut at a character boundary. */
function cutReason(reason: string): string {
  const bytes = Buffer.from(reason, 'utf8');
  if (bytes.length <= reasonBytesMax) return reason;
  let end = reasonBytesMax;
  while (((bytes[end] ?? 0) & 0xc0) === 0x80) end--;
  return bytes.toString('utf8', 0, end);
}
