/** One instance's upstream, ring and subscriptions. See hub.ts for how they fit. */
import type { Clock } from '../runtime/clock.ts';
import { Follower } from './follower.ts';
import type { HubLimits, HubObserver } from './hub.ts';
import { piecesOf } from './pieces.ts';
import { Ring } from './ring.ts';
import type { RingLimits, RingPlace } from './ring.ts';
import type { Cursor, DirectLines, LogEvent, LogSource, Start } from './source.ts';
import type { Subscription } from './subscription.ts';

export interface ChannelOptions {
  readonly source: LogSource;
  /** Where the upstream begins: what the first subscription asked for. */
  readonly start: Start;
  readonly limits: HubLimits;
  readonly ringLimits: RingLimits;
  readonly clock: Pick<Clock, 'elapsed' | 'after'>;
  readonly observer: HubObserver;
  /** Nothing new will come: later subscriptions need another channel. */
  readonly onDone: () => void;
  readonly onClose: () => void;
}

export class Channel {
  readonly source: LogSource;
  readonly observer: HubObserver;
  readonly ring: Ring;
  readonly limits: HubLimits;
  readonly clock: ChannelOptions['clock'];
  /** Those that wait for something to come. */
  readonly waiting = new Set<Follower>();
  readonly #options: ChannelOptions;
  /** Lines come to the subscriptions in the turn that brought them while the pump waits for them and has room. */
  readonly #direct: DirectLines;
  readonly #abort = new AbortController();
  readonly #followers = new Set<Follower>();
  #failure: { readonly error: unknown } | undefined;
  #isEnded = false;
  #room: (() => void) | undefined;
  #linger: AbortController | undefined;
  /** Since when the pump waits for the source; undefined while it does not. */
  #waitingSince: number | undefined;
  #lastSettledAt = Number.NEGATIVE_INFINITY;
  /** The present turn of the ring ends where this entry is the oldest; nobody is waited for after the deadline before. */
  #turnEnd = 0;
  #deadline = 0;
  /** Someone who would fall out now, as far as is known. */
  #laggard: Follower | undefined;
  /** How far and when it was tidied. */
  #tidied = { sequence: 0, lines: 0, atMs: Number.NEGATIVE_INFINITY };

  constructor(options: ChannelOptions) {
    this.#options = options;
    this.source = options.source;
    this.observer = options.observer;
    this.limits = options.limits;
    this.clock = options.clock;
    this.ring = new Ring(options.ringLimits, (a, b) => options.source.compare(a, b));
    this.#direct = this.#createDirect();
    options.observer.upstreamOpened?.();
    void this.#pump();
  }

  get isClosed(): boolean {
    return this.#abort.signal.aborted;
  }

  get newest(): Cursor | undefined {
    return this.ring.newestCursor;
  }

  /** What the source threw for good. */
  get failure(): { readonly error: unknown } | undefined {
    return this.#failure;
  }

