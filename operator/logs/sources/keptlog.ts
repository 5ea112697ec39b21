/**
 * What the kubelet still has of a log after the pod, and its sidecar with it, has ended: the copy that the launcher made to the container's output.
 *
 * The copy may lack its beginning (the kubelet keeps the newest file of the last two containers), its end (the launcher was killed before it was
 * copied), or everything (`mirrorToStdout: false`), and it holds what a launcher says on standard error. So nothing is taken for the log that the
 * sidecar does not confirm: the last that it writes to its own output is the log's seal, with its size, where the last runs began, and checksums of
 * blocks. The copy is laid where these match, counted from the end or from the beginning of the run. What is in no block that matches is not given.
 *
 * Offsets, epoch and run are then the sidecar's own, so cursors stay what they are. It answers as a sidecar would (`SidecarLog`).
 */
import { sealMessage } from '../../../sidecar/protocol.ts';
import type { LogSeal } from '../../../sidecar/protocol.ts';
import { sidecarContainer, workloadContainer } from '../../names.ts';
import { ApiError } from '../../runtime/client.ts';
import type { Client, LogOptions } from '../../runtime/client.ts';
import type { LogRange, SidecarLog } from '../../sidecar/client.ts';
import { Laying, withoutForeign } from './keptcopy.ts';
import type { Part } from './keptcopy.ts';

export interface KeptLogOptions {
  readonly pods: Pick<Client, 'log'>;
  readonly namespace: string;
  readonly podName: string;
}

/** The seal is one of the last lines of the sidecar's container. */
const sealTailLines = 20;
const sealBytesMax = 256 * 1024;
/** A copy that has another length each time is read so often. */
const triesMax = 3;
const newline = 10;

/** A part of the last container's copy, or of that of the one before it. */
type KeptPart = Part & { readonly isPrevious: boolean };

export class KeptLog {
  readonly #options: KeptLogOptions;
  readonly #seal: LogSeal;
  #parts: readonly KeptPart[] = [];

  private constructor(options: KeptLogOptions, seal: LogSeal) {
    this.#options = options;
    this.#seal = seal;
  }

  /** Undefined: the pod is gone. `unsealed`: nothing says what its log was, because its sidecar was killed. Throws what the API server or the network does. */
  static async find(options: KeptLogOptions, signal: AbortSignal): Promise<KeptLog | 'unsealed' | undefined> {
    const said = await readSidecar(options, signal);
    if (said === undefined) return undefined;
    const seal = parseSeal(said);
    if (seal === undefined) return 'unsealed';
    const kept = new KeptLog(options, seal);
    await kept.#survey(signal);
    return kept;
  }

  /**
   * As the sidecar would answer, without waiting for more: a body ends at the end of the run (`restarted`), where bytes are missing (`reclaimed`: open again at
   * the own offset), or at the end of the log (`complete`). Only of a tail that is not followed the body goes over restarts. Of a tail, an
   * unfinished last line is one of the lines: nothing can complete it.
   */
  async open(range: LogRange, signal: AbortSignal): Promise<SidecarLog> {
    const offset = 'tail' in range ? await this.#tailOffset(range.tail, signal) : range.offset;
    const index = this.#parts.findIndex(({ to }) => to > offset);
    const part = this.#parts[index];
    const { epoch, end } = this.#seal;
    const abort = new AbortController();
    const shared = {
      epoch,
      endOffset: end,
      gapBytes: 0,
      gapLines: undefined,
      close: () => {
        abort.abort();
      },
    };
    if (part === undefined) {
      const isLost = 'tail' in range && range.tail > 0 && this.#parts.length === 0 && end > 0;
      return { ...shared, startOffset: end, run: this.#lastRun, isLost, bytes: none(), endReason: 'complete' };
    }
    const isLook = 'tail' in range && !range.follow;
    const parts = isLook ? this.#parts.slice(index) : [part];
    const body = new Body(
      this.#read(parts, offset, AbortSignal.any([signal, abort.signal])),
      isLook ? 'complete' : this.#reasonAfter(index),
    );
    return {
      ...shared,
      startOffset: Math.max(offset, part.from),
      run: part.run,
      bytes: body.bytes,
      get endReason() {
        return body.endReason;
      },
    };
  }

  get #lastRun(): number {
    return this.#seal.runs.at(-1)?.[0] ?? 1;
  }

