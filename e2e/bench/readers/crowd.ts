/** Many WebSocket clients in one process, so cheap that the server is what is measured: they count bytes, and look into frames only when asked to. */
import { randomBytes } from 'node:crypto';
import { connect } from 'node:net';
import type { Socket } from 'node:net';
import { nowMs } from './readers.ts';

/** Upgrades that are under way at the same time. */
const openingMax = 64;
/** Often enough for a server that gives up on a client after 15 s without an answer to its ping. */
const pongIntervalMs = 10_000;
/** Masked with zeros. An answer that was not asked for is a sign of life as good as another, and needs no look into what comes. */
const pong = Buffer.from([0x8a, 0x80, 0, 0, 0, 0]);

export class Crowd {
  readonly #members: Member[] = [];
  readonly #timer = setInterval(() => {
    for (const { socket, isOpen } of this.#members) if (isOpen) socket?.write(pong);
  }, pongIntervalMs);

  /** Adds clients until there are `count`; with `isPaused` they take nothing from the first frame on. Rejects if one is not upgraded. */
  async grow(
    url: string,
    { count, token, isPaused = false }: { count: number; token?: string; isPaused?: boolean },
  ): Promise<void> {
    const opening = new Set<Promise<void>>();
    while (this.#members.length < count) {
      const member = new Member();
      this.#members.push(member);
      const opened = member.open(url, token, isPaused).finally(() => opening.delete(opened));
      opening.add(opened);
      if (opening.size >= openingMax) await Promise.race(opening);
    }
    await Promise.all(opening);
  }

  get size(): number {
    return this.#members.length;
  }

  /** Of frames, headers included, by all clients together. */
  get bytes(): number {
    return this.#members.reduce((sum, { bytes }) => sum + bytes, 0);
  }

  /** How many have not been closed by the other side. */
  get open(): number {
    return this.#members.filter(({ isOpen }) => isOpen).length;
  }

  /** Of each frame that begins with `t ` and the time of its writing; until called again with undefined. */
  measure(latencies: number[] | undefined): void {
    for (const member of this.#members) member.latencies = latencies;
  }

  pause(): void {
    for (const { socket } of this.#members) socket?.pause();
  }

  resume(): void {
    for (const { socket } of this.#members) socket?.resume();
  }

  close(): void {
    clearInterval(this.#timer);
    for (const { socket } of this.#members.splice(0)) socket?.destroy();
  }
}

class Member {
  socket: Socket | undefined;
  bytes = 0;
  isOpen = false;
  latencies: number[] | undefined;

  async open(url: string, token: string | undefined, isPaused: boolean): Promise<void> {
    const { hostname, port, pathname, search } = new URL(url);
    const { promise, resolve, reject } = Promise.withResolvers<undefined>();
    const socket = connect(Number(port), hostname);
    this.socket = socket;
    let head = '';
    socket.on('data', (data) => {
      if (this.isOpen) {
        this.#take(data);
        return;
      }
      head += data.toString('latin1');
      const end = head.indexOf('\r\n\r\n');
      if (end === -1) return;
      this.isOpen = head.startsWith('HTTP/1.1 101 ');
      this.bytes += head.length - end - 4;
      if (this.isOpen && isPaused) socket.pause();
      if (this.isOpen) resolve(undefined);
      else reject(new Error(`No upgrade: ${head.slice(0, head.indexOf('\r\n'))}`));
    });
    socket.on('error', reject);
    socket.on('close', () => {
      this.isOpen = false;
      reject(new Error('The connection was closed'));
    });
    const authorization = token === undefined ? '' : `Authorization: Bearer ${token}\r\n`;
    socket.write(
      `GET ${pathname}${search} HTTP/1.1\r\nHost: ${hostname}:${port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n` +
        `Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ${randomBytes(16).toString('base64')}\r\n${authorization}\r\n`,
    );
    await promise;
  }

  #take(data: Buffer): void {
    this.bytes += data.length;
    if (this.latencies === undefined) return;
    const now = nowMs();
    const text = data.toString('latin1');
    for (const match of text.matchAll(/t (\d+\.\d+)/g)) this.latencies.push(now - Number(match[1]));
  }
}
