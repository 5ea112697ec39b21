import type { Stats } from 'node:fs';
import { closeSync, constants, fstatSync, openSync, readSync, statSync, watch } from 'node:fs';
import { basename, dirname } from 'node:path';
import { formatStarts, parseStarts, startsMax, startsPath } from './notes.ts';
import type { StartNote } from './notes.ts';
import { readWhole, writeWhole } from './state.ts';

/** Room for the longest possible lines of as many starts as are kept. */
const fileBytesMax = 32 * startsMax;
/** The net under inotify. New bytes lead to a look of their own, so this delays only the news of a workload that has written nothing yet. */
const pollIntervalMs = 1000;

/**
 * Where in the log the workload was started anew. The launcher notes it before the workload may write, so whoever first looks at a file's size and
 * then at the notes knows the start of every byte below that size; `refresh` is called after each such look.
 *
 * Under screen and tmux the launcher notes positions of the terminal's file. Ingest turns each into an offset of the log and hands it to `place`,
 * before it appends anything that was written later.
 */
export class Starts {
  readonly #path: string;
  /** Where placed starts are kept; undefined if the launcher notes offsets of the log. */
  readonly #placedPath: string | undefined;
  #noted: readonly StartNote[] = [];
  #placed: readonly StartNote[] = [];
  #seen: Look = nothing;
  /** The file that was read last, held open: whether it was replaced is then known by its number of links, which costs a tenth of a look at the path. */
  #file: number | undefined;
  /** Called when a start was noted or placed. */
  onChange: (() => void) | undefined;

  private constructor(path: string, placedPath: string | undefined) {
    this.#path = path;
    this.#placedPath = placedPath;
  }

  /** Reads what was noted and, with a path for it, what an earlier sidecar has placed. */
  static async open(runDirectory: string, placedPath?: string): Promise<Starts> {
    const starts = new Starts(startsPath(runDirectory), placedPath);
    if (placedPath !== undefined) {
      starts.#placed = parseStarts((await readWhole(placedPath)) ?? '');
    }
    starts.refresh();
    return starts;
  }

  /** Number of the last start that was noted; 0 before the first. */
  get latest(): number {
    return this.#noted.at(-1)?.starts ?? 0;
  }

  /** The last start whose place in the log is known. */
  get present(): StartNote | undefined {
    return this.#inLog.at(-1);
  }

  /** The last so many starts whose place in the log is known, in rising order. */
  newest(count: number): readonly StartNote[] {
    return this.#inLog.slice(-count);
  }

  /** The first start that was noted and not placed. */
  get unplaced(): StartNote | undefined {
    const last = this.#placed.at(-1)?.starts ?? 0;
    return this.#placedPath === undefined ? undefined : this.#noted.find(({ starts }) => starts > last);
  }

  /** The start during which the byte at this offset of the log was, or will be, written; 0 before the first. */
  numberAt(offset: number): number {
    return this.#inLog.findLast((note) => note.offset <= offset)?.starts ?? 0;
  }

  /** Where in the log the first restart after start number `starts` begins; Infinity while there is none. The first start is no restart. */
  boundaryAfter(starts: number): number {
    return this.#inLog.find((note) => note.starts > Math.max(starts, 1))?.offset ?? Infinity;
  }

  /** Remembers where in the log a start is. It is on the disk when this resolves. */
  async place(note: StartNote, logOffset: number): Promise<void> {
    const placed = parseStarts(formatStarts([...this.#placed, { starts: note.starts, offset: logOffset }]));
    if (this.#placedPath !== undefined) {
      await writeWhole(this.#placedPath, formatStarts(placed));
    }
    this.#placed = placed;
    this.onChange?.();
  }

  /** Watches for new starts until the signal. */
  start(signal: AbortSignal): void {
    const look = (): void => {
      this.#look();
    };
    const close = watchName(this.#path, look);
    const timer = setInterval(look, pollIntervalMs).unref();
    signal.addEventListener('abort', () => {
      close();
      clearInterval(timer);
      this.#hold(undefined);
    });
  }

  /** Looks for new starts now; called for each piece of the log. What cannot be read changes nothing: the volume is not ours alone. */
  refresh(): void {
    // A link that somebody else made to the old file would hide its replacement here: then `#look` finds it, by inotify.
    if (this.#file === undefined || !isSame(lookAtFile(this.#file), this.#seen)) {
      this.#look();
    }
  }

  #look(): void {
    const seen = lookAt(this.#path);
    if (isSame(seen, this.#seen)) {
      return;
    }
    this.#seen = seen;
    const file = openRegular(this.#path);
    this.#hold(file);
    if (file !== undefined) {
      this.#noted = parseStarts(readEnd(file));
      this.onChange?.();
    }
  }

  #hold(file: number | undefined): void {
    if (this.#file !== undefined) {
      closeSync(this.#file);
    }
    this.#file = file;
  }

  get #inLog(): readonly StartNote[] {
    return this.#placedPath === undefined ? this.#noted : this.#placed;
  }
}

/** What changes whenever the file is replaced or written to. */
type Look = Pick<Stats, 'ino' | 'size' | 'mtimeMs'>;

const nothing: Look = { ino: 0, size: 0, mtimeMs: 0 };
/** Like no other, itself included: it leads to another look. */
const replaced: Look = { ino: NaN, size: NaN, mtimeMs: NaN };

function lookAt(path: string): Look {
  try {
    const stat = statSync(path, { throwIfNoEntry: false });
    return stat === undefined ? nothing : stat.nlink === 0 ? replaced : stat;
  } catch {
    // Somebody put a loop of links in its folder's place.
    return nothing;
  }
}

/** The same of an open file; a replaced one has no link left. */
function lookAtFile(file: number): Look {
  const stat = fstatSync(file);
  return stat.nlink === 0 ? replaced : stat;
}

function isSame(a: Look, b: Look): boolean {
  return a.ino === b.ino && a.size === b.size && a.mtimeMs === b.mtimeMs;
}

/** Undefined for anything but a regular file. */
function openRegular(path: string): number | undefined {
  let file: number;
  try {
    file = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch {
    // Gone, a link, or not for us.
    return undefined;
  }
  if (fstatSync(file).isFile()) {
    return file;
  }
  closeSync(file);
  return undefined;
}

function readEnd(file: number): string {
  const { size } = fstatSync(file);
  const bytes = Buffer.alloc(Math.min(size, fileBytesMax));
  const length = readSync(file, bytes, 0, bytes.length, size - bytes.length);
  return bytes.toString('latin1', 0, length);
}

/** The file is replaced at each change, so its folder is watched. */
function watchName(path: string, onEvent: () => void): () => void {
  const name = basename(path);
  try {
    const watcher = watch(dirname(path), (_event, changed) => {
      if (changed === name) {
        onEvent();
      }
    });
    const close = (): void => {
      watcher.close();
    };
    // The poll is still there.
    watcher.on('error', close);
    return close;
  } catch {
    // ENOSPC or EMFILE: the poll alone must do.
    return () => undefined;
  }
}
