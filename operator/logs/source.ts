/**
 * Where an instance's log comes from.
 *
 * A `LogSource` belongs to one instance. `open()` gives its lines in the order of writing, each exactly once, from a start position on, and
 * keeps going over rotation, container restarts, replaced pods and broken connections, until the instance is stopped for good. What it must
 * hold (logs/sources/contract.ts runs it over every implementation):
 *
 * 1. Lines are whole, in order, none twice, none missing, for as long as the place that stores them still has them.
 * 2. What can no longer be had is announced by one `gap` event at the place where the lines are missing. Never in silence.
 * 3. A cursor marks the position just after a line. Opening at it gives exactly what follows, on any replica, also after a restart of ours.
 * 4. Not running yet, restarting, being replaced, unreachable: the iteration waits. It ends only by the `end` event or the signal.
 * 5. It reads no faster than it is asked: while nobody pulls, nothing is buffered beyond a small fixed amount, and the pressure reaches the
 *    storage's reader (never the workload).
 */

/** Opaque to clients: one printable ASCII word that names a position in one instance's log. */
export type Cursor = string;

/** Where to start. */
export type Start =
  /** The last `lines` lines, then live; 0 for only new ones. */
  | { readonly tail: number }
  /** What follows this position, then live. */
  | { readonly after: Cursor };

/** Some consecutive whole lines. */
export interface LogBatch {
  readonly type: 'lines';
  /** The bytes of each line as written, without `\n` or `\r\n`; maybe not UTF-8. At most `lineBytesMax` each: longer lines come cut in several. */
  readonly lines: readonly Buffer[];
  /** The position just after line `index`. Computed on demand: most clients never ask. */
  cursorAt(index: number): Cursor;
  /** When line `index` was written (RFC 3339); undefined where the source does not know. */
  timeAt(index: number): string | undefined;
}

export type LogEvent =
  | LogBatch
  /** Lines that cannot be had any more are missing here; `lines` is undefined where nobody can know how many. */
  | { readonly type: 'gap'; readonly lines: number | undefined; readonly cause: GapCause }
  /** The workload was started anew here (container restart or new pod). */
  | { readonly type: 'restart'; readonly cause: 'container' | 'pod' }
  /** Nothing follows: the instance was stopped, finished or deleted. Last event. */
  | { readonly type: 'end' };

/** Why lines are missing: a log file was rotated away, or the pod that held them is gone, or the cursor is older than what is kept. */
export const gapCauses = ['rotated', 'pod-deleted', 'expired'] as const;
export type GapCause = (typeof gapCauses)[number];

export interface LastLines {
  readonly lines: readonly Buffer[];
  /** Just after the last of them; where there are none, before whatever comes first. */
  readonly cursor: Cursor;
}

/**
 * Takes lines in the turn of the event loop that brings them, past the iteration, which many turns of promises lie between. A source uses it only while
 * a `next` of its iteration waits for these very lines; that goes on waiting then. So the order is one, whichever way the lines come.
 */
export interface DirectLines {
  /** Whether there is room. If not, lines come by the iteration, and the next when that one was taken. */
  readonly isReady: boolean;
  take(batch: LogBatch): void;
}

export interface LogSource {
  /**
   * See the contract above. Throws `OperatorError` `CURSOR_INVALID` before the first event if the cursor is not one of this instance's. A source may
   * give lines to `direct` instead of the iteration.
   */
  open(start: Start, signal: AbortSignal, direct?: DirectLines): AsyncIterable<LogEvent>;
  /**
   * The last `lines` lines as they are now, without following; fewer if there are fewer or if they take more memory than the source allows.
   * Opening at the returned cursor gives exactly what follows them. Throws `OperatorError` `LOG_SOURCE_UNAVAILABLE` if they cannot be read now.
   */
  tail(lines: number, signal: AbortSignal): Promise<LastLines>;
  /** Total order of two positions of this source: negative if `a` is before `b`, 0 if they are the same. Throws `CURSOR_INVALID`. */
  compare(a: Cursor, b: Cursor): number;
}

/** A line longer than this is cut into several, each but the last of at most this size and ending at a character boundary. */
export const lineBytesMax = 1024 * 1024;
