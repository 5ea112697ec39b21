/** Writes what was printed so far, at most every 25 ms, and one write at a time. */
import type { Clock } from '../../runtime/clock.ts';

export const flushIntervalMs = 25;

export class Flusher {
  readonly #clock: Clock;
  /** Never rejects. */
  readonly #write: () => Promise<void>;
  readonly #stopping = new AbortController();
  #isDirty = false;
  #loop: Promise<void> | undefined;

  constructor(options: { clock: Clock; write: () => Promise<void> }) {
    this.#clock = options.clock;
    this.#write = options.write;
  }

  /** There is something new. */
  touch(): void {
    this.#isDirty = true;
    this.#loop ??= this.#run();
  }

  /** Writes nothing more; resolves when nothing is under way. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.#loop;
  }

  async #run(): Promise<void> {
    while (this.#isDirty) {
      try {
        await this.#clock.after(flushIntervalMs, this.#stopping.signal);
      } catch {
        // Only `stop` ends that wait.
        return;
      }
      this.#isDirty = false;
      await this.#write();
    }
    this.#loop = undefined;
  }
}
