/** A subscription: a place in the ring, or a stream of its own until it is (back) there. See hub.ts. */
import type { Channel } from './channel.ts';
import { RingEntry } from './ring.ts';
import type { RingPlace } from './ring.ts';
import type { Cursor, LogEvent, Start } from './source.ts';
import type { Chunk, Subscription } from './subscription.ts';

/** A stream of its own: at most one event is held, and the next is asked for only when that one was taken. */
interface CatchUp {
  readonly abort: AbortController;
  readonly iterator: AsyncIterator<LogEvent>;
  isPulling: boolean;
  ready: LogEvent | undefined;
  failure: { readonly error: unknown } | undefined;
}

export class Follower implements Subscription {
  readonly #channel: Channel;
  /** Undefined while catching up. */
  #place: RingPlace | undefined;
  #catchUp: CatchUp | undefined;
  /** The last line taken by the own stream; the ring is entered only straight after a line. */
  #lastCursor: Cursor | undefined;
  /** Events taken since the last line: a stream opened anew after that line gives them once more. */
  #eventsTaken: LogEvent['type'][] = [];
  #eventsToSkip: LogEvent['type'][] = [];
  readonly #held: RingEntry[] = [];
  #isEnded = false;
  #isClosed = false;
  #waiters: (() => void)[] = [];

  /** At `place` in the ring, or by a stream of its own from `start` on. */
  constructor(channel: Channel, start: Start, place: RingPlace | undefined) {
    this.#channel = channel;
    this.#place = place;
    if (place === undefined) {
      this.#openCatchUp(start);
    }
  }

  /** The entry that is taken next; undefined while catching up. */
  get sequence(): number | undefined {
    return this.#place?.sequence;
  }

  get behindLines(): number {
    const { ring } = this.#channel;
    return this.#isClosed ? 0 : this.#place === undefined ? ring.lines : ring.linesAfter(this.#place);
  }

  next(): Chunk | undefined {
    if (this.#isClosed || this.#isEnded) {
      return undefined;
    }
    const held = this.#held.shift();
    if (held !== undefined) {
      const { event } = held;
      this.#onTaken(event);
      this.#lastCursor = event.type === 'lines' ? event.cursorAt(event.lines.length - 1) : undefined;
      return held.chunk(0);
    }
    return this.#place === undefined ? this.#nextOfCatchUp() : this.#nextOfRing(this.#place);
  }

  whenReadable(wake: () => void): boolean {
    if (this.#isReadable()) {
      return true;
    }
    this.#waiters.push(wake);
    this.#channel.waiting.add(this);
    return false;
  }

  close(): void {
    if (this.#isClosed) {
      return;
    }
    this.#isClosed = true;
    this.#closeCatchUp();
    this.#held.length = 0;
    this.#place = undefined;
    this.wake();
    this.#channel.leave(this);
  }

  /** Something may have come. */
  wake(): void {
    if (this.#waiters.length === 0 || !(this.#isClosed || this.#isReadable())) {
      return;
    }
    const waiters = this.#waiters;
    this.#waiters = [];
    this.#channel.waiting.delete(this);
    for (const wake of waiters) {
      wake();
    }
  }

