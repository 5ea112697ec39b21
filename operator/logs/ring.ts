/**
 * The newest events of one log, with their ready-made frames, bounded by bytes and lines. Each entry has a number; what falls off the old
 * end leaves the cursor of its last line behind, so that a reader who had not got it knows where to go on elsewhere.
 */
import { PackedBatch } from './packed.ts';
import { pieceBytesMax, pieceLinesMax } from './pieces.ts';
import type { Cursor, LogBatch, LogEvent } from './source.ts';
import type { Chunk, EncodedBatch, Encoder } from './subscription.ts';

export interface RingLimits {
  readonly ringBytesMax: number;
  readonly ringLinesMax: number;
  /** So many entries are packed into one. */
  readonly packEntries: number;
}

/** Memory of a line besides its bytes: view, stamp, position. Measured, with a margin. */
const lineOverheadBytes = 150;
/** Memory of an entry besides its lines: objects, and the chunk that the line came in. Measured. */
const entryOverheadBytes = 600;
/** Memory of frames besides their bytes. Measured. */
const encodingOverheadBytes = 500;
/** An entry of more lines is not packed: it costs little more than its bytes as it is. */
const packedLinesMax = 64;
/** Lines that are packed in one turn of the event loop; one run may be more. */
const packedAtOnceLines = 1024;

/** One event, as subscriptions share it. */
export class RingEntry {
  readonly event: LogEvent;
  readonly lineCount: number;
  /** How many numbers it takes: it stands for as many entries. */
  readonly span: number;
  /** Grows when the entry is encoded, shrinks when its frames are forgotten. */
  bytes: number;
  readonly #encodings = new Map<Encoder, EncodedBatch>();
  #onGrow: ((bytes: number) => void) | undefined;

  constructor(event: LogEvent, onGrow?: (bytes: number) => void, { span, lineCount, bytes } = measure(event)) {
    this.event = event;
    this.span = span;
    this.lineCount = lineCount;
    this.bytes = bytes;
    this.#onGrow = onGrow;
  }

  /** Position of its last line; undefined for an event. */
  get lastCursor(): Cursor | undefined {
    return this.event.type === 'lines' ? this.event.cursorAt(this.lineCount - 1) : undefined;
  }

  /** This entry from line `from` on. */
  chunk(from: number): Chunk {
    const { event } = this;
    if (event.type !== 'lines') {
      return event;
    }
    const to = this.lineCount;
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

  /** It is in no ring any more: what becomes of it does not count there. A client may still encode what it took just before. */
  leave(): void {
    this.#onGrow = undefined;
  }

  /** Nobody waits for them any more; who comes later has them made again. */
  forgetFrames(): void {
    let bytes = 0;
    for (const encoded of this.#encodings.values()) {
      bytes += bytesOf(encoded);
    }
    this.#encodings.clear();
    this.#grow(-bytes);
  }

  #encode(batch: LogBatch, encoder: Encoder): EncodedBatch {
    const known = this.#encodings.get(encoder);
    if (known !== undefined) {
      return known;
    }
    const encoded = encoder.encode(batch);
    this.#encodings.set(encoder, encoded);
    this.#grow(bytesOf(encoded));
    return encoded;
  }

  #grow(bytes: number): void {
    this.bytes += bytes;
    this.#onGrow?.(bytes);
  }
}

/** A place between two lines or events: before line `line` of entry `sequence`. */
export interface RingPlace {
  readonly sequence: number;
  readonly line: number;
}

/** What became one entry: entry `first + i` began at line `lineStarts[i]` of it. */
export interface PackedPlaces {
  readonly first: number;
  readonly lineStarts: readonly number[];
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
  /** What is before this number is packed, if it can be. */
  #packedTo = 0;
  #evictedCursor: Cursor | undefined;
  /** The newest evicted entry is an event, which came after the line at `#evictedCursor`. */
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
    const entry = new RingEntry(event, this.#onGrow);
    this.#entries.push(entry);
    this.#bytes += entry.bytes;
    this.#lines += entry.lineCount;
  }

