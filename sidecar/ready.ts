import { setImmediate as yieldToOthers } from 'node:timers/promises';
import { ReclaimedError } from './log.ts';
import type { LogFile } from './log.ts';
import { limits } from './protocol.ts';
import type { Starts } from './starts.ts';
import { readWhole, writeWhole } from './state.ts';

/** Small, because everybody else waits while the lines of one block are matched. */
const blockBytes = 16_384;
const newline = 10;
const carriageReturn = 13;
/** CSI, OSC and the short sequences of a terminal. No part can match what another could, so the time is linear. */
const escapes = /\u001b(?:\[[0-?]*[ -/]*[@-~]|\][^\u0007\u001b]*(?:\u0007|\u001b\\)|[ -/]+[0-~]|[0-Z\\^-~])/g;

/** Whether the text holds a match. */
export type Search = (text: string) => boolean;

export interface ReadyOptions {
  readonly log: LogFile;
  readonly starts: Starts;
  /** RE2 syntax. */
  readonly pattern: string;
  /** Text file: the number of the start that is known to be ready. */
  readonly statePath: string;
  readonly onFault: (error: unknown) => void;
}

/**
 * Compiles a pattern in RE2 syntax, whose search takes time proportional to the text, whatever the pattern. The library is loaded here, so that who has no
 * pattern does not carry it. Throws with one sentence for a pattern that is malformed or too big.
 */
export async function compileSearch(pattern: string): Promise<Search> {
  const { RE2JS } = await import('re2js');
  let compiled;
  try {
    compiled = RE2JS.compile(pattern);
  } catch (error) {
    throw new Error(`Cannot use the pattern for readiness: ${error instanceof Error ? error.message : String(error)}`, {
      cause: error,
    });
  }
  if (compiled.programSize() > limits.patternInstructionsMax) {
    const size = `it has ${compiled.programSize()} instructions, more than ${limits.patternInstructionsMax}`;
    throw new Error(`Cannot use the pattern for readiness: ${size}`);
  }
  // `test` would be the obvious call, but its automaton takes 200 MB for some patterns; the matcher keeps to the size of the pattern.
  return (text) => compiled.matcher(text).find();
}

/** PURE: what of a line is matched: without its line end and without escape sequences. */
export function visibleText(line: Buffer): string {
  const length = line.at(-1) === carriageReturn ? line.length - 1 : line.length;
  return line.toString('utf8', 0, length).replace(escapes, '');
}

/**
 * Finds out whether the workload is ready: a complete line of the log, written since its present start, matches the pattern. Once it has matched nothing is
 * read until the next start. A line that was reclaimed before it could be read counts as no match; one that matched is remembered over restarts of
 * the sidecar.
 */
export class ReadyGate {
  readonly #options: ReadyOptions;
  readonly #block = Buffer.allocUnsafeSlow(blockBytes);
  readonly #line = Buffer.allocUnsafeSlow(limits.matchBytesMax);
  #lineBytes = 0;
  #at = 0;
  #starts = 0;
  #epoch = '';
  #readyStarts = 0;
  #fault = '';

  constructor(options: ReadyOptions) {
    this.#options = options;
  }

  /** Offset in the log of the next byte to be looked at. */
  get position(): number {
    return this.#at;
  }

  /** Why the workload is not ready, or undefined when it is. */
  get reason(): string | undefined {
    if (this.#fault !== '') {
      return this.#fault;
    }
    const { starts } = this.#options;
    // A start that nobody has looked at yet ends the readiness of the one before.
    starts.refresh();
    if (starts.latest === 0) {
      return 'The workload has not started yet';
    }
    return starts.latest === this.#readyStarts ? undefined : 'No line of the log has matched the pattern yet';
  }

  /** Runs until the signal. A pattern that cannot be used is told and ends it: the workload never becomes ready then. */
  async run(signal: AbortSignal): Promise<void> {
    const { log, pattern, statePath, onFault } = this.#options;
    try {
      const search = await compileSearch(pattern);
      this.#readyStarts = Number(/^(\d{1,12})\n$/.exec((await readWhole(statePath)) ?? '')?.[1] ?? 0);
      while (!signal.aborted) {
        if (this.#isIdle()) {
          await log.changed(signal);
        } else {
          await this.#advance(search);
          await yieldToOthers();
        }
      }
    } catch (error) {
      this.#fault = error instanceof Error ? error.message : String(error);
      onFault(error);
    }
  }

  /** Whether there is nothing to do before the log changes. */
  #isIdle(): boolean {
    this.#seek();
    return this.#starts === 0 || this.#readyStarts === this.#starts || this.#at >= this.#options.log.end;
  }

  /** Matches the lines of one block. */
  async #advance(search: Search): Promise<void> {
    const starts = this.#starts;
    const bytes = await this.#read();
    this.#at += bytes.length;
    if (this.#hasMatch(bytes, search)) {
      this.#readyStarts = starts;
      // Not written (the disk is full): a sidecar that starts later looks for the line again.
      await writeWhole(this.#options.statePath, `${starts}\n`).catch(this.#options.onFault);
    }
  }

  /** Goes to the present start, if another was noted, and over what was reclaimed. */
  #seek(): void {
    const { log, starts } = this.#options;
    const present = starts.present;
    if (present !== undefined && present.starts !== this.#starts) {
      this.#starts = present.starts;
      this.#epoch = log.epoch;
      this.#goTo(present.offset);
    }
    if (log.epoch !== this.#epoch || this.#at < log.first) {
      this.#epoch = log.epoch;
      this.#goTo(log.first);
    }
  }

  #goTo(offset: number): void {
    this.#at = offset;
    this.#lineBytes = 0;
  }

  async #read(): Promise<Buffer> {
    try {
      return this.#block.subarray(0, await this.#options.log.read(this.#block, this.#at));
    } catch (error) {
      if (error instanceof ReclaimedError) {
        return this.#block.subarray(0, 0);
      }
      throw error;
    }
  }

  #hasMatch(bytes: Buffer, search: Search): boolean {
    let from = 0;
    for (let end = bytes.indexOf(newline); end >= 0; end = bytes.indexOf(newline, from)) {
      this.#keep(bytes.subarray(from, end));
      const line = this.#line.subarray(0, this.#lineBytes);
      this.#lineBytes = 0;
      if (search(visibleText(line))) {
        return true;
      }
      from = end + 1;
    }
    this.#keep(bytes.subarray(from));
    return false;
  }

  #keep(bytes: Buffer): void {
    this.#lineBytes += bytes.copy(this.#line, this.#lineBytes);
  }
}
