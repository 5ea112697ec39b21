/**
 * Gives command lines to the operator's loop as ConsoleCommands, and their output back.
 *
 *   run -> create -> taken within the time? -> output as it grows -> end
 *                 `-> no, or the client left: withdrawn, so that it cannot run later
 *
 * Each replica watches only what carries its own label, and keeps nothing of a command that has ended. What it learns is the state of an object and
 * never an event: by the watch, by the list after a gap, or by looking itself, in any order and as often as it comes. `output` only grows, so how
 * much of it was passed on is all there is to remember.
 *
 * The end of a command that only reads may come ahead of the status, straight from the operator (`answer`): it is the same end, and whichever comes
 * second finds nobody waiting. The record is left to the operator then, who is about to write it.
 *
 * A command is withdrawn by a deletion on the condition that it is unchanged. If the operator claims it at that moment the deletion fails, and
 * the command is waited for as any other.
 */
import { randomBytes } from 'node:crypto';
import type { Answer } from '../answers/protocol.ts';
import type { ConsoleCommand, ConsoleCommandStatus } from '../api/v1alpha1/consolecommand.ts';
import { consoleCommands, linesOf } from '../api/v1alpha1/consolecommand.ts';
import { OperatorError, messageOf } from '../errors.ts';
import type { Logger } from '../log.ts';
import type { Metrics } from '../metrics.ts';
import { answerToAnnotation, masterLabel } from '../names.ts';
import { link, unlessAborted, withDeadline } from '../runtime/abort.ts';
import { Backoff } from '../runtime/backoff.ts';
import type { Client } from '../runtime/client.ts';
import { ApiError, isReason } from '../runtime/client.ts';
import type { Clock } from '../runtime/clock.ts';
import { Reflector } from '../runtime/reflector.ts';
import type { ReflectorObserver, ReflectorSink } from '../runtime/reflector.ts';
import type { BrokenEnd, CommandEnd, CommandRequest, Dispatcher } from './dispatch.ts';

export interface DispatcherOptions {
  readonly client: Client;
  /** The release namespace: commands count nowhere else. */
  readonly namespace: string;
  /** This replica's name, the value of the label; at most 63 characters. */
  readonly master: string;
  /** IP address to which operators may send answers; absent: they do not. */
  readonly answerTo?: string | undefined;
  readonly clock: Clock;
  readonly random: () => number;
  readonly log: Logger;
  readonly metrics: Metrics;
  readonly observer?: ReflectorObserver;
  /** Those that are absent are `dispatcherLimits`. */
  readonly limits?: Partial<DispatcherLimits>;
}

export interface DispatcherLimits {
  /** How long a command waits for an operator before it is withdrawn. */
  readonly takenTimeoutMs: number;
  /** How long a withdrawal is tried before the client is told that nothing is known; it is tried on after that. */
  readonly withdrawTimeoutMs: number;
  /** Of one request to the API server. */
  readonly requestTimeoutMs: number;
  /** Commands under way on this replica. */
  readonly commandsMax: number;
  /** How long the record of a command is kept. */
  readonly recordSeconds: number;
}

export const dispatcherLimits: DispatcherLimits = {
  takenTimeoutMs: 30_000,
  withdrawTimeoutMs: 30_000,
  requestTimeoutMs: 10_000,
  commandsMax: 10_000,
  recordSeconds: 300,
};

/** How many answered commands are remembered whose records have not been seen to end; a watch that is further behind takes one back. */
const answeredMax = 10_000;
const retryMinMs = 100;
const retryMaxMs = 2_000;
/** Statuses of answers that another try may change. */
const retriableStatuses = [408, 429];

/** One command between its creation and its end. */
interface Flight {
  readonly name: string;
  readonly request: CommandRequest;
  readonly end: PromiseWithResolvers<CommandEnd>;
  /** Known once it is certain to exist. */
  uid: string | undefined;
  /** An answer was lost: it may exist. */
  mayExist: boolean;
  /** The watch has shown it. */
  isSeen: boolean;
  /** An operator has it: it cannot be withdrawn any more. */
  isTaken: boolean;
  /** A deletion of ours may be under way. */
  isWithdrawn: boolean;
  isOver: boolean;
  /** The client is still there. */
  isHeard: boolean;
  /** Entries of its output that were passed on, each a line or more. */
  passedPieces: number;
  wake(): void;
}

