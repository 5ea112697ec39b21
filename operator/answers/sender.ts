/** The operator's side: a kept connection to each Master that asks for answers. What cannot be sent at once is dropped, because the record has it as well. */
import { isIP } from 'node:net';
import { connect } from 'node:tls';
import type { TLSSocket } from 'node:tls';
import { tlsOptions } from '../../sidecar/protocol.ts';
import { messageOf } from '../errors.ts';
import type { Logger } from '../log.ts';
import type { Clock } from '../runtime/clock.ts';
import type { MasterKey } from '../sidecar/masterkey.ts';
import type { Answer } from './protocol.ts';
import { answerBytesMax, answerKeyOf, answerPort, encodeAnswer } from './protocol.ts';

/** TCP and the handshake; by then the record has long arrived. */
const connectTimeoutMs = 1_000;
/** A Master that could not be reached is not tried again for so long. */
const restMs = 30_000;
/** Of one Master, that the kernel has not taken yet. */
const bufferBytesMax = 2 * answerBytesMax;
/** Addresses come with commands: the one that was used longest ago makes room. */
const peersMax = 64;
const tcpKeepAliveMs = 15_000;

export interface AnswerSenderOptions {
  readonly masterKey: MasterKey;
  readonly clock: Clock;
  readonly log: Logger;
  /** The protocol's own if absent. */
  readonly port?: number;
}

export class AnswerSender {
  readonly #options: AnswerSenderOptions;
  /** By address, the one used last at the end. */
  readonly #peers = new Map<string, Peer>();
  #isClosed = false;

  constructor(options: AnswerSenderOptions) {
    this.#options = options;
  }

  /** Never throws and never waits. What is no IP address gets nothing. */
  send(address: string, answer: Answer): void {
    if (this.#isClosed || isIP(address) === 0) return;
    const peer = this.#peers.get(address) ?? new Peer(address, this.#options);
    this.#peers.delete(address);
    this.#peers.set(address, peer);
    const [oldest] = this.#peers;
    if (this.#peers.size > peersMax && oldest !== undefined) {
      this.#peers.delete(oldest[0]);
      oldest[1].close();
    }
    peer.send(encodeAnswer(answer));
  }

  close(): void {
    this.#isClosed = true;
    for (const peer of this.#peers.values()) peer.close();
    this.#peers.clear();
  }
}

class Peer {
  readonly #address: string;
  readonly #options: AnswerSenderOptions;
  #socket: TLSSocket | undefined;
  /** What came while the connection was being made; undefined when none is. */
  #waiting: string[] | undefined;
  #restUntilMs = -Infinity;
  #isClosed = false;

  constructor(address: string, options: AnswerSenderOptions) {
    this.#address = address;
    this.#options = options;
  }

  send(line: string): void {
    if (line.length > answerBytesMax) return;
    if (this.#socket !== undefined) {
      if (this.#socket.writableLength + line.length <= bufferBytesMax) this.#socket.write(line);
    } else if (this.#waiting !== undefined) {
      if (this.#waiting.reduce((sum, { length }) => sum + length, line.length) <= bufferBytesMax)
        this.#waiting.push(line);
    } else if (this.#options.clock.elapsed() >= this.#restUntilMs) {
      void this.#connect([line]);
    }
  }

  close(): void {
    this.#isClosed = true;
    this.#socket?.destroy();
  }

  async #connect(waiting: string[]): Promise<void> {
    const { clock, log } = this.#options;
    this.#waiting = waiting;
    try {
      const socket = await this.#open();
      socket.on('close', () => {
        if (this.#socket === socket) this.#socket = undefined;
      });
      for (const line of waiting) socket.write(line);
      this.#socket = socket;
    } catch (error) {
      if (this.#isClosed) return;
      this.#restUntilMs = clock.elapsed() + restMs;
      log.warn(
        { master: this.#address, error: messageOf(error) },
        'Cannot give answers to a Master: it reads the records',
      );
    } finally {
      this.#waiting = undefined;
    }
  }

  /** Resolves once the handshake is done: the other side has the key as well. */
  async #open(): Promise<TLSSocket> {
    const { masterKey, port = answerPort } = this.#options;
    const [current] = await masterKey.read();
    if (current === undefined) throw new Error('There is no master key');
    const { identity, psk } = answerKeyOf(current);
    const { promise, resolve, reject } = Promise.withResolvers<undefined>();
    const socket = connect({
      ...tlsOptions,
      ...{ host: this.#address, port, noDelay: true },
      ...{ keepAlive: true, keepAliveInitialDelay: tcpKeepAliveMs },
      pskCallback: () => ({ psk, identity }),
      // The key proves who answers; there is no certificate to look at.
      checkServerIdentity: () => undefined,
    });
    const timer = setTimeout(() => {
      socket.destroy(new Error(`no connection within ${connectTimeoutMs} ms`));
    }, connectTimeoutMs);
    // Stays for the life of the socket: an error without a listener would end the process.
    socket.on('error', reject);
    socket.once('close', () => {
      reject(new Error('the connection was closed'));
    });
    socket.once('secureConnect', () => {
      resolve(undefined);
    });
    // Nothing is to come; without a reader the end of the other side would not be noticed.
    socket.resume();
    try {
      await promise;
    } finally {
      clearTimeout(timer);
    }
    if (this.#isClosed) socket.destroy();
    return socket;
  }
}
