import { constants, writeSync } from 'node:fs';
import type { FileHandle } from 'node:fs/promises';
import { open } from 'node:fs/promises';
import { isUtf8 } from 'node:buffer';
import { setTimeout as delay } from 'node:timers/promises';
import { limits } from './protocol.ts';
import type { SidecarErrorCode } from './protocol.ts';

/** A pipe takes this much whole or not at all (PIPE_BUF). */
const atomicBytes = 4096;
const retryMsMin = 2;
const retryMsMax = 50;
const newline = 10;
const tab = 9;
const firstPrintable = 32;
const deleteCode = 127;

export class StdinError extends Error {
  readonly code: SidecarErrorCode;
  /** Lines that had been written whole before the fault. */
  readonly linesWritten: number;

  constructor(code: SidecarErrorCode, message: string, linesWritten = 0) {
    super(message);
    this.name = 'StdinError';
    this.code = code;
    this.linesWritten = linesWritten;
  }
}

/**
 * Splits a body into lines, each with its line end; the last one may come without. Throws StdinError for an empty body, for bytes that are
 * not UTF-8, for control characters (tab excepted) and for a line that is too long: a terminal would act on them, or cut them.
 */
export function parseLines(body: Buffer): Buffer[] {
  if (body.length === 0) {
    throw new StdinError('BAD_REQUEST', 'Cannot write to standard input: the body is empty');
  }
  if (!isUtf8(body)) {
    throw new StdinError('BAD_REQUEST', 'Cannot write to standard input: the body is not UTF-8');
  }
  const lines: Buffer[] = [];
  for (let from = 0; from < body.length;) {
    const end = body.indexOf(newline, from);
    const to = end < 0 ? body.length : end;
    const line = body.subarray(from, to);
    assertLine(line, lines.length + 1);
    lines.push(end < 0 ? Buffer.concat([line, Buffer.from('\n')]) : body.subarray(from, to + 1));
    from = to + 1;
  }
  return lines;
}

function assertLine(line: Buffer, number: number): void {
  if (line.length > limits.lineBytesMax) {
    const size = `it has ${line.length} bytes, more than ${limits.lineBytesMax}`;
    throw new StdinError('BAD_REQUEST', `Cannot write line ${number} to standard input: ${size}`);
  }
  const control = line.find((byte) => (byte < firstPrintable && byte !== tab) || byte === deleteCode);
  if (control !== undefined) {
    const found = `it holds the control character 0x${control.toString(16).padStart(2, '0')}`;
    throw new StdinError('BAD_REQUEST', `Cannot write line ${number} to standard input: ${found}`);
  }
}

/**
 * The pipe to the launcher. The launcher holds it open for reading and writing as long as the workload lives, so whether it has a reader
 * is whether the workload runs. It is opened anew for each request: what a dead workload left unread must not reach the next one.
 */
export class StdinPipe {
  readonly #path: string;
  readonly #timeoutMs: number;
  #waiting = 0;
  #last: Promise<unknown> = Promise.resolve();
  /** The end of a line that a full pipe took only the beginning of: it goes before everything else. */
  #rest: Buffer = Buffer.alloc(0);

  constructor(path: string, timeoutMs: number = limits.stdinTimeoutMs) {
    this.#path = path;
    this.#timeoutMs = timeoutMs;
  }

  /** Whether a launcher holds the other end. */
  async isOpen(): Promise<boolean> {
    const handle = await this.#open();
    await handle?.close();
    return handle !== undefined;
  }

  /** Writes the lines whole, in order, after those of earlier calls. Throws StdinError: NOT_RUNNING, STDIN_FULL or OVERLOADED. */
  async write(lines: readonly Buffer[]): Promise<void> {
    if (this.#waiting >= limits.stdinWaitingMax) {
      throw new StdinError('OVERLOADED', `Cannot write to standard input: ${this.#waiting} requests are waiting`);
    }
    this.#waiting += 1;
    const mine = this.#last.then(() => this.#writeNow(lines));
    this.#last = mine.catch(() => undefined);
    try {
      await mine;
    } finally {
      this.#waiting -= 1;
    }
  }

  async #writeNow(lines: readonly Buffer[]): Promise<void> {
    const handle = await this.#open();
    if (handle === undefined) {
      this.#rest = Buffer.alloc(0);
      throw new StdinError('NOT_RUNNING', 'Cannot write to standard input: the workload is not running');
    }
    const deadline = AbortSignal.timeout(this.#timeoutMs);
    let linesWritten = 0;
    try {
      await this.#writeRest(handle, deadline);
      for (const group of groupAtomic(lines)) {
        this.#rest = await writeAtomic(handle, group.bytes, deadline);
        linesWritten += group.lines;
        await this.#writeRest(handle, deadline);
      }
    } catch (error) {
      throw asStdinError(error, linesWritten);
    } finally {
      await handle.close();
    }
  }

  async #writeRest(handle: FileHandle, deadline: AbortSignal): Promise<void> {
    while (this.#rest.length > 0) {
      this.#rest = await writeAtomic(handle, this.#rest, deadline);
    }
  }

  async #open(): Promise<FileHandle | undefined> {
    let handle: FileHandle;
    try {
      handle = await open(this.#path, constants.O_WRONLY | constants.O_NONBLOCK | constants.O_NOFOLLOW);
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code;
      // ENXIO: no reader. ENOENT, ELOOP: whoever shares the volume took the pipe away.
      if (code === 'ENXIO' || code === 'ENOENT' || code === 'ELOOP') {
        return undefined;
      }
      throw error;
    }
    if ((await handle.stat()).isFIFO()) {
      return handle;
    }
    await handle.close();
    return undefined;
  }
}

/** Many short lines in one write, as long as it stays atomic. */
function* groupAtomic(lines: readonly Buffer[]): Generator<{ bytes: Buffer; lines: number }> {
  let group: Buffer[] = [];
  let size = 0;
  for (const line of lines) {
    if (size + line.length > atomicBytes && group.length > 0) {
      yield { bytes: Buffer.concat(group), lines: group.length };
      group = [];
      size = 0;
    }
    group.push(line);
    size += line.length;
  }
  yield { bytes: Buffer.concat(group), lines: group.length };
}

/**
 * Waits until the pipe takes something and returns what it did not take: nothing, for up to 4096 bytes. A pipe has no readiness event in
 * Node, so a full one is tried again at growing intervals.
 */
async function writeAtomic(handle: FileHandle, bytes: Buffer, deadline: AbortSignal): Promise<Buffer> {
  for (let waitMs = retryMsMin; ; waitMs = Math.min(waitMs * 2, retryMsMax)) {
    const written = tryWrite(handle.fd, bytes);
    if (written > 0) {
      return Buffer.from(bytes.subarray(written));
    }
    if (deadline.aborted) {
      throw new StdinError('STDIN_FULL', 'Cannot write to standard input: the workload does not read it');
    }
    await delay(waitMs);
  }
}

function tryWrite(fd: number, bytes: Buffer): number {
  try {
    return writeSync(fd, bytes);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EAGAIN') {
      return 0;
    }
    throw error;
  }
}

function asStdinError(error: unknown, linesWritten: number): unknown {
  if (error instanceof StdinError) {
    return new StdinError(error.code, error.message, linesWritten);
  }
  if ((error as NodeJS.ErrnoException).code === 'EPIPE') {
    return new StdinError('NOT_RUNNING', 'Cannot write to standard input: the workload has just ended', linesWritten);
  }
  return error;
}
