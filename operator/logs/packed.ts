/**
 * Old lines in little memory. PURE.
 *
 * A line that came alone is a chunk, a view, a batch and its frames: 1 to 2 KB for 50 bytes of text. Here the lines of many batches lie one behind the
 * other in one buffer, and so do their cursors and times, which differ from one line to the next in a few characters only. Views, cursors
 * and times are made anew whenever somebody asks.
 */
import { ownBytes } from '../runtime/ownbytes.ts';
import type { LogBatch } from './source.ts';

/** The lines of all batches, in order. */
export class PackedBatch implements LogBatch {
  readonly type = 'lines';
  readonly lineCount: number;
  /** Memory that it keeps alive. */
  readonly byteLength: number;
  readonly #lines: PackedBytes;
  readonly #cursors: PackedStrings;
  /** Undefined where the source knows no times. */
  readonly #times: PackedStrings | undefined;

  constructor(batches: readonly LogBatch[]) {
    const [cursors, times]: [string[], string[]] = [[], []];
    for (const batch of batches) {
      for (const index of batch.lines.keys()) {
        cursors.push(batch.cursorAt(index));
        times.push(batch.timeAt(index) ?? '');
      }
    }
    this.#lines = new PackedBytes(batches.flatMap(({ lines }) => lines));
    this.#cursors = new PackedStrings(cursors);
    this.#times = times.some((time) => time !== '') ? new PackedStrings(times) : undefined;
    this.lineCount = cursors.length;
    this.byteLength = this.#lines.byteLength + this.#cursors.byteLength + (this.#times?.byteLength ?? 0);
  }

  /** Made at each call. */
  get lines(): readonly Buffer[] {
    return Array.from({ length: this.lineCount }, (_, index) => this.#lines.at(index));
  }

  cursorAt(index: number): string {
    return this.#cursors.at(index);
  }

  timeAt(index: number): string | undefined {
    return this.#times?.at(index) || undefined;
  }
}

/** Objects of one `PackedBytes`, with its two buffers. */
const overheadBytes = 400;

class PackedBytes {
  readonly #bytes: Buffer;
  readonly #ends: Uint32Array;

  constructor(parts: readonly Buffer[]) {
    this.#bytes = ownBytes(parts);
    this.#ends = new Uint32Array(parts.length);
    let end = 0;
    for (const [index, { length }] of parts.entries()) {
      end += length;
      this.#ends[index] = end;
    }
  }

  get byteLength(): number {
    return this.#bytes.byteLength + this.#ends.byteLength + overheadBytes;
  }

  at(index: number): Buffer {
    const end = this.#ends[index];
    if (end === undefined) {
      throw new RangeError(`No line ${index} in a batch of ${this.#ends.length}`);
    }
    return this.#bytes.subarray(this.#ends[index - 1] ?? 0, end);
  }
}

/** ASCII strings that begin alike. */
class PackedStrings {
  readonly #prefix: string;
  readonly #rests: PackedBytes;

  constructor(strings: readonly string[]) {
    this.#prefix = commonPrefix(strings);
    this.#rests = new PackedBytes(strings.map((each) => Buffer.from(each.slice(this.#prefix.length), 'latin1')));
  }

  get byteLength(): number {
    return this.#prefix.length + this.#rests.byteLength;
  }

  at(index: number): string {
    return this.#prefix + this.#rests.at(index).toString('latin1');
  }
}

function commonPrefix(strings: readonly string[]): string {
  const [first = ''] = strings;
  let length = first.length;
  for (const each of strings) {
    while (!each.startsWith(first.slice(0, length))) {
      length -= 1;
    }
  }
  return first.slice(0, length);
}