export class ClusterDispatcher implements Dispatcher {
  readonly #options: DispatcherOptions;
  readonly #limits: DispatcherLimits;
  readonly #flights = new Map<string, Flight>();
  readonly #drives = new Set<Promise<void>>();
  /** Names of commands that were answered, until the watch shows their end: they are not to be taken back, the oldest first. */
  readonly #answered = new Set<string>();
  /** Names are ours and of this process alone. */
  readonly #prefix = `command-${randomBytes(5).toString('hex')}-`;
  readonly #stop = new AbortController();
  #count = 0;
  #hasListed = false;

  constructor(options: DispatcherOptions) {
    this.#options = options;
    this.#limits = { ...dispatcherLimits, ...options.limits };
  }

  /** Watches until `signal` aborts; what is under way then is given up. Never rejects. Call it once. */
  async follow(signal: AbortSignal): Promise<void> {
    const { client, clock, log, master, namespace, observer, random } = this.#options;
    const reflector = new Reflector<ConsoleCommand>({
      ...{ client, clock, random, log, sink: this.#sink() },
      resource: consoleCommands,
      scope: { namespace, labelSelector: `${masterLabel}=${master}` },
      ...(observer === undefined ? {} : { observer }),
    });
    await reflector.run(signal);
    this.#stop.abort(new Error('Stopped'));
    for (const flight of this.#flights.values()) {
      flight.end.reject(unavailable('this replica is stopping'));
      flight.wake();
    }
    await this.idle(0);
  }

  /** Resolves when no command is being created, waits for an operator or is being withdrawn; at the latest after `timeoutMs`, if that is not 0. */
  async idle(timeoutMs: number): Promise<void> {
    const timer = new AbortController();
    const late = timeoutMs === 0 ? [] : [this.#options.clock.after(timeoutMs, timer.signal).catch(() => undefined)];
    const settled = Promise.all(this.#drives);
    await Promise.race([settled, ...late]);
    timer.abort();
  }

  /** The end of a command, from the operator that ran it. One that is not waited for, or not any more, counts for nothing. */
  answer({ name, uid, status }: Answer): void {
    const flight = this.#flights.get(name);
    if (flight === undefined || flight.isOver || (flight.uid ?? uid) !== uid) return;
    this.#answered.add(name);
    const [oldest = ''] = this.#answered;
    if (this.#answered.size > answeredMax) this.#answered.delete(oldest);
    this.#options.metrics.consoleEnds.inc({ type: 'answer' });
    this.#noteStatus(flight, status);
  }

  async run(request: CommandRequest, signal: AbortSignal): Promise<CommandEnd> {
    signal.throwIfAborted();
    const { clock, metrics } = this.#options;
    const startedAtMs = clock.elapsed();
    metrics.consoleWaiting.inc({ state: 'running' });
    let result = 'cancelled';
    try {
      const end = await this.#launch(request, signal);
      result = resultOf(end);
      return end;
    } catch (error) {
      if (!signal.aborted) result = 'refused';
      throw error;
    } finally {
      metrics.consoleWaiting.dec({ state: 'running' });
      metrics.consoleCommands.inc({ result });
      if (result !== 'cancelled') metrics.consoleSeconds.observe((clock.elapsed() - startedAtMs) / 1_000);
    }
  }

  async #launch(request: CommandRequest, signal: AbortSignal): Promise<CommandEnd> {
    if (this.#stop.signal.aborted) throw unavailable('this replica is stopping');
    if (this.#flights.size >= this.#limits.commandsMax) {
      throw unavailable(`${this.#flights.size} commands are under way here already`);
    }
    this.#count += 1;
    const flight: Flight = {
      name: `${this.#prefix}${this.#count}`,
      request,
      end: Promise.withResolvers(),
      ...{ uid: undefined, mayExist: false, isSeen: false, isTaken: false, isWithdrawn: false, isOver: false },
      ...{ isHeard: true, passedPieces: 0, wake: () => undefined },
    };
    this.#flights.set(flight.name, flight);
    const drive = this.#drive(flight, signal).finally(() => this.#drives.delete(drive));
    this.#drives.add(drive);
    try {
      return await unlessAborted(flight.end.promise, signal);
    } finally {
      flight.isHeard = false;
      this.#forgetIfDone(flight);
    }
  }

  /** From the creation until an operator has it or it is certain that none will. Never rejects. */
  async #drive(flight: Flight, signal: AbortSignal): Promise<void> {
    const { clock } = this.#options;
    const deadlineMs = clock.elapsed() + this.#limits.takenTimeoutMs;
    try {
      await this.#create(flight, deadlineMs, signal);
    } catch (error) {
      flight.isOver = true;
      flight.end.reject(error);
      this.#forgetIfDone(flight);
      return;
    }
    while (isOpen(flight) && !signal.aborted && clock.elapsed() < deadlineMs && !this.#stop.signal.aborted) {
      await this.#pause(flight, deadlineMs - clock.elapsed(), signal);
    }
    await this.#withdraw(flight);
  }

  /** Returns when it exists or may; rejects with an `OperatorError` when it certainly does not. */
  async #create(flight: Flight, deadlineMs: number, signal: AbortSignal): Promise<void> {
    const { client, clock, random } = this.#options;
    const object = this.#objectOf(flight);
    const backoff = new Backoff({ minMs: retryMinMs, maxMs: retryMaxMs, random });
    for (;;) {
      try {
        this.#note(
          flight,
          await this.#ask('create a command', (given) => client.create(consoleCommands, object, given)),
        );
        return;
      } catch (error) {
        const answer = answerOf(error);
        // Nobody else makes this name: an earlier try has arrived whose answer was lost.
        if (flight.isSeen || (flight.mayExist && answer?.reason === 'AlreadyExists')) return;
        flight.mayExist ||= answer === undefined || answer.code >= 500;
        const isFinal = answer !== undefined && answer.code < 500 && !retriableStatuses.includes(answer.code);
        const isLate = signal.aborted || this.#stop.signal.aborted || clock.elapsed() >= deadlineMs;
        if (flight.mayExist && (isFinal || isLate)) return;
        if (isFinal || isLate) throw refusalOf(error);
        this.#options.log.warn({ command: flight.name, cause: messageOf(error) }, 'Cannot create a command yet');
        const delayMs = Math.max(backoff.next(), answer?.retryAfterMs ?? 0);
        await this.#pause(flight, Math.min(delayMs, deadlineMs - clock.elapsed()), signal);
      }
    }
  }

  /** Until it is gone, or an operator has it. Goes on when the client has been told that nothing is known. Never rejects. */
  async #withdraw(flight: Flight): Promise<void> {
    const { clock, log, random } = this.#options;
    const backoff = new Backoff({ minMs: retryMinMs, maxMs: retryMaxMs, random });
    const startedAtMs = clock.elapsed();
    while (isOpen(flight) && !this.#stop.signal.aborted) {
      try {
        await this.#tryToWithdraw(flight);
      } catch (error) {
        log.warn({ command: flight.name, cause: messageOf(error) }, 'Cannot withdraw a command yet');
        if (clock.elapsed() - startedAtMs >= this.#limits.withdrawTimeoutMs) flight.end.resolve(brokenEnd('Unknown'));
        await this.#pause(flight, backoff.next());
      }
    }
  }

  async #tryToWithdraw(flight: Flight): Promise<void> {
    const { client, log, namespace } = this.#options;
    const ref = { namespace, name: flight.name };
    const current = await this.#ask('read a command', (signal) => client.get(consoleCommands, ref, signal));
    if (current === undefined) {
      this.#noteGone(flight);
      return;
    }
    this.#note(flight, current);
    if (!isOpen(flight)) return;
    const { uid, resourceVersion } = current.metadata;
    flight.isWithdrawn = true;
    try {
      await this.#ask('withdraw a command', (signal) =>
        client.remove(consoleCommands, ref, { ...versionOf(uid, resourceVersion), signal }),
      );
    } catch (error) {
      // Changed meanwhile, most likely claimed: looked at again.
      if (!isReason(error, 'Conflict')) throw error;
      flight.isWithdrawn = false;
      return;
    }
    this.#noteGone(flight);
    log.info({ command: flight.name }, 'Command withdrawn: it did not run');
  }

  #sink(): ReflectorSink<ConsoleCommand> {
    return {
      replace: (objects) => {
        const present = new Set(objects.map(({ metadata }) => metadata.name));
        for (const object of objects) this.#noteSeen(object, !this.#hasListed);
        this.#hasListed = true;
        // One that the watch has never shown may be younger than the list.
        const gone = [...this.#flights.values()].filter(({ name, isSeen }) => isSeen && !present.has(name));
        for (const flight of gone) this.#noteGone(flight);
      },
      upsert: (object) => {
        this.#noteSeen(object, false);
      },
      remove: (object) => {
        this.#answered.delete(object.metadata.name);
        const flight = this.#flights.get(object.metadata.name);
        if (flight === undefined) return;
        this.#note(flight, object);
        this.#noteGone(flight);
      },
    };
  }

  /**
   * Of a command that nobody waits for only one thing matters: if no operator has it yet, it must not run. It may be one of an earlier process of this
   * pod (`isFirstList`), or one whose creation arrived after it was given up.
   */
  #noteSeen(object: ConsoleCommand, isFirstList: boolean): void {
    const { name } = object.metadata;
    const flight = this.#flights.get(name);
    if (flight !== undefined) {
      flight.isSeen = true;
      this.#note(flight, object);
    } else if (this.#answered.has(name)) {
      if (object.status?.phase !== undefined) this.#answered.delete(name);
    } else if (object.status?.phase === undefined && (isFirstList || name.startsWith(this.#prefix))) {
      void this.#discard(object);
    }
  }

  #note(flight: Flight, object: ConsoleCommand): void {
    flight.uid ??= object.metadata.uid;
    const { status } = object;
    if (flight.isOver || status?.phase === undefined) return;
    if (status.phase !== 'Running') this.#options.metrics.consoleEnds.inc({ type: 'record' });
    this.#noteStatus(flight, status);
  }

  #noteStatus(flight: Flight, status: ConsoleCommandStatus): void {
    flight.isTaken = true;
    this.#passOutput(flight, status.output ?? []);
    if (status.phase !== 'Running') this.#settle(flight, endOf(status));
    flight.wake();
    this.#forgetIfDone(flight);
  }

  #passOutput(flight: Flight, output: readonly string[]): void {
    if (output.length <= flight.passedPieces) return;
    const pieces = output.slice(flight.passedPieces);
    flight.passedPieces = output.length;
    if (!flight.isHeard) return;
    const lines = linesOf(pieces);
    try {
      flight.request.onOutput(lines);
    } catch (error) {
      // One client's fault must not cost the others the watch.
      this.#options.log.error({ err: error, command: flight.name }, 'Cannot pass output on');
    }
  }

  /** It does not exist any more, or never did. */
  #noteGone(flight: Flight): void {
    if (flight.isOver) return;
    const didNotRun = !flight.isTaken && (flight.isWithdrawn || flight.uid === undefined);
    this.#settle(flight, brokenEnd(didNotRun ? 'Unavailable' : 'Deleted'));
  }

  #settle(flight: Flight, end: CommandEnd): void {
    flight.isOver = true;
    flight.end.resolve(end);
    flight.wake();
    this.#forgetIfDone(flight);
  }

  #forgetIfDone(flight: Flight): void {
    if (flight.isOver || (flight.isTaken && !flight.isHeard)) this.#flights.delete(flight.name);
  }

  async #discard({ metadata }: ConsoleCommand): Promise<void> {
    const { client, log, namespace } = this.#options;
    const { name, uid, resourceVersion } = metadata;
    try {
      await this.#ask('discard a command', (signal) =>
        client.remove(consoleCommands, { namespace, name }, { ...versionOf(uid, resourceVersion), signal }),
      );
      log.info({ command: name }, 'Command withdrawn: its client is gone, and it did not run');
    } catch (error) {
      // Claimed meanwhile, or not to be reached: then it runs, as it was meant to by whoever gave it.
      log.warn({ command: name, cause: messageOf(error) }, 'Cannot withdraw a command whose client is gone');
    }
  }

  #objectOf({ name, request }: Flight): ConsoleCommand {
    const { answerTo, master, namespace } = this.#options;
    const { issuedBy, line, session } = request;
    return {
      apiVersion: consoleCommands.apiVersion,
      kind: consoleCommands.kind,
      metadata: {
        ...{ name, namespace, labels: { [masterLabel]: master } },
        ...(answerTo === undefined ? {} : { annotations: { [answerToAnnotation]: answerTo } }),
      },
      spec: {
        line,
        issuedBy,
        ttlSecondsAfterFinished: this.#limits.recordSeconds,
        ...(session === undefined ? {} : { session }),
      },
    };
  }

  async #ask<T>(what: string, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const { clock } = this.#options;
    return withDeadline({ clock, what, timeoutMs: this.#limits.requestTimeoutMs, signal: this.#stop.signal }, work);
  }

  /** Until the time is over, something is known of the command, or the client leaves. */
  async #pause(flight: Flight, delayMs: number, signal?: AbortSignal): Promise<void> {
    const timer = new AbortController();
    const unlink = signal === undefined ? undefined : link(signal, timer);
    flight.wake = () => {
      timer.abort(new Error('Woken'));
    };
    if (this.#stop.signal.aborted) flight.wake();
    // Woken: the loop around it looks at what there is.
    await this.#options.clock.after(delayMs, timer.signal).catch(() => undefined);
    flight.wake = () => undefined;
    unlink?.();
  }
}

