/**
 * The log of an instance whose runtime is `kubernetes`: `pods/log`, made lossless.
 *
 * A follow stream proves little. It ends cleanly while the container runs (four-hour limits, load balancers, API server restarts), it does
 * not say which container it shows, it never crosses to the next one, it can stay on a rotated file, and `sinceTime` knows whole seconds.
 * Only `pods/log` may be read here, not pods, so everything is decided by content:
 *
 * - A position is (pod sequence, stamp, ordinal among equal stamps, hash). To resume, the log is opened from the stamp's second less the
 *   slack, and lines are skipped up to that one. `sinceTime` is never combined with `tailLines`, which would cap the resume.
 * - If the current container's log does not have the line, the container was restarted or the file rotated. The current log is opened first
 *   and left unread, then `previous` is searched. If it has the line, its remainder is given and everything is looked at again; only when
 *   nothing remains, the current log is the successor (it was opened before `previous` was seen, so no container fits between) and is
 *   given from its start, after a `restart`.
 * - If neither has it, the current file is read to its end to be sure, then a `gap` is given, then what both still hold. The kubelet serves
 *   the newest file of a container alone; whether a file that was rotated away held unread lines cannot be known. So a rotation right
 *   after the position gives a gap without loss, never a loss without gap.
 * - A reader that was paused is not trusted: the kubelet looks for a new file only at the end of the old one, and skips those that came and
 *   went meanwhile. After `pauseMsMax` without a pull the stream is dropped and resumed by position, which notices. A stream that falls
 *   silent right after much data is checked early for the same reason (a file rotated during the first read stalls the kubelet's follow).
 * - While much data flows, every file that comes is noted, and the stream must pass its first line: rotation.ts.
 * - Stamps that jump back to one that was seen, or far, are a file that the kubelet reads twice (two rotations at once make it open the
 *   newest file twice), or a clock that was set back: the log is resumed from the last line, which tells them apart.
 * - A line without `\n` at the end is a line only once its container is dead: two openings in a row that end at once with the same rest.
 *   Kubernetes strips the partial mark, and the same bytes may be completed later.
 * - Waiting (400), not found (404) and faults are states to wait through. A pod's log is drained when it was opened at the position and
 *   ended at once. A replaced pod is drained first; if it is gone before, that is a `gap`.
 *
 * Seen on Kubernetes 1.37 with containerd: long lines come joined with the stamp of their first part; stderr lines are stamped microseconds
 * out of order; a rest without `\n` comes without one at the end; in a crash loop `previous` may answer for 20 s with the text "unable to
 * retrieve container logs" and 200, because its container is removed already: that is no log, not a fault.
 *
 * Known limits. A new container whose first file was rotated away before anybody looked cannot be told from one that wrote less. stdout and stderr pieces of lines over 16 KiB that the runtime stored interleaved are joined wrongly by the kubelet itself.
 * After a clock was set back by more than the slack, resuming inside the overlap may announce a gap that is none and repeat lines. Lines of
 * one stamp (CRI-O) that a rotation separates may do the same. Two identical lines of equal stamp in two files cannot be told apart.
 */
import { OperatorError, messageOf } from '../../errors.ts';
import type { Logger } from '../../log.ts';
import { ApiError } from '../../runtime/client.ts';
import type { Client } from '../../runtime/client.ts';
import { beginningOf, comparePositions, decodeCursor, encodeCursor, isBeginning } from '../resume.ts';
import { lineBytesMax } from '../source.ts';
import type { Cursor, GapCause, LastLines, LogEvent, LogSource, Start } from '../source.ts';
import type { LogTarget, TargetWatch } from '../target.ts';
import type { Timer } from './podlog.ts';
import { readLastLines } from './lastlines.ts';
import { PodLogs } from './podlogs.ts';
import { PodReader } from './podreader.ts';
import type { Outcome, PodStart } from './podreader.ts';
import { endWithoutPod, TargetFollow } from './targetfollow.ts';