  subscribe(start: Start): Subscription {
    if ('after' in start) {
      this.source.compare(start.after, start.after);
    }
    this.#linger?.abort();
    this.#linger = undefined;
    const follower = new Follower(this, start, this.#placeOf(start));
    this.#followers.add(follower);
    return follower;
  }

  /** A subscription has moved on or left the ring: the pump may have room now. */
  moved(): void {
    this.#trim();
    this.#room?.();
  }

  leave(follower: Follower): void {
    if (!this.#followers.delete(follower)) {
      return;
    }
    this.#room?.();
    if (this.#followers.size === 0 && !this.isClosed) {
      if (this.#failure !== undefined) {
        this.close();
      } else {
        void this.#closeAfterLinger();
      }
    }
  }

  close(): void {
    if (this.isClosed) {
      return;
    }
    this.#linger?.abort();
    this.#abort.abort();
    this.#room?.();
    this.#options.observer.upstreamClosed?.();
    this.#options.onDone();
    this.#options.onClose();
    for (const follower of [...this.#followers]) {
      follower.close();
    }
  }

  /** Where `start` is in the ring; undefined if the source has to be asked. */
  #placeOf(start: Start): RingPlace | undefined {
    const { ring } = this;
    const first: RingPlace = { sequence: ring.oldestSequence, line: 0 };
    const isUntouched = !ring.hasEvicted && ring.nextSequence === 0;
    if (isUntouched && this.#followers.size === 0 && isSameStart(start, this.#options.start)) {
      return first;
    }
    if ('after' in start) {
      return ring.placeAfter(start.after);
    }
    const isWholeStart = !ring.hasEvicted && isSameStart(start, this.#options.start);
    if (!this.#isSettled) {
      // More of the backlog may come: only the very start of the upstream is known to be the right place, and that only while the ring holds
      // no more lines than were asked for. A log that never pauses is never settled, and its start is long past.
      const isStillBacklog = 'tail' in start && ring.lines <= start.tail;
      return isWholeStart && isStillBacklog ? first : undefined;
    }
    return ring.lastLines(start.tail) ?? (this.#hasWhole(start.tail) ? first : undefined);
  }

  /** Whether the ring has everything that the source had to give for `tail` lines. */
  #hasWhole(tail: number): boolean {
    const { start } = this.#options;
    return !this.ring.hasEvicted && 'tail' in start && start.tail >= tail;
  }

  /** Whether the pump is at the log's live end, as far as silence can tell. */
  get #isSettled(): boolean {
    const { clock, limits } = this;
    const now = clock.elapsed();
    const isQuiet = this.#waitingSince !== undefined && now - this.#waitingSince >= limits.settleMs;
    return this.#isEnded || isQuiet || now - this.#lastSettledAt < 50 * limits.settleMs;
  }

  async #pump(): Promise<void> {
    const { clock } = this;
    const { start } = this.#options;
    const iterator = this.source.open(start, this.#abort.signal, this.#direct)[Symbol.asyncIterator]();
    try {
      for (;;) {
        await this.#awaitRoom();
        this.#waitingSince = clock.elapsed();
        const next = await iterator.next();
        this.#noteArrival();
        this.#waitingSince = undefined;
        if (this.ring.isFull) {
          // What came directly while this was waited for has filled it.
          await this.#awaitRoom();
        }
        if (next.done === true || this.isClosed) {
          return;
        }
        this.#append(next.value);
      }
    } catch (error) {
      this.#failure = { error };
      this.#options.onDone();
      this.#wakeAll();
    } finally {
      this.#isEnded = true;
      await iterator.return?.();
    }
  }

  #createDirect(): DirectLines {
    const isReady = (): boolean => this.#waitingSince !== undefined && !this.isClosed && !this.ring.isFull;
    return {
      get isReady() {
        return isReady();
      },
      take: (batch) => {
        this.#append(batch);
        this.#noteArrival();
      },
    };
  }

