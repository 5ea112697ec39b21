/** A subscription: a place in the ring, or a stream of its own until it is (back) there. See hub.ts. */
import { CatchUp } from './catchup.ts';
import type { Channel } from './channel.ts';
import { RingEntry } from './ring.ts';
import type { PackedPlaces, RingPlace } from './ring.ts';
import type { LogEvent, Start } from './source.ts';
import type { Chunk, Subscription } from './subscription.ts';

export class Follower implements Subscription {
  readonly #channel: Channel;
  /** Undefined while catching up. */
  #place: RingPlace | undefined;
  /** Undefined while in the ring. */
  #catchUp: CatchUp | undefined;
  /** Events taken since the last line. */
  #eventsTaken: LogEvent['type'][] = [];
  readonly #held: RingEntry[] = [];
  #isEnded = false;
  #isClosed = false;
  #waiters: (() => void)[] = [];

  /** At `place` in the ring, or by a stream of its own from `start` on. */
  constructor(channel: Channel, start: Start, place: RingPlace | undefined) {
    this.#channel = channel;
    this.#place = place;
    if (place === undefined) {
      this.#catchUp = this.#catchUpFrom(start, []);
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
      this.#onTaken(held.event);
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

  /** Entries of the ring became one. */
  onPacked({ first, lineStarts }: PackedPlaces): void {
    const { sequence, line } = this.#place ?? {};
    const start = sequence === undefined ? undefined : lineStarts[sequence - first];
    if (start !== undefined && line !== undefined) {
      this.#place = { sequence: first, line: start + line };
    }
  }

  /**
   * The ring drops its oldest entry: whoever has not taken it all reads on from the source.
   *
   * Nobody has to be woken for it. Who waits has taken everything, but for an entry that was just appended: that is dropped only when somebody who
   * was woken before has taken it, and then the same sweep still comes to this one.
   */
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
    this.#fallBehind({ after: cursor }, line > 0 ? [] : this.#eventsTaken);
  }

  /** No line lies before this entry, so no cursor leads to it: it is kept until it is taken. At most one entry with lines. */
  #hold(sequence: number): void {
    const entry = this.#channel.ring.entry(sequence);
    if (entry === undefined) {
      return;
    }
    this.#held.push(entry);
    const { lastCursor } = entry;
    if (lastCursor === undefined) {
      this.#place = { sequence: sequence + 1, line: 0 };
      return;
    }
    this.#fallBehind({ after: lastCursor }, []);
  }

  #fallBehind(start: Start, eventsTaken: readonly LogEvent['type'][]): void {
    this.#place = undefined;
    this.#channel.observer.caughtBehind?.();
    this.#catchUp = this.#catchUpFrom(start, eventsTaken);
  }

  #catchUpFrom(start: Start, eventsTaken: readonly LogEvent['type'][]): CatchUp {
    const { source, clock, limits } = this.#channel;
    return new CatchUp(start, eventsTaken, {
      ...{ source, clock, idleMs: limits.catchUpIdleMs },
      onReady: () => {
        this.wake();
      },
    });
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
    this.#catchUp?.pull();
    return this.#catchUp?.isReady === true;
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
    this.#place = { sequence: place.sequence + entry.span, line: 0 };
    this.#onTaken(entry.event);
    this.#channel.moved();
    return entry.chunk(place.line);
  }

  #nextOfCatchUp(): Chunk | undefined {
    const place = this.#joinRing();
    if (place !== undefined) {
      return this.#nextOfRing(place);
    }
    const event = this.#catchUp?.take();
    if (event === undefined) {
      return undefined;
    }
    this.#onTaken(event);
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
    const cursor = this.#catchUp?.lastCursor;
    const place = cursor === undefined ? undefined : this.#channel.ring.placeAfter(cursor);
    if (place !== undefined) {
      this.#closeCatchUp();
      this.#place = place;
      this.#channel.observer.caughtUp?.();
      this.#channel.moved();
    }
    return place;
  }

  #closeCatchUp(): void {
    this.#catchUp?.close();
    this.#catchUp = undefined;
  }
}
