/**
 * The Engine's log stream: frames of an 8-byte header (stream, three zeros, length as 32 bits) and one record each, which is a time stamp of
 * nanoseconds, a blank, and up to 16 KiB of the workload's bytes.
 */

/** One record as the Engine keeps it: a line, or a piece of a long one. */
export interface LogRecord {
  readonly stream: 'stdout' | 'stderr';
  /** RFC 3339 with nine digits; compared as text, for identity alone. */
  readonly stamp: string;
  readonly bytes: Buffer;
}

/** The Engine's log stream is not what it should be, or holds a complaint of the Engine's own. */
export class LogStreamError extends Error {
  constructor(message: string) {
    super(message);
    this.name = 'LogStreamError';
  }
}

const headerBytes = 8;
/** The Engine's records have 16 KiB; far more is no frame but a stream out of step. */
const frameBytesMax = 4 * 1024 * 1024;
/** What the Engine reads at once: a piece of exactly this size is followed by more of the same line. */
export const pieceBytes = 16_384;
const newline = 10;
const blank = 32;
const lineEnd = Buffer.from('\n');

/** Cuts a stream that comes in chunks of any size into records. Throws LogStreamError. */
export class FrameParser {
  #rest: Buffer = Buffer.alloc(0);

  push(chunk: Buffer): LogRecord[] {
    const bytes = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk]);
    const records: LogRecord[] = [];
    let at = 0;
    while (bytes.length - at >= headerBytes) {
      const length = bytes.readUInt32BE(at + 4);
      if (length > frameBytesMax) {
        throw new LogStreamError(`Cannot read the Engine's log: a frame claims ${length} bytes`);
      }
      const end = at + headerBytes + length;
      if (end > bytes.length) {
        break;
      }
      records.push(parseRecord(bytes.readUInt8(at), bytes.subarray(at + headerBytes, end)));
      at = end;
    }
    this.#rest = Buffer.from(bytes.subarray(at));
    return records;
  }
}

function parseRecord(type: number, payload: Buffer): LogRecord {
  if (type !== 1 && type !== 2) {
    // Type 3 carries what went wrong within the Engine.
    throw new LogStreamError(`Cannot read the Engine's log: it says "${payload.toString().trim().slice(0, 512)}"`);
  }
  const end = payload.indexOf(blank);
  if (end < 0) {
    throw new LogStreamError("Cannot read the Engine's log: a record has no time stamp");
  }
  return {
    stream: type === 1 ? 'stdout' : 'stderr',
    stamp: payload.toString('latin1', 0, end),
    bytes: payload.subarray(end + 1),
  };
}

/**
 * Gives long lines back their ends: the `local` driver of Docker 20.10 drops the line end behind the last piece of a line above 16 KiB.
 * The pieces before it have exactly 16 KiB. A long line that the workload itself never ended gets an end as well.
 */
export class LineMender {
  readonly #open = { stdout: false, stderr: false };

  /** The workload's bytes of this record. */
  mend(record: LogRecord): Buffer {
    const { stream, bytes } = record;
    if (bytes.at(-1) === newline) {
      this.#open[stream] = false;
      return bytes;
    }
    if (bytes.length === pieceBytes) {
      this.#open[stream] = true;
      return bytes;
    }
    const isLastPiece = this.#open[stream];
    this.#open[stream] = false;
    return isLastPiece ? Buffer.concat([bytes, lineEnd]) : bytes;
  }

  /** Whether neither stream is inside a long line: from here on a mender that starts anew gives the same bytes. */
  get isClean(): boolean {
    return !this.#open.stdout && !this.#open.stderr;
  }
}
