/**
 * One opened `pods/log` stream: bytes in, batches of lines with their positions out; optionally it first skips to a known position.
 *
 * It never reads ahead of its caller by more than one chunk. Lines are views into the chunk that brought them. What the stream has to say
 * besides lines (its end, silence, a position that is not there) is a value, not an exception.
 *
 * The kubelet reports a fault after it has answered 200 as text at the end of the stream, without a stamp and without `\n`
 * ("failed to create fsnotify watcher: too many open files"). A line without a stamp is therefore a message of the kubelet, never the workload's.
 */
import { setImmediate } from 'node:timers/promises';
import type { Clock } from '../../runtime/clock.ts';
import { LineSplitter } from '../lines.ts';
import { ownBytes } from '../../runtime/ownbytes.ts';
import {
  OrdinalCounter,
  RecentStamps,
  StampReader,
  compareStamps,
  encodeCursor,
  formatStamp,
  hashOf,
  matchLine,
} from '../resume.ts';
import type { Position, Stamp } from '../resume.ts';
import type { Cursor, LogBatch } from '../source.ts';
import { QuietWait } from './quietwait.ts';

/** The part of a clock that log streams need. */
export type Timer = Pick<Clock, 'elapsed' | 'after'>;

export interface PodLogOptions {
  readonly bytes: AsyncIterable<Uint8Array>;
  readonly clock: Timer;
  readonly instanceUid: string;
  readonly podSequence: number;
  readonly lineBytesMax: number;
  readonly stampSlackSeconds: number;
  /** Skip up to and including the line at this position. */
  readonly after?: Position | undefined;
  /** Search to the end: do not conclude from a stamp that the position cannot follow. */
  readonly isPatient?: boolean;
  /** Whether the kubelet may read a file twice, as it can while it follows. */
  readonly mayRepeat: boolean;
  /** Ends the request. */
  readonly abort: () => void;
}

export type PodLogRead =
  { readonly type: 'lines'; readonly batch: PodLogBatch } | { readonly type: 'quiet' } | PodLogEnd;

export interface PodLogEnd {
  readonly type: 'end';
  /**
   * Clean end; connection lost; the kubelet's own text; its text that the container or its log is removed already; a stamp that jumps back
   * (the kubelet re-read a file, or the node's clock was set).
   */
  readonly cause: 'eof' | 'broken' | 'message' | 'missing' | 'regress';
  readonly detail: string;
  /** For `regress`: the stamp that jumped back. */
  readonly stamp?: Stamp;
}

/** What the kubelet may append to a line that it has half sent. */
const kubeletFault =
  /(failed to (create fsnotify watcher|watch directory|read log file|open log file)|unable to retrieve container logs|rpc error: code|context canceled)/;

/** The kubelet keeps the status of a container longer than the container: seen for 20 s in a crash loop. */
const removedContainer =
  /unable to retrieve container logs for|failed to open log file|failed to try resolving symlinks/;

/** Where the search for `after` stands. */
export type Seek = 'found' | 'absent' | 'unsure';

/** Lines with their stamps; cursors and times are made on demand. */
export class PodLogBatch implements LogBatch {
  readonly type = 'lines';
  lines: Buffer[] = [];
  seconds: number[] = [];
  nanos: number[] = [];
  ordinals: number[] = [];
  readonly #instanceUid: string;
  readonly #podSequence: number;

  constructor(instanceUid: string, podSequence: number) {
    this.#instanceUid = instanceUid;
    this.#podSequence = podSequence;
  }

