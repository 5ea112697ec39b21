/**
 * The log of an instance whose pod has a sidecar: a file that only grows, read by byte offset.
 *
 * The offset does what a search by content has to do elsewhere: a connection that ends anywhere is taken up at the byte after the last whole
 * line. The rest is to know why a stream ended and what comes next:
 *
 * - `restarted`: the workload was started anew at exactly this byte. Each answer says which run its bytes are of, and so does a cursor: where the
 *   run is another than that of the line before, a `restart` is given.
 * - `stopping`: the sidecar ends, and what it sent is all that the pod ever wrote, unless it alone was restarted. So the pod counts as drained,
 *   and is asked again as long as it is neither replaced nor finished.
 * - `reclaimed`, and any other: ask again; the answer says in its headers what was reclaimed before the offset, which is a `gap`.
 * - No reason: the connection was cut.
 *
 * Another epoch is another file (somebody truncated it, or another pod has the address): a `gap`, and its beginning. A replaced pod is read to
 * its end first; if it cannot be reached any more and was not drained, that is a `gap`.
 *
 * A quiet stream proves little. After `quietMs` without a byte the sidecar is asked for its log's size on another connection, ever more seldom
 * while nothing comes; a size that the stream does not show, or no answer, and the stream is opened anew.
 *
 * A sidecar with which no version of the protocol is shared ends the reading with `LOG_SOURCE_UNAVAILABLE` and a sentence that says what to do.
 *
 * A line without an end is not given before its pod has ended, since its bytes may still be completed: the launcher ends it when the program
 * is started anew. Bytes are pulled, so a reader that does not read stops the sidecar's sending and nothing else.
 *
 * Of a pod that has ended the sidecar is gone; what the kubelet still has of its log is read instead (keptlog.ts), under the same cursors.
 *
 * Known limits. A reader with a cursor who comes when the pod is gone, or its sidecar was killed before it could say what the log was, is told of a
 * gap even if it had everything. The cursor of `tail()` does not know its run, so a restart just after it is not told. A program that crashes inside a
 * line shows it only when it is started again, or its pod ends.
 */
import { OperatorError } from '../../errors.ts';
import type { Logger } from '../../log.ts';
import type { Client } from '../../runtime/client.ts';
import { SidecarVersionError } from '../../sidecar/client.ts';
import type { SidecarClient } from '../../sidecar/client.ts';
import { lineBytesMax } from '../source.ts';
import type { Cursor, DirectLines, LastLines, LogEvent, LogSource, Start } from '../source.ts';
import type { LogTarget, TargetWatch } from '../target.ts';
import type { SourceObserver } from './kubernetes.ts';
import type { Timer } from './podlog.ts';
import { beginningOf, comparePositions, decodeCursor, encodeCursor, isBeginning } from './sidecarcursor.ts';
import type { SidecarPosition } from './sidecarcursor.ts';
import { readSidecarTail } from './sidecartail.ts';
import { findKept, SidecarPod, versionFault } from './sidecarpod.ts';
import type { PodOutcome, PodStart } from './sidecarpod.ts';
import { endWithoutPod, TargetFollow } from './targetfollow.ts';

/** Limits of the sidecar log source; each is a field of the options, to be lowered in tests. */
export const sidecarLogLimits = {
  lineBytesMax,
  /** Silence after which a stream is checked; doubles while nothing comes. */
  quietMs: 2000,
  quietMsMax: 60_000,
  /** The same for a pod that is going. */
  leavingQuietMs: 1000,
  /** How long bytes that the check has seen may take to arrive by the stream. */
  graceMs: 1000,
  /** Wait after a connection that broke or was refused, doubling, with jitter. */
  faultMsMin: 50,
  faultMsMax: 1000,
  /** Wait before a sidecar that said that it stops is asked again, doubling. */
  idleMsMin: 500,
  idleMsMax: 2000,
  /** How long a replaced or finished pod that cannot be reached is tried. */
  unreachableMsMax: 5000,
  /** The same where its address refuses connections. */
  refusedMsMax: 500,
} as const;

export type SidecarLogLimits = { readonly [K in keyof typeof sidecarLogLimits]: number };

