/**
 * The open WebSockets of this replica: how many there may be, whether their peers are alive, and who must go when a key changes or the
 * replica stops.
 *
 * A slot is taken before the upgrade is answered and given back when the TCP connection closes, whatever happens between. One timer serves all
 * sockets and runs only while there are some.
 */
import type { Socket } from 'node:net';
import type { Metrics } from '../metrics.ts';
import type { Grant, Grants } from './access.ts';
import type { ChattySocket } from './chatter.ts';
import { answerChatter } from './chatter.ts';
import type { Liveness, Traffic } from './liveness.ts';
import { createLiveness, judge, notePong } from './liveness.ts';
import type { Timers, Limits } from './ports.ts';
import type { Refusal } from './refusal.ts';
import { unavailable } from './refusal.ts';

/** What is used of a WebSocket of ws. */
export interface ClientSocket extends ChattySocket {
  readonly readyState: number;
  ping(): void;
  /** Reads no more. */
  pause(): void;
  close(code: number, reason: string): void;
  terminate(): void;
}

/** The `readyState` in which a WebSocket may be written to; fixed by the standard. */
export const openState = 1;

const socketKinds = ['live-log', 'console'] as const;

export interface SlotOwner {
  readonly kind: (typeof socketKinds)[number];
  readonly key: Grant;
  /** Undefined for a console, which is of no Instance. */
  readonly instanceUid: string | undefined;
  /** Lines that the client has not taken yet; for metrics. */
  behindLines(): number;
}

export interface Slot {
  /** The upgrade is done: pings start, and if the key was revoked meanwhile the socket closes. */
  attach(ws: ClientSocket, tcp: Socket): void;
  /** Ends the socket after all that was written. `isPatient`: the client is given long to read it. */
  close(options: { code: number; reason: string; cause: CloseCause; isPatient: boolean }): void;
  /** Gives the slot back. Idempotent. */
  release(): void;
}

export type CloseCause = 'stopped' | 'exit' | 'fault' | 'revoked' | 'draining' | 'unresponsive' | 'flooding';

export interface SocketRegistry {
  /** A slot, or why there is none (503). */
  reserve(owner: SlotOwner): Slot | Refusal;
  /** From now on no slots. Tells every socket to go elsewhere (1001); resolves when none is left, at the latest after the grace. */
  drain(): Promise<void>;
  readonly isDraining: boolean;
  readonly openCount: number;
  /** Sets those metrics that are measured and not counted. */
  measure(): void;
  /** Stops listening to key changes and the timer; ends what is open at once. */
  close(): void;
}

export interface SocketRegistryOptions {
  readonly limits: Limits;
  readonly clock: Timers;
  readonly keys: Grants;
  readonly metrics: Metrics;
}

const tickMs = 1_000;
/** A revoked socket has this long to answer the close frame; the whole takes less than a second. */
const revokedGraceMs = 700;
/** One that floods us is not read from any more, so it cannot answer; it has this long to read why. */
const floodedGraceMs = 1_000;
/** For a peer that does not finish a close that is under way. */
const closingGraceMs = 30_000;
const retryAfterSeconds = 5;

interface Entry {
  readonly owner: SlotOwner;
  ws: ClientSocket | undefined;
  tcp: Socket | undefined;
  liveness: Liveness | undefined;
  /** When a socket that is closing is cut. */
  endAtMs: number | undefined;
}

export function createSockets(options: SocketRegistryOptions): SocketRegistry {
  const registry = new Registry(options);
  registry.listen();
  const { limits, metrics } = options;
  // Said before there is one, and when there is none any more: an autoscaler takes no series for not knowing.
  for (const kind of socketKinds) metrics.socketsOpen.set({ kind }, 0);
  metrics.socketsLimit.set({ scope: 'all' }, limits.socketsMax);
  metrics.socketsLimit.set({ scope: 'key' }, limits.socketsPerKeyMax);
  metrics.socketsLimit.set({ scope: 'instance' }, limits.socketsPerInstanceMax);
  return registry;
}

class Registry implements SocketRegistry {
  readonly #options: SocketRegistryOptions;
  readonly #entries = new Set<Entry>();
  readonly #perKey = new Counts();
  readonly #perInstance = new Counts();
  #cancelTick: (() => void) | undefined;
  #stopListening: (() => void) | undefined;
  #onEmpty: (() => void) | undefined;
  #draining: Promise<void> | undefined;

