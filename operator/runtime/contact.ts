/** How a cache stands to the API server: whether it hears from it, and whether it still tries. */
import type { Clock } from './clock.ts';

export interface ContactState {
  /** Milliseconds since the first failure after the last answer; 0 while the server is heard. */
  readonly lostForMs: number;
  /** Milliseconds since anything happened: an answer, an event, a failure. */
  readonly idleForMs: number;
}

export class Contact {
  readonly #clock: Clock;
  #lostAtMs: number | undefined;
  #activeAtMs: number;

  constructor(clock: Clock) {
    this.#clock = clock;
    this.#activeAtMs = clock.elapsed();
  }

  /** The server answered. */
  heard(): void {
    this.#lostAtMs = undefined;
    this.#activeAtMs = this.#clock.elapsed();
  }

  /** It did not, or not as it should. */
  failed(): void {
    this.#activeAtMs = this.#clock.elapsed();
    this.#lostAtMs ??= this.#activeAtMs;
  }

  get state(): ContactState {
    const nowMs = this.#clock.elapsed();
    return {
      lostForMs: this.#lostAtMs === undefined ? 0 : nowMs - this.#lostAtMs,
      idleForMs: nowMs - this.#activeAtMs,
    };
  }
}

/** The worst of several. */
export function worstOf(states: readonly ContactState[]): ContactState {
  return {
    lostForMs: Math.max(0, ...states.map(({ lostForMs }) => lostForMs)),
    idleForMs: Math.max(0, ...states.map(({ idleForMs }) => idleForMs)),
  };
}
