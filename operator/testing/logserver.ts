/**
 * The log part of a kubelet behind an API server, in memory, with the semantics of the real ones (cri-client `logs.go`, kubelet `kubelet_pods.go`):
 * each container has one readable file (the newest), `previous` is the last terminated container, a waiting container shows the dead one's log,
 * `sinceTime` is cut to whole seconds and filters by stamp, a follow ends cleanly once its container is dead, and after a rotation a follow
 * goes on with the new file only if it had read the old one to its end at least once before; files that came and went meanwhile it skips.
 */
import type { Client, LogOptions, ObjectRef, Status } from '../runtime/client.ts';
import { ApiError } from '../runtime/client.ts';
import { noTarget } from '../logs/target.ts';
import type { LogTarget, TargetWatch } from '../logs/target.ts';

export interface LogRecord {
  readonly seconds: number;
  readonly nanos: number;
  readonly text: Buffer;
  /** Last bytes without `\n`: the runtime stores them as a partial record, the kubelet sends them without a line end. */
  readonly isPartial: boolean;
}

interface LogFile {
  readonly records: LogRecord[];
}

interface Container {
  file: LogFile;
  /** Files that were rotated away are no longer readable, but a follow may still hold one open. */
  readonly rotations: LogFile[];
  isRunning: boolean;
}

interface Pod {
  readonly name: string;
  readonly containers: Container[];
  /** No container is running or made yet, or the next one waits (crash loop). */
  isWaiting: boolean;
}

/** The one call that a log source may make. */
type LogCall = (ref: Required<ObjectRef>, options: LogOptions) => Promise<AsyncIterable<Uint8Array>>;

export interface StreamCut {
  readonly kind: 'eof' | 'reset';
  readonly afterBytes: number;
}

export interface LogServerFaults {
  /** Bytes that a follow stream may still send before it ends cleanly (`eof`) or breaks (`reset`); taken by the next stream that is opened. */
  readonly cuts: StreamCut[];
  /** Answers to the next requests, before anything else. */
  readonly errors: (ApiError | Error)[];
  /** Kubelet text at the end of the next streams. */
  readonly messages: string[];
}

const zone = 'Z';

/** One instance's pods and their logs. */
export class LogServer {
  readonly namespace = 'games';
  readonly faults: LogServerFaults = { cuts: [], errors: [], messages: [] };
  /** Every request, for assertions. */
  readonly requests: LogOptions[] = [];
  /** Pieces that streams have given, to see whether somebody still reads. */
  piecesGiven = 0;
  /** Streams that are open now. */
  openCount = 0;
  /** Containers ever started, in all pods. */
  containersMade = 0;
  /** Bytes of one piece that a stream gives; small ones cut lines anywhere. */
  chunkBytesMax = 64 * 1024;
  /** Whether a follow that is open when its container dies ends then; the kubelet may be late. One that is opened later always does. */
  endsFollowsInTime = true;
  /** Suffix of stamps: `Z` or the node's zone, as the kubelet formats them. */
  zone = zone;
  readonly #cuts: ('eof' | 'reset')[] = [];
  readonly #pods = new Map<string, Pod>();
  readonly #waiting = new Set<() => void>();
  #target: LogTarget = { ...noTarget, namespace: this.namespace };

  readonly target: TargetWatch = {
    current: () => this.#target,
    changed: async (seen, signal) => {
      while (this.#target === seen) {
        await this.#changed(signal);
      }
      return this.#target;
    },
  };

  /** Refuses everything but `log`: a source has no right to more. */
  get client(): Client {
    const log: LogCall = (ref, options) => this.#log(ref, options);
    return new Proxy({} as Client, {
      get: (_, name) => {
        if (name !== 'log') {
          throw new Error(`A log source may read pods/log alone, not "${String(name)}"`);
        }
        return log;
      },
    });
  }

  /** A new pod with no container yet; the one before keeps its logs until `deletePod`. */
  createPod(): void {
    const podSequence = this.#target.podSequence + 1;
    const name = `game-${podSequence}`;
    this.#pods.set(name, { name, containers: [], isWaiting: true });
    this.#setTarget({ podName: name, podSequence, restarts: 0 });
  }

  /** Starts a container in the newest pod, ending the one that runs. */
  startContainer(): void {
    const pod = this.#pod();
    this.#end(pod);
    this.containersMade += 1;
    pod.containers.push({ file: { records: [] }, rotations: [], isRunning: true });
    pod.isWaiting = false;
    this.#setTarget({ restarts: pod.containers.length - 1 });
  }

