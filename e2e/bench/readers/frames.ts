/** A WebSocket reader that costs next to nothing: it finds frames in the bytes of the connection, so that the server is what is measured. */
import { randomBytes } from 'node:crypto';
import { connect } from 'node:net';
import { nowMs } from './readers.ts';

export interface FramesOptions {
  readonly token?: string;
}

/** What has come so far; `onLine` gets each text frame from when it is set. */
export interface Frames {
  readonly count: number;
  /** When the first and the last frame came, by `nowMs`. */
  readonly firstMs: number;
  readonly lastMs: number;
  onLine: ((line: string, atMs: number) => void) | undefined;
  /** Resolves when the last frame of what came at once is this one; looked at after each piece of data, so it must be what ends a burst. */
  until(line: string): Promise<void>;
  close(): void;
}

/** Connects, and counts from the first frame on. Rejects if the server does not upgrade. */
export async function countFrames(url: string, { token }: FramesOptions = {}): Promise<Frames> {
  const { hostname, port, pathname, search } = new URL(url);
  const socket = connect(Number(port), hostname);
  socket.setNoDelay(true);
  const counter = new FrameCounter(() => socket.destroy());
  const opened = Promise.withResolvers<undefined>();
  let head: Buffer | undefined = Buffer.alloc(0);
  socket.on('data', (data) => {
    if (head === undefined) {
      counter.take(data);
      return;
    }
    head = Buffer.concat([head, data]);
    const end = head.indexOf('\r\n\r\n');
    if (end === -1) return;
    const answer = head.subarray(0, end).toString('latin1');
    const rest = head.subarray(end + 4);
    head = undefined;
    if (answer.startsWith('HTTP/1.1 101 ')) opened.resolve(undefined);
    else opened.reject(new Error(`No upgrade: ${answer.split('\r\n')[0] ?? ''}`));
    if (rest.length > 0) counter.take(rest);
  });
  socket.on('error', (error) => {
    opened.reject(error);
    counter.fail(error);
  });
  socket.on('close', () => {
    counter.fail(new Error('The connection was closed'));
  });
  const headers = [
    `GET ${pathname}${search} HTTP/1.1`,
    `Host: ${hostname}:${port}`,
    'Connection: Upgrade',
    'Upgrade: websocket',
    'Sec-WebSocket-Version: 13',
    `Sec-WebSocket-Key: ${randomBytes(16).toString('base64')}`,
    ...(token === undefined ? [] : [`Authorization: Bearer ${token}`]),
  ];
  socket.write(`${headers.join('\r\n')}\r\n\r\n`);
  await opened.promise;
  return counter;
}

class FrameCounter implements Frames {
  count = 0;
  firstMs = 0;
  lastMs = 0;
  onLine: ((line: string, atMs: number) => void) | undefined;
  readonly #destroy: () => void;
  #rest: Buffer = Buffer.alloc(0);
  #last = '';
  #wanted: { line: string; resolve: (value: undefined) => void; reject: (error: Error) => void } | undefined;

  constructor(destroy: () => void) {
    this.#destroy = destroy;
  }

  take(data: Buffer): void {
    const bytes = this.#rest.length === 0 ? data : Buffer.concat([this.#rest, data]);
    const now = nowMs();
    let at = 0;
    let lastStart = -1;
    let lastEnd = -1;
    for (;;) {
      const start = payloadStart(bytes, at);
      if (start === -1) break;
      const end = start + payloadLength(bytes, at);
      if (end > bytes.length) break;
      const isText = ((bytes[at] ?? 0) & 0x0f) === 1;
      if (isText) {
        this.count += 1;
        lastStart = start;
        lastEnd = end;
        this.onLine?.(bytes.toString('latin1', start, end), now);
      }
      at = end;
    }
    this.#rest = bytes.subarray(at);
    if (lastStart === -1) return;
    if (this.firstMs === 0) this.firstMs = now;
    this.lastMs = now;
    this.#last = bytes.toString('latin1', lastStart, Math.min(lastEnd, lastStart + 200));
    this.#look();
  }

  fail(error: Error): void {
    this.#wanted?.reject(error);
    this.#wanted = undefined;
  }

  async until(line: string): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<undefined>();
    this.#wanted = { line, resolve, reject };
    this.#look();
    await promise;
  }

  close(): void {
    this.#wanted = undefined;
    this.#destroy();
  }

  #look(): void {
    if (this.#wanted?.line !== this.#last) return;
    this.#wanted.resolve(undefined);
    this.#wanted = undefined;
  }
}

/** Servers send frames unmasked: two bytes, and two or eight more for the length. -1: not all here yet. */
function payloadStart(bytes: Buffer, at: number): number {
  if (at + 2 > bytes.length) return -1;
  const length = (bytes[at + 1] ?? 0) & 0x7f;
  const start = at + (length < 126 ? 2 : length === 126 ? 4 : 10);
  return start > bytes.length ? -1 : start;
}

function payloadLength(bytes: Buffer, at: number): number {
  const length = (bytes[at + 1] ?? 0) & 0x7f;
  if (length < 126) return length;
  return length === 126 ? bytes.readUInt16BE(at + 2) : Number(bytes.readBigUInt64BE(at + 2));
}
