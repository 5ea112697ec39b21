/**
 * Stops pods gracefully: the stop command, then SIGTERM, then the grace period. Under every runtime but `kubernetes` the launcher in the pod does
 * all of it, and there is only the pod to delete. The rest of this page is about `kubernetes`.
 *
 * Deleting a pod sends SIGTERM at once, and a program that a stop command ended in a pod that is not being deleted would be started again.
 * So the pod is deleted first, its `preStop` sleep (pod.ts) holds SIGTERM back, and meanwhile the command is written to the program's
 * standard input. The kubelet sleeps on when the program has ended, and no later delete with a shorter grace period ends a sleep that has begun
 * (kubernetes/kubernetes#113606). So we watch the log: when following it ends, we ask to attach. If the kubelet then says that no such container
 * runs, the pod has nothing left to wait for and is deleted without grace. What the kubelet still sleeps over is an empty sandbox.
 *
 * Everything here is repeatable. The command is written at most once: the pod is marked before. A new leader goes on where it finds it.
 */
import type { Instance } from '../../api/v1alpha1/instance.ts';
import { messageOf } from '../../errors.ts';
import type { Logger } from '../../log.ts';
import { stopCommandSentAnnotation, workloadContainer } from '../../names.ts';
import { ApiError, isReason, pods } from '../../runtime/client.ts';
import type { Client, ObjectRef } from '../../runtime/client.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { PodView } from './observe.ts';

/** Pause before a follow is opened again: after one that ended, and after one that failed. */
const followPauseMs = 200;
const failurePauseMs = 2_000;
/**
 * What is deleted without grace has no log from then on: whoever reads it gets so long to find that it has ended. The kubelet looks once a
 * second for each follower whether the container runs (`logForceCheckPeriod` of k8s.io/cri-client, 1.37), so a reader may learn of the end a
 * second after us, and has to open the log once or twice more to see that nothing follows.
 */
const drainPauseMs = 3_000;
/** The kubelet's answer to an attach to a container that does not run, in the words of all versions: "container instance not found in pod …". */
const notRunning = /\bcontainer\b.*\bnot found\b/;

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
    // Under the other runtimes the launcher in the pod writes it, on SIGTERM.
    const isOurs = command !== undefined && instance.spec.runtime === 'kubernetes';
    if (!isOurs || pod.phase !== 'running') return { command: 'none' };
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
    if (!pod.isProgramAlone || this.#waiting.has(pod.uid)) return;
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
    let hasEnded = false;
    while (!hasEnded) {
      const isEof = await this.#followToEnd(ref);
      hasEnded = isEof && (await this.#hasEnded(ref));
      if (!hasEnded) await this.#clock.after(isEof ? followPauseMs : failurePauseMs, this.#signal);
    }
    await this.#clock.after(drainPauseMs, this.#signal);
    await this.#client.remove(pods, ref, { uid: pod.uid, gracePeriodSeconds: 0, signal: this.#signal });
  }

  /**
   * Whether it ended cleanly; a broken connection says nothing, and neither does a program that is silent for so long that the request times out.
   * That the pod is gone is thrown: nothing is left to do.
   */
  async #followToEnd(ref: Required<ObjectRef>): Promise<boolean> {
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
      return true;
    } catch (error) {
      this.#signal.throwIfAborted();
      if (isReason(error, 'NotFound')) throw error;
      return false;
    }
  }

  /** The end of a log alone is no proof: a kubelet that cannot watch the file ends it as well. */
  async #hasEnded(ref: Required<ObjectRef>): Promise<boolean> {
    try {
      await this.#client.attachStdin(ref, workloadContainer, new Uint8Array(), this.#signal);
      return false;
    } catch (error) {
      this.#signal.throwIfAborted();
      if (isReason(error, 'NotFound')) throw error;
      return error instanceof ApiError && notRunning.test(error.message);
    }
  }
}