  /** What was waited for has come. */
  #noteArrival(): void {
    const now = this.clock.elapsed();
    if (this.#waitingSince !== undefined && now - this.#waitingSince >= this.limits.settleMs) {
      this.#lastSettledAt = now;
    }
    this.#waitingSince = now;
  }

  #append(event: LogEvent): void {
    const { ring } = this;
    for (const piece of piecesOf(event)) {
      ring.append(piece);
    }
    if (event.type === 'end') {
      this.#options.onDone();
    }
    this.#trim();
    this.#wakeAll();
    this.#tidy();
    // Only now: nobody waits for what is counted.
    if (event.type === 'lines') {
      const { lines } = event;
      this.observer.linesReceived?.(
        lines.length,
        lines.reduce((bytes, line) => bytes + line.length, 0),
      );
    }
  }

  /** Drops what is too much, unless every subscription in the ring is far behind, or some deserve a moment. */
  #trim(): void {
    const { ring } = this;
    while (ring.isFull && this.#isSomeoneAhead() && !this.#isWaitingForLaggards()) {
      const oldest = ring.oldestSequence;
      for (const follower of this.#followers) {
        follower.beforeEviction(oldest);
      }
      ring.evict();
    }
  }

  /**
   * Now and then what somebody has taken is packed, and all but the newest of what everybody has taken is dropped, as long as nobody is on the way back to
   * the ring. Most logs never fill a ring; without this each of them would take its whole memory in the end, for lines that nobody waits for.
   */
  #tidy(): void {
    const { ring, limits, clock } = this;
    if (ring.nextSequence - this.#tidied.sequence < limits.packEntries) {
      return;
    }
    const before = this.#tidied;
    this.#tidied = { sequence: ring.nextSequence, lines: ring.linesTotal, atMs: clock.elapsed() };
    const places = Array.from(this.#followers, ({ sequence }) => sequence);
    const inside = places.filter((sequence) => sequence !== undefined);
    const takenByAll = Math.min(ring.nextSequence, ...inside);
    while (inside.length === places.length && ring.lines > limits.keptLines && ring.oldestSequence < takenByAll) {
      ring.evict();
    }
    const { lines, atMs } = this.#tidied;
    const isBurst = (lines - before.lines) * 1000 > limits.packLinesPerSecondMax * (atMs - before.atMs);
    if (!isBurst) {
      ring.pack(Math.max(0, ...inside), (packed) => {
        for (const follower of this.#followers) {
          follower.onPacked(packed);
        }
      });
    }
  }

  /** Whether an entry stays for a moment because someone would fall out with it. Bounded in each turn of the ring. */
  #isWaitingForLaggards(): boolean {
    const { clock, limits } = this;
    const { oldestSequence, nextSequence } = this.ring;
    if (limits.patienceMs === 0 || !this.#hasLaggard(oldestSequence)) {
      return false;
    }
    if (oldestSequence >= this.#turnEnd) {
      const patienceMs = this.#areMostBehind() ? limits.patienceForMostMs : limits.patienceMs;
      this.#turnEnd = nextSequence;
      this.#deadline = clock.elapsed() + patienceMs;
      void this.#trimAfter(patienceMs);
    }
    return clock.elapsed() < this.#deadline;
  }

  /** Whether more than half of those in the ring have not taken half of it. */
  #areMostBehind(): boolean {
    const half = this.#half;
    let balance = 0;
    for (const { sequence } of this.#followers) {
      if (sequence !== undefined) {
        balance += sequence < half ? 1 : -1;
      }
    }
    return balance > 0;
  }

  async #trimAfter(patienceMs: number): Promise<void> {
    try {
      await this.clock.after(patienceMs, this.#abort.signal);
    } catch {
      return; // Closed.
    }
    this.moved();
  }

  #hasLaggard(oldestSequence: number): boolean {
    if (this.#laggard?.sequence !== oldestSequence) {
      this.#laggard = undefined;
      for (const follower of this.#followers) {
        if (follower.sequence === oldestSequence) {
          this.#laggard = follower;
          break;
        }
      }
    }
    return this.#laggard !== undefined;
  }

  /** Waits while the ring is full and every subscription in it is far behind. */
  async #awaitRoom(): Promise<void> {
    for (;;) {
      this.#trim();
      if (!this.ring.isFull || this.isClosed) {
        return;
      }
      const { promise, resolve } = Promise.withResolvers<undefined>();
      this.#room = () => {
        resolve(undefined);
      };
      await promise;
      this.#room = undefined;
    }
  }

  get #half(): number {
    return (this.ring.oldestSequence + this.ring.nextSequence) / 2;
  }

  /** Whether the ring serves anybody by moving on: someone in it has taken half of it. */
  #isSomeoneAhead(): boolean {
    const half = this.#half;
    for (const follower of this.#followers) {
      if (follower.sequence !== undefined && follower.sequence >= half) {
        return true;
      }
    }
    return false;
  }

  #wakeAll(): void {
    for (const follower of [...this.waiting]) {
      follower.wake();
    }
  }

  async #closeAfterLinger(): Promise<void> {
    const linger = new AbortController();
    this.#linger = linger;
    try {
      await this.clock.after(this.limits.lingerMs, linger.signal);
    } catch {
      return; // Somebody subscribed, or the hub was closed.
    }
    if (this.#followers.size === 0) {
      this.close();
    }
  }
}

function isSameStart(a: Start, b: Start): boolean {
  return 'tail' in a ? 'tail' in b && a.tail === b.tail : 'after' in b && a.after === b.after;
}
