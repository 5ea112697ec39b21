/**
 * The log file: it only grows, and the position of a byte in it is that byte's name for as long as the pod lives, over restarts of
 * the workload's container and of the sidecar. `reclaim.ts` gives disk space back by punching holes behind a boundary, `first`, that
 * always is the start of a line; what lies before it reads as gone, never as zeros. A reader is a loop of `read` and `changed` with an
 * offset of its own, so that no reader can slow another.
 */
import { randomBytes } from 'node:crypto';
import { readSync } from 'node:fs';
import { GrowingFile } from './growth.ts';
import { readWhole, writeWhole } from './state.ts';

/** Closer to the end than this, data is in the page cache: reading it at once is faster than a trip through the thread pool. */
const warmBytes = 1_048_576;
const scanBlockBytes = 65_536;
/** Reclaim boundaries that are remembered, to tell how many lines a gap holds. */
const stepsMax = 512;
const newline = 10;

/** Nothing is left at the offset that was asked for; `first` is where the data begins now. */
export class ReclaimedError extends Error {
  constructor(offset: number, first: number) {
    super(`Cannot read the log at ${offset}: it begins at ${first} now`);
    this.name = 'ReclaimedError';
  }
}

/** An offset, and how many lines lie before it since the pod began. */
type Step = readonly [offset: number, lines: number];

interface State {
  readonly epoch: string;
  readonly inode: number;
  /** In rising order; the last is the boundary in force. */
  readonly steps: readonly Step[];
}

export class LogFile {
  readonly file: GrowingFile;
  readonly #statePath: string;
  #state: State;
  #isEnded = false;
  #saving: Promise<void> = Promise.resolve();

  private constructor(file: GrowingFile, statePath: string, state: State) {
    this.file = file;
    this.#statePath = statePath;
    this.#state = state;
  }

  /** Opens the log and what an earlier sidecar knew about it. A file that is another, or shorter than what was reclaimed, is a new epoch. */
  static async open(path: string, statePath: string): Promise<LogFile> {
    const file = await GrowingFile.open(path);
    const { ino } = await file.handle.stat();
    const saved = parseState(await readWhole(statePath));
    const isSame = saved?.inode === ino && firstOf(saved) <= file.end;
    const log = new LogFile(file, statePath, isSame ? saved : freshState(ino));
    if (!isSame) {
      await log.#save();
    }
    file.onChange.push((end, previousEnd) => {
      log.#onChange(end, previousEnd);
    });
    return log;
  }

  get epoch(): string {
    return this.#state.epoch;
  }

