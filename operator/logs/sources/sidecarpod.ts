/** Reads one pod's log from its sidecar, one opening after the other, and remembers where it stands. See sidecar.ts for the whole. */
import { messageOf, OperatorError } from '../../errors.ts';
import { SidecarError, SidecarUnreachableError, SidecarVersionError } from '../../sidecar/client.ts';
import type { SidecarAddress, SidecarLog } from '../../sidecar/client.ts';
import type { DirectLines, LogEvent } from '../source.ts';
import type { LogTarget } from '../target.ts';
import { KeptLog } from './keptlog.ts';
import type { SidecarOptions } from './sidecar.ts';
import { SidecarStream } from './sidecarstream.ts';
import type { SidecarBatch } from './sidecarstream.ts';
import { limits as protocolLimits } from '../../../sidecar/protocol.ts';

/** Where to begin in a pod; without an epoch the first one that answers is right. */
export type PodStart =
  { readonly tail: number } | { readonly epoch: string | undefined; readonly offset: number; readonly run: number };

/** What one try came to. */
export type PodOutcome =
  /** Open again at the position, at once. */
  | 'again'
  /** The sidecar has said that this was all. */
  | 'drained'
  /** The connection broke; nothing is known. */
  | 'cut'
  /** The pod has no address yet, or its address is still its predecessor's. */
  | 'waiting'
  /** The address answers, but there is no sidecar that would. */
  | 'refused'
  /** The address does not answer. */
  | 'unreachable';

export interface SidecarPodOptions {
  readonly podSequence: number;
  readonly start: PodStart;
  /** Epoch of the pod before: whoever shows it is that one. */
  readonly notEpoch: string | undefined;
  readonly signal: AbortSignal;
  readonly direct: DirectLines | undefined;
}

/** What the kernel says when a host is there but nobody listens, or somebody else. */
const refusals = new Set(['ECONNREFUSED', 'ECONNRESET', 'EPIPE']);

interface Opened {
  readonly log: SidecarLog;
  /** Undefined: it is not its sidecar that answers. */
  readonly at: SidecarAddress | undefined;
}

/** What is left of the log of the present pod if that has ended, and its sidecar with it; undefined before, and where nothing is left. */
export async function findKept(
  options: SidecarOptions,
  signal: AbortSignal,
): Promise<KeptLog | 'unsealed' | undefined> {
  const { namespace, podName, podIP, isFinished } = options.target.current();
  if (options.pods === undefined || !isFinished || podIP !== undefined || podName === undefined) {
    return undefined;
  }
  return await KeptLog.find({ pods: options.pods, namespace, podName }, signal);
}

export class SidecarPod {
  readonly podSequence: number;
  readonly start: PodStart;
  readonly #options: SidecarOptions;
  readonly #pod: SidecarPodOptions;
  #host: string | undefined;
  /** Once the pod has ended. */
  #kept: KeptLog | 'unsealed' | undefined;
  #epoch: string | undefined;
  #offset: number | undefined;
  /** Of the line before the offset; 0: not known. */
  #run = 0;
  #stream: SidecarStream | undefined;
  #rest: SidecarBatch | undefined;
  #isDrained = false;
  #hasRead = false;
  /** The log has more than the stream brought; it gets a last chance. */
  #isSuspicious = false;
  #quietMs: number;

  constructor(options: SidecarOptions, pod: SidecarPodOptions) {
    this.#options = options;
    this.#pod = pod;
    this.podSequence = pod.podSequence;
    this.start = pod.start;
    if ('offset' in pod.start) {
      this.#epoch = pod.start.epoch;
      this.#offset = pod.start.offset;
      this.#run = pod.start.run;
    }
    this.#quietMs = options.limits.quietMs;
  }

  get epoch(): string | undefined {
    return this.#epoch;
  }

  /** Just after the last line that was given; undefined before the tail was found. */
  get offset(): number | undefined {
    return this.#offset;
  }

  /** Whether it is known where to read on, or that there is something to read: then what cannot be read is missed. */
  get isMissed(): boolean {
    return this.#offset !== undefined || this.#kept === 'unsealed';
  }

  /** Whether the log is known to end at the position (and the rest, if there is one). */
  get isDrained(): boolean {
    return this.#isDrained;
  }

  get hasRead(): boolean {
    return this.#hasRead;
  }

  /** The line without an end that a drained log ended with. */
  takeRest(): SidecarBatch | undefined {
    const rest = this.#rest;
    this.#rest = undefined;
    return rest;
  }

