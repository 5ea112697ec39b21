/**
 * What a client of the hub holds: a position in one instance's log that is pulled from, never pushed to.
 *
 * The owner (a socket) calls `next()` only while it has room. Whatever its pace, it gets every event once and in order: from the shared ring
 * while it keeps up, from the source by its cursor when it fell out of the ring, until it meets the ring again. A subscription costs the
 * same small amount of memory at any speed, and no subscription slows another.
 */
import type { Cursor, GapCause, LogBatch, Start } from './source.ts';

/** Turns lines into the bytes that go to a socket. One object for each kind of frame: results are shared by its identity. */
export interface Encoder {
  /** `bytes` holds the encoded lines one behind the other; line `i` is `[offsets[i], offsets[i + 1])`. */
  encode(batch: LogBatch): EncodedBatch;
}

export interface EncodedBatch {
  readonly bytes: Buffer;
  readonly offsets: Uint32Array;
}

/** Lines `[from, to)` of a batch that all subscriptions share. */
export interface LineChunk {
  readonly type: 'lines';
  readonly batch: LogBatch;
  readonly from: number;
  readonly to: number;
  /** The encoded bytes of these lines: a view, not a copy. The batch is encoded once for each encoder, however many subscriptions ask. */
  encoded(encoder: Encoder): Buffer;
}

export type Chunk =
  | LineChunk
  | { readonly type: 'gap'; readonly lines: number | undefined; readonly cause: GapCause }
  | { readonly type: 'restart'; readonly cause: 'container' | 'pod' }
  | { readonly type: 'end' };

export interface Subscription {
  /** The next events, without waiting; undefined when there are none now. After `end` always undefined. Throws what the source threw for good. */
  next(): Chunk | undefined;
  /**
   * True if `next()` may give something (or throw) now. Otherwise `wake` is called once as soon as it may: for all that wait in one sweep, in the turn in which
   * something came, and never from within a call of `next()`. It must not throw.
   */
  whenReadable(wake: () => void): boolean;
  /** Lines that the ring has and this subscription has not taken yet; for metrics. */
  readonly behindLines: number;
  /** Gives everything back. Idempotent; who waits is woken, `next()` gives undefined from then on. */
  close(): void;
}

export interface Hub {
  /** Joins the instance's one upstream (opened with the first, closed with the last subscription). Throws `CURSOR_INVALID`. */
  subscribe(instanceUid: string, start: Start): Subscription;
  /** Position of the newest line that the hub has seen, if an upstream is open. */
  newest(instanceUid: string): Cursor | undefined;
  /** Closes every upstream. */
  close(): void;
}
