/**
 * One console session without its transport: command lines in, in order, one at a time; output out.
 *
 * A command begins when the one before has ended and the client has room for output. So a client that does not read holds up its own commands and
 * nothing else, and what waits for it is bounded: its send buffer, the output of one command, and the commands of the queue.
 */
import { OperatorError } from '../errors.ts';
import type { Metrics } from '../metrics.ts';
import { lineFault } from './commandline.ts';
import type { CommandEnd } from './dispatch.ts';
import type { Limits } from './ports.ts';

/** Where a session's output goes. */
export interface SessionClient {
  /** No command is begun any more once it is not. */
  readonly isOpen: boolean;
  /** Resolves when there is room for output, or when it is not open any more. */
  room(): Promise<void>;
  output(id: string, lines: readonly string[]): void;
  done(id: string, end: Pick<CommandEnd, 'exitCode' | 'reason'>): void;
}

export interface SessionOptions {
  readonly client: SessionClient;
  readonly limits: Pick<Limits, 'consoleQueueMax' | 'consoleQueueBytesMax'>;
  readonly metrics: Pick<Metrics, 'consoleWaiting'>;
  /** As `LineRunner.run`. */
  run(line: string, onOutput: (lines: readonly string[]) => void, signal: AbortSignal): Promise<CommandEnd>;
}

interface Waiting {
  readonly id: string;
  readonly line: string;
  readonly bytes: number;
}

export class ConsoleSession {
  readonly #options: SessionOptions;
  readonly #queue: Waiting[] = [];
  #queueBytes = 0;
  #wake: (() => void) | undefined;

  constructor(options: SessionOptions) {
    this.#options = options;
  }

  /** A command takes its place in the queue, or is refused where too many wait. `id` is given back with what comes of it. */
  push(id: string, line: string): void {
    const { client, limits, metrics } = this.#options;
    const bytes = Buffer.byteLength(line);
    if (this.#queue.length >= limits.consoleQueueMax || this.#queueBytes + bytes > limits.consoleQueueBytesMax) {
      client.output(id, ['Too many queued commands']);
      client.done(id, { exitCode: 1 });
      return;
    }
    this.#queue.push({ id, line, bytes });
    this.#queueBytes += bytes;
    metrics.consoleWaiting.inc({ state: 'queued' });
    this.#wake?.();
  }

  /** Runs what comes until `exit` (true), or until the signal aborts or the client is not open (false). Rejects only with a bug. */
  async serve(signal: AbortSignal): Promise<boolean> {
    const wake = (): void => this.#wake?.();
    signal.addEventListener('abort', wake);
    try {
      for (;;) {
        const next = await this.#next(signal);
        if (next === undefined) return false;
        if (next.line.trim() === 'exit') {
          this.#options.client.done(next.id, { exitCode: 0 });
          return true;
        }
        this.#options.client.done(next.id, await this.#execute(next, signal));
      }
    } finally {
      signal.removeEventListener('abort', wake);
      this.#options.metrics.consoleWaiting.dec({ state: 'queued' }, this.#queue.length);
      this.#queue.length = 0;
    }
  }

  async #next(signal: AbortSignal): Promise<Waiting | undefined> {
    const { client, metrics } = this.#options;
    while (this.#queue.length === 0 && !signal.aborted) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    await client.room();
    if (signal.aborted || !client.isOpen) return undefined;
    const next = this.#queue.shift();
    if (next === undefined) return undefined;
    this.#queueBytes -= next.bytes;
    metrics.consoleWaiting.dec({ state: 'queued' });
    return next;
  }

  async #execute({ id, line }: Waiting, signal: AbortSignal): Promise<Pick<CommandEnd, 'exitCode' | 'reason'>> {
    const { client } = this.#options;
    if (line.trim() === '') return { exitCode: 0 };
    const output = (lines: readonly string[]): void => {
      client.output(id, lines);
    };
    const fault = lineFault(line);
    if (fault !== undefined) {
      output([`Malformed command: ${fault}`]);
      return { exitCode: 2 };
    }
    try {
      return await this.#options.run(line, output, signal);
    } catch (error) {
      // The client has gone: the loop ends.
      if (signal.aborted) return { exitCode: 1 };
      if (!(error instanceof OperatorError)) throw error;
      output([error.message]);
      return { exitCode: 1 };
    }
  }
}