  constructor(options: SocketRegistryOptions) {
    this.#options = options;
  }

  listen(): void {
    this.#stopListening = this.#options.keys.onChange((name) => {
      this.#recheck(name);
    });
  }

  get isDraining(): boolean {
    return this.#draining !== undefined;
  }

  get openCount(): number {
    return this.#entries.size;
  }

  measure(): void {
    const { metrics } = this.#options;
    let behind = 0;
    let mostLines = 0;
    for (const { owner } of this.#entries) {
      const lines = owner.behindLines();
      if (lines > 0) behind++;
      mostLines = Math.max(mostLines, lines);
    }
    metrics.subscribersBehind.set(behind);
    metrics.subscriberLagLines.set(mostLines);
    metrics.socketsBusiest.set({ scope: 'key' }, this.#perKey.most);
    metrics.socketsBusiest.set({ scope: 'instance' }, this.#perInstance.most);
  }

  reserve(owner: SlotOwner): Slot | Refusal {
    const refusal = this.#refusalFor(owner);
    if (refusal !== undefined) return refusal;
    const entry: Entry = { owner, ws: undefined, tcp: undefined, liveness: undefined, endAtMs: undefined };
    this.#entries.add(entry);
    this.#perKey.add(owner.key.name);
    if (owner.instanceUid !== undefined) this.#perInstance.add(owner.instanceUid);
    if (this.#cancelTick === undefined) this.#arm();
    return {
      attach: (ws, tcp) => {
        this.#attach(entry, ws, tcp);
      },
      close: ({ code, reason, cause, isPatient }) => {
        this.#close(entry, { code, reason, cause });
        const { clock, limits } = this.#options;
        if (isPatient) entry.endAtMs = clock.nowMs() + limits.stalledTimeoutMs;
      },
      release: () => {
        this.#release(entry);
      },
    };
  }

  drain(): Promise<void> {
    this.#draining ??= this.#drainAll();
    return this.#draining;
  }

  close(): void {
    this.#stopListening?.();
    this.#cancelTick?.();
    this.#cancelTick = undefined;
    for (const entry of this.#entries) entry.ws?.terminate();
  }

  #refusalFor(owner: SlotOwner): Refusal | undefined {
    const { limits } = this.#options;
    if (this.isDraining) return unavailable(stoppingFault, 1);
    if (this.#entries.size >= limits.socketsMax) return unavailable('Too many sockets', retryAfterSeconds);
    if (this.#perKey.get(owner.key.name) >= limits.socketsPerKeyMax) {
      return unavailable('Too many sockets with this token', retryAfterSeconds);
    }
    const onInstance = owner.instanceUid === undefined ? 0 : this.#perInstance.get(owner.instanceUid);
    if (onInstance >= limits.socketsPerInstanceMax) {
      return unavailable('Too many sockets for this instance', retryAfterSeconds);
    }
    return undefined;
  }

  #attach(entry: Entry, ws: ClientSocket, tcp: Socket): void {
    const { clock, keys, limits, metrics } = this.#options;
    if (!this.#entries.has(entry)) {
      ws.terminate();
      return;
    }
    const liveness = createLiveness(clock.nowMs(), trafficOf(tcp), limits);
    entry.ws = ws;
    entry.tcp = tcp;
    entry.liveness = liveness;
    metrics.socketsOpen.inc({ kind: entry.owner.kind });
    ws.on('pong', () => {
      notePong(liveness, clock.nowMs(), limits);
    });
    answerChatter(ws, tcp, {
      clock,
      isReadOnly: entry.owner.kind === 'live-log',
      isOpen: () => ws.readyState === openState,
      onFlood: () => {
        this.#close(entry, flooding);
        ws.pause();
        entry.endAtMs = clock.nowMs() + floodedGraceMs;
      },
    });
    if (!keys.holds(entry.owner.key, 'ALL')) this.#revoke([entry]);
    else if (this.isDraining) this.#close(entry, draining);
  }

  #release(entry: Entry): void {
    if (!this.#entries.delete(entry)) return;
    this.#perKey.remove(entry.owner.key.name);
    if (entry.owner.instanceUid !== undefined) this.#perInstance.remove(entry.owner.instanceUid);
    if (entry.ws !== undefined) this.#options.metrics.socketsOpen.dec({ kind: entry.owner.kind });
    if (this.#entries.size > 0) return;
    this.#cancelTick?.();
    this.#cancelTick = undefined;
    this.#onEmpty?.();
  }

  #close(entry: Entry, { code, reason, cause }: { code: number; reason: string; cause: CloseCause }): void {
    if (entry.ws?.readyState !== openState) return;
    this.#options.metrics.socketsClosed.inc({ cause });
    entry.ws.close(code, reason);
  }

  /** The key of this name changed. Those of its sockets that it would not admit any more go; no others are touched. */
  #recheck(name: string): void {
    const { keys } = this.#options;
    const lost = [...this.#entries].filter(({ owner }) => owner.key.name === name && !keys.holds(owner.key, 'ALL'));
    if (lost.length > 0) this.#revoke(lost);
  }

  #revoke(lost: readonly Entry[]): void {
    for (const entry of lost) this.#close(entry, { code: 1008, reason: 'token revoked', cause: 'revoked' });
    // Lines that wait for a client that does not read must not reach it either.
    this.#options.clock.after(revokedGraceMs, () => {
      for (const entry of lost) entry.ws?.terminate();
    });
  }

  async #drainAll(): Promise<void> {
    const { clock, limits } = this.#options;
    if (this.#entries.size === 0) return;
    const { promise, resolve } = Promise.withResolvers<undefined>();
    this.#onEmpty = () => {
      resolve(undefined);
    };
    for (const entry of this.#entries) this.#close(entry, draining);
    const cancel = clock.after(limits.drainGraceMs, () => {
      for (const entry of this.#entries) entry.ws?.terminate();
      resolve(undefined);
    });
    await promise;
    cancel();
  }

  #arm(wasLate = false): void {
    const { clock } = this.#options;
    const dueAtMs = clock.nowMs() + tickMs;
    this.#cancelTick = clock.after(tickMs, () => {
      // After we were held up ourselves, what peers have answered meanwhile is still to be read: nobody is judged before the next tick.
      const isLate = !wasLate && clock.nowMs() - dueAtMs >= tickMs;
      this.#arm(isLate);
      if (isLate) return;
      for (const entry of this.#entries) this.#check(entry);
    });
  }

  #check(entry: Entry): void {
    const { clock, limits, metrics } = this.#options;
    const { ws, tcp, liveness } = entry;
    if (ws === undefined || tcp === undefined || liveness === undefined) return;
    const nowMs = clock.nowMs();
    if (ws.readyState !== openState) {
      entry.endAtMs ??= nowMs + closingGraceMs;
      if (nowMs >= entry.endAtMs) ws.terminate();
      return;
    }
    const verdict = judge(liveness, nowMs, trafficOf(tcp), limits);
    if (verdict === 'ping') ws.ping();
    if (verdict === 'dead') {
      metrics.socketsClosed.inc({ cause: 'unresponsive' });
      ws.terminate();
    }
  }
}

const flooding = { code: 1008, reason: 'too many frames', cause: 'flooding' } as const;
/** Why a replica that was told to stop takes nobody any more. */
export const stoppingFault = 'This replica is stopping';
const draining = { code: 1001, reason: 'draining', cause: 'draining' } as const;

function trafficOf(tcp: Socket): Traffic {
  return { writtenBytes: tcp.bytesWritten, waitingBytes: tcp.writableLength };
}

/** How often each name is in use; those in use no more are forgotten. */
class Counts {
  readonly #counts = new Map<string, number>();

  get(name: string): number {
    return this.#counts.get(name) ?? 0;
  }

  /** How often the one is in use that is so most. */
  get most(): number {
    let most = 0;
    for (const count of this.#counts.values()) most = Math.max(most, count);
    return most;
  }

  add(name: string): void {
    this.#counts.set(name, this.get(name) + 1);
  }

  remove(name: string): void {
    const count = this.get(name) - 1;
    if (count > 0) this.#counts.set(name, count);
    else this.#counts.delete(name);
  }
}
