/** What the Master's outside needs of the rest: who wires it (operator/master.ts) and the tests each give their own. */
import type { Cursor } from '../logs/source.ts';

/** An instance as clients see it. Field names are the protocol's, not ours. */
export interface InstanceInfo {
  readonly id: string;
  readonly name: string;
  readonly namespace: string;
  readonly configurationName: string | null;
  /** The node it runs on; null before it is placed. */
  readonly wrapperNodeId: string | null;
  readonly hostAddress: string | null;
  readonly allocatedPort: number | null;
  readonly state: 'CREATING' | 'ONLINE' | 'OFFLINE' | 'STOPPED';
  /** Milliseconds since 1970; null before the first sign of life. */
  readonly lastHeartbeat: number | null;
  /** Null for containers. */
  readonly processPid: number | null;
  readonly allocatedRamMB: number;
  /** 100 is one core. */
  readonly allocatedCpu: number;
  readonly runtime: string;
  readonly restarts: number;
}

/** The instances that this replica knows of, from its cache: never waits, never throws. */
export interface InstanceDirectory {
  list(): readonly InstanceInfo[];
  /** `uid` is the identity that the log hub knows the instance by; it changes when an instance is deleted and made again. */
  byId(id: string): { readonly info: InstanceInfo; readonly uid: string } | undefined;
  /** By the uid of the Instance; only those that have an id. */
  byUid(uid: string): InstanceInfo | undefined;
  /** Calls back when an instance has come or changed. Returns a function that ends it. */
  onChange(listener: () => void): () => void;
}

/** Objects that this replica watches; an `InformerSet` is one. */
export interface Cached<T> {
  /** Whether there is a first complete list. */
  readonly hasSynced: boolean;
  list(): readonly T[];
  /** Calls back for each change, and at once for what is there. Returns a function that ends it. */
  onChange(handler: () => void): () => void;
}

/** The end of an instance's log, without following it. */
export interface LogTail {
  /** The last `lines` lines, oldest first; none yet is an empty array. Rejects with `OperatorError`, or when the signal aborts. */
  tail(uid: string, lines: number, signal: AbortSignal): Promise<TailResult>;
}

export interface TailResult {
  readonly lines: readonly string[];
  /** The position just after the last of them, for `?cursor=`. */
  readonly nextCursor: Cursor;
}

/** Time, so that tests can make it pass. */
export interface Timers {
  nowMs(): number;
  /** Calls `run` once after the delay, unless the returned function is called first. Keeps no process alive. */
  after(delayMs: number, run: () => void): () => void;
}

/** The process's own time. */
export const systemTimers: Timers = {
  nowMs: () => Date.now(),
  after(delayMs, run) {
    const timer = setTimeout(run, delayMs);
    timer.unref();
    return () => {
      clearTimeout(timer);
    };
  },
};

/** Every bound on what strangers and clients can take, with its unit. */
export interface Limits {
  /**
   * TCP connections, sockets and plain HTTP together; more are closed at once. Those that are no sockets may be as many as sockets leave room for; where
   * there are more, the oldest that is not being answered is closed.
   */
  readonly connectionsMax: number;
  readonly socketsMax: number;
  readonly socketsPerKeyMax: number;
  readonly socketsPerInstanceMax: number;
  /** Request line and headers together. */
  readonly headerBytesMax: number;
  /** From the first byte of a connection to the end of the request's headers. */
  readonly headersTimeoutMs: number;
  /** With TLS: to the first byte of a connection, and from there to the end of the handshake. */
  readonly handshakeTimeoutMs: number;
  readonly requestTimeoutMs: number;
  /** A plain answer of which the client takes nothing for so long is given up. */
  readonly answerTimeoutMs: number;
  readonly keepAliveTimeoutMs: number;
  /** A frame from the client of a live log; above it 1009. */
  readonly clientFrameBytesMax: number;
  /** A frame from the client of a console; above it 1009. */
  readonly consoleFrameBytesMax: number;
  /** Command lines that wait for their turn in one session, and their bytes; those above either are not run. */
  readonly consoleQueueMax: number;
  readonly consoleQueueBytesMax: number;
  /**
   * What one socket may hold in our memory; above it the socket is not written to until it has drained. Most of what a client costs that does not read.
   * A smaller one saves memory, a larger one no measurable CPU time.
   */
  readonly sendBufferBytesMax: number;
  readonly pingIntervalMs: number;
  readonly pongTimeoutMs: number;
  /** For a client that has so much unread that its pong is stuck behind it: see sockets.ts. */
  readonly stalledTimeoutMs: number;
  /** From 1001 to the end of those sockets that do not answer, and from the end of serving to the end of slow requests. */
  readonly drainGraceMs: number;
  /** Longest wait for the end of a log in a plain HTTP call. */
  readonly tailTimeoutMs: number;
  /** Longest wait for the id of an Instance that was made by a call. */
  readonly createTimeoutMs: number;
  /** Longest wait until this replica has seen what a call wrote. */
  readonly settleTimeoutMs: number;
  readonly publicCallsMax: number;
  readonly publicWindowMs: number;
}

export const defaultLimits: Limits = {
  connectionsMax: 10_000,
  socketsMax: 5_000,
  socketsPerKeyMax: 2_000,
  socketsPerInstanceMax: 2_000,
  headerBytesMax: 16 * 1024,
  headersTimeoutMs: 10_000,
  handshakeTimeoutMs: 10_000,
  requestTimeoutMs: 30_000,
  answerTimeoutMs: 30_000,
  keepAliveTimeoutMs: 65_000,
  clientFrameBytesMax: 1024,
  consoleFrameBytesMax: 64 * 1024,
  consoleQueueMax: 256,
  consoleQueueBytesMax: 1024 * 1024,
  sendBufferBytesMax: 64 * 1024,
  pingIntervalMs: 15_000,
  pongTimeoutMs: 15_000,
  stalledTimeoutMs: 300_000,
  drainGraceMs: 10_000,
  tailTimeoutMs: 10_000,
  createTimeoutMs: 10_000,
  settleTimeoutMs: 2_000,
  publicCallsMax: 100,
  publicWindowMs: 60_000,
};
