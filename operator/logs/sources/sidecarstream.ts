/** One opened log of a sidecar: bytes in, batches of lines with their positions out. It holds at most one chunk and one unfinished line. */
import type { SidecarLog } from '../../sidecar/client.ts';
import { LineSplitter } from '../lines.ts';
import type { Cursor, DirectLines, LogBatch } from '../source.ts';
import type { Timer } from './podlog.ts';
import { QuietWait } from './quietwait.ts';
import { encodeCursor } from './sidecarcursor.ts';

export interface SidecarStreamOptions {
  readonly log: SidecarLog;
  readonly clock: Timer;
  readonly instanceUid: string;
  readonly podSequence: number;
  readonly lineBytesMax: number;
}

export type StreamRead =
  | { readonly type: 'lines'; readonly batch: SidecarBatch }
  /** Nothing came for as long as was given. */
  | { readonly type: 'quiet' }
  /** `poke()` was called. */
  | { readonly type: 'poked' }
  /** `reason` is the sidecar's; undefined: it was cut, as `fault` says where that is known. */
  | { readonly type: 'end'; readonly reason: string | undefined; readonly fault: unknown };

/** Lines and the offsets just after them; cursors are made on demand. */
export class SidecarBatch implements LogBatch {
  readonly type = 'lines';
  readonly lines: Buffer[] = [];
  readonly ends: number[] = [];
  readonly #options: SidecarStreamOptions;

  constructor(options: SidecarStreamOptions) {
    this.#options = options;
  }

  cursorAt(index: number): Cursor {
    const offset = this.ends[index];
    if (offset === undefined) {
      throw new RangeError(`No line ${index} in a batch of ${this.lines.length}`);
    }
    const { instanceUid, podSequence, log } = this.#options;
    return encodeCursor(instanceUid, { podSequence, epoch: log.epoch, run: log.run, offset });
  }

  /** The file holds bytes and nothing else. */
  timeAt(): undefined {
    return undefined;
  }
}

export class SidecarStream {
  readonly #options: SidecarStreamOptions;
  readonly #iterator: AsyncIterator<Buffer>;
  readonly #splitter: LineSplitter;
  #batch: SidecarBatch;
  #pending: Promise<StreamRead | undefined> | undefined;
  readonly #wait: QuietWait<'arrived' | 'poked'>;
  #offset: number;
  #receivedOffset: number;
  #quietMs = 0;
  /** Gets lines that come while `read` waits; that goes on waiting then. */
  direct: DirectLines | undefined;

  constructor(options: SidecarStreamOptions) {
    const { log, lineBytesMax } = options;
    this.#options = options;
    this.#wait = new QuietWait(options.clock);
    this.#iterator = log.bytes[Symbol.asyncIterator]();
    this.#offset = log.startOffset;
    this.#receivedOffset = log.startOffset;
    this.#batch = new SidecarBatch(options);
    log.onPiece?.((chunk) => this.#takeDirectly(chunk));
    this.#splitter = new LineSplitter({
      lineBytesMax,
      onLine: (bytes, start, end) => {
        this.#offset += end - start + this.#splitter.lineEndBytes;
        this.#batch.lines.push(bytes.subarray(start, end));
        this.#batch.ends.push(this.#offset);
      },
    });
  }

  /** Just after the last line that was given. */
  get offset(): number {
    return this.#offset;
  }

  /** Just after the last byte that came. */
  get receivedOffset(): number {
    return this.#receivedOffset;
  }

  /** The next lines; waits for them for so long at most. */
  async read(quietMs: number): Promise<StreamRead> {
    const deadline = this.#options.clock.elapsed() + quietMs;
    this.#quietMs = quietMs;
    for (;;) {
      this.#pending ??= this.#pull();
      void this.#pending.then(() => {
        this.#wait.wake('arrived');
      });
      const outcome = await this.#wait.until(deadline);
      if (outcome !== 'arrived') {
        // What is under way stays so, for the next read.
        return { type: outcome };
      }
      const read = await this.#pending;
      this.#pending = undefined;
      if (read !== undefined) {
        return read;
      }
    }
  }

  /** What came after the last line end, as a line; to be asked for only where nothing can complete it any more. */
  takeRest(): SidecarBatch | undefined {
    this.#splitter.finish();
    return this.#takeBatch();
  }

  /** Makes a waiting `read` give `poked` now. */
  poke(): void {
    this.#wait.wake('poked');
  }

  close(): void {
    this.#wait.close();
    this.#options.log.close();
    void this.#iterator.return?.().catch(ignoreAfterClose);
  }

  /** Undefined: a chunk came that ended no line. */
  async #pull(): Promise<StreamRead | undefined> {
    try {
      const next = await this.#iterator.next();
      if (next.done === true) {
        return { type: 'end', reason: this.#options.log.endReason, fault: undefined };
      }
      this.#take(next.value);
      const batch = this.#takeBatch();
      return batch === undefined ? undefined : { type: 'lines', batch };
    } catch (error) {
      return { type: 'end', reason: undefined, fault: error };
    }
  }

  #takeDirectly(chunk: Buffer): boolean {
    const { direct } = this;
    if (direct?.isReady !== true || !this.#wait.isWaiting) {
      return false;
    }
    this.#take(chunk);
    const batch = this.#takeBatch();
    if (batch !== undefined) {
      direct.take(batch);
    }
    this.#wait.extend(this.#options.clock.elapsed() + this.#quietMs);
    return true;
  }

  #take(chunk: Buffer): void {
    this.#receivedOffset += chunk.length;
    // A small piece of a big receive buffer would keep all of it alive.
    this.#splitter.push(chunk.buffer.byteLength > 2 * chunk.byteLength ? Buffer.from(chunk) : chunk);
  }

  #takeBatch(): SidecarBatch | undefined {
    const batch = this.#batch;
    if (batch.lines.length === 0) {
      return undefined;
    }
    this.#batch = new SidecarBatch(this.#options);
    return batch;
  }
}

function ignoreAfterClose(): void {
  // The stream was given up on purpose; how it ended does not matter any more.
}