  /** The target has changed. */
  poke(): void {
    this.#stream?.poke();
  }

  /** One opening, until it ends. */
  async *attempt(): AsyncGenerator<LogEvent, PodOutcome> {
    const isOver = this.#isOver;
    let opened: Opened | undefined;
    try {
      opened = await this.#open(isOver);
    } catch (error) {
      this.#pod.signal.throwIfAborted();
      return yield* this.#onRefusal(error);
    }
    if (opened === undefined) {
      return 'waiting';
    }
    const { log, at } = opened;
    const { clock, instanceUid, limits } = this.#options;
    const { podSequence } = this;
    const stream = new SidecarStream({ log, clock, instanceUid, podSequence, lineBytesMax: limits.lineBytesMax });
    this.#stream = stream;
    this.#takeDirectly(stream);
    try {
      const outcome = yield* this.#enter(log);
      return outcome ?? (yield* this.#follow(at, stream, isOver));
    } finally {
      this.#stream = undefined;
      stream.close();
    }
  }

  #target(): LogTarget {
    return this.#options.target.current();
  }

  get #isOver(): boolean {
    const { isFinished, podSequence } = this.#target();
    return isFinished || podSequence > this.podSequence;
  }

  /** Of a pod that was replaced, the last known one. */
  #address(): SidecarAddress | undefined {
    const { podIP, podSequence } = this.#target();
    if (podSequence === this.podSequence && podIP !== undefined) {
      this.#host = podIP;
    }
    const { instanceUid, port } = this.#options;
    return this.#host === undefined ? undefined : { host: this.#host, port, instanceUid };
  }

  /** Undefined: there is nobody to ask. */
  async #open(isOver: boolean): Promise<Opened | undefined> {
    const { start } = this;
    const { signal } = this.#pod;
    const tail = 'tail' in start ? Math.min(start.tail, protocolLimits.tailLinesMax) : 0;
    const from = this.#offset === undefined ? { tail } : { offset: this.#offset };
    if (this.#target().podSequence === this.podSequence) {
      this.#kept ??= await findKept(this.#options, signal);
    }
    if (this.#kept instanceof KeptLog) {
      return { log: await this.#kept.open({ ...from, follow: true }, signal), at: undefined };
    }
    const at = this.#address();
    // Of a pod that is over nothing more will come: what is there now is all.
    return at && { log: await this.#options.client.openLog(at, { ...from, follow: !isOver }, signal), at };
  }

  /** Takes over what the headers say. An outcome means that the body is not what was asked for. */
  *#enter(log: SidecarLog): Generator<LogEvent, PodOutcome | undefined> {
    if (log.epoch === this.#pod.notEpoch) {
      return 'waiting';
    }
    if (this.#epoch !== undefined && log.epoch !== this.#epoch) {
      return yield* this.#replaceFile(log.epoch);
    }
    this.#epoch = log.epoch;
    this.#isDrained = false;
    this.#rest = undefined;
    this.#isSuspicious = false;
    this.#hasRead = true;
    const isGap = log.isLost === true || (this.#offset !== undefined && log.startOffset > this.#offset);
    this.#offset = log.startOffset;
    if (isGap) {
      yield { type: 'gap', lines: log.gapLines, cause: 'expired' };
    }
    const isRestart = this.#run !== 0 && log.run !== this.#run;
    this.#run = log.run;
    if (isRestart) {
      yield { type: 'restart', cause: 'container' };
    }
    return undefined;
  }

  *#replaceFile(epoch: string): Generator<LogEvent, PodOutcome> {
    if (this.#isOver) {
      // The address belongs to the next pod already: this one cannot be read any more.
      return 'unreachable';
    }
    this.#epoch = epoch;
    this.#offset = 0;
    this.#run = 0;
    yield { type: 'gap', lines: undefined, cause: 'rotated' };
    return 'again';
  }

  async *#follow(
    at: SidecarAddress | undefined,
    stream: SidecarStream,
    isOver: boolean,
  ): AsyncGenerator<LogEvent, PodOutcome> {
    this.#quietMs = this.#options.limits.quietMs;
    for (;;) {
      const read = await stream.read(this.#silenceMs());
      this.#pod.signal.throwIfAborted();
      switch (read.type) {
        case 'lines':
          this.#offset = stream.offset;
          this.#isSuspicious = false;
          this.#quietMs = this.#options.limits.quietMs;
          yield read.batch;
          break;
        case 'poked':
          break;
        case 'quiet':
          if (await this.#isStale(at, stream)) {
            return this.#isOver && !isOver ? 'again' : 'cut';
          }
          break;
        case 'end':
          return yield* this.#onEnd(stream, read);
      }
    }
  }

  /** Lines that change nothing but the position need not come by the loop of `#follow`. */
  #takeDirectly(stream: SidecarStream): void {
    const { direct } = this.#pod;
    if (direct === undefined) {
      return;
    }
    const isReady = (): boolean =>
      direct.isReady && !this.#isSuspicious && this.#quietMs === this.#options.limits.quietMs;
    stream.direct = {
      get isReady() {
        return isReady();
      },
      take: (batch) => {
        this.#offset = stream.offset;
        direct.take(batch);
      },
    };
  }

  #silenceMs(): number {
    const { limits } = this.#options;
    if (this.#kept !== undefined) {
      // The kubelet reads what lies before the position first.
      return limits.quietMsMax;
    }
    if (this.#isSuspicious) {
      return limits.graceMs;
    }
    const isLeaving = this.#isOver || this.#target().endingPodSequence >= this.podSequence;
    return isLeaving ? limits.leavingQuietMs : this.#quietMs;
  }

  /** Asks on another connection whether the silence is true. */
  async #isStale(at: SidecarAddress | undefined, stream: SidecarStream): Promise<boolean> {
    const { client, limits, log } = this.#options;
    if (at === undefined || this.#isOver || this.#isSuspicious) {
      // A sidecar that ends would have said so by now; what is left is read in one piece.
      return true;
    }
    this.#quietMs = Math.min(2 * this.#quietMs, limits.quietMsMax);
    try {
      const { log: state } = await client.status(at, this.#pod.signal);
      this.#isSuspicious = state.epoch !== this.#epoch || state.endOffset > stream.receivedOffset;
      return false;
    } catch (error) {
      this.#pod.signal.throwIfAborted();
      log.info({ cause: messageOf(error) }, 'Re-opening a log stream whose sidecar does not answer');
      return true;
    }
  }

  *#onEnd(stream: SidecarStream, end: { reason: string | undefined; fault: unknown }): Generator<LogEvent, PodOutcome> {
    switch (end.reason) {
      case undefined:
        this.#options.log.debug({ cause: messageOf(end.fault) }, 'A log stream was cut, will go on where it ended');
        return 'cut';
      case 'restarted':
        yield* this.#takeLastOfRun(stream);
        return 'again';
      case 'complete':
      case 'stopping':
        this.#isDrained = true;
        this.#rest = stream.takeRest();
        return 'drained';
      default:
        return 'again';
    }
  }

  /** The launcher ends a line before it starts the program anew; where it could not, nothing can complete the line any more. */
  *#takeLastOfRun(stream: SidecarStream): Generator<LogEvent> {
    const rest = stream.takeRest();
    this.#offset = stream.offset;
    if (rest !== undefined) {
      yield rest;
    }
  }

  *#onRefusal(error: unknown): Generator<LogEvent, PodOutcome> {
    if (error instanceof SidecarError && error.code === 'OFFSET_BEYOND_END') {
      return yield* this.#onBeyondEnd(error);
    }
    if (error instanceof SidecarVersionError) {
      throw versionFault(error);
    }
    this.#options.log.info({ cause: messageOf(error) }, 'Cannot read a log now, will try again');
    if (error instanceof SidecarUnreachableError) {
      return refusals.has(error.code ?? '') || (error.code ?? '').startsWith('ERR_SSL') ? 'refused' : 'unreachable';
    }
    return 'cut';
  }

  /** The file is shorter than what was read of it: it is another one, or a machine that crashed has lost its end. */
  *#onBeyondEnd(error: SidecarError): Generator<LogEvent, PodOutcome> {
    if (error.epoch === this.#pod.notEpoch) {
      return 'waiting';
    }
    if (error.epoch !== undefined && error.epoch !== this.#epoch) {
      return yield* this.#replaceFile(error.epoch);
    }
    this.#offset = error.endOffset ?? 0;
    yield { type: 'gap', lines: undefined, cause: 'rotated' };
    return 'again';
  }
}

/** Asking again would not mend it, and a client that is left waiting learns nothing: each reader is told, and may come again. */
export function versionFault(error: SidecarVersionError): OperatorError {
  return new OperatorError('LOG_SOURCE_UNAVAILABLE', `Cannot read the log: ${error.message}`, { cause: error });
}
