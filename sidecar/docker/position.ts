/**
 * Where in the Engine's log the copy stands, and how to find that place again in a stream that starts earlier. Pure.
 *
 * The copy itself is the count: what the log file holds of this container is what was taken of the Engine's log, byte for byte. A stream
 * from the container's start is skipped by that count. A stream of the last records alone is found by an anchor: a record that was copied,
 * known by its stamp and content, with the count behind it.
 */
import { crc32 } from 'node:zlib';
import { LineMender } from './demux.ts';
import type { LogRecord } from './demux.ts';

/** A copied record that was a whole line, at a moment when no stream was inside a long line. */
export interface Anchor {
  /** Bytes of this container behind the record. */
  readonly copiedBytes: number;
  readonly stamp: string;
  readonly stream: LogRecord['stream'];
  readonly crc: number;
}

export interface Position {
  /** Bytes of this container that the log file holds. */
  readonly copiedBytes: number;
  readonly anchor: Anchor | undefined;
}

/** What a record adds to the log. `missing`: the anchor is not among the records asked for; read the whole log instead. */
export type Placed =
  { readonly kind: 'skipped' } | { readonly kind: 'fresh'; readonly bytes: Buffer } | { readonly kind: 'missing' };

export interface AlignerOptions {
  readonly position: Position;
  /** How many of the last records the stream starts with; undefined: it starts with the first record. */
  readonly tailRecords: number | undefined;
  /** The copied bytes from `at` on, counted as in `copiedBytes`; undefined where they are gone or were never kept. */
  readonly readCopied: (at: number, length: number) => Buffer | undefined;
  /** Called once if the Engine's log is not what was copied. */
  readonly onMismatch: () => void;
}

const skipped = { kind: 'skipped' } as const;
const missing = { kind: 'missing' } as const;
const newline = 10;

/** Skips what was copied before and hands out what was not. One per stream. */
export class Aligner {
  readonly #options: AlignerOptions;
  readonly #mender = new LineMender();
  /** Bytes of the container behind the last record; undefined until the anchor was met. */
  #at: number | undefined;
  #searched = 0;
  #anchor: Anchor | undefined;
  #isMismatchTold = false;

  constructor(options: AlignerOptions) {
    this.#options = options;
    this.#anchor = options.position.anchor;
    this.#at = options.tailRecords === undefined ? 0 : undefined;
  }

  /** The newest anchor, for a position that is written down. */
  get anchor(): Anchor | undefined {
    return this.#anchor;
  }

  /** Whether the stream's place is known. */
  get isPlaced(): boolean {
    return this.#at !== undefined;
  }

  place(record: LogRecord): Placed {
    if (this.#at === undefined) {
      return this.#search(record);
    }
    const from = this.#at;
    const bytes = this.#mender.mend(record);
    this.#at = from + bytes.length;
    if (bytes.at(-1) === newline && this.#mender.isClean && this.#at >= this.#options.position.copiedBytes) {
      this.#anchor = { copiedBytes: this.#at, ...identify(record) };
    }
    const known = Math.min(Math.max(this.#options.position.copiedBytes - from, 0), bytes.length);
    this.#compare(from, bytes.subarray(0, known));
    return known === bytes.length ? skipped : { kind: 'fresh', bytes: bytes.subarray(known) };
  }

  #search(record: LogRecord): Placed {
    const { position, tailRecords } = this.#options;
    const { anchor } = position;
    const own = identify(record);
    if (anchor?.stamp === own.stamp && anchor.stream === own.stream && anchor.crc === own.crc) {
      this.#at = anchor.copiedBytes;
      return skipped;
    }
    this.#searched += 1;
    return anchor === undefined || this.#searched >= (tailRecords ?? 0) ? missing : skipped;
  }

  #compare(at: number, bytes: Buffer): void {
    if (bytes.length === 0 || this.#isMismatchTold) {
      return;
    }
    const copied = this.#options.readCopied(at, bytes.length);
    if (copied !== undefined && !copied.equals(bytes)) {
      this.#isMismatchTold = true;
      this.#options.onMismatch();
    }
  }
}

function identify(record: LogRecord): Omit<Anchor, 'copiedBytes'> {
  return { stamp: record.stamp, stream: record.stream, crc: crc32(record.bytes) };
}
