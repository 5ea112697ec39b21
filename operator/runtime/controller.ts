/** Workers that take keys from a queue and reconcile them, until told to stop. */
import { TerminalError, messageOf } from '../errors.ts';
import type { Logger } from '../log.ts';
import { link } from './abort.ts';
import { ApiError, isReason } from './client.ts';
import type { Clock } from './clock.ts';
import type { WorkQueue } from './workqueue.ts';

const defaultWorkers = 4;
const defaultStopTimeoutMs = 10_000;
/** A reconcile that ignores its signal for so long loses its worker; its key stays taken until it ends. */
const abandonAfterMs = 5_000;

/** Reads the present state of `key` and brings the world nearer to it. What it throws is tried again, except a `TerminalError`. */
// eslint-disable-next-line @typescript-eslint/no-invalid-void-type -- so that a function that returns nothing at all fits, too
export type Reconcile = (key: string, signal: AbortSignal) => Promise<ReconcileOutcome | undefined | void>;

export interface ReconcileOutcome {
  /** Reconcile again after this time, whatever happens. */
  readonly requeueAfterMs?: number;
}

export type ReconcileResult = 'success' | 'error' | 'terminal';

/** For metrics. */
export interface ControllerObserver {
  onReconcile?(result: ReconcileResult, durationMs: number): void;
}

export interface ControllerOptions {
  /** For log lines. */
  readonly name: string;
  readonly queue: WorkQueue;
  readonly reconcile: Reconcile;
  /** No key is taken before all of these have synced. */
  readonly informers: readonly { whenSynced(signal: AbortSignal): Promise<void> }[];
  /** Keys worked on at the same time. Default 4. */
  readonly workers?: number;
  /** Aborts the signal of a reconcile that takes longer; it counts as failed. Default: no limit. */
  readonly reconcileTimeoutMs?: number;
  /** How long running reconciles may go on after `run`'s signal, before their own aborts. Default 10 s. */
  readonly stopTimeoutMs?: number;
  readonly clock: Clock;
  readonly log: Logger;
  readonly observer?: ControllerObserver;
}

export class Controller {
  readonly #options: ControllerOptions;

  constructor(options: ControllerOptions) {
    this.#options = options;
  }

  /**
   * Works until `signal` aborts, then lets running reconciles finish (bounded), and shuts the queue down; a controller runs once. Resolves when
   * the last worker has stopped; never rejects.
   */
  async run(signal: AbortSignal): Promise<void> {
    const { clock, informers, queue, stopTimeoutMs = defaultStopTimeoutMs, workers = defaultWorkers } = this.#options;
    const hard = new AbortController();
    const finished = new AbortController();
    const signalOnAbort = (): void => {
      queue.shutDown();
      clock.after(stopTimeoutMs, finished.signal).then(
        () => {
          hard.abort(new Error('Stopped: the reconcile was still running when time was up'));
        },
        // All workers were done in time.
        () => undefined,
      );
    };
    try {
      await Promise.all(informers.map((informer) => informer.whenSynced(signal)));
    } catch {
      // Only the signal ends that wait.
      queue.shutDown();
      return;
    }
    signal.addEventListener('abort', signalOnAbort, { once: true });
    if (signal.aborted) signalOnAbort();
    await Promise.all(Array.from({ length: workers }, () => this.#work(hard.signal)));
    signal.removeEventListener('abort', signalOnAbort);
    finished.abort();
  }

  async #work(stop: AbortSignal): Promise<void> {
    const { queue } = this.#options;
    for (let key = await queue.next(); key !== undefined; key = await queue.next()) await this.#process(key, stop);
  }

  async #process(key: string, stop: AbortSignal): Promise<void> {
    const { clock, reconcileTimeoutMs } = this.#options;
    const limit = new AbortController();
    const unlink = link(stop, limit);
    const ended = new AbortController();
    const attempt = this.#attempt(key, limit.signal).finally(() => {
      unlink();
      ended.abort();
    });
    if (reconcileTimeoutMs !== undefined) {
      clock.after(reconcileTimeoutMs, ended.signal).then(
        () => {
          limit.abort(new Error(`Reconcile took longer than ${reconcileTimeoutMs} ms`));
        },
        () => undefined,
      );
    }
    await Promise.race([attempt, this.#abandoned(key, limit.signal, ended.signal)]);
  }

  /** Gives the key back when its reconcile has really ended, even if the worker has gone on without it. Never rejects. */
  async #attempt(key: string, signal: AbortSignal): Promise<void> {
    const { clock, observer, queue, reconcile } = this.#options;
    const startedMs = clock.elapsed();
    let result: ReconcileResult = 'success';
    try {
      const outcome = (await reconcile(key, signal)) as ReconcileOutcome | undefined;
      queue.forget(key);
      if (outcome?.requeueAfterMs !== undefined) queue.addAfter(key, outcome.requeueAfterMs);
    } catch (error) {
      result = this.#fail(key, error);
    }
    queue.done(key);
    observer?.onReconcile?.(result, clock.elapsed() - startedMs);
  }

  #fail(key: string, error: unknown): ReconcileResult {
    const { log, name, queue } = this.#options;
    if (error instanceof TerminalError) {
      queue.forget(key);
      log.warn({ controller: name, key, reason: error.reason, error: error.message }, 'Reconcile gave up');
      return 'terminal';
    }
    queue.addRateLimited(key, error instanceof ApiError ? error.retryAfterMs : undefined);
    const line = { controller: name, key, failures: queue.failures(key), error: messageOf(error) };
    // Somebody else wrote first: the next try reads what they wrote.
    if (isReason(error, 'Conflict')) log.debug(line, 'Reconcile met a conflict');
    else log.warn(line, 'Reconcile failed');
    return 'error';
  }

  /** Resolves when the reconcile ignores its aborted signal for too long; never when it ends before. */
  async #abandoned(key: string, limit: AbortSignal, ended: AbortSignal): Promise<void> {
    const { clock, log, name } = this.#options;
    const { promise, resolve } = Promise.withResolvers<undefined>();
    const limitOnAbort = (): void => {
      clock.after(abandonAfterMs, ended).then(
        () => {
          log.error({ controller: name, key }, 'Reconcile ignores that it was aborted: its worker goes on without it');
          resolve(undefined);
        },
        () => undefined,
      );
    };
    limit.addEventListener('abort', limitOnAbort, { once: true });
    await promise;
  }
}
