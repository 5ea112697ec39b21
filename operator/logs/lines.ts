/**
 * Cuts a byte stream into lines, without copying what arrives whole in one chunk, and with bounded memory whatever arrives.
 *
 * A line ends at `\n`; a `\r` before it is dropped. A line longer than the limit comes in several pieces. Where it is cut depends on the
 * line's bytes alone, never on how the stream was chunked, so that a line read again gives the same pieces (and cursors) again.
 */

import { ownBytes } from '../runtime/ownbytes.ts';

/** Receives `[start, end)` of `bytes`: a line, or a piece of one; `isContinuation` marks all pieces of a long line but its first. */
export type LineConsumer = (bytes: Buffer, start: number, end: number, isContinuation: boolean) => void;

export interface LineSplitterOptions {
  /** Content bytes of a line or piece at most; at least 4, to hold any character. */
  readonly lineBytesMax: number;
  /** Bytes in front of each line that do not count as content (a time stamp). */
  readonly prefixBytesOf?: (line: Buffer) => number;
  readonly onLine: LineConsumer;
}

const newline = 10;
const carriageReturn = 13;
/** A line that trickles in byte by byte must not cost an object for each byte. */
const carriedPiecesMax = 1024;
/** No prefix is longer than this. */
const prefixBytesMax = 64;
const empty = Buffer.alloc(0);

export class LineSplitter {
  readonly #options: LineSplitterOptions;
  #carry: Buffer[] = [];
  #carryBytes = 0;
  #isContinuation = false;
  #lineEndBytes = 0;

  constructor(options: LineSplitterOptions) {
    this.#options = options;
  }

  /**
   * While `onLine` runs: bytes of the line end behind the given line, which were dropped. 1 or 2; 0 for a piece that the rest of its line
   * follows. What `finish()` gives has no line end, but may have a dropped `\r`.
   */
  get lineEndBytes(): number {
    return this.#lineEndBytes;
  }

  /** Gives each line that this chunk ends, and pieces of a line that grew too long. Keeps views into `chunk`. */
  push(chunk: Buffer): void {
    let start = 0;
    let end = chunk.indexOf(newline);
    if (end !== -1 && this.#carryBytes > 0) {
      this.#keep(chunk.subarray(0, end));
      this.#endCarriedLine();
      start = end + 1;
      end = chunk.indexOf(newline, start);
    }
    const { onLine, lineBytesMax } = this.#options;
    while (end !== -1) {
      if (end - start <= lineBytesMax && !this.#isContinuation) {
        const textEnd = end > start && chunk[end - 1] === carriageReturn ? end - 1 : end;
        this.#lineEndBytes = end + 1 - textEnd;
        onLine(chunk, start, textEnd, false);
      } else {
        this.#endLine(chunk, { start, end, newlineBytes: 1 });
      }
      start = end + 1;
      end = chunk.indexOf(newline, start);
    }
    if (start < chunk.length) {
      this.#keep(chunk.subarray(start));
      this.#cutCarry();
    }
  }

  /** The bytes of the unfinished line; empty if the stream stands at a line's start. */
  get rest(): Buffer {
    return this.#carryBytes === 0 ? empty : this.#joinCarry();
  }

  /** Treats the unfinished line as ended, as at the end of a file. */
  finish(): void {
    if (this.#carryBytes > 0) {
      this.#endCarriedLine(0);
    }
  }

  #keep(bytes: Buffer): void {
    if (bytes.length > 0) {
      this.#carry.push(bytes);
      this.#carryBytes += bytes.length;
    }
    if (this.#carry.length >= carriedPiecesMax) {
      this.#joinCarry();
    }
  }

  #joinCarry(): Buffer {
    const [first, ...others] = this.#carry;
    const joined = first !== undefined && others.length === 0 ? first : ownBytes(this.#carry);
    this.#carry = [joined];
    return joined;
  }

  #endCarriedLine(newlineBytes = 1): void {
    const line = this.#joinCarry();
    this.#carry = [];
    this.#carryBytes = 0;
    this.#endLine(line, { start: 0, end: line.length, newlineBytes });
  }

  #endLine(bytes: Buffer, { start, end, newlineBytes }: { start: number; end: number; newlineBytes: number }): void {
    const { onLine } = this.#options;
    const textEnd = end > start && bytes[end - 1] === carriageReturn ? end - 1 : end;
    let from = start;
    let cut = from + this.#limitOf(bytes.subarray(from, textEnd));
    this.#lineEndBytes = 0;
    while (cut < textEnd) {
      cut = characterStart(bytes, cut);
      onLine(bytes, from, cut, this.#isContinuation);
      this.#isContinuation = true;
      from = cut;
      cut = from + this.#options.lineBytesMax;
    }
    this.#lineEndBytes = end + newlineBytes - textEnd;
    onLine(bytes, from, textEnd, this.#isContinuation);
    this.#isContinuation = false;
  }

  /** Gives pieces off while the carried line is longer than a line may be; one byte more might be a `\r` that will be dropped. */
  #cutCarry(): void {
    const { lineBytesMax, onLine } = this.#options;
    // Not before the prefix is surely there as a whole.
    if (this.#carryBytes < lineBytesMax + prefixBytesMax + 2) {
      return;
    }
    const bytes = this.#joinCarry();
    let from = 0;
    let limit = this.#limitOf(bytes);
    this.#lineEndBytes = 0;
    while (bytes.length - from >= limit + 2) {
      const cut = characterStart(bytes, from + limit);
      onLine(bytes, from, cut, this.#isContinuation);
      this.#isContinuation = true;
      from = cut;
      limit = lineBytesMax;
    }
    this.#carry = from === bytes.length ? [] : [bytes.subarray(from)];
    this.#carryBytes = bytes.length - from;
  }

  #limitOf(line: Buffer): number {
    const prefixBytes = this.#isContinuation ? 0 : (this.#options.prefixBytesOf?.(line) ?? 0);
    return prefixBytes + this.#options.lineBytesMax;
  }
}

/** The nearest place at or before `at` where a UTF-8 character begins; `at` itself if the bytes are not UTF-8 there. */
function characterStart(bytes: Buffer, at: number): number {
  for (let back = 0; back < 4; back += 1) {
    if (((bytes[at - back] ?? 0) & 0xc0) !== 0x80) {
      return at - back;
    }
  }
  return at;
}
