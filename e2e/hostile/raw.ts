/** A connection of somebody who means no good: bytes are sent as they are, and what matters of the answer is how it ends. */
import { randomBytes } from 'node:crypto';
import { connect } from 'node:net';
import type { Socket } from 'node:net';

/** The Master that is attacked, and what its attacker has. */
export interface Target {
  readonly host: string;
  readonly port: number;
  readonly token: string;
  /** Of an Instance whose log is followed. */
  readonly id: string;
}

/** How a connection ended, as the other side said it: `HTTP 401`, `close 1009`, `cut` where it said nothing, `open` where it did not end. */
export type Ending = string;

/** Endings are counted, not kept: there may be many thousands. */
export type Endings = Record<Ending, number>;

export function count(endings: Endings, ending: Ending): void {
  endings[ending] = (endings[ending] ?? 0) + 1;
}

export class RawConnection {
  readonly socket: Socket;
  /** Resolves when it is connected, or has failed to. */
  readonly connected: Promise<void>;
  receivedBytes = 0;
  readonly #answer = new AnswerReader();
  readonly #closed: Promise<void>;

  constructor({ host, port }: Target) {
    const socket = connect({ host, port });
    this.socket = socket;
    this.#closed = new Promise((resolve) => {
      socket.once('close', () => {
        resolve();
      });
    });
    this.connected = new Promise((resolve) => {
      socket.once('connect', resolve);
      socket.once('close', () => {
        resolve();
      });
    });
    socket.on('error', ignoreReset);
    socket.on('data', (data) => {
      this.receivedBytes += data.length;
      this.#answer.take(data);
    });
  }

  send(bytes: string | Buffer): void {
    if (this.socket.writable) this.socket.write(bytes);
  }

  /** Resolves with true when a `101` has come, and with false when another answer did, or none and the connection ended. */
  async upgraded(): Promise<boolean> {
    while (this.#answer.status === undefined && !this.socket.destroyed) {
      await Promise.race([new Promise((resolve) => this.socket.once('data', resolve)), this.#closed]);
    }
    return this.#answer.status === '101';
  }

  /** How it ended; `open` if it has not after so long, and it is cut from here then. */
  async ending(timeoutMs: number): Promise<Ending> {
    const { promise, resolve } = Promise.withResolvers<'late'>();
    const timer = setTimeout(() => {
      resolve('late');
    }, timeoutMs);
    const first = await Promise.race([promise, this.#closed]);
    clearTimeout(timer);
    this.socket.destroy();
    return first === 'late' ? 'open' : this.#answer.ending;
  }
}

/** A refused attacker is reset now and then; how it ended is seen in what came before. */
function ignoreReset(): void {
  // 'close' follows.
}

/** Follows what a server says, and keeps only what it is in the middle of. */
class AnswerReader {
  /** Of the first answer. */
  status: string | undefined;
  #code: number | undefined;
  #rest: Buffer = Buffer.alloc(0);
  /** Bytes of a frame's payload that are still to come and of no interest. */
  #skip = 0;

  get ending(): Ending {
    if (this.status === undefined) return 'cut';
    if (this.status !== '101') return `HTTP ${this.status}`;
    return this.#code === undefined ? 'cut' : `close ${this.#code}`;
  }

  take(data: Buffer): void {
    if (this.status !== undefined && this.status !== '101') return;
    this.#rest = this.#rest.length === 0 ? data : Buffer.concat([this.#rest, data]);
    if (this.status === undefined && !this.#takeHead()) return;
    while (this.status === '101' && this.#takeFrame());
  }

  #takeHead(): boolean {
    const end = this.#rest.indexOf('\r\n\r\n');
    if (end === -1) return false;
    this.status = this.#rest.toString('latin1', 9, 12);
    this.#rest = this.#rest.subarray(end + 4);
    return true;
  }

  #takeFrame(): boolean {
    const skipped = Math.min(this.#skip, this.#rest.length);
    this.#skip -= skipped;
    const frames = this.#rest.subarray(skipped);
    this.#rest = frames;
    if (this.#skip > 0 || frames.length < 2) return false;
    const short = (frames[1] ?? 0) & 0x7f;
    const header = short < 126 ? 2 : short === 126 ? 4 : 10;
    if (frames.length < header) return false;
    const isClose = ((frames[0] ?? 0) & 0x0f) === 8;
    if (isClose && frames.length < header + short) return false;
    if (isClose) this.#code = short < 2 ? 1005 : frames.readUInt16BE(header);
    this.#skip = short < 126 ? short : short === 126 ? frames.readUInt16BE(2) : Number(frames.readBigUInt64BE(2));
    this.#rest = frames.subarray(header);
    return true;
  }
}

/** The header of an upgrade, right in everything unless it is given another token. */
export function upgradeRequest(target: Target, { path = livePath(target), token = target.token } = {}): string {
  return (
    `GET ${path} HTTP/1.1\r\nHost: master\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n` +
    `Sec-WebSocket-Key: ${randomBytes(16).toString('base64')}\r\nAuthorization: Bearer ${token}\r\n\r\n`
  );
}

export function livePath({ id }: Target): string {
  return `/api/instances/${id}/live-log?tail=0`;
}

export const consolePath = '/api/console';

export interface FrameOptions {
  readonly opcode: number;
  readonly payload?: Buffer;
  readonly isFinal?: boolean;
  readonly isMasked?: boolean;
  /** Bits RSV1 to RSV3, as they stand in the first byte. */
  readonly reserved?: number;
  /** What the header says the length is, where that is a lie. */
  readonly length?: bigint;
}

/** One frame from a client. Masked with zeros, unless it is to be unmasked: any mask is as good as another. */
export function clientFrame(options: FrameOptions): Buffer {
  const { opcode, payload = Buffer.alloc(0), isFinal = true, isMasked = true, reserved = 0 } = options;
  const length = options.length ?? BigInt(payload.length);
  const mask = isMasked ? 0x80 : 0;
  const first = (isFinal ? 0x80 : 0) | reserved | opcode;
  const header = length < 126n ? Buffer.from([first, mask | Number(length)]) : longHeader(first, mask, length);
  return Buffer.concat([header, Buffer.alloc(isMasked ? 4 : 0), payload]);
}

function longHeader(first: number, mask: number, length: bigint): Buffer {
  if (length < 65_536n) {
    const header = Buffer.from([first, mask | 126, 0, 0]);
    header.writeUInt16BE(Number(length), 2);
    return header;
  }
  const header = Buffer.alloc(10);
  header.set([first, mask | 127]);
  header.writeBigUInt64BE(length, 2);
  return header;
}
