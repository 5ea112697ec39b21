/**
 * The log of the shared volume, written by the launcher alone, and the state beside it that says which of its bytes are the container's.
 *
 * State first, then bytes: whatever moment a kill comes at, the file's size and the state together say how much was copied.
 */
import {
  closeSync,
  constants,
  fstatSync,
  openSync,
  readSync,
  renameSync,
  readFileSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { z } from 'zod';
import type { Anchor, Position } from './position.ts';

const anchorSchema = z.object({
  copiedBytes: z.int().nonnegative(),
  stamp: z.string(),
  stream: z.enum(['stdout', 'stderr']),
  crc: z.int(),
});
const stateSchema = z.object({
  container: z.string(),
  /** Size of the log when the container was made. */
  startOffset: z.int().nonnegative(),
  /** Bytes of the launcher's own lines since then. */
  ownBytes: z.int().nonnegative(),
  anchor: anchorSchema.optional(),
  /** A line of the launcher's own that is being written at this offset. */
  pending: z.object({ offset: z.int().nonnegative(), text: z.string() }).optional(),
});
type State = z.infer<typeof stateSchema>;

const retryMs = 500;
const newline = 10;
/** An anchor is written down no more often than this; the bytes behind it are compared at the next start. */
const anchorBytesMin = 65_536;
/** A full log volume is waited for: nothing is dropped. */
const waitedFor = new Set(['ENOSPC', 'EDQUOT', 'EIO']);

export class CopiedLog {
  readonly #fd: number;
  readonly #statePath: string;
  readonly #onFault: (error: unknown) => void;
  #state: State | undefined;

  /** Opens the log; the sidecar has made it. Throws if it is missing, or no regular file: the volume is not ours alone. */
  constructor(directory: string, onFault: (error: unknown) => void) {
    const path = join(directory, 'log');
    this.#fd = openSync(path, constants.O_RDWR | constants.O_APPEND | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    if (!fstatSync(this.#fd).isFile()) {
      closeSync(this.#fd);
      throw new Error(`Cannot open "${path}": it is not a regular file`);
    }
    this.#statePath = join(directory, 'run', 'docker.json');
    this.#onFault = onFault;
  }

  get size(): number {
    return fstatSync(this.#fd).size;
  }

  /** Takes up what an earlier launcher left of this container. False: nothing is known of it. */
  async resume(container: string): Promise<boolean> {
    const state = this.#load();
    if (state?.container !== container || state.startOffset > this.size) {
      return false;
    }
    this.#state = state;
    if (state.pending !== undefined) {
      const { offset, text } = state.pending;
      await this.#write(Buffer.from(text).subarray(this.size - offset));
      this.#save({ ...state, ownBytes: state.ownBytes + Buffer.byteLength(text), pending: undefined });
    }
    return true;
  }

  /** The container that follows is a new one: nothing of it was copied. */
  begin(container: string): void {
    this.#save({ container, startOffset: this.size, ownBytes: 0 });
  }

  get position(): Position {
    const copiedBytes = this.#copiedBytes();
    const anchor = this.#state?.anchor;
    // An anchor ahead of the file would be a hole: whoever shares the volume may have cut the file.
    return { copiedBytes, anchor: (anchor?.copiedBytes ?? 0) > copiedBytes ? undefined : anchor };
  }

  /** Appends bytes of the container; waits while the volume is full. */
  async append(bytes: Buffer, anchor: Anchor | undefined): Promise<void> {
    await this.#write(bytes);
    const keptBytes = this.#state?.anchor?.copiedBytes ?? 0;
    if ((anchor?.copiedBytes ?? 0) - keptBytes >= anchorBytesMin) {
      this.keepAnchor(anchor);
    }
  }

  /** Writes the anchor down, unless its bytes are still on their way to the file. */
  keepAnchor(anchor: Anchor | undefined): void {
    const state = this.#state;
    const isNew = anchor !== undefined && anchor.copiedBytes !== state?.anchor?.copiedBytes;
    if (state !== undefined && isNew && anchor.copiedBytes <= this.#copiedBytes()) {
      this.#save({ ...state, anchor });
    }
  }

  /** Appends a line `[ringmaster] …` of the launcher's own, on a line of its own. */
  async say(message: string): Promise<void> {
    const text = `${this.#endsInLine() ? '\n' : ''}[ringmaster] ${message.replaceAll('\n', ' ')}\n`;
    const state = this.#state;
    if (state === undefined) {
      await this.#write(Buffer.from(text));
      return;
    }
    this.#save({ ...state, pending: { offset: this.size, text } });
    await this.#write(Buffer.from(text));
    this.#save({ ...state, ownBytes: state.ownBytes + Buffer.byteLength(text) });
  }

  /** The first line of a run must not be taken for the end of the last one's. */
  async endLastLine(): Promise<void> {
    if (this.#endsInLine()) {
      await this.#write(Buffer.from('\n'));
    }
  }

  /** Copied bytes, for comparison; undefined where the launcher's own lines stand between, or the file is shorter. */
  readCopied(at: number, length: number): Buffer | undefined {
    const state = this.#state;
    if (state === undefined || state.ownBytes > 0 || at < (state.anchor?.copiedBytes ?? 0)) {
      return undefined;
    }
    const bytes = Buffer.alloc(length);
    return readSync(this.#fd, bytes, 0, length, state.startOffset + at) === length ? bytes : undefined;
  }

  close(): void {
    closeSync(this.#fd);
  }

  #copiedBytes(): number {
    return this.#state === undefined ? 0 : Math.max(this.size - this.#state.startOffset - this.#state.ownBytes, 0);
  }

  #endsInLine(): boolean {
    const { size } = this;
    const last = Buffer.alloc(1);
    return size > 0 && readSync(this.#fd, last, 0, 1, size - 1) === 1 && last[0] !== newline && last[0] !== 0;
  }

  async #write(bytes: Buffer): Promise<void> {
    for (let at = 0; at < bytes.length;) {
      try {
        at += writeSync(this.#fd, bytes, at);
      } catch (error) {
        if (!waitedFor.has((error as NodeJS.ErrnoException).code ?? '')) {
          throw error;
        }
        this.#onFault(error);
        await delay(retryMs);
      }
    }
  }

  /** Replaced whole, so that a kill leaves the old state or the new one. */
  #save(state: State): void {
    this.#state = state;
    const draft = `${this.#statePath}.new`;
    writeFileSync(draft, JSON.stringify(state), { mode: 0o600 });
    renameSync(draft, this.#statePath);
  }

  #load(): State | undefined {
    try {
      return stateSchema.parse(JSON.parse(readFileSync(this.#statePath, 'utf8')));
    } catch {
      // Not there, or spoilt by whoever shares the volume: as if this container were not known.
      return undefined;
    }
  }
}
