/** Decides for how long a follow stream of a pod that stays may be silent, and whether a silent one is stuck on a rotated file or a dead connection. */
import type { Logger } from '../../log.ts';
import { compareStamps } from '../resume.ts';
import type { Position, Stamp } from '../resume.ts';
import type { KubernetesLogLimits } from './kubernetes.ts';
import type { PodLog, PodLogBatch, Timer } from './podlog.ts';
import type { PodLogs } from './podlogs.ts';
import { RotationWatch } from './rotation.ts';

export interface StreamWatchdogOptions {
  readonly stream: PodLog;
  readonly logs: PodLogs;
  readonly clock: Timer;
  readonly limits: KubernetesLogLimits;
  readonly log: Logger;
}

export class StreamWatchdog {
  readonly #options: StreamWatchdogOptions;
  readonly #rotation: RotationWatch;
  readonly #openedAt: number;
  #quietMs: number;
  #hasLines = false;
  /** The log has newer lines than the stream brought; it gets a last chance. */
  #isSuspicious = false;
  #checkedBytes = 0;
  #nextFile: Stamp | undefined;

  constructor(options: StreamWatchdogOptions) {
    const { stream, logs, clock, limits } = options;
    this.#options = options;
    this.#openedAt = clock.elapsed();
    this.#quietMs = limits.quietMs;
    this.#rotation = new RotationWatch({
      readHead: async () => {
        const head = await logs.probe({});
        return head === 'failed' ? undefined : head;
      },
      newest: () => stream.newest,
      elapsed: () => clock.elapsed(),
      intervalMs: limits.headIntervalMs,
      busyBytes: limits.busyBytes,
      lagMs: limits.lagMs,
      stampSlackSeconds: limits.stampSlackSeconds,
    });
  }

  /** Silence after which `isStale` is to be asked. */
  get quietMs(): number {
    const { limits } = this.#options;
    if (this.#isSuspicious) {
      return limits.graceMs;
    }
    return this.#isBusy ? limits.busyQuietMs : this.#quietMs;
  }

  /** Of a stream that ended: no line, and so soon that its container must have been dead when it was opened. */
  get isSurelyDead(): boolean {
    return !this.#hasLines && this.#options.clock.elapsed() - this.#openedAt < this.#options.limits.deadMsMax;
  }

  /** First stamp of the file that follows the one that the stale stream has read to its end. */
  get nextFile(): Stamp | undefined {
    return this.#nextFile;
  }

  /** Index of the line before which lines are missing; -1 if none are. */
  onLines(batch: PodLogBatch): number {
    this.#hasLines = true;
    this.#quietMs = this.#options.limits.quietMs;
    this.#isSuspicious = false;
    return this.#rotation.check(batch, this.#options.stream.bytesSeen);
  }

  /** The reader kept the stream waiting. */
  onPause(ms: number): void {
    this.#rotation.paused(ms);
  }

  /** Looks what the newest line is; true if the stream should be opened anew. */
  async isStale(position: Position | undefined): Promise<boolean> {
    const { limits, stream, logs, log } = this.#options;
    if (this.#isSuspicious) {
      // The old file was read to its end, so the one that came after it is what follows the position.
      await this.#rotation.look();
      this.#nextFile = this.#rotation.next;
      log.info('Re-opening a log stream that fell silent while its log grew');
      return true;
    }
    this.#quietMs = this.#isBusy ? this.#quietMs : Math.min(2 * this.#quietMs, limits.quietMsMax);
    this.#checkedBytes = stream.bytesSeen;
    const newest = await logs.probe({ tailLines: 1 });
    if (newest === 'failed') {
      return true;
    }
    this.#isSuspicious = newest !== undefined && (position === undefined || compareStamps(newest, position) > 0);
    if (this.#isSuspicious) {
      await this.#rotation.look();
    }
    return false;
  }

  get #isBusy(): boolean {
    return this.#options.stream.bytesSeen - this.#checkedBytes > this.#options.limits.busyBytes;
  }
}