  /** The first byte that can be read. */
  get first(): number {
    return firstOf(this.#state);
  }

  /** The size: the offset of the byte that will be written next. */
  get end(): number {
    return this.file.end;
  }

  /** True when nothing will be appended any more. */
  get isEnded(): boolean {
    return this.#isEnded;
  }

  /** Nothing will be appended any more: readers at the end are woken and may leave. */
  finish(): void {
    this.file.refresh();
    this.#isEnded = true;
    this.file.wake();
  }

  /** Reads into `buffer` and returns how many bytes, at least one when `offset < end`. Throws ReclaimedError below the boundary. */
  async read(buffer: Buffer, offset: number): Promise<number> {
    if (this.end - offset <= warmBytes) {
      return this.readNow(buffer, offset);
    }
    this.#assertKept(offset);
    const length = Math.min(buffer.length, this.end - offset);
    const { bytesRead } = await this.file.handle.read(buffer, 0, length, offset);
    // The boundary moves before the hole is punched: what was read below it may be zeros.
    this.#assertKept(offset);
    return bytesRead;
  }

  /** The same without a wait; only for what lies near the end, and so in memory. */
  readNow(buffer: Buffer, offset: number): number {
    this.#assertKept(offset);
    const length = Math.min(buffer.length, this.end - offset);
    return length <= 0 ? 0 : readSync(this.file.handle.fd, buffer, 0, length, offset);
  }

  /** Resolves when the log may have changed; see GrowingFile. */
  async changed(signal: AbortSignal): Promise<void> {
    await this.file.changed(signal);
  }

  /** Where the last `count` complete lines begin: always the start of a line. What is written after the last line end does not count. */
  async tailOffset(count: number): Promise<number> {
    const block = Buffer.allocUnsafe(scanBlockBytes);
    let wanted = count + 1;
    for (let to = this.end; to > this.first;) {
      const from = Math.max(this.first, to - scanBlockBytes);
      const length = await this.#readBlock(block.subarray(0, to - from), from);
      const found = findFromBack(block.subarray(0, length), wanted);
      if (found.index >= 0) {
        return from + found.index + 1;
      }
      wanted = found.wanted;
      to = from;
    }
    return this.first;
  }

  /** How many lines lie between an offset and the boundary: exact at an earlier boundary, in between by proportion. */
  linesReclaimedSince(offset: number): number {
    const steps = this.#state.steps;
    const index = steps.findLastIndex(([at]) => at <= offset);
    const [low, high] = [steps[index], steps[index + 1]];
    const last = steps.at(-1);
    if (low === undefined || high === undefined || last === undefined) {
      return 0;
    }
    const share = (offset - low[0]) / (high[0] - low[0]);
    return last[1] - Math.floor(low[1] + share * (high[1] - low[1]));
  }

  /** Moves the boundary over `lines` lines to `offset`. It is on the disk before anybody may punch a hole behind it. */
  async advance(offset: number, lines: number): Promise<void> {
    const before = this.#state.steps.at(-1)?.[1] ?? 0;
    const steps = [...this.#state.steps, [offset, before + lines] as const];
    // The oldest stays: it anchors the estimate for a reader that was away for very long.
    this.#state = { ...this.#state, steps: [...steps.slice(0, 1), ...steps.slice(1).slice(1 - stepsMax)] };
    await this.#save();
  }

  async close(): Promise<void> {
    await this.file.close();
  }

  async #readBlock(block: Buffer, from: number): Promise<number> {
    const { bytesRead } = await this.file.handle.read(block, 0, block.length, from);
    return bytesRead;
  }

  #assertKept(offset: number): void {
    if (offset < this.first) {
      throw new ReclaimedError(offset, this.first);
    }
  }

  #onChange(end: number, previousEnd: number): void {
    if (end < previousEnd) {
      // Somebody truncated it. Old offsets mean nothing now, and readers must be told rather than sent other bytes.
      this.#state = freshState(this.#state.inode);
      // Not written (the disk is full): the next start sees a boundary beyond the end, or keeps an epoch that no reader holds.
      this.#save().catch(() => undefined);
    }
  }

  /** One write at a time, each of the newest state. */
  #save(): Promise<void> {
    const write = (): Promise<void> => writeWhole(this.#statePath, JSON.stringify(this.#state));
    this.#saving = this.#saving.then(write, write);
    return this.#saving;
  }
}

function freshState(inode: number): State {
  return { epoch: randomBytes(8).toString('hex'), inode, steps: [[0, 0]] };
}

function firstOf(state: State): number {
  return state.steps.at(-1)?.[0] ?? 0;
}

function parseState(text: string | undefined): State | undefined {
  try {
    const state = JSON.parse(text ?? 'null') as State | null;
    return state !== null && Array.isArray(state.steps) && /^[0-9a-f]{16}$/.test(state.epoch) ? state : undefined;
  } catch {
    // A damaged file is no state: a new epoch tells every reader.
    return undefined;
  }
}

/** The `wanted`-th line end from the back, or -1 and how many are still wanted. */
function findFromBack(block: Buffer, wanted: number): { index: number; wanted: number } {
  for (let index = block.lastIndexOf(newline); index >= 0; index = block.lastIndexOf(newline, index - 1)) {
    wanted -= 1;
    if (wanted === 0) {
      return { index, wanted };
    }
    if (index === 0) {
      break;
    }
  }
  return { index: -1, wanted };
}