  #reasonAfter(index: number): string {
    const [part, next] = [this.#parts[index], this.#parts[index + 1]];
    if (next !== undefined) return next.from === part?.to && next.run !== part.run ? 'restarted' : 'reclaimed';
    return part?.to === this.#seal.end ? 'complete' : 'reclaimed';
  }

  /** Finds out what is there. */
  async #survey(signal: AbortSignal): Promise<void> {
    const { runs, end, from } = this.#seal;
    if (end === 0) return;
    const [begin = 0, beginBefore] = [runs.at(-1)?.[1], runs.at(-2)?.[1]];
    const last = await this.#lay(false, (length) => [end - length, begin], signal);
    const lastFrom = last[0]?.from ?? begin;
    // A launcher that adopts a container begins a copy of its own in the middle of a run.
    const before =
      from >= lastFrom
        ? []
        : await this.#lay(
            true,
            (length) => [begin - length, ...(beginBefore === undefined ? [] : [beginBefore]), lastFrom - length, begin],
            signal,
          );
    this.#parts = [...before.filter(({ to }) => to <= lastFrom), ...last];
  }

  /** `guesses`: where in the log a copy of this length may begin. */
  async #lay(isPrevious: boolean, guesses: (length: number) => number[], signal: AbortSignal): Promise<KeptPart[]> {
    for (let tries = 0; tries < triesMax; tries += 1) {
      let length = 0;
      for await (const bytes of this.#copy(isPrevious, signal)) length += bytes.length;
      if (length === 0) return [];
      const layings = [...new Set(guesses(length))].filter((at) => at >= 0).map((at) => new Laying(this.#seal, at));
      let again = 0;
      for await (const bytes of this.#copy(isPrevious, signal)) {
        again += bytes.length;
        for (const laying of layings) laying.push(bytes);
      }
      if (again !== length) continue;
      return joinParts(layings).map((part) => ({ ...part, isPrevious }));
    }
    throw new Error(`Cannot read what is kept of the log: it has another length each time`);
  }

  /** What the program wrote, from the beginning of the newest file of a container. Nothing where there is no such container. */
  async *#copy(isPrevious: boolean, signal: AbortSignal): AsyncGenerator<Buffer> {
    const { pods, ...pod } = this.#options;
    let bytes;
    try {
      bytes = await openLog(pods, pod, { container: workloadContainer, previous: isPrevious, signal });
    } catch (error) {
      if (error instanceof ApiError && (error.code === 400 || error.code === 404)) return;
      throw error;
    }
    let last = newline;
    for await (const piece of withoutForeign(bytes)) {
      last = piece.at(-1) ?? last;
      yield piece;
    }
    // The next launcher ended the line, in the log and not in the copy.
    if (isPrevious && last !== newline) yield Buffer.from('\n');
  }

  /** The bytes of parts that follow one another without a gap, from an offset on. Throws if a copy has become shorter. */
  async *#read(parts: readonly KeptPart[], offset: number, signal: AbortSignal): AsyncGenerator<Buffer> {
    for (const part of parts) {
      const from = Math.max(offset, part.from);
      let skip = part.skip + from - part.from;
      let left = part.to - from;
      for await (const bytes of this.#copy(part.isPrevious, signal)) {
        const wanted = bytes.subarray(skip, skip + left);
        skip -= Math.min(skip, bytes.length);
        left -= wanted.length;
        if (wanted.length > 0) yield wanted;
        if (left === 0) break;
      }
      if (left > 0) throw new Error(`${left} bytes of what is kept of the log are missing now`);
    }
  }

  /** Where the last lines begin, of those that nothing is missing behind; the end of them for 0. */
  async #tailOffset(count: number, signal: AbortSignal): Promise<number> {
    const first = this.#parts.findLastIndex((part, index) => index > 0 && this.#parts[index - 1]?.to !== part.from);
    const parts = this.#parts.slice(Math.max(first, 0));
    const [begin = this.#seal.end, end = this.#seal.end] = [parts[0]?.from, parts.at(-1)?.to];
    if (count === 0) return end;
    const starts = [begin];
    let [lines, at] = [1, begin];
    for await (const bytes of this.#read(parts, begin, signal)) {
      for (let index = bytes.indexOf(newline); index >= 0; index = bytes.indexOf(newline, index + 1)) {
        if (at + index + 1 === end) break;
        starts[lines % count] = at + index + 1;
        lines += 1;
      }
      at += bytes.length;
    }
    return starts[lines % count] ?? begin;
  }
}

