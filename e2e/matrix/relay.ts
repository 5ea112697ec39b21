/** A TCP relay in front of a server whose line to the client can be made slow: the client then reads no faster than that, and the server notices. */
import { connect, createServer } from 'node:net';
import type { AddressInfo, Server, Socket } from 'node:net';

const tickMs = 250;

export class Relay {
  /** Bytes per second towards each client; undefined for no limit. */
  bytesPerSecond: number | undefined;
  readonly #target: { readonly host: string; readonly port: number };
  readonly #server: Server;
  readonly #pairs = new Set<Pair>();
  readonly #timer = setInterval(() => {
    for (const pair of this.#pairs) pair.pass(this.#allowance);
  }, tickMs);

  private constructor(target: { host: string; port: number }) {
    this.#target = target;
    this.#server = createServer((client) => {
      this.#accept(client);
    });
  }

  /** In front of an `http://` address. */
  static async start(url: string): Promise<Relay> {
    const { hostname, port } = new URL(url);
    const relay = new Relay({ host: hostname, port: Number(port) });
    const { promise, resolve, reject } = Promise.withResolvers<undefined>();
    relay.#server.once('error', reject);
    relay.#server.listen(0, '127.0.0.1', () => {
      resolve(undefined);
    });
    await promise;
    return relay;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  close(): void {
    clearInterval(this.#timer);
    this.#server.close();
    for (const pair of this.#pairs) pair.close();
  }

  /** Bytes that may pass in one tick. */
  get #allowance(): number {
    return this.bytesPerSecond === undefined ? Number.POSITIVE_INFINITY : (this.bytesPerSecond * tickMs) / 1000;
  }

  #accept(client: Socket): void {
    const pair = new Pair(client, connect(this.#target));
    this.#pairs.add(pair);
    pair.onReadable = () => {
      if (this.bytesPerSecond === undefined) pair.pass(Number.POSITIVE_INFINITY);
    };
    client.on('close', () => this.#pairs.delete(pair));
  }
}

/** One connection through the relay. What the server sends stays in the kernel but for what Node reads ahead (64 KiB). */
class Pair {
  onReadable = (): void => undefined;
  readonly #client: Socket;
  readonly #server: Socket;

  constructor(client: Socket, server: Socket) {
    this.#client = client;
    this.#server = server;
    client.pipe(server);
    server.on('readable', () => {
      this.onReadable();
    });
    for (const socket of [client, server]) {
      // A cut on one side is one on the other.
      socket.on('error', () => undefined);
      socket.on('close', () => {
        this.close();
      });
    }
    server.on('end', () => client.end());
  }

  /** Passes on at most so many bytes. */
  pass(bytesMax: number): void {
    const length = Math.min(this.#server.readableLength, bytesMax);
    const bytes = length > 0 ? (this.#server.read(length) as Buffer | null) : null;
    if (bytes !== null) this.#client.write(bytes);
  }

  close(): void {
    this.#client.destroy();
    this.#server.destroy();
  }
}