  /**
   * Packs entries of few lines before number `before`, as many as can be done in a millisecond or two. A packed entry keeps the number of its first
   * one, and the numbers of the others are empty from then on: places at them become those that `onPacked` is told.
   */
  pack(before: number, onPacked?: (packed: PackedPlaces) => void): void {
    this.#packedTo = Math.max(this.#packedTo, this.#oldestSequence);
    for (let lines = 0; lines < packedAtOnceLines && before - this.#packedTo >= this.#limits.packEntries;) {
      const run = this.#packable(this.#packedTo, before);
      if (run.length > 1) {
        lines += this.#replace(this.#packedTo, run);
        onPacked?.(placesIn(this.#packedTo, run));
      } else {
        this.entry(this.#packedTo)?.forgetFrames();
      }
      this.#packedTo += Math.max(1, run.length);
    }
  }

  /** Drops the oldest entry. */
  evict(): void {
    const entry = this.#entries[this.#head];
    if (entry === undefined) {
      return;
    }
    entry.leave();
    this.#entries[this.#head] = undefined;
    this.#head += entry.span;
    this.#oldestSequence += entry.span;
    this.#bytes -= entry.bytes;
    this.#lines -= entry.lineCount;
    this.#linesEvicted += entry.lineCount;
    const { lastCursor } = entry;
    this.#isEventEvictedLast = lastCursor === undefined;
    this.#evictedCursor = lastCursor ?? this.#evictedCursor;
    if (this.#head > 64 && this.#head * 2 > this.#entries.length) {
      this.#entries = this.#entries.slice(this.#head);
      this.#head = 0;
    }
  }

  /** Cursor of the last line before the oldest entry; undefined if no line was evicted. */
  get evictedCursor(): Cursor | undefined {
    return this.#evictedCursor;
  }

  get newestCursor(): Cursor | undefined {
    for (let sequence = this.nextSequence - 1; sequence >= this.#oldestSequence; sequence -= 1) {
      const cursor = this.entry(sequence)?.lastCursor;
      if (cursor !== undefined) {
        return cursor;
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
      const last = this.#lastCursorUpTo(middle);
      if (last !== undefined && this.#compare(last, cursor) >= 0) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    const entry = this.entry(low);
    return entry?.event.type === 'lines'
      ? this.#placeInBatch(entry, entry.event, { sequence: low, cursor })
      : this.#placeAfterEvicted(cursor);
  }

  /** Lines between `place` and the newest one. */
  linesAfter(place: RingPlace): number {
    let count = -place.line;
    for (let sequence = place.sequence; sequence < this.nextSequence; sequence += 1) {
      count += this.entry(sequence)?.lineCount ?? 0;
    }
    return Math.max(0, count);
  }

  #onGrow = (bytes: number): void => {
    this.#bytes += bytes;
  };

  /** Consecutive entries from `from` on, before `before`, that are small enough to be one. */
  #packable(from: number, before: number): LogBatch[] {
    const run: LogBatch[] = [];
    let lines = 0;
    let bytes = 0;
    for (let sequence = from; sequence < before && run.length < this.#limits.packEntries; sequence += 1) {
      const { event, lineCount = 0 } = this.entry(sequence) ?? {};
      if (event?.type !== 'lines' || lineCount > packedLinesMax) {
        break;
      }
      lines += lineCount;
      bytes += event.lines.reduce((sum, { length }) => sum + length, 0);
      if (lines > pieceLinesMax || bytes > pieceBytesMax) {
        break;
      }
      run.push(event);
    }
    return run;
  }

  /** Returns how many lines it has. */
  #replace(sequence: number, run: readonly LogBatch[]): number {
    const index = this.#head + sequence - this.#oldestSequence;
    const batch = new PackedBatch(run);
    const { lineCount, byteLength } = batch;
    const size = { span: run.length, lineCount, bytes: entryOverheadBytes + byteLength };
    const packed = new RingEntry(batch, this.#onGrow, size);
    for (let at = index; at < index + run.length; at += 1) {
      const entry = this.#entries[at];
      entry?.leave();
      this.#bytes -= entry?.bytes ?? 0;
      this.#entries[at] = undefined;
    }
    this.#entries[index] = packed;
    this.#bytes += packed.bytes;
    return lineCount;
  }

  /** Position of the newest line in the entries up to this one. */
  #lastCursorUpTo(sequence: number): Cursor | undefined {
    for (let at = sequence; at >= this.#oldestSequence; at -= 1) {
      const cursor = this.entry(at)?.lastCursor;
      if (cursor !== undefined) {
        return cursor;
      }
    }
    return undefined;
  }

  #placeInBatch(
    entry: RingEntry,
    batch: LogBatch,
    { sequence, cursor }: { sequence: number; cursor: Cursor },
  ): RingPlace | undefined {
    let low = 0;
    let high = entry.lineCount - 1;
    while (low < high) {
      const middle = Math.floor((low + high) / 2);
      if (this.#compare(batch.cursorAt(middle), cursor) >= 0) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    if (this.#compare(batch.cursorAt(low), cursor) === 0) {
      return low + 1 === entry.lineCount ? { sequence: sequence + entry.span, line: 0 } : { sequence, line: low + 1 };
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

function placesIn(first: number, run: readonly LogBatch[]): PackedPlaces {
  const lineStarts: number[] = [];
  let lines = 0;
  for (const batch of run) {
    lineStarts.push(lines);
    lines += batch.lines.length;
  }
  return { first, lineStarts };
}

function bytesOf({ bytes, offsets }: EncodedBatch): number {
  return bytes.byteLength + offsets.byteLength + encodingOverheadBytes;
}

/** What an entry of this one event stands for. Its memory: its lines, and what stands beside them. */
function measure(event: LogEvent): { span: number; lineCount: number; bytes: number } {
  const lines = event.type === 'lines' ? event.lines : [];
  const bytes = lines.reduce((sum, { length }) => sum + length + lineOverheadBytes, entryOverheadBytes);
  return { span: 1, lineCount: lines.length, bytes };
}