/** Limits of the Kubernetes log source; each is a field of the options, to be lowered in tests. */
export const kubernetesLogLimits = {
  lineBytesMax,
  /** How far stamps may be out of order where stdout and stderr meet. */
  stampSlackSeconds: 1,
  /** Silence after which a search for the position looks elsewhere too. */
  seekQuietMs: 250,
  /** Silence of a stream that should be read to its end, after which it counts as broken. */
  scanQuietMs: 30_000,
  /** Silence after which a stream is checked; doubles while nothing comes. */
  quietMs: 15_000,
  quietMsMax: 120_000,
  /** The same right after so much data that a file may have been rotated. */
  busyBytes: 1024 * 1024,
  busyQuietMs: 2000,
  /** How often the newest file is looked at while so much data flows; rotations of one container are further apart. */
  headIntervalMs: 1000,
  /** The same for a reader that kept the stream waiting for so long in all. */
  lagMs: 500,
  /**
   * The same for a pod that should end: after its last line, doubling while nothing comes. The kubelet may tell a follower of the end a second
   * late (`logForceCheckPeriod`), and the pod can be gone by then; one who opens the log anew is told at once.
   */
  leavingQuietMsMin: 200,
  leavingQuietMsMax: 2000,
  /** How long a line that the check has seen may take to arrive by the stream. */
  graceMs: 1000,
  /** A follow that was opened at the end and ends within this time is of a dead container. */
  deadMsMax: 1000,
  probeBytes: 128,
  /** A stream that was not pulled for so long is resumed, not continued. */
  pauseMsMax: 2000,
  /** Wait between tries while the container is dead or waits to start, doubling. */
  idleMsMin: 50,
  idleMsMax: 2000,
  waitingMsMin: 100,
  waitingMsMax: 1000,
  /** Wait after faults, doubling, with jitter. */
  faultMsMin: 100,
  faultMsMax: 5000,
  /** How long a replaced pod that cannot be reached is tried. */
  unreachableMsMax: 10_000,
  /** Tries of a finished pod that neither show the position nor end. */
  unsureTriesMax: 5,
  tailContextLines: 64,
  recordBytes: 8000,
} as const;

export type KubernetesLogLimits = { readonly [K in keyof typeof kubernetesLogLimits]: number };

/** Told what happens, for metrics; never asked. */
export interface SourceObserver {
  /** A stream that ended or broke was taken up again at its position. */
  resumed?(): void;
  gap?(cause: GapCause): void;
}

export interface KubernetesLogSourceOptions {
  readonly client: Client;
  readonly target: TargetWatch;
  /** Binds cursors to the instance. */
  readonly instanceUid: string;
  readonly clock: Timer;
  /** In [0, 1). */
  readonly random: () => number;
  readonly log: Logger;
  readonly limits?: Partial<KubernetesLogLimits>;
  readonly observer?: SourceObserver;
}

/** The log source of one instance. Holds nothing itself: each `open()` is a reader of its own. */
export function createKubernetesLogSource(options: KubernetesLogSourceOptions): LogSource {
  const limits = { ...kubernetesLogLimits, ...options.limits };
  const decode = (cursor: Cursor): ReturnType<typeof decodeCursor> => decodeCursor(options.instanceUid, cursor);
  return {
    open: (start, signal) => {
      return new Follower({ ...options, limits }, signal).run(start);
    },
    tail: (lines, signal) => readTail({ ...options, limits }, lines, signal),
    compare: (a, b) => comparePositions(decode(a), decode(b)),
  };
}

/** Of the newest pod. What is not there yet, or not any more, is no lines. */
async function readTail(options: Options, lines: number, signal: AbortSignal): Promise<LastLines> {
  const { namespace, podName, podSequence, isFinished } = options.target.current();
  const none = { lines: [], cursor: encodeCursor(options.instanceUid, beginningOf(podSequence)) };
  if (podName === undefined) {
    return none;
  }
  const logs = new PodLogs({ ...options, namespace, podName, podSequence, signal });
  try {
    return await readLastLines(lines, { ...options, logs, podSequence, isOver: isFinished });
  } catch (error) {
    signal.throwIfAborted();
    if (error instanceof ApiError && error.code === 404) {
      return none;
    }
    throw new OperatorError('LOG_SOURCE_UNAVAILABLE', 'Cannot read the log now: try again', { cause: error });
  }
}

