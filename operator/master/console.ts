/**
 * One client of the console: a WebSocket around a session.
 *
 * Frames are written to the TCP socket as those of a live log are (see live.ts, whose three facts hold here as well). While more than
 * `sendBufferBytesMax` wait for the client, nothing is read from it: it cannot make us hold refusals without end, and a ping that it does not
 * answer then counts as one of a slow client.
 */
import type { Socket } from 'node:net';
import { randomBytes } from 'node:crypto';
import type { Logger } from '../log.ts';
import type { Metrics } from '../metrics.ts';
import type { LineRunner } from './commandline.ts';
import type { ConsoleCodec } from './console-messages.ts';
import { codecOf } from './console-messages.ts';
import type { SessionClient } from './console-session.ts';
import { ConsoleSession } from './console-session.ts';
import type { CommandEnd } from './dispatch.ts';
import { encodeLines } from './frames.ts';
import type { Limits } from './ports.ts';
import type { ClientSocket } from './sockets.ts';
import { openState } from './sockets.ts';
import type { AcceptedConsole } from './upgrade.ts';

/** What is used of a WebSocket of ws. */
export interface ConsoleSocket extends ClientSocket {
  resume(): void;
  on(event: 'pong' | 'error', listener: () => void): unknown;
  on(event: 'ping' | 'message', listener: (data: Buffer, isBinary: boolean) => void): unknown;
}

export interface ConsoleOptions {
  readonly runner: LineRunner;
  readonly limits: Limits;
  readonly log: Logger;
  readonly metrics: Metrics;
}

/** Serves the client until `exit`, until it goes, or until the socket is closed from elsewhere. Never rejects. */
export async function serveConsole(
  ws: ConsoleSocket,
  tcp: Socket,
  accepted: AcceptedConsole,
  options: ConsoleOptions,
): Promise<void> {
  const { clientName, protocol, slot } = accepted;
  const { limits, log, metrics, runner } = options;
  const codec = codecOf(protocol);
  const client = new ConsoleClient({ ws, tcp, codec, limits, metrics });
  const sessionId = randomBytes(4).toString('hex');
  const session = new ConsoleSession({
    ...{ client, limits, metrics },
    run: (line, onOutput, signal) => runner.run({ line, client: clientName, session: sessionId, onOutput }, signal),
  });
  const left = new AbortController();
  tcp.once('close', () => {
    left.abort(new Error('The client has gone'));
  });
  ws.on('error', ignoreClientFault);
  ws.on('message', (data, isBinary) => {
    if (!client.isOpen) return;
    if (isBinary) slot.close({ code: 1003, reason: 'binary frame', cause: 'fault', isPatient: false });
    else for (const message of codec.read(data.toString('utf8'))) take(message, session, client);
  });
  slot.attach(ws, tcp);
  try {
    if (tcp.destroyed) left.abort(new Error('The client has gone'));
    if (await session.serve(left.signal)) {
      slot.close({ code: 1000, reason: 'exit', cause: 'exit', isPatient: true });
    }
  } catch (error) {
    log.error({ err: error, session: sessionId }, 'Console session failed');
    slot.close({ code: 1011, reason: 'internal error', cause: 'fault', isPatient: false });
  }
}

function take(message: ReturnType<ConsoleCodec['read']>[number], session: ConsoleSession, client: ConsoleClient): void {
  if (message.type === 'fault') client.fault(message.error);
  else session.push(message.id, message.line);
}

interface ClientParts {
  readonly ws: ConsoleSocket;
  readonly tcp: Socket;
  readonly codec: ConsoleCodec;
  readonly limits: Limits;
  readonly metrics: Metrics;
}

class ConsoleClient implements SessionClient {
  readonly #parts: ClientParts;
  #wake: (() => void) | undefined;

  constructor(parts: ClientParts) {
    this.#parts = parts;
    const { tcp, ws } = parts;
    tcp.on('drain', () => {
      ws.resume();
      this.#wake?.();
    });
    tcp.on('close', () => this.#wake?.());
  }

  get isOpen(): boolean {
    return this.#parts.ws.readyState === openState && this.#parts.tcp.writable;
  }

  async room(): Promise<void> {
    // Above the stream's own high-water mark, so 'drain' comes, or 'close'.
    while (this.isOpen && this.#isFull) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  output(id: string, lines: readonly string[]): void {
    this.#write(this.#parts.codec.output(id, lines));
  }

  done(id: string, end: Pick<CommandEnd, 'exitCode' | 'reason'>): void {
    this.#write(this.#parts.codec.done(id, end));
  }

  fault(error: string): void {
    this.#write(this.#parts.codec.fault(error));
  }

  get #isFull(): boolean {
    return this.#parts.tcp.writableLength >= this.#parts.limits.sendBufferBytesMax;
  }

  #write(texts: readonly string[]): void {
    if (texts.length === 0 || !this.isOpen) return;
    const { metrics, tcp, ws } = this.#parts;
    const bytes = encodeLines(texts);
    metrics.bytesSent.inc(bytes.length);
    tcp.write(bytes);
    if (this.#isFull) ws.pause();
  }
}

/** A frame too big, not UTF-8 or against the protocol: ws has closed with the right code, and the end of the stream ends the session. */
function ignoreClientFault(): void {
  // Nothing is left to do.
}
