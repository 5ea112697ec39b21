import { execFile } from 'node:child_process';
import { open, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { LogFile } from './log.ts';

const run = promisify(execFile);
const blockBytes = 4096;
const scanBytes = 262_144;
/** Space is given back in steps of an eighth of what is kept, so that the file takes at most 9/8 of it. */
const stepShare = 8;
const stepBytesMin = 65_536;
const newline = 10;

/** Gives the disk space of `[from, to)` back; offsets and size stay. Fails where the file system or the tool cannot. */
export type Punch = (path: string, from: number, to: number) => Promise<void>;

/** Punches with the `fallocate` of util-linux: Node has no call for it, and one process a step (every few MiB) costs nothing. */
export const punchWithFallocate: Punch = async (path, from, to) => {
  const range = ['--offset', String(from), '--length', String(to - from)];
  await run('fallocate', ['--punch-hole', '--keep-size', ...range, path]);
};

/** Whether holes can be punched in this folder; found out on a file of our own. */
export async function canPunch(directory: string, punch: Punch): Promise<boolean> {
  const path = join(directory, 'hole-probe');
  const handle = await open(path, 'w+', 0o600);
  try {
    await handle.write(Buffer.alloc(16 * blockBytes, 1));
    await handle.sync();
    const before = (await handle.stat()).blocks;
    await punch(path, 0, 8 * blockBytes);
    return (await handle.stat()).blocks < before;
  } catch {
    // No tool, or EOPNOTSUPP: either way the answer is no, and the caller says so aloud.
    return false;
  } finally {
    await handle.close();
    await rm(path, { force: true });
  }
}

export interface RetentionOptions {
  readonly log: LogFile;
  readonly retainBytes: number;
  readonly punch: Punch;
  readonly onFault: (error: unknown) => void;
}

/**
 * Keeps the last `retainBytes` of the log, and up to an eighth more. Ends at the signal, or for good at the first hole that cannot be
 * punched: from then on everything is kept, because losing lines in silence is worse than using disk.
 */
export async function keepWithin(options: RetentionOptions, signal: AbortSignal): Promise<void> {
  const { log, punch } = options;
  const stepBytes = Math.max(stepBytesMin, Math.floor(options.retainBytes / stepShare));
  try {
    if (log.first >= blockBytes) {
      // An earlier sidecar may have ended between the boundary and the hole.
      await punch(log.file.path, 0, log.first);
    }
    let scan = new BoundaryScan(log);
    while (!signal.aborted) {
      if (scan.epoch !== log.epoch) {
        scan = new BoundaryScan(log);
      }
      const isOver = log.end - log.first > options.retainBytes + stepBytes;
      if (isOver && (await reclaim(log, scan, { target: log.end - options.retainBytes, punch }))) {
        // It took a while, and more may have come: look again before waiting.
        continue;
      }
      await log.changed(signal);
    }
  } catch (error) {
    options.onFault(error);
  }
}

/** Moves the boundary to the first line start at or after `target` and punches behind it. Returns false inside one endless line. */
async function reclaim(log: LogFile, scan: BoundaryScan, step: { target: number; punch: Punch }): Promise<boolean> {
  const from = log.first;
  const boundary = await scan.find(step.target);
  if (boundary === undefined || log.epoch !== scan.epoch) {
    return false;
  }
  await log.advance(boundary.offset, boundary.lines);
  await step.punch(log.file.path, from - (from % blockBytes), boundary.offset);
  return true;
}

/** Counts lines from the boundary on. It goes on where it stopped, so that a line without an end is not read again at each write. */
class BoundaryScan {
  readonly epoch: string;
  readonly #log: LogFile;
  readonly #block = Buffer.allocUnsafe(scanBytes);
  #at: number;
  #lines = 0;

  constructor(log: LogFile) {
    this.#log = log;
    this.epoch = log.epoch;
    this.#at = log.first;
  }

  async find(target: number): Promise<{ offset: number; lines: number } | undefined> {
    while (this.#at < this.#log.end) {
      const { bytesRead } = await this.#log.file.handle.read(this.#block, 0, scanBytes, this.#at);
      if (bytesRead === 0) {
        break;
      }
      const found = this.#count(this.#block.subarray(0, bytesRead), target);
      if (found !== undefined) {
        return found;
      }
    }
    return undefined;
  }

  #count(bytes: Buffer, target: number): { offset: number; lines: number } | undefined {
    const from = this.#at;
    for (let index = bytes.indexOf(newline); index >= 0; index = bytes.indexOf(newline, index + 1)) {
      this.#lines += 1;
      if (from + index + 1 >= target) {
        const found = { offset: from + index + 1, lines: this.#lines };
        this.#at = found.offset;
        this.#lines = 0;
        return found;
      }
    }
    this.#at = from + bytes.length;
    return undefined;
  }
}
