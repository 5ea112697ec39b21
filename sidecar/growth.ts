import { constants, fstatSync, watch } from 'node:fs';
import type { FSWatcher } from 'node:fs';
import { open } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';

/** The net under inotify: a missed event delays a reader by this much at most. */
const pollIntervalMs = 1000;
/** The same where no watch can be had (the node's inotify instances are used up). */
const pollWithoutWatchMs = 100;

/**
 * A file that others append to. It knows the end and wakes whoever waits for more; it holds one descriptor, so a file that is
 * put in its place is never read. Symbolic links and anything but a regular file are refused: the volume is not ours alone.
 */
export class GrowingFile {
  readonly path: string;
  readonly handle: FileHandle;
  /** Called, in turn, after the end has moved and before anybody is woken; backwards means that the file was truncated. */
  readonly onChange: ((end: number, previousEnd: number) => void)[] = [];
  #end: number;
  readonly #wakes = new Set<() => void>();

  private constructor(path: string, handle: FileHandle) {
    this.path = path;
    this.handle = handle;
    this.#end = fstatSync(handle.fd).size;
  }

  /** Opens, or makes, the file: readable and writable for both containers, whatever their users are. */
  static async open(path: string): Promise<GrowingFile> {
    const flags =
      constants.O_RDWR | constants.O_CREAT | constants.O_APPEND | constants.O_NOFOLLOW | constants.O_NONBLOCK;
    const handle = await open(path, flags, 0o666);
    const stat = await handle.stat();
    if (!stat.isFile()) {
      await handle.close();
      throw new Error(`Cannot open "${path}": it is not a regular file`);
    }
    await allowEverybody(handle, stat);
    return new GrowingFile(path, handle);
  }

  get end(): number {
    return this.#end;
  }

  /** Bytes on the disk, holes not counted. */
  get diskBytes(): number {
    return fstatSync(this.handle.fd).blocks * 512;
  }

  /** Starts to watch, until the signal. Returns whether inotify works here; it is slower, and still right, where it does not. */
  start(signal: AbortSignal): boolean {
    const refresh = (): void => {
      this.refresh();
    };
    const watcher = watchFile(this.path, refresh);
    const timer = setInterval(refresh, watcher === undefined ? pollWithoutWatchMs : pollIntervalMs).unref();
    signal.addEventListener('abort', () => {
      watcher?.close();
      clearInterval(timer);
    });
    refresh();
    return watcher !== undefined;
  }

  /** Looks at the size now. */
  refresh(): void {
    const previous = this.#end;
    this.#end = fstatSync(this.handle.fd).size;
    if (this.#end === previous) {
      return;
    }
    for (const onChange of this.onChange) {
      onChange(this.#end, previous);
    }
    this.wake();
  }

  /** Resolves at the next change or `wake`, or when the signal fires; the caller looks for itself what happened. */
  async changed(signal: AbortSignal): Promise<void> {
    if (signal.aborted) {
      return;
    }
    const { promise, resolve } = Promise.withResolvers<undefined>();
    const wake = (): void => {
      resolve(undefined);
    };
    this.#wakes.add(wake);
    signal.addEventListener('abort', wake);
    await promise;
    this.#wakes.delete(wake);
    signal.removeEventListener('abort', wake);
  }

  /** Calls back, in the same turn, after each change and `wake`. Returns a function that ends it. */
  follow(onChange: () => void): () => void {
    this.#wakes.add(onChange);
    return () => {
      this.#wakes.delete(onChange);
    };
  }

  wake(): void {
    for (const wake of this.#wakes) {
      wake();
    }
  }

  async close(): Promise<void> {
    await this.handle.close();
  }
}

function watchFile(path: string, onEvent: () => void): FSWatcher | undefined {
  try {
    const watcher = watch(path, { persistent: true }, onEvent);
    // The poll is still there.
    watcher.on('error', () => {
      watcher.close();
    });
    return watcher;
  } catch {
    // ENOSPC or EMFILE: the poll alone must do.
    return undefined;
  }
}

/** The umask of this process must not decide whether a workload that runs as another user may append. */
async function allowEverybody(handle: FileHandle, stat: { mode: number; uid: number }): Promise<void> {
  if ((stat.mode & 0o666) !== 0o666 && stat.uid === process.getuid?.()) {
    await handle.chmod(0o666);
  }
}
