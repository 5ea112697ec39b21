/** Asks the thread of matchworker.ts, one question after the other, and ends it when an answer takes too long. */
import { Worker } from 'node:worker_threads';
import type { Clock } from '../../runtime/clock.ts';
import type { MatchAnswer, MatchRequest } from './matchworker.ts';

/** For one piece of a log: the largest pattern on the worst line takes some tenths of a second, an honest one a millisecond. */
const budgetMs = 2000;
/** Characters of one question, or one line if that is longer. */
const pieceCharactersMax = 16 * 1024;
/** The thread costs some 40 MiB, and most of the time nothing is being started. */
const idleMs = 30_000;
/** What a pattern may take to compile and to match. */
const workerMemoryMib = 128;

/** The pattern took too long, or more memory than it may. */
export class PatternTooSlowError extends Error {
  constructor(pattern: string, options?: { cause: unknown }) {
    super(`Cannot match "${pattern}": it takes too long on this log`, options);
    this.name = 'PatternTooSlowError';
  }
}

export class PatternMatcher {
  readonly #clock: Clock;
  readonly #signal: AbortSignal;
  readonly #budgetMs: number;
  #worker: Worker | undefined;
  /** Ends the wait after which the thread is ended. */
  #idle = new AbortController();
  /** The last question: the next one waits for it, so that time that runs out is the fault of one pattern. */
  #last: Promise<unknown> = Promise.resolve();

  /** `signal` ends the wait for a time without questions, so that nothing keeps the process. */
  constructor(options: { clock: Clock; signal: AbortSignal; budgetMs?: number }) {
    this.#clock = options.clock;
    this.#signal = options.signal;
    this.#budgetMs = options.budgetMs ?? budgetMs;
  }

  /** Why the pattern cannot be used; undefined: it can. */
  async check(pattern: string): Promise<string | undefined> {
    try {
      return (await this.#ask({ pattern, lines: [] })).fault;
    } catch (error) {
      if (error instanceof PatternTooSlowError) return 'it is too large';
      throw error;
    }
  }

  /** Whether it is found in one of the lines. Throws `PatternTooSlowError`, or a SyntaxError for what is no pattern. */
  async matches(pattern: string, lines: readonly string[]): Promise<boolean> {
    for (const piece of pieces(lines)) {
      const { isMatch, fault } = await this.#ask({ pattern, lines: piece });
      if (fault !== undefined) throw new SyntaxError(`Cannot read pattern "${pattern}": ${fault}`);
      if (isMatch) return true;
    }
    return false;
  }

  /** Ends the thread; the next question starts another. */
  async stop(): Promise<void> {
    this.#idle.abort();
    const worker = this.#worker;
    this.#worker = undefined;
    await worker?.terminate();
  }

  #stopWhenIdle(): void {
    const idle = new AbortController();
    this.#idle = idle;
    this.#clock
      .after(idleMs, AbortSignal.any([this.#signal, idle.signal]))
      .then(() => (idle.signal.aborted ? undefined : this.stop()))
      .catch(() => undefined);
  }

  async #ask(request: MatchRequest): Promise<MatchAnswer> {
    const previous = this.#last;
    const answer = previous.then(() => this.#askNow(request));
    this.#last = answer.catch(() => undefined);
    return await answer;
  }

  async #askNow(request: MatchRequest): Promise<MatchAnswer> {
    this.#idle.abort();
    this.#worker ??= await startWorker();
    const worker = this.#worker;
    const settled = new AbortController();
    const reply = nextMessage<MatchAnswer>(worker, settled.signal);
    const timeout = this.#clock.after(this.#budgetMs, settled.signal).then(() => {
      throw new Error(`No answer after ${this.#budgetMs} ms`);
    });
    try {
      worker.postMessage(request);
      return await Promise.race([reply, timeout]);
    } catch (error) {
      await this.stop();
      throw new PatternTooSlowError(request.pattern, { cause: error });
    } finally {
      // Whichever of the two was not needed ends, and nobody hears it.
      reply.catch(() => undefined);
      timeout.catch(() => undefined);
      settled.abort();
      this.#stopWhenIdle();
    }
  }
}

function* pieces(lines: readonly string[]): Generator<string[]> {
  let piece: string[] = [];
  let characters = 0;
  for (const line of lines) {
    if (piece.length > 0 && characters + line.length > pieceCharactersMax) {
      yield piece;
      piece = [];
      characters = 0;
    }
    piece.push(line);
    characters += line.length;
  }
  if (piece.length > 0) yield piece;
}

async function startWorker(): Promise<Worker> {
  const worker = new Worker(new URL('./matchworker.ts', import.meta.url), {
    resourceLimits: { maxOldGenerationSizeMb: workerMemoryMib },
  });
  // It alone must not keep the process alive.
  worker.unref();
  await nextMessage(worker, new AbortController().signal);
  return worker;
}

/** Rejects when the thread ends or breaks instead. */
async function nextMessage<T>(worker: Worker, signal: AbortSignal): Promise<T> {
  const { promise, resolve, reject } = Promise.withResolvers<T>();
  const workerOnExit = (code: number): void => {
    reject(new Error(`The thread ended with code ${code}`));
  };
  worker.once('message', resolve);
  worker.once('error', reject);
  worker.once('exit', workerOnExit);
  const signalOnAbort = (): void => {
    worker.off('message', resolve);
    worker.off('error', reject);
    worker.off('exit', workerOnExit);
  };
  signal.addEventListener('abort', signalOnAbort, { once: true });
  try {
    return await promise;
  } finally {
    signalOnAbort();
  }
}