  /** The newest pod is being deleted; its program runs on for now. */
  announceEnd(): void {
    const { endingPodSequence, podSequence } = this.#target;
    if (endingPodSequence !== podSequence) this.#setTarget({ endingPodSequence: podSequence });
  }

  /** The container dies; `waiting`: the next one is in back-off, so that `previous` shows the dead one too. Else the pod is going, as is said. */
  stopContainer(options: { waiting?: boolean } = {}): void {
    const pod = this.#pod();
    const isWaiting = options.waiting === true;
    if (!isWaiting) this.announceEnd();
    this.#end(pod);
    pod.isWaiting = isWaiting;
    this.#notify();
  }

  /** Without notice; that its program never ran, if it did not, is known. */
  deletePod(sequence = this.#target.podSequence): void {
    const pod = this.#pods.get(`game-${sequence}`);
    this.#pods.delete(`game-${sequence}`);
    if (pod?.containers.length === 0) this.#setTarget({ unstartedPodSequence: sequence });
    this.#notify();
  }

  finish(): void {
    const pod = this.#pods.get(this.#target.podName ?? '');
    if (pod !== undefined) {
      this.#end(pod);
    }
    this.#setTarget({ isFinished: true });
  }

  write(record: { seconds: number; nanos: number; text: string | Buffer; isPartial?: boolean }): void {
    const { seconds, nanos, text, isPartial = false } = record;
    this.#running().file.records.push({ seconds, nanos, text: Buffer.from(text as string), isPartial });
    this.#notify();
  }

  rotate(): void {
    const container = this.#running();
    container.rotations.push(container.file);
    container.file = { records: [] };
    this.#notify();
  }

  /** Ends the follow streams that are open now. */
  cut(kind: 'eof' | 'reset'): void {
    this.#cuts.push(kind);
    this.#notify();
  }

  get isRunning(): boolean {
    return this.#pods.get(this.#target.podName ?? '')?.containers.at(-1)?.isRunning === true;
  }

  async #log(ref: Required<ObjectRef>, options: LogOptions): Promise<AsyncIterable<Uint8Array>> {
    options.signal.throwIfAborted();
    this.requests.push(options);
    await Promise.resolve();
    const fault = this.faults.errors.shift();
    if (fault !== undefined) {
      throw fault;
    }
    const container = this.#find(ref, options.previous === true);
    return this.#stream(container, options);
  }

  #find(ref: Required<ObjectRef>, previous: boolean): Container {
    const pod = ref.namespace === this.namespace ? this.#pods.get(ref.name) : undefined;
    if (pod === undefined) {
      throw statusError(404, 'NotFound', `pods "${ref.name}" not found`);
    }
    // A terminated container that is still the current one is not `previous` yet; one that waits to be started anew is.
    const lastTerminated = pod.containers.at(pod.isWaiting ? -1 : -2);
    const container = previous ? lastTerminated : pod.containers.at(-1);
    if (container !== undefined) {
      return container;
    }
    const what = `container "instance" in pod "${ref.name}"`;
    throw previous
      ? statusError(400, 'BadRequest', `previous terminated ${what} not found`)
      : statusError(400, 'BadRequest', `${what} is waiting to start: ContainerCreating`);
  }

  async *#stream(container: Container, options: LogOptions): AsyncGenerator<Uint8Array> {
    this.openCount += 1;
    const cut = options.follow ? this.faults.cuts.shift() : undefined;
    const message = options.follow ? this.faults.messages.shift() : undefined;
    try {
      const bytes = limit(this.#read(container, options), options.limitBytes, this.chunkBytesMax);
      for await (const piece of cutAfter(bytes, cut)) {
        this.piecesGiven += 1;
        yield piece;
      }
      if (message !== undefined) {
        yield Buffer.from(message);
      }
    } finally {
      this.openCount -= 1;
    }
  }

  async *#read(container: Container, options: LogOptions): AsyncGenerator<Buffer> {
    let { file } = container;
    const since = sinceSeconds(options.sinceTime);
    let index = tailStart(file, options.tailLines);
    const cutsBefore = this.#cuts.length;
    const wasRunning = container.isRunning;
    let isWatching = false;
    let isLineStart = true;
    for (;;) {
      // One flush for all that is there, as a fast reader gets it.
      const flushed: Buffer[] = [];
      for (; index < file.records.length; index += 1) {
        const record = file.records[index];
        if (record !== undefined && record.seconds >= since) {
          flushed.push(this.#format(record, isLineStart));
        }
        isLineStart = record?.isPartial !== true;
      }
      if (flushed.length > 0) {
        yield Buffer.concat(flushed);
        continue;
      }
      const cut = this.#cuts[cutsBefore];
      const hasEnded = !container.isRunning && (this.endsFollowsInTime || !wasRunning);
      if (!options.follow || hasEnded || cut === 'eof') {
        return;
      }
      if (cut === 'reset') {
        throw new Error('terminated: other side closed');
      }
      if (isWatching && file !== container.file) {
        file = container.file;
        index = 0;
        continue;
      }
      // The watch begins at the first end of file: a rotation before it is not seen until the next one.
      const rotationsSeen = container.rotations.length;
      isWatching = isWatching || file === container.file;
      await this.#changed(options.signal);
      isWatching = isWatching || container.rotations.length > rotationsSeen;
    }
  }

  #format(record: LogRecord, isLineStart: boolean): Buffer {
    const stamp = formatZoned(record, this.zone);
    const prefix = isLineStart ? `${stamp} ` : '';
    return Buffer.concat([Buffer.from(prefix), record.text, Buffer.from(record.isPartial ? '' : '\n')]);
  }

  #running(): Container {
    const container = this.#pod().containers.at(-1);
    if (container?.isRunning !== true) {
      throw new Error('No container runs');
    }
    return container;
  }

  #pod(): Pod {
    const pod = this.#pods.get(this.#target.podName ?? '');
    if (pod === undefined) {
      throw new Error('There is no pod');
    }
    return pod;
  }

  #end(pod: Pod): void {
    const container = pod.containers.at(-1);
    if (container !== undefined) {
      container.isRunning = false;
    }
  }

  #setTarget(change: Partial<LogTarget>): void {
    this.#target = { ...this.#target, ...change };
    this.#notify();
  }

  #notify(): void {
    const waiting = [...this.#waiting];
    this.#waiting.clear();
    for (const wake of waiting) {
      wake();
    }
  }

  async #changed(signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    const { promise, resolve, reject } = Promise.withResolvers<undefined>();
    const wake = (): void => {
      resolve(undefined);
    };
    const stop = (): void => {
      reject(signal.reason as Error);
    };
    this.#waiting.add(wake);
    signal.addEventListener('abort', stop, { once: true });
    try {
      await promise;
    } finally {
      this.#waiting.delete(wake);
      signal.removeEventListener('abort', stop);
    }
  }
}

