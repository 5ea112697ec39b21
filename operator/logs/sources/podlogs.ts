/** Opens streams of one pod's workload container. */
import { messageOf } from '../../errors.ts';
import type { Logger } from '../../log.ts';
import { workloadContainer } from '../../names.ts';
import { ApiError } from '../../runtime/client.ts';
import type { Client, LogOptions } from '../../runtime/client.ts';
import type { Position, Stamp } from '../resume.ts';
import type { KubernetesLogLimits } from './kubernetes.ts';
import { PodLog } from './podlog.ts';
import type { Timer } from './podlog.ts';

export interface PodLogsOptions {
  readonly client: Client;
  readonly clock: Timer;
  readonly log: Logger;
  readonly limits: KubernetesLogLimits;
  readonly instanceUid: string;
  readonly namespace: string;
  readonly podName: string;
  readonly podSequence: number;
  /** Ends every stream. */
  readonly signal: AbortSignal;
}

export interface OpenOptions {
  readonly previous?: boolean;
  readonly follow?: boolean;
  readonly tailLines?: number;
  readonly limitBytes?: number;
  /** Skip to this position. */
  readonly after?: Position | undefined;
  readonly sinceTime?: string | undefined;
  /** Never conclude from a stamp alone that the position cannot follow. */
  readonly isPatient?: boolean;
}

export class PodLogs {
  readonly #options: PodLogsOptions;

  constructor(options: PodLogsOptions) {
    this.#options = options;
  }

  /** Throws `ApiError` for an error answer and what the network throws. */
  async open(options: OpenOptions): Promise<PodLog> {
    const { client, signal, namespace, podName, podSequence, clock, instanceUid, limits } = this.#options;
    const abort = new AbortController();
    const request: LogOptions = {
      container: workloadContainer,
      timestamps: true,
      follow: options.follow === true,
      signal: AbortSignal.any([signal, abort.signal]),
      ...(options.previous === true && { previous: true }),
      ...(options.tailLines !== undefined && { tailLines: options.tailLines }),
      ...(options.limitBytes !== undefined && { limitBytes: options.limitBytes }),
      ...(options.sinceTime !== undefined && { sinceTime: options.sinceTime }),
    };
    const bytes = await client.log({ namespace, name: podName }, request);
    return new PodLog({
      bytes,
      clock,
      instanceUid,
      podSequence,
      lineBytesMax: limits.lineBytesMax,
      stampSlackSeconds: limits.stampSlackSeconds,
      after: options.after,
      isPatient: options.isPatient === true,
      mayRepeat: options.follow === true,
      abort: () => {
        abort.abort();
      },
    });
  }

  /** The log of the container before the current one; undefined if there is none. */
  async openPrevious(after?: Position, sinceTime?: string): Promise<PodLog | undefined> {
    try {
      return await this.open({ previous: true, after, sinceTime });
    } catch (error) {
      if (error instanceof ApiError && error.code === 400) {
        return undefined;
      }
      throw error;
    }
  }

  /** Stamp of the newest file's first line, or of its last with `tailLines: 1`; undefined if there is none, or the server is too busy to say. */
  async probe(options: { readonly tailLines?: number }): Promise<Stamp | undefined | 'failed'> {
    const { limits, log, podName } = this.#options;
    try {
      const probe = await this.open({ ...options, limitBytes: limits.probeBytes });
      try {
        await probe.peek(limits.scanQuietMs);
        await probe.read(limits.scanQuietMs);
        return probe.first ?? probe.takeRest()?.positionAt(0);
      } finally {
        probe.close();
      }
    } catch (error) {
      log.debug({ pod: podName, cause: messageOf(error) }, 'Cannot look for newer log lines');
      return error instanceof ApiError && error.code === 429 ? undefined : 'failed';
    }
  }
}