export interface SidecarLogSourceOptions {
  readonly client: SidecarClient;
  /** For the log of a pod that has ended. Undefined: it cannot be had any more then. */
  readonly pods?: Pick<Client, 'log'>;
  readonly target: TargetWatch;
  /** Binds cursors to the instance, and is its sidecar's identity. */
  readonly instanceUid: string;
  readonly clock: Timer;
  /** In [0, 1). */
  readonly random: () => number;
  readonly log: Logger;
  /** Port of every sidecar; the protocol's if absent. */
  readonly port?: number;
  readonly limits?: Partial<SidecarLogLimits>;
  readonly observer?: SourceObserver;
}

/** With every limit. */
export type SidecarOptions = Omit<SidecarLogSourceOptions, 'limits'> & { readonly limits: SidecarLogLimits };

/** The log source of one instance. Holds nothing itself: each `open()` is a reader of its own. */
export function createSidecarLogSource(given: SidecarLogSourceOptions): LogSource {
  const options: SidecarOptions = { ...given, limits: { ...sidecarLogLimits, ...given.limits } };
  const decode = (cursor: Cursor): SidecarPosition => decodeCursor(options.instanceUid, cursor);
  return {
    open: (start, signal, direct) => new Follower(options, signal, direct).run(start),
    tail: (lines, signal) => readTail(options, lines, signal),
    compare: (a, b) => comparePositions(decode(a), decode(b)),
  };
}

/** Of the newest pod. What is not there yet, or not any more, is no lines. */
async function readTail(options: SidecarOptions, count: number, signal: AbortSignal): Promise<LastLines> {
  const { client, port, instanceUid } = options;
  const { podIP, podSequence, isFinished, isStarting } = options.target.current();
  const none = { lines: [], cursor: encodeCursor(instanceUid, beginningOf(podSequence)) };
  const shared = { ...options, podSequence, isOver: isFinished, signal };
  try {
    if (podIP === undefined) {
      const kept = await findKept(options, signal);
      if (kept === undefined || kept === 'unsealed') {
        return none;
      }
      return await readSidecarTail(count, { ...shared, openLog: (range) => kept.open(range, signal) });
    }
    const at = { host: podIP, port, instanceUid };
    return await readSidecarTail(count, { ...shared, openLog: (range) => client.openLog(at, range, signal) });
  } catch (error) {
    signal.throwIfAborted();
    if (podIP !== undefined && (isFinished || isStarting === true)) {
      return none;
    }
    if (error instanceof SidecarVersionError) {
      throw versionFault(error);
    }
    throw new OperatorError('LOG_SOURCE_UNAVAILABLE', 'Cannot read the log now: try again', { cause: error });
  }
}

/** The beginning of a pod, whatever its epoch. */
const beginning: PodStart = { epoch: undefined, offset: 0, run: 0 };

class Follower {
  readonly #options: SidecarOptions;
  readonly #follow: TargetFollow;
  readonly #direct: DirectLines | undefined;
  #pod: SidecarPod | undefined;
  #waitMs = 0;
  #lastOutcome: PodOutcome | undefined;
  #unreachableSince: number | undefined;

  constructor(options: SidecarOptions, signal: AbortSignal, direct: DirectLines | undefined) {
    this.#options = options;
    this.#direct = direct;
    this.#follow = new TargetFollow({ ...options, signal, onChange: () => this.#pod?.poke() });
  }