type Options = Omit<KubernetesLogSourceOptions, 'limits'> & { readonly limits: KubernetesLogLimits };

/** What one try came to, as the loop over pods sees it. */
type PodOutcome = Outcome | 'waiting' | 'gone';

class Follower {
  readonly #options: Options;
  readonly #follow: TargetFollow;
  #reader: PodReader | undefined;
  #idleMs = 0;
  #lastOutcome: PodOutcome | undefined;
  #retryAfterMs = 0;
  #unreachableSince: number | undefined;
  #unsureTries = 0;
  /** The pod's last answer was that its program waits to start. */
  #isWaiting = false;

  constructor(options: Options, signal: AbortSignal) {
    this.#options = options;
    this.#follow = new TargetFollow({ ...options, signal, onChange: () => this.#reader?.poke() });
  }

  get #signal(): AbortSignal {
    return this.#follow.signal;
  }

  async *run(start: Start): AsyncGenerator<LogEvent> {
    const podStart: PodStart =
      'after' in start ? { after: decodeCursor(this.#options.instanceUid, start.after) } : { tail: start.tail };
    yield* this.#follow.run(start, this.#pods(podStart));
  }

  /** From pod to pod, until the instance is finished and its last pod is read to the end. */
  async *#pods(start: PodStart): AsyncGenerator<LogEvent> {
    while (!this.#signal.aborted) {
      const target = this.#options.target.current();
      const reader = this.#reader ?? (yield* this.#adopt(target, start));
      if (reader === undefined) {
        if (target.isFinished && target.podName === undefined) {
          yield* endWithoutPod('after' in start ? start.after.podSequence : 0);
          return;
        }
        await this.#follow.sleep(this.#options.limits.idleMsMax, target);
        continue;
      }
      const { position } = reader;
      const outcome = yield* this.#attempt(reader);
      // What the target was before the try counts: a later change asks for another try.
      const isReplaced = target.podSequence > reader.podSequence && target.podName !== undefined;
      if (isReplaced && this.#isOver(outcome, reader)) {
        yield* this.#replace(target, reader, outcome);
      } else if (!isReplaced && target.isFinished && this.#isOver(outcome, reader)) {
        if (this.#isLost(outcome, reader) && (reader.hasRead || this.#isWaiting)) {
          yield { type: 'gap', lines: undefined, cause: outcome === 'gone' ? 'pod-deleted' : 'rotated' };
        }
        yield { type: 'end' };
        return;
      } else {
        this.#lastOutcome = reader.position === position ? this.#lastOutcome : undefined;
        await this.#pause(outcome, target);
      }
    }
  }

  /** The first pod to read. A position in a pod that was replaced while nobody followed cannot be read any more. */
  *#adopt(target: LogTarget, start: PodStart): Generator<LogEvent, PodReader | undefined> {
    const wanted = 'after' in start ? Math.max(start.after.podSequence, 1) : 1;
    if (target.podName === undefined || target.podSequence < wanted) {
      return undefined;
    }
    if ('after' in start && target.podSequence > wanted) {
      yield { type: 'gap', lines: undefined, cause: 'pod-deleted' };
      yield { type: 'restart', cause: 'pod' };
      return this.#read(target, { beginning: true });
    }
    return this.#read(target, 'after' in start && isBeginning(start.after) ? { beginning: true } : start);
  }

  #read(target: LogTarget, start: PodStart): PodReader {
    const { client, clock, log, limits, instanceUid } = this.#options;
    const { podSequence, podName = '' } = target;
    const present = (): LogTarget => this.#options.target.current();
    this.#reader = new PodReader({
      ...{ client, clock, log, limits, instanceUid, podSequence, podName, start },
      namespace: target.namespace,
      signal: this.#signal,
      isLeaving: () => {
        const { isFinished, podSequence: newest, endingPodSequence } = present();
        return isFinished || newest > podSequence || endingPodSequence >= podSequence;
      },
      restarts: () => (present().podSequence === podSequence ? present().restarts : 0),
    });
    this.#unreachableSince = undefined;
    this.#unsureTries = 0;
    this.#isWaiting = false;
    return this.#reader;
  }

  *#replace(target: LogTarget, reader: PodReader, outcome: PodOutcome): Generator<LogEvent> {
    const isSkipped = target.podSequence > reader.podSequence + 1;
    if (this.#isLost(outcome, reader) || isSkipped) {
      yield { type: 'gap', lines: undefined, cause: 'pod-deleted' };
    }
    yield { type: 'restart', cause: 'pod' };
    this.#read(target, { beginning: true });
    this.#lastOutcome = undefined;
  }

  /** Whether a pod that nothing more can be had of may have written more than was read. */
  #isLost(outcome: PodOutcome, reader: PodReader): boolean {
    const { unstartedPodSequence } = this.#options.target.current();
    return outcome !== 'waiting' && !reader.isDrained && reader.podSequence !== unstartedPodSequence;
  }

  /** Whether nothing more can be had of a pod that should end. */
  #isOver(outcome: PodOutcome, reader: PodReader): boolean {
    if (outcome === 'unsure') {
      this.#unsureTries += 1;
      return this.#unsureTries >= this.#options.limits.unsureTriesMax || reader.isDrained;
    }
    if (outcome === 'broken') {
      const now = this.#options.clock.elapsed();
      this.#unreachableSince ??= now;
      const isReplaced = this.#options.target.current().podSequence > reader.podSequence;
      return isReplaced && now - this.#unreachableSince > this.#options.limits.unreachableMsMax;
    }
    this.#unreachableSince = undefined;
    return outcome !== 'again' && outcome !== 'silent';
  }

  /** One try; error answers become outcomes. */
  async *#attempt(reader: PodReader): AsyncGenerator<LogEvent, PodOutcome> {
    this.#retryAfterMs = 0;
    if (reader.hasRead) {
      this.#options.observer?.resumed?.();
    }
    try {
      return yield* reader.attempt();
    } catch (error) {
      if (this.#signal.aborted) {
        throw error;
      }
      if (error instanceof ApiError && error.code === 400) {
        this.#isWaiting = true;
        return 'waiting';
      }
      if (error instanceof ApiError && error.code === 404) {
        return 'gone';
      }
      this.#retryAfterMs = error instanceof ApiError ? (error.retryAfterMs ?? 0) : 0;
      this.#options.log.info({ cause: messageOf(error) }, 'Cannot read a pod log, will try again');
      return 'broken';
    }
  }

  /** Waits as the outcome asks for; a changed target cuts it short. */
  async #pause(outcome: PodOutcome, seen: LogTarget): Promise<void> {
    const { limits, random } = this.#options;
    const isRepeated = outcome === this.#lastOutcome;
    this.#lastOutcome = outcome;
    const [minMs, maxMs] = boundsOf(outcome, limits);
    this.#idleMs = isRepeated ? Math.min(2 * this.#idleMs, maxMs) : minMs;
    if (outcome === 'broken') {
      await this.#follow.sleep(Math.max(this.#retryAfterMs, this.#idleMs * (0.5 + random() / 2)), seen);
    } else if (outcome !== 'silent' && (outcome !== 'again' || isRepeated)) {
      await this.#follow.sleep(this.#idleMs, seen);
    }
  }
}

function boundsOf(outcome: PodOutcome, limits: KubernetesLogLimits): readonly [number, number] {
  switch (outcome) {
    case 'broken':
      return [limits.faultMsMin, limits.faultMsMax];
    case 'waiting':
      return [limits.waitingMsMin, limits.waitingMsMax];
    case 'again':
    case 'silent':
    case 'drained':
    case 'unsure':
    case 'gone':
      return [limits.idleMsMin, limits.idleMsMax];
  }
}
