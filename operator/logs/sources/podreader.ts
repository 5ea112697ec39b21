/**
 * Reads one pod's log: the current container and the one before it, joined, from a position on. See kubernetes.ts for the reasoning.
 *
 * `attempt()` is one try: it gives what it can and says why it stopped; the caller decides when to try again. The position moves with each
 * batch that is given, so a try that breaks anywhere loses and repeats nothing.
 */
import { compareStamps, sinceTimeOf } from '../resume.ts';
import type { Position, Stamp } from '../resume.ts';
import type { LogEvent } from '../source.ts';
import type { KubernetesLogLimits } from './kubernetes.ts';
import type { PodLog, PodLogBatch, PodLogEnd, Seek } from './podlog.ts';
import { PodLogs } from './podlogs.ts';
import type { PodLogsOptions } from './podlogs.ts';
import { locateTail } from './tail.ts';
import { StreamWatchdog } from './watchdog.ts';

export interface PodReaderOptions extends PodLogsOptions {
  /** Whether nothing is expected of this pod but its last lines: it was replaced, or the instance is finished. */
  readonly isLeaving: () => boolean;
  /** Containers started anew in this pod, as far as is known. */
  readonly restarts: () => number;
  readonly start: PodStart;
}

/** `beginning` of a pod that follows another one: what is missing before its oldest container is announced. */
export type PodStart = { readonly after: Position } | { readonly tail: number } | { readonly beginning: true };

/**
 * Why a try ended: `again` at once; `silent`: the same, and it has waited already; `drained`: the log ends at the position; `unsure`: nothing was
 * learned, wait a little.
 */
export type Outcome = 'again' | 'silent' | 'drained' | 'unsure' | 'broken';

export class PodReader {
  readonly #options: PodReaderOptions;
  readonly #logs: PodLogs;
  #position: Position | undefined;
  #start: PodStart | undefined;
  #isDrained = false;
  /** When the present try began, the pod's program could not be started any more. */
  #isLast = false;
  #hasRead = false;
  /** What was already said since the last line; not said again when the same place is read again. */
  readonly #said = new Set<'gap' | 'restart'>();
  /** An unfinished last line, which must be seen twice: a connection can end cleanly at any byte. */
  #evidence: number | undefined;
  /** Stamps jumped back to here; the next try looks from there. */
  #regress: Stamp | undefined;
  /** Search by content alone: the stamps of this log are not in order (the node's clock was set back). */
  #isPatient = false;
  /** First stamp of the file that follows the one that holds the position as its last line. */
  #nextFile: Stamp | undefined;
  #stream: PodLog | undefined;
  /** Silence of a pod that should end, after which its log is opened anew. */
  #leavingQuietMs: number;

  constructor(options: PodReaderOptions) {
    this.#options = options;
    this.#leavingQuietMs = options.limits.leavingQuietMsMin;
    this.#start = options.start;
    this.#logs = new PodLogs(options);
    this.#position = 'after' in options.start ? options.start.after : undefined;
  }

  get podSequence(): number {
    return this.#options.podSequence;
  }

  get position(): Position | undefined {
    return this.#position;
  }

  /**
   * Whether the log is known to end at the position, for good: a program that may be started again may write again. A later look that comes to
   * nothing, because the kubelet has removed the container by then, takes nothing back.
   */
  get isDrained(): boolean {
    return this.#isDrained;
  }

  /** Whether any of this pod's log was opened, or a position in it is known. */
  get hasRead(): boolean {
    return this.#hasRead || this.#position !== undefined;
  }

  /** Ends a silent wait, so that the next try looks anew. */
  poke(): void {
    this.#stream?.poke();
  }

