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
 * Memory: a socket holds at most `sendBufferBytesMax` plus the frames of one piece (logs/pieces.ts; or one frame, where a single line is larger). It is not
 * pulled for until that has drained, so a client that does not read costs no more than one that does, and loses nothing: its position waits in the subscription.
 */
import type { Socket } from 'node:net';
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

/** Pulls and writes by itself, in the turn in which something came or room was made: of a thousand clients each write is a call, and nothing else. */
class Client {
  readonly #ws: ClientSocket;
  readonly #tcp: Socket;
  readonly #accepted: AcceptedLog;
  readonly #options: LiveOptions;
  readonly #end = Promise.withResolvers<boolean>();
  /** What is to be written when all of it is known; empty but for that moment. */
  #pending: Buffer[] = [];
  #roomBytes = 0;
  /** Of what is pending. */
  #lines = 0;
  #bytes = 0;
  #rest: Rest | undefined;
  #isWaitingForRoom = false;

  constructor(ws: ClientSocket, tcp: Socket, accepted: AcceptedLog, options: LiveOptions) {
    this.#ws = ws;
    this.#tcp = tcp;
    this.#accepted = accepted;
    this.#options = options;
    const goOn = (): void => {
      if (this.#isWaitingForRoom) this.#step();
    };
    tcp.on('drain', goOn);
    tcp.on('close', goOn);
  }

  /** Writes until the end of the log (true), or until the socket is not open any more (false). */
  pump(): Promise<boolean> {
    this.#step();
    return this.#end.promise;
  }

  get #isOpen(): boolean {
    return this.#ws.readyState === openState && this.#tcp.writable;
  }

  /** Writes what can be written now, and sees to it that it is called again. Never throws. */
  readonly #step = (): void => {
    this.#isWaitingForRoom = false;
    try {
      const state = this.#isOpen ? this.#fill() : 'gone';
      if (state === 'gone') this.#end.resolve(false);
      else if (state === 'ended') this.#finish();
      else if (state === 'full') this.#awaitRoom();
      // Something came while we looked.
      else if (this.#accepted.subscription.whenReadable(this.#step)) setImmediate(this.#step);
    } catch (error) {
      this.#end.reject(error);
    }
  };

  /** Writes what there is and what there is room for, as one `writev`. Never waits: a corked socket sends nothing, pings neither. */
  #fill(): 'dry' | 'full' | 'ended' {
    this.#roomBytes = this.#options.limits.sendBufferBytesMax - this.#tcp.writableLength;
    try {
      for (;;) {
        if (this.#roomBytes <= 0 || !this.#isOpen) return 'full';
        if (this.#rest !== undefined) {
          this.#writeRest(this.#rest, this.#roomBytes);
          continue;
        }
        const chunk = this.#accepted.subscription.next();
        if (chunk === undefined) return 'dry';
        this.#take(chunk);
        if (chunk.type === 'end') return 'ended';
      }
    } finally {
      this.#flush();
      this.#count();
    }
  }

  /** Behind the write: nobody waits for what is counted. */
  #count(): void {
    const { metrics } = this.#options;
    if (this.#lines > 0) metrics.linesSent.inc(this.#lines);
    if (this.#bytes > 0) metrics.bytesSent.inc(this.#bytes);
    this.#lines = 0;
    this.#bytes = 0;
  }

  #flush(): void {
    const [first, ...others] = this.#pending;
    if (first === undefined) return;
    this.#pending = [];
    // Mostly it is one batch, and a cork around it costs as much as all the rest.
    if (others.length === 0) {
      this.#tcp.write(first);
      return;
    }
    this.#tcp.cork();
    this.#tcp.write(first);
    for (const bytes of others) this.#tcp.write(bytes);
    this.#tcp.uncork();
  }

  #take(chunk: Chunk): void {
    const { metrics } = this.#options;
    const { format } = this.#accepted;
    if (chunk.type === 'lines') {
      this.#lines += chunk.to - chunk.from;
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
    this.#bytes += bytes.length;
    this.#roomBytes -= bytes.length;
    this.#pending.push(bytes);
  }

  /** Goes on when there is room. At least a turn of the event loop later: with a fast client nothing else here would let others run. */
  #awaitRoom(): void {
    // Above the stream's own high-water mark 'drain' comes, or 'close'.
    if (this.#tcp.writableLength < this.#options.limits.sendBufferBytesMax || !this.#isOpen) setImmediate(this.#step);
    else this.#isWaitingForRoom = true;
  }

  /** Everything is with the kernel when an empty write is called back, after all before it, or the socket has died. */
  #finish(): void {
    this.#tcp.write(Buffer.alloc(0), () => {
      this.#end.resolve(this.#isOpen);
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