/** Something foreign in the middle moves what comes after it: each laying then has its own part of the truth. */
function joinParts(layings: readonly Laying[]): Part[] {
  const joined: Part[] = [];
  for (const laying of layings.toSorted((a, b) => b.confirmedBytes - a.confirmedBytes)) {
    joined.push(...laying.parts().filter((part) => joined.every(({ from, to }) => part.to <= from || part.from >= to)));
  }
  return joined.sort((a, b) => a.from - b.from);
}

/** Knows why it ended once it has. */
class Body {
  endReason: string | undefined;
  readonly bytes: AsyncIterable<Buffer>;

  constructor(bytes: AsyncIterable<Buffer>, reason: string) {
    this.bytes = this.#pass(bytes, reason);
  }

  async *#pass(bytes: AsyncIterable<Buffer>, reason: string): AsyncGenerator<Buffer> {
    yield* bytes;
    this.endReason = reason;
  }
}

async function* none(): AsyncGenerator<Buffer> {
  // Nothing is left.
}

async function openLog(
  pods: Pick<Client, 'log'>,
  pod: { readonly namespace: string; readonly podName: string },
  options: Pick<LogOptions, 'container' | 'previous' | 'tailLines' | 'signal'>,
): Promise<AsyncIterable<Uint8Array>> {
  const { previous = false, ...rest } = options;
  const request = { ...rest, follow: false, timestamps: false, ...(previous && { previous }) };
  return await pods.log({ namespace: pod.namespace, name: pod.podName }, request);
}

/** The last lines that the sidecar wrote to its own output; undefined where there is no such pod or container. */
async function readSidecar({ pods, ...pod }: KeptLogOptions, signal: AbortSignal): Promise<string | undefined> {
  try {
    const bytes = await openLog(pods, pod, { container: sidecarContainer, tailLines: sealTailLines, signal });
    const chunks: Uint8Array[] = [];
    let size = 0;
    for await (const chunk of bytes) {
      size += chunk.length;
      if (size <= sealBytesMax) chunks.push(chunk);
    }
    return Buffer.concat(chunks).toString();
  } catch (error) {
    if (error instanceof ApiError && (error.code === 400 || error.code === 404)) return undefined;
    throw error;
  }
}

/** PURE: the last seal in what a sidecar wrote. */
function parseSeal(text: string): LogSeal | undefined {
  for (const line of text.split('\n').reverse()) {
    const seal = toSeal(line);
    if (seal !== undefined) return seal;
  }
  return undefined;
}

function toSeal(line: string): LogSeal | undefined {
  if (!line.startsWith('{') || !line.includes(sealMessage)) return undefined;
  try {
    const said = JSON.parse(line) as Partial<LogSeal> & { msg?: string };
    const isWhole =
      said.msg === sealMessage &&
      /^[0-9a-f]{16}$/.test(said.epoch ?? '') &&
      [said.end, said.from].every((offset) => Number.isSafeInteger(offset)) &&
      [said.runs, said.blocks].every((list) => Array.isArray(list));
    return isWhole ? (said as LogSeal) : undefined;
  } catch {
    // Cut off: then it says nothing.
    return undefined;
  }
}
