/**
 * Stops pods gracefully: the stop command, then SIGTERM, then the grace period.
 *
 * Deleting a pod sends SIGTERM at once, and a program that a stop command ended in a pod that is not being deleted would be started again.
 * So the pod is deleted first, its `preStop` sleep (pod.ts) holds SIGTERM back, and meanwhile the command is written to the program's
 * standard input. The kubelet sleeps on when the program has ended (it looks at its container only afterwards), so we watch the log: when
 * following it ends at once twice in a row, the program is gone, and a second delete with one second of grace ends the sleep.
 *
 * Everything here is repeatable. The command is written at most once: the pod is marked before. A new leader goes on where it finds it.
 */
import type { Instance } from '../../api/v1alpha1/instance.ts';
import { messageOf } from '../../errors.ts';
import type { Logger } from '../../log.ts';
import { stopCommandSentAnnotation, workloadContainer } from '../../names.ts';
import { isReason, pods } from '../../runtime/client.ts';
import type { Client, ObjectRef } from '../../runtime/client.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { PodView } from './observe.ts';

/** A follow that lives shorter than this, twice in a row, is on a program that has ended. */
const endedFollowMs = 1000;
/** Pause before a follow is opened again. */
const followPauseMs = 200;

export interface StopResult {
  /** `none`: there is no command, or it was sent before, or nothing runs that could read it. */
  readonly command: 'sent' | 'failed' | 'none';
  readonly error?: string;
}

export class Stopper {
  readonly #client: Client;
  readonly #clock: Clock;
  readonly #log: Logger;
  readonly #signal: AbortSignal;
  /** Pods that we wait for, by uid: one wait each. */
  readonly #waiting = new Set<string>();

  /** `signal` ends the waits in the background, with the leadership. */
  constructor(options: { client: Client; clock: Clock; log: Logger; signal: AbortSignal }) {
    this.#client = options.client;
    this.#clock = options.clock;
    this.#log = options.log;
    this.#signal = options.signal;
  }

  /** Begins to stop the pod, or goes on; resolves when it is being deleted. Throws when the API server refuses. */
  async stop(instance: Instance, pod: PodView): Promise<StopResult> {
    const ref = { namespace: instance.metadata.namespace ?? '', name: pod.name };
    const command = instance.spec.stop?.command;
    if (pod.deletionDueMs === undefined) await this.#client.remove(pods, ref, { uid: pod.uid, signal: this.#signal });
    if (command === undefined || pod.phase !== 'running') return { command: 'none' };
    if (pod.isStopCommandSent) {
      this.#finishInBackground(ref, pod);
      return { command: 'none' };
    }
    return await this.#sendCommand(ref, pod, command);
  }

  async #sendCommand(ref: Required<ObjectRef>, pod: PodView, command: string): Promise<StopResult> {
    const mark = { [stopCommandSentAnnotation]: new Date(this.#clock.now()).toISOString() };
    try {
      await this.#client.mergePatch(pods, ref, { metadata: { uid: pod.uid, annotations: mark } }, this.#signal);
      await this.#client.attachStdin(ref, workloadContainer, Buffer.from(`${command}\n`), this.#signal);
    } catch (error) {
      if (isReason(error, 'NotFound', 'Conflict')) return { command: 'none' };
      this.#signal.throwIfAborted();
      // The sleep runs its course and SIGTERM follows: slower, and safe.
      return { command: 'failed', error: messageOf(error) };
    }
    this.#finishInBackground(ref, pod);
    return { command: 'sent' };
  }

  #finishInBackground(ref: Required<ObjectRef>, pod: PodView): void {
    if (this.#waiting.has(pod.uid)) return;
    this.#waiting.add(pod.uid);
    this.#finishWhenEnded(ref, pod)
      .catch((error: unknown) => {
        this.#log.debug(
          { pod: ref, error: messageOf(error) },
          'Cannot wait for the program to end: the grace period runs its course',
        );
      })
      .finally(() => this.#waiting.delete(pod.uid));
  }

  async #finishWhenEnded(ref: Required<ObjectRef>, pod: PodView): Promise<void> {
    let shortFollows = 0;
    while (shortFollows < 2) {
      const startedMs = this.#clock.elapsed();
      const ending = await this.#followToEnd(ref);
      if (ending === 'gone') return;
      const isShort = ending === 'eof' && this.#clock.elapsed() - startedMs < endedFollowMs;
      shortFollows = isShort ? shortFollows + 1 : 0;
      await this.#clock.after(followPauseMs, this.#signal);
    }
    await this.#client.remove(pods, ref, { uid: pod.uid, gracePeriodSeconds: 1, signal: this.#signal });
  }

  /** How following the log came to its end: a clean one, with the pod, or by a fault, which says nothing. */
  async #followToEnd(ref: Required<ObjectRef>): Promise<'eof' | 'gone' | 'fault'> {
    const options = {
      container: workloadContainer,
      follow: true,
      timestamps: false,
      tailLines: 0,
      signal: this.#signal,
    };
    try {
      const stream = await this.#client.log(ref, options);
      for await (const chunk of stream) this.#log.trace({ bytes: chunk.length }, 'Still writing');
      return 'eof';
    } catch (error) {
      this.#signal.throwIfAborted();
      return isReason(error, 'NotFound') ? 'gone' : 'fault';
    }
  }
}