  get #signal(): AbortSignal {
    return this.#follow.signal;
  }

  async *run(start: Start): AsyncGenerator<LogEvent> {
    const after = 'after' in start ? decodeCursor(this.#options.instanceUid, start.after) : undefined;
    yield* this.#follow.run(start, this.#pods('tail' in start ? start.tail : 0, after));
  }

  /** From pod to pod, until the instance is finished and its last pod is read to the end. */
  async *#pods(tail: number, after: SidecarPosition | undefined): AsyncGenerator<LogEvent> {
    while (!this.#signal.aborted) {
      const target = this.#options.target.current();
      const pod = this.#pod ?? (yield* this.#adopt(target, tail, after));
      if (pod === undefined) {
        if (target.isFinished && target.podName === undefined) {
          yield* endWithoutPod(after?.podSequence ?? 0);
          return;
        }
        await this.#follow.sleep(this.#options.limits.idleMsMax, target);
        continue;
      }
      const outcome = yield* this.#attempt(pod, target);
      const isReplaced = target.podSequence > pod.podSequence && target.podName !== undefined;
      if ((isReplaced || target.isFinished) && this.#isOver(outcome, pod)) {
        yield* this.#leave(pod, target, isReplaced);
        if (!isReplaced) {
          return;
        }
      } else {
        await this.#pause(outcome, target);
      }
    }
  }

  /** The first pod to read. A position in a pod that was replaced while nobody followed cannot be read any more. */
  *#adopt(
    target: LogTarget,
    tail: number,
    after: SidecarPosition | undefined,
  ): Generator<LogEvent, SidecarPod | undefined> {
    const wanted = Math.max(after?.podSequence ?? 1, 1);
    if (target.podName === undefined || target.podSequence < wanted) {
      return undefined;
    }
    if (after !== undefined && target.podSequence > wanted) {
      yield { type: 'gap', lines: undefined, cause: 'pod-deleted' };
      yield { type: 'restart', cause: 'pod' };
      return this.#read(target, beginning);
    }
    if (after === undefined) {
      const isNew = target.podIP === undefined && !target.isFinished;
      // Of a pod that has no address yet, everything is new.
      return this.#read(target, isNew ? beginning : { tail });
    }
    return this.#read(target, isBeginning(after) ? beginning : after);
  }

  #read(target: LogTarget, start: PodStart): SidecarPod {
    this.#pod = new SidecarPod(this.#options, {
      podSequence: target.podSequence,
      start,
      notEpoch: this.#pod?.epoch,
      signal: this.#signal,
      direct: this.#direct,
    });
    this.#unreachableSince = undefined;
    this.#lastOutcome = undefined;
    return this.#pod;
  }

  async *#attempt(pod: SidecarPod, target: LogTarget): AsyncGenerator<LogEvent, PodOutcome> {
    const isReplaced = target.podSequence > pod.podSequence;
    if (pod.isDrained && (isReplaced || target.isFinished)) {
      return 'drained';
    }
    if (pod.hasRead && this.#lastOutcome !== 'again') {
      this.#options.observer?.resumed?.();
    }
    const { offset } = pod;
    const outcome = yield* pod.attempt();
    if (pod.offset !== offset) {
      this.#lastOutcome = undefined;
    }
    return outcome;
  }

  /** Whether nothing more can be had of a pod that is replaced or finished. */
  #isOver(outcome: PodOutcome, pod: SidecarPod): boolean {
    if (pod.isDrained || outcome === 'waiting') {
      return true;
    }
    if (outcome !== 'refused' && outcome !== 'unreachable') {
      this.#unreachableSince = undefined;
      return false;
    }
    const { clock, limits } = this.#options;
    const now = clock.elapsed();
    this.#unreachableSince ??= now;
    const ms = outcome === 'refused' ? limits.refusedMsMax : limits.unreachableMsMax;
    return now - this.#unreachableSince >= ms;
  }

  *#leave(pod: SidecarPod, target: LogTarget, isReplaced: boolean): Generator<LogEvent> {
    const rest = pod.takeRest();
    if (rest !== undefined) {
      yield rest;
    }
    const isLost = !pod.isDrained && target.unstartedPodSequence !== pod.podSequence;
    const isSkipped = isReplaced && target.podSequence > pod.podSequence + 1;
    // Who came for the last lines of a finished instance, and found none, has missed nothing that it knew of.
    if (isSkipped || (isLost && (isReplaced || pod.isMissed))) {
      yield { type: 'gap', lines: undefined, cause: 'pod-deleted' };
    }
    if (!isReplaced) {
      yield { type: 'end' };
      return;
    }
    yield { type: 'restart', cause: 'pod' };
    this.#read(target, beginning);
  }

  /** Waits as the outcome asks for; a changed target cuts it short. */
  async #pause(outcome: PodOutcome, seen: LogTarget): Promise<void> {
    const { limits, random } = this.#options;
    const isRepeated = outcome === this.#lastOutcome;
    this.#lastOutcome = outcome;
    if (outcome === 'again' && !isRepeated) {
      return;
    }
    if (outcome === 'waiting') {
      await this.#follow.sleep(limits.idleMsMax, seen);
      return;
    }
    const isIdle = outcome === 'drained';
    const [minMs, maxMs] = isIdle ? [limits.idleMsMin, limits.idleMsMax] : [limits.faultMsMin, limits.faultMsMax];
    this.#waitMs = isRepeated ? Math.min(2 * this.#waitMs, maxMs) : minMs;
    await this.#follow.sleep(this.#waitMs * (0.5 + random() / 2), seen);
  }
}