/** No operator has it, and it may still come to run. */
function isOpen({ isTaken, isOver }: Flight): boolean {
  return !isTaken && !isOver;
}

function endOf(status: ConsoleCommandStatus): CommandEnd {
  const { phase, exitCode, truncated, result, conditions = [] } = status;
  const isInterrupted = phase === 'Failed' && conditions.some(({ reason }) => reason === 'Interrupted');
  return {
    exitCode: exitCode ?? (phase === 'Succeeded' ? 0 : 1),
    isTruncated: truncated === true,
    ...(isInterrupted ? { reason: 'Interrupted' as const } : {}),
    ...(result === undefined ? {} : { result }),
  };
}

function brokenEnd(reason: BrokenEnd): CommandEnd {
  return { exitCode: 1, isTruncated: false, reason };
}

function resultOf({ exitCode, reason }: CommandEnd): string {
  if (reason === 'Interrupted') return 'interrupted';
  if (reason === 'Unavailable') return 'unavailable';
  if (reason !== undefined) return 'lost';
  return exitCode === 0 ? 'ok' : exitCode === 2 ? 'misunderstood' : 'failed';
}

/** The API server's answer, if there was one. */
function answerOf(error: unknown): ApiError | undefined {
  return error instanceof ApiError ? error : undefined;
}

/** 400 and 422 are about the command; everything else is about this Master or the cluster. */
function refusalOf(error: unknown): OperatorError {
  const answer = answerOf(error);
  if (answer?.code === 400 || answer?.code === 422) {
    return new OperatorError('COMMAND_REFUSED', `Cannot run the command: ${answer.message}`, { cause: error });
  }
  return unavailable('the Kubernetes API does not take it', error);
}

function unavailable(why: string, cause?: unknown): OperatorError {
  return new OperatorError('COMMAND_UNAVAILABLE', `Cannot run the command: ${why}`, { cause });
}

function versionOf(
  uid: string | undefined,
  resourceVersion: string | undefined,
): { uid?: string; resourceVersion?: string } {
  return { ...(uid === undefined ? {} : { uid }), ...(resourceVersion === undefined ? {} : { resourceVersion }) };
}
