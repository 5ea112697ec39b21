/**
 * The TCP connections of this replica, and what somebody who has shown no token can take by them.
 *
 * Anybody may connect, and may be slow. So there is no queue in front of those that are not WebSockets (yet): where there are too many, the one goes that
 * has been there longest and is not being answered. A client with a token is done in milliseconds; one that holds connections open loses them to it. Addresses
 * are not looked at: behind a Service or a proxy all clients have the same one.
 */
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import type { MasterMetrics } from '../metrics.ts';
import type { Limits } from './ports.ts';

interface Entry {
  /** As the port gave it: below TLS, where there is TLS. */
  readonly socket: Socket;
  /** Those that are not answered to their end. */
  requests: number;
}

export interface ConnectionsOptions {
  readonly limits: Limits;
  readonly metrics: Pick<MasterMetrics, 'connectionsCut'>;
}

/** Requests on one connection that are not answered yet. Each costs memory, and its client need not read. */
const pipelinedMax = 100;

export class Connections {
  readonly #options: ConnectionsOptions;
  /** By the address of the peer, which is the same below TLS and above. */
  readonly #entries = new Map<string, Entry>();
  /** Those that are no WebSockets, the oldest first. */
  readonly #strangers = new Set<Entry>();

  constructor(options: ConnectionsOptions) {
    this.#options = options;
  }

  /** From now on the server's connections are counted and bounded. */
  watch(server: Server): void {
    const { limits } = this.#options;
    server.maxConnections = limits.connectionsMax;
    server.on('connection', (socket: Socket) => {
      this.#add(socket);
    });
    // Node cuts a connection without traffic by itself only where nobody listens. One that waits for our answer is not late, it is we who are.
    server.setTimeout(limits.answerTimeoutMs, (socket: Socket) => {
      if (socket.writableLength > 0) this.#cut(socket, 'unread');
      else if (!this.isBusy(socket)) socket.destroy();
    });
  }

  /** Notes a request. False: it is not to be answered, its connection was cut, because too many before it are not answered yet. */
  admit(request: IncomingMessage, response: ServerResponse): boolean {
    const entry = this.#entryOf(request.socket);
    if (entry === undefined || entry.requests >= pipelinedMax) {
      this.#cut(request.socket, 'pipelined');
      return false;
    }
    entry.requests++;
    response.once('close', () => {
      entry.requests--;
    });
    return true;
  }

  /** Whether a request on this connection is still being answered. */
  isBusy(socket: Socket): boolean {
    return (this.#entryOf(socket)?.requests ?? 0) > 0;
  }

  /** It is a WebSocket from now on: sockets.ts bounds it. */
  upgrade(socket: Socket): void {
    const entry = this.#entryOf(socket);
    if (entry !== undefined) this.#strangers.delete(entry);
  }

  /** Cuts all that there are. */
  destroy(): void {
    for (const { socket } of this.#entries.values()) socket.destroy();
  }

  #add(socket: Socket): void {
    const { limits } = this.#options;
    const peer = peerOf(socket);
    const entry: Entry = { socket, requests: 0 };
    this.#entries.set(peer, entry);
    this.#strangers.add(entry);
    socket.once('close', () => {
      this.#strangers.delete(entry);
      if (this.#entries.get(peer) === entry) this.#entries.delete(peer);
    });
    if (this.#strangers.size > Math.max(1, limits.connectionsMax - limits.socketsMax)) this.#makeRoom();
  }

  #makeRoom(): void {
    for (const entry of this.#strangers) {
      if (entry.requests > 0) continue;
      this.#strangers.delete(entry);
      this.#cut(entry.socket, 'crowded');
      return;
    }
  }

  #cut(socket: Socket, cause: 'crowded' | 'pipelined' | 'unread'): void {
    if (socket.destroyed) return;
    this.#options.metrics.connectionsCut.inc({ cause });
    socket.destroy();
  }

  #entryOf(socket: Socket): Entry | undefined {
    return this.#entries.get(peerOf(socket));
  }
}

function peerOf({ remoteAddress, remotePort }: Socket): string {
  return `${remoteAddress ?? ''} ${remotePort ?? ''}`;
}