  /** One try. Throws `ApiError` for an error answer and what the network throws. */
  async *attempt(): AsyncGenerator<LogEvent, Outcome> {
    this.#isLast = this.#options.isLeaving();
    if (this.#start !== undefined && 'tail' in this.#start && this.#position === undefined) {
      this.#position = await locateTail(this.#start.tail, {
        open: (options) => this.#logs.open(options),
        isOver: this.#options.isLeaving(),
        limits: this.#limits,
      });
    }
    const current = await this.#logs.open({
      follow: true,
      after: this.#position,
      sinceTime: this.#since,
      isPatient: this.#isPatient,
    });
    this.#hasRead = true;
    try {
      let outcome: Outcome;
      if (this.#position === undefined) {
        outcome = yield* this.#fromBeginning(current);
      } else {
        const seek = await current.seek(this.#isPatient ? this.#limits.scanQuietMs : this.#limits.seekQuietMs);
        if (seek === 'found') {
          outcome = yield* this.#follow(current);
        } else {
          outcome = typeof seek === 'object' ? this.#onFault(seek) : yield* this.#pastPosition(current, this.#position);
        }
      }
      // A look that broke says nothing; each other one than `drained` says that the log may go on.
      if (outcome !== 'drained' && outcome !== 'broken') {
        this.#isDrained = false;
      }
      return outcome;
    } finally {
      current.close();
      this.#stream = undefined;
    }
  }

  get #limits(): KubernetesLogLimits {
    return this.#options.limits;
  }

  get #since(): string | undefined {
    const position = this.#position;
    if (position === undefined) {
      return undefined;
    }
    const isBack = this.#regress !== undefined && compareStamps(this.#regress, position) < 0;
    return sinceTimeOf(isBack ? (this.#regress ?? position) : position, this.#limits.stampSlackSeconds);
  }

  /** The container before this one comes first, if there is one. Its lines are given whole; the next try then finds where they end. */
  async *#fromBeginning(current: PodLog): AsyncGenerator<LogEvent, Outcome> {
    const previous = await this.#logs.openPrevious();
    if (previous !== undefined) {
      if ((await this.#isCut(current, previous)) && !this.#say('gap')) {
        yield { type: 'gap', lines: undefined, cause: 'rotated' };
      }
      const end = yield* this.#giveAll(previous);
      if (this.#position !== undefined || (end.cause !== 'eof' && end.cause !== 'missing')) {
        return end.cause === 'eof' ? 'again' : this.#onFault(end);
      }
      if (!this.#say('restart')) {
        yield { type: 'restart', cause: 'container' };
      }
    }
    return yield* this.#follow(current);
  }

  /** Whether more containers have come and gone than the two logs show. The current one was opened first and is not read yet. */
  async #isCut(current: PodLog, previous: PodLog): Promise<boolean> {
    const restarts = this.#options.restarts();
    if (this.#start === undefined || !('beginning' in this.#start) || restarts === 0) {
      return false;
    }
    if (restarts > 1) {
      return true;
    }
    // Two containers so far. While the second waits to be started again, it is shown as both.
    await current.peek(this.#limits.seekQuietMs);
    await previous.peek(this.#limits.scanQuietMs);
    const areEmpty = current.first === undefined && previous.first === undefined;
    return areEmpty ? current.hasEnded : isSameFirst(current, previous);
  }

  /** The current container's log has not shown the position: see whether the one before it does. */
  async *#pastPosition(seen: PodLog, position: Position): AsyncGenerator<LogEvent, Outcome> {
    // Opened before `previous` is read: what holds the position there is then certainly this one's direct predecessor.
    const current = seen.linesSeen === 0 ? seen : await this.#logs.open({ follow: true, sinceTime: this.#since });
    try {
      const previous = await this.#logs.openPrevious(position, this.#since);
      const found = previous === undefined ? 'absent' : await previous.seek(this.#limits.scanQuietMs);
      if (previous !== undefined && found === 'found') {
        const end = yield* this.#giveAll(previous);
        if (this.#position !== position || end.cause !== 'eof') {
          return end.cause === 'eof' ? 'again' : this.#onFault(end);
        }
        return yield* this.#intoSuccessor(current, seen, previous);
      }
      previous?.close();
      if (found !== 'absent' && !(typeof found === 'object' && found.cause === 'missing')) {
        return typeof found === 'object' ? this.#onFault(found) : 'broken';
      }
      return yield* current === seen ? this.#awaitLines(seen) : this.#withoutPosition(current, seen, position);
    } finally {
      current.close();
    }
  }

  /** The predecessor was given to its end. Unless it still is the current container itself, which is what a waiting one shows as both. */
  async *#intoSuccessor(current: PodLog, seen: PodLog, previous: PodLog): AsyncGenerator<LogEvent, Outcome> {
    if (current === seen) {
      return yield* this.#awaitLines(seen);
    }
    if (!(await this.#isSameLog(current, seen)) || isSameFirst(current, previous)) {
      return 'unsure';
    }
    if (!this.#say('restart')) {
      yield { type: 'restart', cause: 'container' };
    }
    return yield* this.#follow(current);
  }

  /** No line came, so there is nothing to judge yet, and nothing that a gap or restart would stand before. */
  async *#awaitLines(current: PodLog): AsyncGenerator<LogEvent, Outcome> {
    this.#stream = current;
    await current.peek(this.#options.isLeaving() ? this.#limits.seekQuietMs : this.#limits.quietMs);
    const seek = await current.seek(this.#limits.seekQuietMs);
    if (seek === 'found') {
      return yield* this.#follow(current);
    }
    if (typeof seek === 'object') {
      return this.#onFault(seek);
    }
    return current.linesSeen === 0 ? 'unsure' : 'again';
  }

  /** Neither log holds the position: the file that held it was rotated away, or more than one container has come and gone since. */
  async *#withoutPosition(current: PodLog, seen: PodLog, position: Position): AsyncGenerator<LogEvent, Outcome> {
    await current.peek(this.#limits.scanQuietMs);
    if (current.hasEnded && current.linesSeen === 0) {
      return yield* this.#giveLoneRest(current);
    }
    const isSame = await this.#isSameLog(current, seen);
    if (isSame && this.#isNextFile(current)) {
      return yield* this.#follow(current);
    }
    const scan = isSame ? await this.#scanCurrent(position) : 'absent';
    if (!isSame || scan === 'found') {
      this.#isPatient = scan === 'found';
      return 'again';
    }
    if (scan !== 'absent') {
      return 'broken';
    }
    if (this.#start !== undefined && 'tail' in this.#start) {
      // Nothing was given yet: a start that was overtaken simply starts over.
      this.#position = undefined;
      return 'again';
    }
    if (!this.#say('gap')) {
      yield { type: 'gap', lines: undefined, cause: 'rotated' };
    }
    if (yield* this.#giveNewerOfPrevious(position)) {
      return 'again';
    }
    return yield* this.#follow(current);
  }

  /** All that this file has is a line without `\n`: the files before it were rotated away. Seen twice, it is a line. */
  *#giveLoneRest(current: PodLog): Generator<LogEvent, Outcome> {
    if (this.#start !== undefined && 'tail' in this.#start) {
      this.#position = undefined;
      return 'again';
    }
    current.skipNothing();
    const evidence = current.restHash;
    if (evidence === undefined || evidence !== this.#evidence) {
      this.#evidence = evidence;
      return evidence === undefined ? 'unsure' : 'again';
    }
    const rest = current.takeRest();
    if (rest === undefined) {
      return 'unsure';
    }
    if (!this.#say('gap')) {
      yield { type: 'gap', lines: undefined, cause: 'rotated' };
    }
    this.#accept(rest);
    yield rest;
    return 'again';
  }

  /** Whether this log begins with the file that was seen to follow the one that was read to its end. */
  #isNextFile(current: PodLog): boolean {
    return (
      this.#nextFile !== undefined && current.first !== undefined && compareStamps(current.first, this.#nextFile) === 0
    );
  }

  /** Silence while searching proves nothing on a slow node: before lines are called lost, the file is read to its end. */
  async #scanCurrent(position: Position): Promise<Seek | PodLogEnd> {
    const scan = await this.#logs.open({ after: position, sinceTime: this.#since, isPatient: true });
    try {
      return await scan.seek(this.#limits.scanQuietMs);
    } finally {
      scan.close();
    }
  }

  async #isSameLog(current: PodLog, seen: PodLog): Promise<boolean> {
    if (current === seen) {
      return true;
    }
    await current.peek(this.#limits.scanQuietMs);
    return isSameFirst(current, seen);
  }

  async *#giveNewerOfPrevious(position: Position): AsyncGenerator<LogEvent, boolean> {
    const previous = await this.#logs.openPrevious(undefined, this.#since);
    if (previous === undefined) {
      return false;
    }
    yield* this.#giveAll(previous, position);
    return this.#position !== position;
  }

  /** Gives a finished log to its end, only what is newer than `newerThan`. */
  async *#giveAll(stream: PodLog, newerThan?: Stamp): AsyncGenerator<LogEvent, PodLogEnd> {
    let bound = newerThan;
    try {
      for (;;) {
        const read = await stream.read(this.#limits.scanQuietMs);
        const batch = read.type === 'lines' ? read.batch : undefined;
        const isAtEnd = read.type === 'end' && read.cause === 'eof';
        // What ended without `\n` in a dead container is a line.
        const given = isAtEnd ? stream.takeRest() : batch;
        const wanted = bound === undefined ? given : given?.newerThan(bound);
        if (wanted !== undefined) {
          bound = undefined;
          this.#accept(wanted);
          yield wanted;
        }
        if (read.type === 'end') {
          return read;
        }
        if (read.type === 'quiet') {
          return { type: 'end', cause: 'broken', detail: 'a finished log fell silent' };
        }
      }
    } finally {
      stream.close();
    }
  }

  /** Gives lines as they are written, until the stream ends or is not to be trusted any more. */
  async *#follow(stream: PodLog): AsyncGenerator<LogEvent, Outcome> {
    this.#stream = stream;
    const { clock, isLeaving, log, limits } = this.#options;
    const watchdog = new StreamWatchdog({ stream, logs: this.#logs, clock, limits, log });
    for (;;) {
      const read = await stream.read(isLeaving() ? this.#leavingQuietMs : watchdog.quietMs);
      if (read.type === 'lines') {
        const givenAt = clock.elapsed();
        yield* this.#giveChecked(read.batch, watchdog.onLines(read.batch));
        const pausedMs = clock.elapsed() - givenAt;
        watchdog.onPause(pausedMs);
        if (pausedMs > limits.pauseMsMax) {
          return 'again';
        }
      } else if (read.type === 'end') {
        return yield* this.#onEnd(stream, read, watchdog.isSurelyDead);
      } else if (isLeaving()) {
        this.#leavingQuietMs = Math.min(2 * this.#leavingQuietMs, limits.leavingQuietMsMax);
        return 'silent';
      } else if (await watchdog.isStale(this.#position)) {
        this.#nextFile = watchdog.nextFile;
        return 'again';
      }
    }
  }

  /** Lines from a stream that may have skipped a file before line `gapAt`. */
  *#giveChecked(batch: PodLogBatch, gapAt: number): Generator<LogEvent> {
    if (gapAt === -1) {
      this.#accept(batch);
      yield batch;
      return;
    }
    if (gapAt > 0) {
      const before = batch.slice(0, gapAt);
      this.#accept(before);
      yield before;
    }
    yield { type: 'gap', lines: undefined, cause: 'rotated' };
    const after = batch.slice(gapAt);
    this.#accept(after);
    yield after;
  }

  /** `isDead`: the stream was opened at the position and ended at once with nothing new, as it does for a dead container alone. */
  *#onEnd(stream: PodLog, end: PodLogEnd, isDead: boolean): Generator<LogEvent, Outcome> {
    if (end.cause !== 'eof') {
      return this.#onFault(end);
    }
    if (!isDead) {
      return 'again';
    }
    // What is unfinished stays so. Seen twice, it is a line.
    const evidence = stream.restHash;
    if (evidence !== undefined && this.#evidence === evidence) {
      const rest = stream.takeRest();
      if (rest !== undefined) {
        this.#accept(rest);
        yield rest;
      }
      return 'again';
    }
    this.#evidence = evidence;
    this.#isDrained = evidence === undefined && this.#isLast;
    return evidence === undefined ? 'drained' : 'again';
  }

  #onFault(end: PodLogEnd): Outcome {
    const { log, podName } = this.#options;
    if (end.cause === 'message' || end.cause === 'missing') {
      log.warn({ pod: podName, detail: end.detail }, 'The kubelet reports a fault in place of log lines');
    } else if (end.cause === 'regress') {
      log.info({ pod: podName }, 'Time stamps of the log jump back: reading again from the last line');
      this.#regress = end.stamp;
      return 'again';
    } else {
      log.debug({ pod: podName, detail: end.detail }, 'The log stream broke');
    }
    return 'broken';
  }

  #accept(batch: PodLogBatch): void {
    this.#position = batch.positionAt(batch.lines.length - 1);
    this.#start = undefined;
    this.#isDrained = false;
    this.#isPatient = false;
    this.#evidence = undefined;
    this.#regress = undefined;
    this.#nextFile = undefined;
    this.#leavingQuietMs = this.#limits.leavingQuietMsMin;
    this.#said.clear();
  }

  /** Remembers that an event is given; true if it already was, since the last line. */
  #say(event: 'gap' | 'restart'): boolean {
    const wasSaid = this.#said.has(event);
    this.#said.add(event);
    this.#start = undefined;
    return wasSaid;
  }
}

function isSameFirst(one: PodLog, other: PodLog): boolean {
  const [a, b] = [one.first, other.first];
  return a !== undefined && b !== undefined && compareStamps(a, b) === 0 && a.hash === b.hash;
}
