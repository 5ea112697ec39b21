/**
 * The newest events of one log, with their ready-made frames, bounded by bytes and lines. Each entry has a number; what falls off the old
 * end leaves the cursor of its last line behind, so that a reader who had not got it knows where to go on elsewhere.
 */
import type { Cursor, LogBatch, LogEvent } from './source.ts';
import type { Chunk, EncodedBatch, Encoder } from './subscription.ts';

export interface RingLimits {
  readonly ringBytesMax: number;
  readonly ringLinesMax: number;
}

/** Memory of a line besides its bytes: views, stamps, offsets. */
const lineOverheadBytes = 150;

/** One event, as subscriptions share it. */
export class RingEntry {
  readonly event: LogEvent;
  readonly lineCount: number;
  /** Grows when the entry is encoded. */
  bytes: number;
  readonly #encodings = new Map<Encoder, EncodedBatch>();
  readonly #onGrow: ((bytes: number) => void) | undefined;

  constructor(event: LogEvent, onGrow?: (bytes: number) => void) {
    this.event = event;
    this.#onGrow = onGrow;
    this.lineCount = event.type === 'lines' ? event.lines.length : 0;
    this.bytes = event.type === 'lines' ? sizeOf(event) : lineOverheadBytes;
  }

  /** This entry from line `from` on. */
  chunk(from: number): Chunk {
    const { event } = this;
    if (event.type !== 'lines') {
      return event;
    }
    const to = event.lines.length;
    return {
      type: 'lines',
      batch: event,
      from,
      to,
      encoded: (encoder) => {
        const { bytes, offsets } = this.#encode(event, encoder);
        return bytes.subarray(offsets[from], offsets[to]);
      },
    };
  }

  #encode(batch: LogBatch, encoder: Encoder): EncodedBatch {
    const known = this.#encodings.get(encoder);
    if (known !== undefined) {
      return known;
    }
    const encoded = encoder.encode(batch);
    this.#encodings.set(encoder, encoded);
    const bytes = encoded.bytes.byteLength + encoded.offsets.byteLength;
    this.bytes += bytes;
    this.#onGrow?.(bytes);
    return encoded;
  }
}

/** A place between two lines or events: before line `line` of entry `sequence`. */
export interface RingPlace {
  readonly sequence: number;
  readonly line: number;
}

export class Ring {
  readonly #limits: RingLimits;
  readonly #compare: (a: Cursor, b: Cursor) => number;
  #entries: (RingEntry | undefined)[] = [];
  /** Index in `#entries` of the oldest one: the array is compacted now and then, not on each eviction. */
  #head = 0;
  #oldestSequence = 0;
  #bytes = 0;
  #lines = 0;
  #linesEvicted = 0;
  #lastEvicted: LogBatch | undefined;
  /** The newest evicted entry is an event, which came after `#lastEvicted`. */
  #isEventEvictedLast = false;

  constructor(limits: RingLimits, compare: (a: Cursor, b: Cursor) => number) {
    this.#limits = limits;
    this.#compare = compare;
  }

  get bytes(): number {
    return this.#bytes;
  }

  get lines(): number {
    return this.#lines;
  }

  /** Lines ever appended. */
  get linesTotal(): number {
    return this.#linesEvicted + this.#lines;
  }

  get hasEvicted(): boolean {
    return this.#oldestSequence > 0;
  }

  get oldestSequence(): number {
    return this.#oldestSequence;
  }

  /** The number that the next entry gets. */
  get nextSequence(): number {
    return this.#oldestSequence + this.#entries.length - this.#head;
  }

  get isFull(): boolean {
    return this.#bytes > this.#limits.ringBytesMax || this.#lines > this.#limits.ringLinesMax;
  }

  entry(sequence: number): RingEntry | undefined {
    return this.#entries[this.#head + sequence - this.#oldestSequence];
  }

  append(event: LogEvent): void {
    const entry = new RingEntry(event, (bytes) => {
      this.#bytes += bytes;
    });
    this.#entries.push(entry);
    this.#bytes += entry.bytes;
    this.#lines += entry.lineCount;
  }

