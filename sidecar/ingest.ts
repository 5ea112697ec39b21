import { fdatasync } from 'node:fs';
import { promisify } from 'node:util';
import type { GrowingFile } from './growth.ts';
import type { Punch } from './reclaim.ts';
import type { Starts } from './starts.ts';
import { readWhole, writeWhole } from './state.ts';
import { cleanTerminal } from './terminal.ts';

const sync = promisify(fdatasync);
const chunkBytes = 262_144;
/** At most this much is read again after a crash. */
const checkpointBytes = 4_194_304;
const retryMs = 1000;

export interface IngestOptions {
  /** What screen or tmux wrote, byte for byte. */
  readonly terminal: GrowingFile;
  /** The log. Nobody else writes to it under these runtimes. */
  readonly log: GrowingFile;
  /** Text file `TERMINAL LOG`: two offsets that belong together. The launcher reads the first one. */
  readonly checkpointPath: string;
  /** Starts that the launcher noted in the terminal's file, to be placed in the log. */
  readonly starts: Starts;
  /** Gives the space of what was taken over back; undefined where holes cannot be punched. */
  readonly punch: Punch | undefined;
  readonly onFault: (error: unknown) => void;
}

/**
 * Takes the terminal's bytes over into the log, as the program wrote them. Exactly once over crashes: the work is a pure function of the
 * terminal's bytes, so after a crash it is done again from the checkpoint and what the log already holds is left out.
 */
export class Ingest {
  readonly #options: IngestOptions;
  readonly #chunk = Buffer.allocUnsafe(chunkBytes);
  #at = 0;
  #held: Buffer = Buffer.alloc(0);
  #logEnd = 0;
  /** Bytes that an earlier sidecar has already written. */
  #skip = 0;
  #checkpointAt = 0;
  #punchedTo = 0;

  constructor(options: IngestOptions) {
    this.#options = options;
  }

  /** Where the terminal's bytes were taken over to. */
  get position(): number {
    return this.#at;
  }

  /** Runs until the signal, then takes over what is left. */
  async run(signal: AbortSignal): Promise<void> {
    const { terminal } = this.#options;
    await this.#resume();
    while (!signal.aborted) {
      // Asked before: what changes during the work, and after the work has looked, must not be slept through.
      const changed = terminal.changed(signal);
      await this.#takeOver(signal);
      await changed;
    }
    terminal.refresh();
    await this.#takeOver(AbortSignal.timeout(retryMs));
    await this.#checkpoint();
  }

  async #resume(): Promise<void> {
    const { log, terminal, checkpointPath } = this.#options;
    const match = /^(\d+) (\d+)\n$/.exec((await readWhole(checkpointPath)) ?? '');
    const [at, logEnd] = match === null ? [0, 0] : [Number(match[1]), Number(match[2])];
    this.#at = Math.min(at, terminal.end);
    this.#checkpointAt = this.#at;
    this.#punchedTo = this.#at;
    this.#logEnd = Math.min(logEnd, log.end);
    this.#skip = log.end - this.#logEnd;
  }

  async #takeOver(signal: AbortSignal): Promise<void> {
    const { terminal, starts } = this.#options;
    while ((await this.#placeStarts(signal)) && this.#at < terminal.end) {
      // Taken together: the starts are read again whenever the end has moved, so that every start below this end is known.
      const to = Math.min(terminal.end, starts.unplaced?.offset ?? Infinity, this.#at + chunkBytes);
      if (to <= this.#at) {
        continue;
      }
      const { bytesRead } = await terminal.handle.read(this.#chunk, 0, to - this.#at, this.#at);
      if (bytesRead === 0) {
        return;
      }
      const { output, held, hasEndMark } = cleanTerminal(join(this.#held, this.#chunk.subarray(0, bytesRead)));
      if (!(await this.#append(output, signal))) {
        return;
      }
      this.#held = Buffer.from(held);
      this.#at += bytesRead;
      if (hasEndMark || this.#at - this.#checkpointAt >= checkpointBytes) {
        await this.#checkpoint();
      }
    }
  }

  /**
   * Places the starts that the work has come to. It is done again after a crash, with the same outcome, because nothing behind a start is written before
   * its place is on the disk. Returns false if it could not be done before the signal.
   */
  async #placeStarts(signal: AbortSignal): Promise<boolean> {
    const { starts, onFault } = this.#options;
    for (let note = starts.unplaced; note !== undefined && note.offset <= this.#at; note = starts.unplaced) {
      try {
        await starts.place(note, this.#logEnd);
      } catch (error) {
        onFault(error);
        if (signal.aborted) {
          return false;
        }
        await new Promise((resolve) => setTimeout(resolve, retryMs));
      }
    }
    return true;
  }

  /** Writes all of it, or, after the signal, possibly a part: the next start finds out how much. Returns false then. */
  async #append(output: readonly Buffer[], signal: AbortSignal): Promise<boolean> {
    let bytes = output.length === 1 ? (output[0] ?? Buffer.alloc(0)) : Buffer.concat(output);
    const skipped = Math.min(this.#skip, bytes.length);
    this.#skip -= skipped;
    this.#logEnd += skipped;
    bytes = bytes.subarray(skipped);
    while (bytes.length > 0) {
      try {
        const { bytesWritten } = await this.#options.log.handle.write(bytes);
        this.#logEnd += bytesWritten;
        bytes = bytes.subarray(bytesWritten);
      } catch (error) {
        // The disk is full. The bytes wait in the terminal's file, so nothing is lost: say so and try again.
        this.#options.onFault(error);
        if (signal.aborted) {
          return false;
        }
        await new Promise((resolve) => setTimeout(resolve, retryMs));
      }
    }
    this.#options.log.refresh();
    return true;
  }

  async #checkpoint(): Promise<void> {
    const { log, terminal, checkpointPath, punch } = this.#options;
    const at = this.#at - this.#held.length;
    try {
      await sync(log.handle.fd);
      await writeWhole(checkpointPath, `${at} ${this.#logEnd}\n`, 0o644);
      this.#checkpointAt = at;
      if (punch !== undefined && at - this.#punchedTo >= checkpointBytes) {
        await punch(terminal.path, 0, at);
        this.#punchedTo = at;
      }
    } catch (error) {
      this.#options.onFault(error);
    }
  }
}

function join(held: Buffer, chunk: Buffer): Buffer {
  return held.length === 0 ? chunk : Buffer.concat([held, chunk]);
}