/** The API server's error answer, as `Client` throws it. */
export function statusError(code: number, reason: string, message: string, retryAfterMs?: number): ApiError {
  const status: Status = { code, reason, message };
  return new ApiError(status, retryAfterMs);
}

/** At most `bytesMax` in all, in pieces of at most `pieceBytesMax`. */
async function* limit(
  source: AsyncIterable<Buffer>,
  bytesMax = Number.POSITIVE_INFINITY,
  pieceBytesMax: number,
): AsyncGenerator<Buffer> {
  let left = bytesMax;
  for await (const bytes of source) {
    yield* pieces(bytes.subarray(0, left), pieceBytesMax);
    left -= bytes.length;
    if (left <= 0) {
      return;
    }
  }
}

/** Ends the stream at a byte, cleanly or not. */
async function* cutAfter(source: AsyncIterable<Buffer>, cut: StreamCut | undefined): AsyncGenerator<Buffer> {
  let left = cut?.afterBytes ?? Number.POSITIVE_INFINITY;
  for await (const piece of source) {
    yield piece.subarray(0, left);
    left -= piece.length;
    if (left > 0) {
      continue;
    }
    if (cut?.kind === 'reset') {
      throw new Error('terminated: other side closed');
    }
    return;
  }
}

function tailStart(file: LogFile, tailLines: number | undefined): number {
  return tailLines === undefined ? 0 : Math.max(0, file.records.length - tailLines);
}

function sinceSeconds(sinceTime: string | undefined): number {
  return sinceTime === undefined ? Number.NEGATIVE_INFINITY : Math.floor(Date.parse(sinceTime) / 1000);
}

function* pieces(bytes: Buffer, sizeMax: number): Generator<Buffer> {
  for (let start = 0; start < bytes.length; start += sizeMax) {
    yield bytes.subarray(start, start + sizeMax);
  }
}

function formatZoned(record: LogRecord, zoneSuffix: string): string {
  const match = /^([+-])(\d\d):(\d\d)$/.exec(zoneSuffix);
  const offsetSeconds = match ? (match[1] === '-' ? -1 : 1) * (Number(match[2]) * 3600 + Number(match[3]) * 60) : 0;
  const local = new Date((record.seconds + offsetSeconds) * 1000).toISOString().slice(0, 19);
  return `${local}.${String(record.nanos).padStart(9, '0')}${zoneSuffix}`;
}
