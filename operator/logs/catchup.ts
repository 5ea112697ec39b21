/**
 * A stream of one subscription's own, from a position on, at the pace of whoever takes from it. See hub.ts.
 *
 * It is a connection with its buffers, here and at the other end, so it is there only while somebody takes: it is opened when it is first asked, and
 * closed when nothing was taken from it for a while. What remains then is the position, from which it is opened again when it is asked again.
 */
import type { Clock } from '../runtime/clock.ts';
import { piecesOf } from './pieces.ts';
import type { Cursor, LogEvent, LogSource, Start } from './source.ts';

export interface CatchUpOptions {
  readonly source: LogSource;
  readonly clock: Pick<Clock, 'elapsed' | 'after'>;
  /** How long a stream stays open that nothing is taken from, in milliseconds. */
  readonly idleMs: number;
  /** Called when what was asked for has come, be it an event or a failure; never from within a call. */
  readonly onReady: () => void;
}

interface Stream {
  readonly abort: AbortController;
  readonly iterator: AsyncIterator<LogEvent>;
  /** Events that were taken before it was opened, and that it gives once more. */
  toSkip: LogEvent['type'][];
  isPulling: boolean;
  /** Since when nothing was asked of it, unless it is pulled from. */
  idleSince: number;
}

export class CatchUp {
  readonly #options: CatchUpOptions;
  /** After the line that was taken last; before there was one, where to begin. */
  #start: Start;
  /** Events taken since then: no cursor leads behind them, so a stream that is opened there gives them once more. */
  #taken: LogEvent['type'][];
  #stream: Stream | undefined;
  /** One event, or a batch in pieces. The next is asked for only when all of it was taken. */
  #ready: readonly LogEvent[] = [];
  #failure: { readonly error: unknown } | undefined;
  #isClosed = false;

  /** Opens nothing yet. `taken`: events behind `start` that are not to be given once more. */
  constructor(start: Start, taken: readonly LogEvent['type'][], options: CatchUpOptions) {
    this.#start = start;
    this.#taken = [...taken];
    this.#options = options;
  }

  /** The line after which it stands; undefined where it does not stand straight after one. */
  get lastCursor(): Cursor | undefined {
    return this.#taken.length === 0 && 'after' in this.#start ? this.#start.after : undefined;
  }

  /** Whether `take()` gives something or throws. May not hold any more once it was not taken for a while. */
  get isReady(): boolean {
    return this.#ready.length > 0 || this.#failure !== undefined;
  }

  /** The next event; undefined, and asked for, if it is not here yet. Throws what the source threw for good. */
  take(): LogEvent | undefined {
    if (this.#failure !== undefined) {
      throw this.#failure.error;
    }
    const [event, ...rest] = this.#ready;
    if (event === undefined) {
      this.pull();
      return undefined;
    }
    this.#ready = rest;
    if (event.type === 'lines') {
      this.#start = { after: event.cursorAt(event.lines.length - 1) };
      this.#taken = [];
    } else {
      this.#taken.push(event.type);
    }
    if (this.#stream !== undefined) {
      this.#stream.idleSince = this.#options.clock.elapsed();
    }
    return event;
  }

  /** Asks for the next event, if there is none. */
  pull(): void {
    if (this.#isClosed || this.isReady) {
      return;
    }
    const stream = this.#stream ?? this.#open();
    if (!stream.isPulling) {
      stream.isPulling = true;
      void this.#pullOne(stream);
    }
  }

  /** For good. Idempotent. */
  close(): void {
    this.#isClosed = true;
    this.#ready = [];
    this.#closeStream();
  }

  #open(): Stream {
    const abort = new AbortController();
    const { clock, source } = this.#options;
    const iterator = source.open(this.#start, abort.signal)[Symbol.asyncIterator]();
    const stream = { abort, iterator, toSkip: [...this.#taken], isPulling: false, idleSince: clock.elapsed() };
    this.#stream = stream;
    void this.#closeWhenIdle(stream);
    return stream;
  }

  #closeStream(): void {
    const stream = this.#stream;
    this.#stream = undefined;
    stream?.abort.abort();
    void stream?.iterator.return?.().catch(ignoreAfterClose);
  }

  /** One timer for each open stream, however much is taken from it. */
  async #closeWhenIdle(stream: Stream): Promise<void> {
    try {
      for (let leftMs = this.#options.idleMs; leftMs > 0; leftMs = this.#idleMsLeft(stream)) {
        await this.#options.clock.after(leftMs, stream.abort.signal);
      }
    } catch {
      return; // Closed.
    }
    this.#closeStream();
    // Lines are read once more. Events stay: they weigh nothing, and another look at the log may not show them in the same way.
    this.#ready = this.#ready.filter(({ type }) => type !== 'lines');
  }

  #idleMsLeft(stream: Stream): number {
    const { clock, idleMs } = this.#options;
    // Before the first line of a tail there is no position to come back to: the same tail would be another one later.
    const isNeeded = stream.isPulling || 'tail' in this.#start;
    return isNeeded ? idleMs : idleMs - (clock.elapsed() - stream.idleSince);
  }

  async #pullOne(stream: Stream): Promise<void> {
    let event: LogEvent | undefined;
    let failure: { readonly error: unknown } | undefined;
    try {
      event = await nextOf(stream);
    } catch (error) {
      failure = { error };
    }
    // While it is pulled from, it is closed only for good.
    if (this.#isClosed) {
      return;
    }
    stream.isPulling = false;
    stream.idleSince = this.#options.clock.elapsed();
    this.#ready = event === undefined ? [] : piecesOf(event);
    this.#failure = failure;
    this.#options.onReady();
  }
}

/** The next event that was not taken yet; undefined at the end. */
async function nextOf(stream: Stream): Promise<LogEvent | undefined> {
  for (;;) {
    const next = await stream.iterator.next();
    if (next.done === true) {
      return undefined;
    }
    const index = stream.toSkip.indexOf(next.value.type);
    if (next.value.type === 'lines' || index === -1) {
      stream.toSkip = [];
      return next.value;
    }
    stream.toSkip.splice(index, 1);
  }
}

function ignoreAfterClose(): void {
  // The stream was given up on purpose; how it ended does not matter any more.
}
