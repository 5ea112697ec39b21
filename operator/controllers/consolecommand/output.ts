/** What a command prints, up to the bounds of the status. */
import { outputBytesMax, outputLinesMax } from '../../api/v1alpha1/consolecommand.ts';

export interface OutputLimits {
  readonly linesMax: number;
  readonly bytesMax: number;
}

export class Output {
  readonly #limits: OutputLimits;
  readonly #pieces: string[] = [];
  /** Lines that are in no piece yet. */
  #open: string[] = [];
  #count = 0;
  #bytes = 0;
  #isTruncated = false;

  constructor(limits: OutputLimits = { linesMax: outputLinesMax, bytesMax: outputBytesMax }) {
    this.#limits = limits;
  }

  /** Adds the text, a line break in it beginning another line. From the first line on that does not fit, everything is dropped. */
  print(text: string): void {
    for (const line of text.split(/\r\n|\r|\n/)) this.#add(line);
  }

  /**
   * Everything so far: `\n` between the lines of a piece. What was returned once never changes, so whoever knows how many pieces it has seen knows which
   * are new. Lines in pieces because the API server checks, compares and encodes each entry of a list by itself, about a dozen times a write.
   */
  pieces(): string[] {
    if (this.#open.length > 0) this.#pieces.push(this.#open.join('\n'));
    this.#open = [];
    return [...this.#pieces];
  }

  get isTruncated(): boolean {
    return this.#isTruncated;
  }

  #add(line: string): void {
    // As the API server gets it: an escape sequence of a terminal is six times its size, and the whole object has a bound.
    const bytes = Buffer.byteLength(JSON.stringify(line)) + 1;
    const isFull = this.#count >= this.#limits.linesMax || this.#bytes + bytes > this.#limits.bytesMax;
    if (this.#isTruncated || isFull) {
      this.#isTruncated = true;
      return;
    }
    this.#open.push(line);
    this.#count += 1;
    this.#bytes += bytes;
  }
}
