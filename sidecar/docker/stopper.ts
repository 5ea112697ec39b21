import { setTimeout as delay } from 'node:timers/promises';
import type { Engine } from './engine.ts';

/** The Engine kills this long before the kubelet would: a launcher that is killed leaves its container running. */
const marginSeconds = 2;
const retryMs = 250;

export interface StopTarget {
  readonly engine: Engine;
  readonly container: string;
  readonly input: { type(line: string): void } | undefined;
  readonly onFault: (error: unknown) => void;
}

/**
 * What SIGTERM and SIGINT do. First SIGTERM: the stop command is typed, and after the grace time, or at the second SIGTERM, the Engine stops the container
 * (SIGTERM, then SIGKILL). Without a stop command the Engine does so at once. SIGINT is passed on.
 */
export class Stopper {
  /** Resolves at the first SIGTERM. */
  readonly requested: Promise<void>;
  readonly #settings: { readonly stopCommand: string | undefined; readonly stopGraceSeconds: number };
  readonly #request = Promise.withResolvers<undefined>();
  readonly #hurry = new AbortController();
  #isRequested = false;
  #onInterrupt: (() => void) | undefined;

  constructor(settings: { readonly stopCommand: string | undefined; readonly stopGraceSeconds: number }) {
    this.#settings = settings;
    this.requested = this.#request.promise.then(() => undefined);
  }

  get isRequested(): boolean {
    return this.#isRequested;
  }

  terminate(): void {
    if (this.#isRequested) {
      this.#hurry.abort();
    }
    this.#isRequested = true;
    this.#request.resolve(undefined);
  }

  interrupt(): void {
    if (this.#onInterrupt === undefined) {
      this.terminate();
    } else {
      this.#onInterrupt();
    }
  }

  /** Resolves when the signal fires, which says that the container has ended. */
  async run(target: StopTarget, signal: AbortSignal): Promise<void> {
    const ended = new Promise<void>((resolve) => {
      signal.addEventListener('abort', () => {
        resolve();
      });
    });
    const { engine, container } = target;
    this.#onInterrupt = () => {
      engine.kill(container, 'SIGINT').catch(target.onFault);
    };
    await Promise.race([this.requested, ended]);
    const { stopCommand, stopGraceSeconds } = this.#settings;
    if (stopCommand !== undefined && !isAborted(signal)) {
      target.input?.type(stopCommand);
      const hurry = AbortSignal.any([signal, this.#hurry.signal]);
      await delay(stopGraceSeconds * 1000, undefined, { signal: hurry }).catch(() => undefined);
    }
    while (!isAborted(signal)) {
      try {
        await Promise.race([engine.stop(container, Math.max(1, stopGraceSeconds - marginSeconds)), ended]);
      } catch (error) {
        target.onFault(error);
      }
      await delay(retryMs, undefined, { signal }).catch(() => undefined);
    }
  }
}

/** A function of its own: the compiler takes a signal that was not aborted before an await for one that never will be. */
function isAborted(signal: AbortSignal): boolean {
  return signal.aborted;
}
