/**
 * Readiness by a line of the log under the runtime `kubernetes`, where no sidecar can see it: the operator follows the log of each container that is
 * not ready yet, from its first line, and says of its pod that a line matched, in the condition that is the pod's readiness gate. The condition
 * names the container: one that is started again is not ready by it (observe.ts), and is followed anew.
 *
 * Nothing is kept but the condition. A new leader, or a connection that broke, starts at the first line that the kubelet still has; a line that was
 * rotated away before anybody could read it is not seen. A follow lasts until the match, so it costs one connection for the time of a start.
 */
import type { Instance } from '../../api/v1alpha1/instance.ts';
import { messageOf } from '../../errors.ts';
import type { Logger } from '../../log.ts';
import { logPatternGate, operatorFieldManager, workloadContainer } from '../../names.ts';
import { isReason, pods } from '../../runtime/client.ts';
import type { Client, ObjectRef } from '../../runtime/client.ts';
import type { Clock } from '../../runtime/clock.ts';
import { PatternTooSlowError } from './matcher.ts';
import type { PatternMatcher } from './matcher.ts';
import { matchedMessage } from './observe.ts';
import type { PodView } from './observe.ts';

/** Logs that are followed at the same time; further ones wait for their turn. */
const followsMax = 500;
/** How long one that has not matched keeps its turn while others wait. */
const turnMs = 60_000;
/** Of each line, so much counts. */
const lineBytesMax = 16 * 1024;
/** Before a log is opened again that ended or could not be read. */
const retryMs = 1_000;
/** Before a pattern is tried again that took too long. */
const slowRetryMs = 300_000;

export interface LogPatternOptions {
  readonly client: Client;
  readonly clock: Clock;
  readonly log: Logger;
  readonly matcher: Pick<PatternMatcher, 'matches'>;
  /** Takes terminal escape sequences out of a line. */
  readonly stripAnsi: (line: Buffer) => Buffer;
  /** Ends everything in the background, with the leadership. */
  readonly signal: AbortSignal;
  readonly followsMax?: number;
}

interface Follow {
  readonly ref: Required<ObjectRef>;
  readonly uid: string;
  readonly containerId: string;
  readonly pattern: string;
  readonly stop: AbortController;
  /** Whether the condition still speaks well of an earlier container. */
  mustTakeBack: boolean;
  startedMs: number;
}

export class LogPatternGates {
  readonly #options: LogPatternOptions;
  readonly #followsMax: number;
  /** By key of the Instance: one each, running or waiting. */
  readonly #follows = new Map<string, Follow>();
  readonly #running = new Set<Follow>();
  readonly #waiting: Follow[] = [];

  constructor(options: LogPatternOptions) {
    this.#options = options;
    this.#followsMax = options.followsMax ?? followsMax;
  }

  /** Starts, goes on or ends, as the pod asks for; to be called whenever something changed. */
  sync(key: string, instance: Instance, pod: PodView | undefined): void {
    const pattern = instance.spec.readiness?.logPattern;
    const containerId = pod?.containerId;
    const seen = pod?.logPattern;
    const isOpen = seen?.isMatched === false && pod?.deletionDueMs === undefined;
    // Also while the next container is not there yet: what was looked for in the one before it no longer counts.
    if (!isOpen || pod === undefined || pattern === undefined || containerId === undefined) {
      this.forget(key);
      return;
    }
    const current = this.#follows.get(key);
    if (current?.containerId === containerId && current.pattern === pattern) return;
    this.forget(key);
    const ref = { namespace: instance.metadata.namespace ?? '', name: pod.name };
    const stop = new AbortController();
    const follow = { ref, uid: pod.uid, containerId, pattern, stop, mustTakeBack: seen.isTrue, startedMs: 0 };
    this.#follows.set(key, follow);
    this.#waiting.push(follow);
    this.#next();
  }

  forget(key: string): void {
    const follow = this.#follows.get(key);
    if (follow === undefined) return;
    this.#follows.delete(key);
    follow.stop.abort();
    const at = this.#waiting.indexOf(follow);
    if (at !== -1) this.#waiting.splice(at, 1);
  }

