/** A copy of a log, laid over what its sidecar has said of the whole. PURE. */
import { beginChecksum, checksumOf } from '../../../sidecar/protocol.ts';
import type { LogSeal } from '../../../sidecar/protocol.ts';

const newline = 10;

/** Whole lines of the log that are in a copy for certain. */
export interface Part {
  /** Offsets in the log: the start of a line, and the end of one (or of the log, or of a run). */
  readonly from: number;
  readonly to: number;
  /** Which run of the workload wrote them. */
  readonly run: number;
  /** Bytes of the copy before them. */
  readonly skip: number;
}

interface Confirmed {
  readonly begin: number;
  end: number;
  firstLine: number | undefined;
  lastLine: number | undefined;
}

/** Supposes that the copy begins at an offset of the log, and finds out how much of it is true. */
export class Laying {
  readonly #seal: LogSeal;
  readonly #begin: number;
  readonly #blocks: { readonly from: number; readonly to: number; readonly checksum: string }[] = [];
  /** Where lines begin whatever comes before. */
  readonly #starts: ReadonlySet<number>;
  readonly #confirmed: Confirmed[] = [];
  #at: number;
  #hash = beginChecksum();
  #isAtLine = false;
  #firstLine: number | undefined;
  #lastLine: number | undefined;

  constructor(seal: LogSeal, begin: number) {
    this.#seal = seal;
    this.#begin = begin;
    this.#at = begin;
    this.#starts = new Set([0, ...seal.runs.map(([, offset]) => offset)]);
    let from = seal.from;
    for (const [bytes, checksum] of seal.blocks) {
      // Of a block whose beginning is missing nothing can be said.
      if (from >= begin) this.#blocks.push({ from, to: from + bytes, checksum });
      from += bytes;
    }
  }

  /** The next bytes of the copy. */
  push(bytes: Buffer): void {
    for (let from = 0; from < bytes.length;) {
      const block = this.#blocks[0];
      if (block === undefined) return;
      const isBefore = this.#at < block.from;
      const to = Math.min(bytes.length, from + (isBefore ? block.from : block.to) - this.#at);
      const piece = bytes.subarray(from, to);
      if (isBefore) this.#isAtLine = piece.at(-1) === newline;
      else this.#take(piece, block.from);
      this.#at += piece.length;
      from = to;
      if (this.#at === block.to) this.#finish(block);
    }
  }

  /** How many bytes have proved to be where they were supposed. */
  get confirmedBytes(): number {
    return this.#confirmed.reduce((sum, { begin, end }) => sum + end - begin, 0);
  }

  /** In rising order. */
  parts(): Part[] {
    return this.#confirmed.flatMap(({ end, firstLine: from, lastLine }) => {
      const to = end === this.#seal.end || this.#starts.has(end) ? end : lastLine;
      if (from === undefined || to === undefined || to <= from) return [];
      return [{ from, to, run: runAt(this.#seal, from), skip: from - this.#begin }];
    });
  }

  #take(piece: Buffer, blockFrom: number): void {
    if (this.#at === blockFrom) {
      this.#hash = beginChecksum();
      this.#lastLine = undefined;
      this.#firstLine = this.#isAtLine || this.#starts.has(blockFrom) ? blockFrom : undefined;
    }
    this.#hash.update(piece);
    const first = piece.indexOf(newline);
    if (first < 0) return;
    this.#firstLine ??= this.#at + first + 1;
    this.#lastLine = this.#at + piece.lastIndexOf(newline) + 1;
  }

  #finish(block: { readonly from: number; readonly checksum: string }): void {
    this.#blocks.shift();
    this.#isAtLine = this.#lastLine === this.#at;
    if (checksumOf(this.#hash) !== block.checksum) return;
    const last = this.#confirmed.at(-1);
    if (last?.end !== block.from) {
      const { from: begin } = block;
      this.#confirmed.push({ begin, end: this.#at, firstLine: this.#firstLine, lastLine: this.#lastLine });
      return;
    }
    last.end = this.#at;
    last.firstLine ??= this.#firstLine;
    last.lastLine = this.#lastLine ?? last.lastLine;
  }
}

/** 1 where it is not known any more. */
function runAt({ runs }: LogSeal, offset: number): number {
  return (runs.findLast(([, begin]) => begin <= offset) ?? runs[0])?.[0] ?? 1;
}

/** What the launchers themselves say on standard error, which the kubelet keeps among the lines of the program. */
const foreign = /^(?:\{"level":"\w+","time":"[^"]*","name":"docker-launcher"|\/ringmaster\/launch\.sh: )/;
const foreignHeadBytes = 256;
const foreignFirstBytes: ReadonlySet<number | undefined> = new Set(Buffer.from('{/'));

/** The copy without what the launchers say. A line of the program that looks like it is left out as well; then no block that holds it matches. */
export async function* withoutForeign(bytes: AsyncIterable<Uint8Array>): AsyncGenerator<Buffer> {
  const filter = new ForeignFilter();
  for await (const chunk of bytes) {
    yield* filter.push(Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength));
  }
  yield* filter.finish();
}

class ForeignFilter {
  /** The beginning of a line that may be either. */
  #held: Buffer = Buffer.alloc(0);
  /** Of the line that the next bytes belong to; undefined until its head is known. */
  #kind: 'own' | 'foreign' | undefined;

  push(chunk: Buffer): Buffer[] {
    const all = this.#held.length === 0 ? chunk : Buffer.concat([this.#held, chunk]);
    const own: Buffer[] = [];
    let [ownFrom, at] = [0, 0];
    while (at < all.length) {
      const lineEnd = all.indexOf(newline, at);
      const to = lineEnd < 0 ? all.length : lineEnd + 1;
      this.#kind ??= kindOf(all.subarray(at, to), lineEnd >= 0);
      if (this.#kind === undefined) break;
      if (this.#kind === 'foreign') {
        own.push(all.subarray(ownFrom, at));
        ownFrom = to;
      }
      if (lineEnd >= 0) this.#kind = undefined;
      at = to;
    }
    own.push(all.subarray(ownFrom, at));
    this.#held = Buffer.from(all.subarray(at));
    return own.filter(({ length }) => length > 0);
  }

  finish(): Buffer[] {
    const rest = this.#held;
    return rest.length === 0 || kindOf(rest, true) === 'foreign' ? [] : [rest];
  }
}

/** Undefined: more of the line has to be seen. */
function kindOf(line: Buffer, isWhole: boolean): 'own' | 'foreign' | undefined {
  if (!foreignFirstBytes.has(line[0])) return 'own';
  if (!isWhole && line.length < foreignHeadBytes) return undefined;
  return foreign.test(line.toString('latin1', 0, foreignHeadBytes)) ? 'foreign' : 'own';
}
