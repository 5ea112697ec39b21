import { setTimeout as delay } from 'node:timers/promises';
import type { Readable } from 'node:stream';
import { FrameParser, LogStreamError } from './demux.ts';
import { EngineError } from './engine.ts';
import type { Engine } from './engine.ts';
import type { CopiedLog } from './logfile.ts';
import { Aligner } from './position.ts';

/** How many of the last records are asked for when a stream is opened again, one after the other; then all. */
const tails = [100, 20_000] as const;
/** A stream that was quiet for so long is opened again: an Engine that restarts may leave one hanging. */
const idleMs = 10_000;
const retryMsMin = 50;
const retryMsMax = 2000;
const livedMs = 1000;
/** Chunks without a pause this long are one burst; then the position is written down. */
const pauseMs = 200;

export interface LogCopyOptions {
  readonly engine: Engine;
  readonly container: string;
  readonly log: CopiedLog;
  /** The Engine went away, or its stream broke: said for people, and tried again. */
  readonly onFault: (error: unknown) => void;
}

/**
 * Copies the Engine's log of one container into the log, each byte once, in the Engine's order. `run` follows until the signal; `finish`
 * takes what is left once the container has ended.
 */
export class LogCopy {
  readonly #options: LogCopyOptions;

  constructor(options: LogCopyOptions) {
    this.#options = options;
  }

  /** Resolves after the signal. A stream that ends or breaks is opened again where it was. Rejects if the log cannot be written. */
  async run(signal: AbortSignal): Promise<void> {
    let waitMs = retryMsMin;
    while (!signal.aborted) {
      const startedAtMs = Date.now();
      await this.#tryPass(true, signal);
      // A stream that lived for a while was a good one: the next follows at once.
      waitMs = Date.now() - startedAtMs > livedMs ? 1 : Math.min(waitMs * 2, retryMsMax);
      await delay(waitMs, undefined, { signal }).catch(() => undefined);
    }
  }

  /** Copies the rest of a container that has ended. False: its log cannot be had any more (the container was removed). */
  async finish(signal: AbortSignal): Promise<boolean> {
    for (let waitMs = retryMsMin; ; waitMs = Math.min(waitMs * 2, retryMsMax)) {
      const outcome = await this.#tryPass(false, signal);
      if (outcome !== 'again') {
        return outcome === 'done';
      }
      await delay(waitMs, undefined, { signal });
    }
  }

  async #tryPass(follow: boolean, signal: AbortSignal): Promise<'done' | 'gone' | 'again'> {
    try {
      const hasAnchor = this.#options.log.position.anchor !== undefined;
      for (const tail of [...(hasAnchor ? tails : []), undefined]) {
        if (await this.#pass({ follow, tail, signal })) {
          break;
        }
      }
      return 'done';
    } catch (error) {
      if (!(error instanceof EngineError || error instanceof LogStreamError)) {
        throw error;
      }
      if (!signal.aborted) {
        this.#options.onFault(error);
      }
      return error instanceof EngineError && error.kind === 'missing' ? 'gone' : 'again';
    }
  }

  /** One stream, to its end. False: the place was not found in it, and nothing was written. */
  async #pass(request: { follow: boolean; tail: number | undefined; signal: AbortSignal }): Promise<boolean> {
    const { engine, container, log } = this.#options;
    const { follow, tail, signal } = request;
    const difference = { isFound: false };
    const aligner = new Aligner({
      position: log.position,
      tailRecords: tail,
      readCopied: (at, length) => log.readCopied(at, length),
      onMismatch: () => {
        difference.isFound = true;
      },
    });
    const stream = await engine.logs(container, { follow, tail }, signal);
    const quiet = new AbortController();
    const over = AbortSignal.any([quiet.signal, ...(follow ? [signal] : [])]);
    const end = (): void => {
      stream.destroy();
    };
    let lastAtMs = Date.now();
    const keep = setInterval(() => {
      log.keepAnchor(aligner.anchor);
      if (follow && Date.now() - lastAtMs > idleMs) {
        quiet.abort();
      }
    }, pauseMs);
    over.addEventListener('abort', end);
    if (over.aborted) {
      end();
    }
    try {
      const parser = new FrameParser();
      for await (const chunk of chunks(stream, over)) {
        lastAtMs = Date.now();
        const fresh = takeFresh(parser, aligner, chunk);
        if (fresh === undefined) {
          return false;
        }
        if (difference.isFound) {
          difference.isFound = false;
          await log.say("The Engine's log is not what was copied before: lines may be missing or repeated here");
        }
        await log.append(fresh, aligner.anchor);
      }
      return aligner.isPlaced;
    } finally {
      clearInterval(keep);
      stream.destroy();
      log.keepAnchor(aligner.anchor);
    }
  }
}

/** The bytes of a chunk that were not copied before; undefined if the place is not in this stream. */
function takeFresh(parser: FrameParser, aligner: Aligner, chunk: Buffer): Buffer | undefined {
  const fresh: Buffer[] = [];
  for (const record of parser.push(chunk)) {
    const placed = aligner.place(record);
    if (placed.kind === 'missing') {
      return undefined;
    }
    if (placed.kind === 'fresh') {
      fresh.push(placed.bytes);
    }
  }
  return Buffer.concat(fresh);
}

/** Ends quietly when the stream was ended on purpose; throws EngineError when it broke. */
async function* chunks(stream: Readable, signal: AbortSignal): AsyncGenerator<Buffer> {
  try {
    for await (const chunk of stream as AsyncIterable<Buffer>) {
      yield chunk;
    }
  } catch (cause) {
    if (!signal.aborted) {
      throw new EngineError('unreachable', 'The log stream broke', { cause });
    }
  }
}