  positionAt(index: number): Position {
    const [line, seconds, nanos] = [this.lines[index], this.seconds[index], this.nanos[index]];
    const ordinal = this.ordinals[index];
    if (line === undefined || seconds === undefined || nanos === undefined || ordinal === undefined) {
      throw new RangeError(`No line ${index} in a batch of ${this.lines.length}`);
    }
    return { podSequence: this.#podSequence, seconds, nanos, ordinal, hash: hashOf(line) };
  }

  /** Index of the first line for which `isWanted` holds; -1 if there is none. */
  findStamp(isWanted: (stamp: Stamp) => boolean): number {
    return this.seconds.findIndex((seconds, index) => isWanted({ seconds, nanos: this.nanos[index] ?? 0 }));
  }

  /** Lines `[from, to)`. */
  slice(from: number, to = this.lines.length): PodLogBatch {
    const part = new PodLogBatch(this.#instanceUid, this.#podSequence);
    part.lines = this.lines.slice(from, to);
    part.seconds = this.seconds.slice(from, to);
    part.nanos = this.nanos.slice(from, to);
    part.ordinals = this.ordinals.slice(from, to);
    return part;
  }

  /** The part from the first line on that is newer than `stamp`. */
  newerThan(stamp: Stamp): PodLogBatch | undefined {
    const from = this.findStamp((each) => compareStamps(each, stamp) > 0);
    return from === -1 ? undefined : this.slice(from);
  }

  cursorAt(index: number): Cursor {
    return encodeCursor(this.#instanceUid, this.positionAt(index));
  }

  timeAt(index: number): string | undefined {
    return formatStamp(this.positionAt(index));
  }
}

export class PodLog {
  readonly #options: PodLogOptions;
  readonly #iterator: AsyncIterator<Uint8Array>;
  readonly #splitter: LineSplitter;
  readonly #stamps = new StampReader();
  readonly #ordinals = new OrdinalCounter();
  #batch: PodLogBatch;
  #end: PodLogEnd | undefined;
  #pending: Promise<void> | undefined;
  readonly #wait: QuietWait<'chunk'>;
  #seek: Seek | 'seeking';
  /** The next line follows the searched one directly: its stamp is right whatever it is. */
  #isAtPosition = false;
  readonly #newest: Stamp = { seconds: -1, nanos: 0 };
  readonly #recent = new RecentStamps();
  #regress: Stamp | undefined;
  #message: string | undefined;
  #hashedFirst: (Stamp & { hash: number }) | undefined;
  #linesSeen = 0;
  #bytesSeen = 0;
  #longestLineBytes = 0;

  constructor(options: PodLogOptions) {
    this.#options = options;
    this.#wait = new QuietWait(options.clock);
    this.#iterator = options.bytes[Symbol.asyncIterator]();
    this.#splitter = new LineSplitter({
      lineBytesMax: options.lineBytesMax,
      prefixBytesOf: (line) => this.#stamps.read(line, 0, line.length),
      onLine: (bytes, start, end, isContinuation) => {
        this.#onLine({ bytes, start, end, isContinuation });
      },
    });
    this.#batch = this.#newBatch();
    this.#seek = options.after === undefined ? 'found' : 'seeking';
  }

  /** Stamp and hash of the very first line, to tell whether two streams show the same log. */
  get first(): (Stamp & { hash: number }) | undefined {
    return this.#hashedFirst;
  }

  /** Whether the stream gave `position`, or had none to look for. */
  get isFound(): boolean {
    return this.#seek === 'found';
  }

  /** The newest stamp so far, of skipped lines too. */
  get newest(): Stamp {
    return { ...this.#newest };
  }

  get hasEnded(): boolean {
    return this.#end !== undefined;
  }

  get linesSeen(): number {
    return this.#linesSeen;
  }

  get bytesSeen(): number {
    return this.#bytesSeen;
  }

  get longestLineBytes(): number {
    return this.#longestLineBytes;
  }

  /** Reads on until the searched position is found, cannot follow any more, or nothing came for `quietMs`; or the stream ends by a fault. */
  async seek(quietMs: number): Promise<Seek | PodLogEnd> {
    while (this.#seek === 'seeking' || this.#seek === 'unsure') {
      if (this.#end !== undefined) {
        return this.#endOfSeek(this.#end);
      }
      if ((await this.#fill(quietMs)) === 'quiet') {
        this.#seek = 'unsure';
        return 'unsure';
      }
    }
    return this.#seek;
  }

  /** The next lines; what is there is given before the end. */
  async read(quietMs: number): Promise<PodLogRead> {
    for (;;) {
      if (this.#batch.lines.length > 0) {
        // The kubelet flushes each line. One turn of the event loop lets what follows gather in the connection's buffer to one bigger chunk.
        await setImmediate();
        const batch = this.#batch;
        this.#batch = this.#newBatch();
        return { type: 'lines', batch };
      }
      if (this.#end !== undefined) {
        return this.#end;
      }
      if ((await this.#fill(quietMs)) === 'quiet') {
        return { type: 'quiet' };
      }
    }
  }

  /** Gives up the search and takes everything; false if lines were skipped already. */
  skipNothing(): boolean {
    if (this.#seek !== 'found' && this.#linesSeen > 0) {
      return false;
    }
    this.#seek = 'found';
    return true;
  }

  /** Waits for the first line without taking it. */
  async peek(quietMs: number): Promise<void> {
    while (this.#linesSeen === 0 && this.#end === undefined) {
      if ((await this.#fill(quietMs)) === 'quiet') {
        return;
      }
    }
  }

  /** The unfinished line at a clean end, as a line; to be asked for only where nothing can complete it any more. */
  takeRest(): PodLogBatch | undefined {
    this.#splitter.finish();
    const batch = this.#batch;
    this.#batch = this.#newBatch();
    return batch.lines.length > 0 ? batch : undefined;
  }

  /** Hash of the unfinished line at the end; undefined if there is none. */
  get restHash(): number | undefined {
    const { rest } = this.#splitter;
    const isLine =
      rest.length > 0 &&
      this.#seek === 'found' &&
      !kubeletFault.test(rest.toString('latin1', Math.max(0, rest.length - 400)));
    return isLine ? hashOf(rest) : undefined;
  }

  /** Makes a waiting `read` or `seek` give `quiet` now. */
  poke(): void {
    this.#wait.wake('quiet');
  }

  close(): void {
    this.#wait.close();
    this.#options.abort();
    void this.#iterator.return?.().catch(ignoreAfterClose);
  }

  #newBatch(): PodLogBatch {
    return new PodLogBatch(this.#options.instanceUid, this.#options.podSequence);
  }

  #endOfSeek(end: PodLogEnd): Seek | PodLogEnd {
    if (end.cause !== 'eof') {
      return end;
    }
    // The searched line may be the last one, without `\n`: the end of its container made it a line.
    this.#splitter.finish();
    if (this.#seek === 'found') {
      return 'found';
    }
    this.#seek = 'absent';
    return 'absent';
  }

  /** Takes one chunk in, or learns of the end. */
  async #fill(quietMs: number): Promise<'chunk' | 'quiet'> {
    this.#pending ??= this.#pull();
    return await this.#wait.until(this.#options.clock.elapsed() + quietMs);
  }

  async #pull(): Promise<void> {
    try {
      const next = await this.#iterator.next();
      if (next.done === true) {
        this.#end = this.#endOfStream();
      } else {
        this.#take(next.value);
      }
    } catch (error) {
      this.#end = { type: 'end', cause: 'broken', detail: error instanceof Error ? error.message : String(error) };
    }
    this.#pending = undefined;
    this.#wait.wake('chunk');
  }

  #take(chunk: Uint8Array): void {
    // A small piece of a big receive buffer would keep all of it alive.
    const isSliver = chunk.buffer.byteLength > 2 * chunk.byteLength;
    const bytes = isSliver ? ownBytes([chunk]) : Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength);
    this.#bytesSeen += bytes.length;
    this.#splitter.push(bytes);
    if (this.#message !== undefined) {
      this.#end ??= faultOf(this.#message);
    } else if (this.#regress !== undefined) {
      this.#end ??= { type: 'end', cause: 'regress', detail: 'time stamps jump back', stamp: this.#regress };
    }
  }