  /** Drops the oldest entry. */
  evict(): void {
    const entry = this.#entries[this.#head];
    if (entry === undefined) {
      return;
    }
    this.#entries[this.#head] = undefined;
    this.#head += 1;
    this.#oldestSequence += 1;
    this.#bytes -= entry.bytes;
    this.#lines -= entry.lineCount;
    this.#linesEvicted += entry.lineCount;
    this.#isEventEvictedLast = entry.event.type !== 'lines';
    this.#lastEvicted = entry.event.type === 'lines' ? entry.event : this.#lastEvicted;
    if (this.#head > 64 && this.#head * 2 > this.#entries.length) {
      this.#entries = this.#entries.slice(this.#head);
      this.#head = 0;
    }
  }

  /** Cursor of the last line before the oldest entry; undefined if no line was evicted. */
  get evictedCursor(): Cursor | undefined {
    return lastCursorOf(this.#lastEvicted);
  }

  get newestCursor(): Cursor | undefined {
    for (let sequence = this.nextSequence - 1; sequence >= this.#oldestSequence; sequence -= 1) {
      const event = this.entry(sequence)?.event;
      if (event?.type === 'lines') {
        return lastCursorOf(event);
      }
    }
    return this.evictedCursor;
  }

  /** Where the last `lines` lines begin; undefined if the ring has fewer. */
  lastLines(lines: number): RingPlace | undefined {
    let missing = lines;
    for (let sequence = this.nextSequence; sequence > this.#oldestSequence; sequence -= 1) {
      if (missing === 0) {
        return { sequence, line: 0 };
      }
      const count = this.entry(sequence - 1)?.lineCount ?? 0;
      if (count >= missing) {
        return { sequence: sequence - 1, line: count - missing };
      }
      missing -= count;
    }
    return missing === 0 ? { sequence: this.#oldestSequence, line: 0 } : undefined;
  }

  /** The place just after the line at `cursor`; undefined if the ring does not hold exactly that line. */
  placeAfter(cursor: Cursor): RingPlace | undefined {
    let low = this.#oldestSequence;
    let high = this.nextSequence;
    // The first entry whose last line is at or after the cursor; events count as the lines before them.
    while (low < high) {
      const middle = low + Math.floor((high - low) / 2);
      const batch = this.#batchAtOrBefore(middle);
      if (batch !== undefined && this.#compare(lastCursorOf(batch) ?? cursor, cursor) >= 0) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    const event = this.entry(low)?.event;
    if (event?.type === 'lines') {
      return this.#placeInBatch(event, low, cursor);
    }
    return this.#placeAfterEvicted(cursor);
  }

  /** Lines between `place` and the newest one. */
  linesAfter(place: RingPlace): number {
    let count = -place.line;
    for (let sequence = place.sequence; sequence < this.nextSequence; sequence += 1) {
      count += this.entry(sequence)?.lineCount ?? 0;
    }
    return Math.max(0, count);
  }

  #batchAtOrBefore(sequence: number): LogBatch | undefined {
    for (let at = sequence; at >= this.#oldestSequence; at -= 1) {
      const event = this.entry(at)?.event;
      if (event?.type === 'lines') {
        return event;
      }
    }
    return undefined;
  }

  #placeInBatch(batch: LogBatch, sequence: number, cursor: Cursor): RingPlace | undefined {
    let low = 0;
    let high = batch.lines.length - 1;
    while (low < high) {
      const middle = Math.floor((low + high) / 2);
      if (this.#compare(batch.cursorAt(middle), cursor) >= 0) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    if (this.#compare(batch.cursorAt(low), cursor) === 0) {
      return low + 1 === batch.lines.length ? { sequence: sequence + 1, line: 0 } : { sequence, line: low + 1 };
    }
    return low === 0 ? this.#placeAfterEvicted(cursor) : undefined;
  }

  /** The oldest entry, if it follows the line at `cursor` directly: an event between them that was evicted would be lost. */
  #placeAfterEvicted(cursor: Cursor): RingPlace | undefined {
    const evicted = this.#isEventEvictedLast ? undefined : this.evictedCursor;
    const isJustBefore = evicted !== undefined && this.#compare(evicted, cursor) === 0;
    return isJustBefore ? { sequence: this.#oldestSequence, line: 0 } : undefined;
  }
}

function lastCursorOf(batch: LogBatch | undefined): Cursor | undefined {
  return batch?.cursorAt(batch.lines.length - 1);
}

/** Memory that a batch keeps alive: its lines, and what stands beside them. */
function sizeOf(batch: LogBatch): number {
  let bytes = 0;
  for (const line of batch.lines) {
    bytes += line.length + lineOverheadBytes;
  }
  return bytes;
}