  /** For what happens while somebody takes from the ring: whoever is woken would take from it as well, within that. */
  #wakeSoon(): void {
    queueMicrotask(() => {
      this.wake();
    });
  }

  /** The ring drops its oldest entry: whoever has not taken it all reads on from the source. */
  beforeEviction(sequence: number): void {
    if (this.#place?.sequence !== sequence) {
      return;
    }
    const { line } = this.#place;
    const { ring } = this.#channel;
    const event = ring.entry(sequence)?.event;
    const cursor = line > 0 && event?.type === 'lines' ? event.cursorAt(line - 1) : ring.evictedCursor;
    if (cursor === undefined) {
      this.#hold(sequence);
      return;
    }
    this.#place = undefined;
    this.#lastCursor = cursor;
    this.#eventsToSkip = line > 0 ? [] : [...this.#eventsTaken];
    this.#channel.observer.caughtBehind?.();
    this.#openCatchUp({ after: cursor });
    this.#wakeSoon();
  }

  /** No line lies before this entry, so no cursor leads to it: it is kept until it is taken. At most one entry with lines. */
  #hold(sequence: number): void {
    const entry = this.#channel.ring.entry(sequence);
    if (entry === undefined) {
      return;
    }
    this.#held.push(entry);
    const { event } = entry;
    if (event.type !== 'lines') {
      this.#place = { sequence: sequence + 1, line: 0 };
      return;
    }
    this.#place = undefined;
    this.#channel.observer.caughtBehind?.();
    this.#openCatchUp({ after: event.cursorAt(event.lines.length - 1) });
    this.#wakeSoon();
  }

  #isReadable(): boolean {
    if (this.#isClosed || this.#isEnded || this.#held.length > 0) {
      return true;
    }
    if (this.#place !== undefined) {
      return this.#place.sequence < this.#channel.ring.nextSequence || this.#channel.failure !== undefined;
    }
    if (this.#joinRing()) {
      return this.#isReadable();
    }
    this.#pull();
    return this.#catchUp?.ready !== undefined || this.#catchUp?.failure !== undefined;
  }

  #nextOfRing(place: RingPlace): Chunk | undefined {
    const entry = this.#channel.ring.entry(place.sequence);
    if (entry === undefined) {
      const { failure } = this.#channel;
      if (failure !== undefined) {
        throw failure.error;
      }
      return undefined;
    }
    this.#place = { sequence: place.sequence + 1, line: 0 };
    this.#onTaken(entry.event);
    this.#channel.moved();
    return entry.chunk(place.line);
  }

  #nextOfCatchUp(): Chunk | undefined {
    const place = this.#joinRing();
    if (place !== undefined) {
      return this.#nextOfRing(place);
    }
    const catchUp = this.#catchUp;
    if (catchUp?.failure !== undefined) {
      throw catchUp.failure.error;
    }
    const event = catchUp?.ready;
    if (catchUp === undefined || event === undefined) {
      this.#pull();
      return undefined;
    }
    catchUp.ready = undefined;
    this.#onTaken(event);
    this.#lastCursor = event.type === 'lines' ? event.cursorAt(event.lines.length - 1) : undefined;
    return new RingEntry(event).chunk(0);
  }

  #onTaken(event: LogEvent): void {
    if (event.type === 'lines') {
      this.#eventsTaken = [];
      return;
    }
    this.#eventsTaken.push(event.type);
    this.#isEnded = event.type === 'end';
  }

  /** Back to the ring, if the line taken last is one of its lines. */
  #joinRing(): RingPlace | undefined {
    const cursor = this.#lastCursor;
    if (cursor === undefined || this.#eventsToSkip.length > 0) {
      return undefined;
    }
    const place = this.#channel.ring.placeAfter(cursor);
    if (place !== undefined) {
      this.#closeCatchUp();
      this.#place = place;
      this.#channel.observer.caughtUp?.();
      this.#channel.moved();
    }
    return place;
  }

  #openCatchUp(start: Start): void {
    const abort = new AbortController();
    const iterator = this.#channel.source.open(start, abort.signal)[Symbol.asyncIterator]();
    this.#catchUp = { abort, iterator, isPulling: false, ready: undefined, failure: undefined };
  }

  #closeCatchUp(): void {
    const catchUp = this.#catchUp;
    this.#catchUp = undefined;
    catchUp?.abort.abort();
    void catchUp?.iterator.return?.().catch(ignoreAfterClose);
  }

  #pull(): void {
    const catchUp = this.#catchUp;
    if (catchUp !== undefined && !catchUp.isPulling && catchUp.ready === undefined && catchUp.failure === undefined) {
      catchUp.isPulling = true;
      void this.#pullOne(catchUp);
    }
  }

  async #pullOne(catchUp: CatchUp): Promise<void> {
    try {
      for (;;) {
        const next = await catchUp.iterator.next();
        if (next.done === true) {
          break;
        }
        if (!this.#isAlreadyTaken(next.value)) {
          catchUp.ready = next.value;
          break;
        }
      }
    } catch (error) {
      catchUp.failure = { error };
    }
    catchUp.isPulling = false;
    if (this.#catchUp === catchUp) {
      this.wake();
    }
  }

  #isAlreadyTaken(event: LogEvent): boolean {
    const index = this.#eventsToSkip.indexOf(event.type);
    if (event.type === 'lines' || index === -1) {
      this.#eventsToSkip = [];
      return false;
    }
    this.#eventsToSkip.splice(index, 1);
    return true;
  }
}

function ignoreAfterClose(): void {
  // The stream was given up on purpose; how it ended does not matter any more.
}
