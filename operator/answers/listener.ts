/** The Master's side: takes answers from whoever has the key. */
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { createServer } from 'node:tls';
import type { TLSSocket, Server } from 'node:tls';
import { tlsServerOptions } from '../../sidecar/protocol.ts';
import { messageOf } from '../errors.ts';
import type { Logger } from '../log.ts';
import type { MasterKey } from '../sidecar/masterkey.ts';
import type { Answer } from './protocol.ts';
import { answerBytesMax, answerKeyOf, answerPort, decodeAnswer } from './protocol.ts';

/** Whoever has the key is through in milliseconds. */
const handshakeTimeoutMs = 3_000;
/** There are two operators, and one sends. */
const connectionsMax = 64;
/** A connection is made anew after so long, so that a master key that was replaced lets nobody in for longer. */
const connectionAgeMsDefault = 600_000;

export interface AnswerListenerOptions {
  readonly masterKey: MasterKey;
  readonly log: Logger;
  /** Called for each answer, in the order in which they come on one connection. Must not throw. */
  readonly onAnswer: (answer: Answer) => void;
  /** The protocol's own if absent; 0 takes any. */
  readonly port?: number;
  /** Default: every address. */
  readonly host?: string;
  /** How long a connection lasts at most; ten minutes if absent. */
  readonly connectionAgeMs?: number;
}

export class AnswerListener {
  readonly #options: AnswerListenerOptions;
  readonly #server: Server;
  readonly #sockets = new Set<TLSSocket>();
  /** Keys by their identities. */
  #keys = new Map<string, Buffer>();

  constructor(options: AnswerListenerOptions) {
    this.#options = options;
    this.#server = createServer({
      ...tlsServerOptions,
      handshakeTimeout: handshakeTimeoutMs,
      pskCallback: (_socket, identity) => this.#keys.get(identity) ?? null,
    });
    this.#server.maxConnections = connectionsMax;
    // A replaced key counts from the connection after the first that has it.
    this.#server.on('connection', () => void this.#readKeys());
    this.#server.on('secureConnection', (socket) => {
      this.#receive(socket);
    });
    this.#server.on('tlsClientError', (error) => {
      options.log.debug({ error: error.message }, 'A connection for answers was refused');
    });
  }

  /** Resolves with the port. Rejects when it cannot listen, or there is no key. */
  async listen(): Promise<number> {
    const { host, masterKey, port = answerPort } = this.#options;
    this.#setKeys(await masterKey.read());
    this.#server.listen({ port, host });
    await once(this.#server, 'listening');
    return (this.#server.address() as AddressInfo).port;
  }

  close(): void {
    this.#server.close();
    for (const socket of this.#sockets) socket.destroy();
  }

  async #readKeys(): Promise<void> {
    try {
      this.#setKeys(await this.#options.masterKey.read());
    } catch (error) {
      this.#options.log.debug({ error: messageOf(error) }, 'The master key cannot be read again');
    }
  }

  #setKeys(masterKeys: readonly Buffer[]): void {
    this.#keys = new Map(masterKeys.map(answerKeyOf).map(({ identity, psk }) => [identity, psk]));
  }

  #receive(socket: TLSSocket): void {
    const timer = setTimeout(() => {
      socket.end();
    }, this.#options.connectionAgeMs ?? connectionAgeMsDefault);
    this.#sockets.add(socket);
    socket.on('close', () => {
      clearTimeout(timer);
      this.#sockets.delete(socket);
    });
    // Its end is all that there is to know of it.
    socket.on('error', () => undefined);
    socket.setEncoding('utf8');
    let rest = '';
    socket.on('data', (text: string) => {
      // A long line comes in many pieces: what is there already is not searched again.
      const lines = text.split('\n');
      lines[0] = rest + (lines[0] ?? '');
      rest = lines.pop() ?? '';
      for (const line of lines) this.#take(line);
      if (rest.length > answerBytesMax) socket.destroy();
    });
  }

  #take(line: string): void {
    const answer = decodeAnswer(line);
    if (answer === undefined) this.#options.log.warn('Something that is no answer was received in place of one');
    else this.#options.onAnswer(answer);
  }
}