  #next(): void {
    while (this.#waiting.length > 0 && this.#running.size < this.#followsMax) {
      const follow = this.#waiting.shift();
      if (follow !== undefined) this.#start(follow);
    }
  }

  #start(follow: Follow): void {
    const { log, clock, signal } = this.#options;
    this.#running.add(follow);
    follow.startedMs = clock.elapsed();
    this.#run(follow, AbortSignal.any([signal, follow.stop.signal]))
      .catch((error: unknown) => {
        if (signal.aborted || follow.stop.signal.aborted) return;
        log.warn({ pod: follow.ref, error: messageOf(error) }, 'Cannot look for readiness.logPattern any more');
      })
      .finally(() => {
        this.#running.delete(follow);
        this.#next();
      });
  }

  async #run(follow: Follow, signal: AbortSignal): Promise<void> {
    const { clock, log } = this.#options;
    for (;;) {
      let pauseMs = retryMs;
      try {
        if (await this.#attempt(follow, signal)) return;
      } catch (error) {
        signal.throwIfAborted();
        // The pod has gone, or is another one: the next change of the Instance says what is to be done.
        if (isReason(error, 'NotFound', 'Conflict')) return;
        if (error instanceof PatternTooSlowError) pauseMs = await this.#tooSlow(follow, signal);
        else
          log.debug({ pod: follow.ref, error: messageOf(error) }, 'Cannot read the log for readiness.logPattern yet');
      }
      if (this.#yields(follow)) return;
      await clock.after(pauseMs, signal);
    }
  }

  async #attempt(follow: Follow, signal: AbortSignal): Promise<boolean> {
    if (follow.mustTakeBack) {
      await this.#say(
        follow,
        { status: 'False', reason: 'NotMatched', message: 'The program was started again.' },
        signal,
      );
      follow.mustTakeBack = false;
    }
    if (!(await this.#finds(follow, signal))) return false;
    await this.#say(follow, { status: 'True', reason: 'Matched', message: matchedMessage(follow.containerId) }, signal);
    return true;
  }

  /** Whether it was found before the log ended, broke or, with others waiting, the turn was over. */
  async #finds({ ref, pattern, ...follow }: Follow, signal: AbortSignal): Promise<boolean> {
    const { client, clock, matcher, stripAnsi } = this.#options;
    const turn = new AbortController();
    const endTurn = async (): Promise<void> => {
      while (this.#waiting.length === 0 || clock.elapsed() - follow.startedMs < turnMs) {
        await clock.after(turnMs, AbortSignal.any([signal, turn.signal]));
      }
      turn.abort();
    };
    endTurn().catch(() => undefined);
    try {
      const options = { container: workloadContainer, follow: true, timestamps: false };
      const stream = await client.log(ref, { ...options, signal: AbortSignal.any([signal, turn.signal]) });
      const cutter = new LineCutter(lineBytesMax);
      for await (const chunk of stream) {
        const lines = cutter.cut(Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength));
        if (lines.length === 0) continue;
        const texts = lines.map((line) => stripAnsi(line).toString('utf8'));
        if (await matcher.matches(pattern, texts)) return true;
      }
      return false;
    } finally {
      turn.abort();
    }
  }

  /** Whether others wait and this one has had its turn; then it goes to the end of the queue. */
  #yields(follow: Follow): boolean {
    if (this.#waiting.length === 0 || this.#options.clock.elapsed() - follow.startedMs < turnMs) return false;
    this.#waiting.push(follow);
    return true;
  }

  async #tooSlow(follow: Follow, signal: AbortSignal): Promise<number> {
    const message = 'readiness.logPattern takes too long on a line of this log: write a simpler one.';
    await this.#say(follow, { status: 'False', reason: 'PatternTooSlow', message }, signal).catch((error: unknown) => {
      this.#options.log.debug({ pod: follow.ref, error: messageOf(error) }, 'Cannot say that the pattern is too slow');
    });
    return slowRetryMs;
  }

  async #say(
    { ref, uid }: Follow,
    said: { status: 'True' | 'False'; reason: string; message: string },
    signal: AbortSignal,
  ): Promise<void> {
    const { client, clock } = this.#options;
    const lastTransitionTime = new Date(clock.now()).toISOString().replace(/\.\d+Z$/, 'Z');
    const condition = { type: logPatternGate, ...said, lastTransitionTime };
    const patch = { metadata: { ...ref, uid }, status: { conditions: [condition] } };
    await client.applyStatus(pods, patch, { fieldManager: operatorFieldManager, force: true, signal });
  }
}

/** Complete lines out of pieces, without their ends; of each, no more than `bytesMax` is kept. */
export class LineCutter {
  readonly #bytesMax: number;
  #pieces: Buffer[] = [];
  #bytes = 0;

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  cut(chunk: Buffer): Buffer[] {
    const lines: Buffer[] = [];
    let start = 0;
    for (let end = chunk.indexOf(0x0a); end !== -1; end = chunk.indexOf(0x0a, start)) {
      this.#keep(chunk.subarray(start, end));
      lines.push(this.#take());
      start = end + 1;
    }
    // A copy: the piece must not hold the whole chunk in memory.
    this.#keep(Buffer.from(chunk.subarray(start, start + this.#bytesMax)));
    return lines;
  }

  #keep(piece: Buffer): void {
    const kept = piece.subarray(0, this.#bytesMax - this.#bytes);
    if (kept.length === 0) return;
    this.#pieces.push(kept);
    this.#bytes += kept.length;
  }

  #take(): Buffer {
    const line = this.#pieces.length === 1 ? (this.#pieces[0] ?? Buffer.alloc(0)) : Buffer.concat(this.#pieces);
    this.#pieces = [];
    this.#bytes = 0;
    return line.at(-1) === 0x0d ? line.subarray(0, -1) : line;
  }
}