  #endOfStream(): PodLogEnd {
    const { rest } = this.#splitter;
    if (rest.length > 0 && this.#stamps.read(rest, 0, rest.length) === 0) {
      // A stamped beginning that the kubelet's text was appended to is a line that was not finished: it is read again.
      return faultOf(rest.toString('utf8', 0, 200));
    }
    return { type: 'end', cause: 'eof', detail: 'end of stream' };
  }

  #onLine(line: { bytes: Buffer; start: number; end: number; isContinuation: boolean }): void {
    if (this.#message !== undefined || this.#regress !== undefined) {
      return;
    }
    const stampBytes = line.isContinuation ? 0 : this.#stamps.read(line.bytes, line.start, line.end);
    if (stampBytes === 0 && !line.isContinuation) {
      this.#onUnstamped(line.bytes, line.start, line.end);
      return;
    }
    const { seconds, nanos } = this.#stamps;
    if (!this.#isInOrder(seconds, nanos)) {
      this.#regress = { seconds, nanos };
      return;
    }
    const ordinal = this.#ordinals.next(seconds, nanos);
    const bytes = line.bytes.subarray(line.start + stampBytes, line.end);
    this.#linesSeen += 1;
    this.#longestLineBytes = Math.max(this.#longestLineBytes, bytes.length);
    this.#hashedFirst ??= { seconds, nanos, hash: hashOf(bytes) };
    if (this.#seek !== 'found') {
      this.#onSkipped({ seconds, nanos, ordinal, bytes });
      return;
    }
    const batch = this.#batch;
    batch.lines.push(bytes);
    batch.seconds.push(seconds);
    batch.nanos.push(nanos);
    batch.ordinals.push(ordinal);
  }

  #onUnstamped(bytes: Buffer, start: number, end: number): void {
    // `sinceTime` may begin inside a long line: its later pieces come without a stamp. They lie before the searched position.
    if (this.#options.after !== undefined && this.#linesSeen === 0 && this.#seek !== 'found') {
      return;
    }
    this.#message = bytes.toString('utf8', start, Math.min(end, start + 200));
  }

  #onSkipped(line: Stamp & { ordinal: number; bytes: Buffer }): void {
    const { after, isPatient, stampSlackSeconds } = this.#options;
    if (after === undefined || this.#seek === 'absent') {
      return;
    }
    const match = matchLine(line, after, stampSlackSeconds);
    if (match === 'found') {
      this.#seek = 'found';
      this.#isAtPosition = true;
    } else if (match === 'beyond' && isPatient !== true) {
      this.#seek = 'absent';
    }
  }

  /**
   * False if the kubelet may be reading a file for the second time: a stamp that goes back to one that was seen, or further than is
   * remembered. stdout and stderr that merely cross give stamps that go back to none that was seen. A false alarm costs a new opening.
   */
  #isInOrder(seconds: number, nanos: number): boolean {
    const newest = this.#newest;
    if (this.#isAtPosition || seconds > newest.seconds || (seconds === newest.seconds && nanos >= newest.nanos)) {
      this.#isAtPosition = false;
      newest.seconds = seconds;
      newest.nanos = nanos;
      this.#recent.add(seconds, nanos);
      return true;
    }
    const isCrossing = !this.#options.mayRepeat || this.#seek !== 'found' || this.#recent.isNew(seconds, nanos);
    if (isCrossing) {
      this.#recent.add(seconds, nanos);
    }
    return isCrossing;
  }
}

function faultOf(detail: string): PodLogEnd {
  return { type: 'end', cause: removedContainer.test(detail) ? 'missing' : 'message', detail };
}

function ignoreAfterClose(): void {
  // The stream was given up on purpose; how it ended does not matter any more.
}
