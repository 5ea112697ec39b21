/**
 * What a client sends that is for nobody: pings, pongs, and whatever the client of a live log writes.
 *
 * A ping is answered at once, or, while the client does not take what is there for it, when it does: then only the last of them, as RFC 6455 (5.5.3) allows, so
 * that answers cost one frame of memory however many pings there are. Frames cost time as well, so there may be only so many a second.
 */
import type { Socket } from 'node:net';
import { createGate } from './gate.ts';
import type { Gate } from './gate.ts';
import type { Timers } from './ports.ts';

/** What is used of a WebSocket of ws. */
export interface ChattySocket {
  pong(data: Buffer): void;
  on(event: 'pong' | 'error', listener: () => void): unknown;
  on(event: 'ping' | 'message', listener: (data: Buffer) => void): unknown;
}

/** Frames on one socket: far more than any client has a reason for. */
export const chatterLimits = { perSecond: 100, burst: 1_000, inFlightMax: Number.POSITIVE_INFINITY } as const;

export interface ChatterOptions {
  readonly clock: Pick<Timers, 'nowMs'>;
  /** Data frames are for nobody either. */
  readonly isReadOnly: boolean;
  /** Whether the socket is open. */
  readonly isOpen: () => boolean;
  /** Called for each frame above the limit while the socket is open. */
  readonly onFlood: () => void;
}

/** Answers the pings of a socket for which ws does not. */
export function answerChatter(ws: ChattySocket, tcp: Socket, options: ChatterOptions): void {
  // Most clients never send anything but pongs, and one of these in 15 s.
  let gate: Gate | undefined;
  let waiting: Buffer | undefined;
  const admit = (): boolean => {
    if (!options.isOpen()) return false;
    gate ??= createGate(chatterLimits, options.clock);
    if (gate.enter()) return true;
    options.onFlood();
    return false;
  };
  ws.on('ping', (data) => {
    if (!admit()) return;
    if (!tcp.writableNeedDrain) {
      ws.pong(data);
      return;
    }
    // A copy: it is a view into all that came with it.
    if (waiting === undefined) tcp.once('drain', answerLast);
    waiting = Buffer.from(data);
  });
  const answerLast = (): void => {
    const data = waiting;
    waiting = undefined;
    if (data !== undefined && options.isOpen()) ws.pong(data);
  };
  ws.on('pong', admit);
  if (options.isReadOnly) ws.on('message', admit);
}
