/**
 * The ConsoleCommand controller: runs each command line once, and writes down what it printed.
 *
 *   parse -> claim (only what changes something) -> run, flushing the output now and then -> one last status
 *                                                                                        `-> only what reads: to the Master that waits, if it can be reached
 *
 * A command that only reads is not claimed: running it twice harms nobody, and so it costs one write. One that changes something is claimed under
 * its resourceVersion, so that of two operators one gets it; what is found claimed by another operator is not run again but ends as `Interrupted`,
 * because nobody knows how far it came. What this process has begun it remembers until the cache shows the end, however far the cache lags.
 */
import type { Answer } from '../../answers/protocol.ts';
import type { ConsoleCommand, ConsoleCommandStatus } from '../../api/v1alpha1/consolecommand.ts';
import { consoleCommands } from '../../api/v1alpha1/consolecommand.ts';
import { messageOf } from '../../errors.ts';
import type { Logger } from '../../log.ts';
import { answerToAnnotation } from '../../names.ts';
import { ApiError, isReason } from '../../runtime/client.ts';
import type { KubernetesObject } from '../../runtime/client.ts';
import type { EventSink } from '../instance/act.ts';
import { UsageFault } from './fault.ts';
import { Flusher } from './flush.ts';
import type { Invocation, Registry } from './registry.ts';
import { Run } from './run.ts';
import type { Outcome } from './run.ts';
import { endedStatus, hasEnded, runningStatus } from './status.ts';
import type { World } from './world.ts';

const commandTimeoutMs = 45_000;

export interface CommandReconcilerOptions {
  readonly world: World;
  readonly registry: Registry;
  readonly commands: { get(key: string): ConsoleCommand | undefined };
  readonly events: EventSink;
  readonly log: Logger;
  /** Gives the end of a command to the Master at `address`, ahead of the record. Must not throw. Absent: Masters read the records. */
  readonly answers?: { send(address: string, answer: Answer): void };
  /** Default 45 s. */
  readonly timeoutMs?: number;
}

/** A command that this process began. */
interface Begun {
  readonly uid: string;
  /** Its status was written already. */
  readonly isClaimed: boolean;
  /** How it ended, until that is written. */
  ended?: ConsoleCommandStatus;
  isWritten: boolean;
}

export class CommandReconciler {
  readonly #options: CommandReconcilerOptions;
  readonly #begun = new Map<string, Begun>();

  constructor(options: CommandReconcilerOptions) {
    this.#options = options;
  }

  /** Rejects when a status cannot be written now; the next call goes on there. */
  async reconcile(key: string, signal: AbortSignal): Promise<void> {
    const command = this.#options.commands.get(key);
    if (command === undefined || command.metadata.deletionTimestamp !== undefined || hasEnded(command)) {
      this.#begun.delete(key);
      return;
    }
    const begun = this.#begun.get(key);
    if (begun !== undefined && begun.uid === command.metadata.uid) await this.#finish(command, begun, signal);
    else await this.#begin(key, command, signal);
  }

  async #begin(key: string, command: ConsoleCommand, signal: AbortSignal): Promise<void> {
    const { world } = this.#options;
    const { status, metadata } = command;
    if (metadata.namespace !== world.releaseNamespace) {
      await this.#write(command, endedStatus(command, { end: 'ForeignNamespace', nowMs: world.clock.now() }), signal);
      return;
    }
    if (status?.phase === 'Running' && status.claimedBy !== world.identity) {
      await this.#interrupt(command, signal);
      return;
    }
    const invocation = this.#parse(command.spec.line);
    const isClaimed = !(invocation instanceof UsageFault) && invocation.command.changes;
    if (isClaimed && status?.phase !== 'Running') await this.#claim(command, signal);
    const begun: Begun = { uid: metadata.uid ?? '', isClaimed, isWritten: false };
    this.#begun.set(key, begun);
    begun.ended = await this.#run(command, invocation, signal);
    // What changed something is recorded before it is told: otherwise a crash in between would make `Interrupted` of what the client knows as done.
    if (!isClaimed && !signal.aborted) this.#answer(command, begun.ended);
    await this.#finish(command, begun, signal);
  }

  #parse(line: string): Invocation | UsageFault {
    try {
      return this.#options.registry.parse(line);
    } catch (error) {
      if (error instanceof UsageFault) return error;
      throw error;
    }
  }

  #answer({ metadata }: ConsoleCommand, status: ConsoleCommandStatus): void {
    const { name, uid = '', annotations = {} } = metadata;
    const address = annotations[answerToAnnotation];
    if (address !== undefined) this.#options.answers?.send(address, { name, uid, status });
  }

  /** Rejects with `Conflict` when another operator was faster, or the cache is behind: the next call sees which. */
  async #claim(command: ConsoleCommand, signal: AbortSignal): Promise<void> {
    const { clock, identity } = this.#options.world;
    const { resourceVersion } = command.metadata;
    const status = runningStatus(command, { claimedBy: identity, startedAtMs: clock.now() });
    await this.#apply(command, { status, ...(resourceVersion === undefined ? {} : { resourceVersion }) }, signal);
  }

  async #run(
    command: ConsoleCommand,
    invocation: Invocation | UsageFault,
    signal: AbortSignal,
  ): Promise<ConsoleCommandStatus> {
    const { world } = this.#options;
    const startedAtMs = world.clock.now();
    const run = new Run();
    const claim = { claimedBy: world.identity, startedAt: new Date(startedAtMs).toISOString() };
    if (invocation instanceof UsageFault) {
      const end = run.refuse(invocation);
      return endedStatus(command, { end, before: claim, run, nowMs: world.clock.now() });
    }
    const flusher = new Flusher({
      clock: world.clock,
      write: () => this.#flush(command, { claimedBy: world.identity, startedAtMs, run }, signal),
    });
    if (invocation.command.changes) {
      run.onOutput = () => {
        flusher.touch();
      };
    }
    let end: Outcome | 'Interrupted';
    try {
      end = await this.#execute(command, { invocation, run, signal });
    } catch (error) {
      this.#options.log.warn({ error: messageOf(error) }, 'A command was broken off');
      end = 'Interrupted';
    }
    await flusher.stop();
    return endedStatus(command, { end, before: claim, run, nowMs: world.clock.now() });
  }

  async #execute(
    command: ConsoleCommand,
    { invocation, run, signal }: { invocation: Invocation; run: Run; signal: AbortSignal },
  ): Promise<Outcome> {
    const { world, registry, log, timeoutMs = commandTimeoutMs } = this.#options;
    const noteChange = (object: KubernetesObject, what: string): void => {
      this.#recordEvent(command, object, what);
    };
    return await run.execute(invocation, { world, registry, log, timeoutMs, signal, noteChange });
  }

  #recordEvent({ metadata, spec }: ConsoleCommand, object: KubernetesObject, what: string): void {
    const { issuedBy } = spec;
    const who = issuedBy === undefined ? `ConsoleCommand "${metadata.name}"` : `${issuedBy.kind} "${issuedBy.name}"`;
    const note = `${who}: ${what}`;
    this.#options.events.record(object, { type: 'Normal', reason: 'CommandRun', action: 'RunCommand', note });
  }

  /** Another operator had it, and is gone. What it had printed stays; the cache does not keep output. */
  async #interrupt(command: ConsoleCommand, signal: AbortSignal): Promise<void> {
    const { client, clock } = this.#options.world;
    const { name, namespace = '', uid } = command.metadata;
    const present = await client.get(consoleCommands, { namespace, name }, signal);
    if (present?.metadata.uid !== uid || present === undefined || hasEnded(present)) return;
    const before = present.status ?? {};
    await this.#write(command, endedStatus(present, { end: 'Interrupted', before, nowMs: clock.now() }), signal);
  }

  async #finish(command: ConsoleCommand, begun: Begun, signal: AbortSignal): Promise<void> {
    if (begun.isWritten || begun.ended === undefined) return;
    if (begun.isClaimed || !(await this.#writeOnly(command, begun.ended, signal))) {
      await this.#write(command, begun.ended, signal);
    }
    begun.isWritten = true;
  }

  /**
   * The first and only status of a command: an update costs the server less than a patch. False: it has to be patched, because the cache is behind, an
   * answer was lost, or the release's rights are older.
   */
  async #writeOnly(command: ConsoleCommand, status: ConsoleCommandStatus, signal: AbortSignal): Promise<boolean> {
    try {
      await this.#options.world.client.updateStatus(consoleCommands, { ...command, status }, signal);
      return true;
    } catch (error) {
      if (error instanceof ApiError && error.code >= 400 && error.code < 500 && error.code !== 429) return false;
      throw error;
    }
  }

  async #flush(
    command: ConsoleCommand,
    running: { claimedBy: string; startedAtMs: number; run: Run },
    signal: AbortSignal,
  ): Promise<void> {
    try {
      await this.#apply(command, { status: runningStatus(command, running) }, signal);
    } catch (error) {
      // The last status has all of it.
      this.#options.log.debug({ error: messageOf(error) }, 'Output could not be flushed');
    }
  }

  /** A command that was deleted meanwhile needs no status any more. What the server refuses to store is said without its output. */
  async #write(command: ConsoleCommand, status: ConsoleCommandStatus, signal: AbortSignal): Promise<void> {
    try {
      await this.#apply(command, { status }, signal);
    } catch (error) {
      if (isReason(error, 'NotFound') || (isReason(error, 'Conflict') && status.phase !== 'Running')) return;
      if (!(error instanceof ApiError) || ![400, 413, 422].includes(error.code)) throw error;
      this.#options.log.error({ error: error.message }, 'The output of a command was refused');
      // In a merge patch null takes a field away.
      const rest = { ...status, output: ['The output cannot be stored'], truncated: true, result: null };
      await this.#apply(command, { status: rest }, signal);
    }
  }

  async #apply(
    { metadata }: ConsoleCommand,
    { status, resourceVersion }: { status: object; resourceVersion?: string },
    signal: AbortSignal,
  ): Promise<void> {
    const { name, namespace = '', uid = '' } = metadata;
    const precondition = resourceVersion === undefined ? { uid } : { uid, resourceVersion };
    // Nobody else writes it, so that there is nothing to merge by owners of fields.
    const patch = { metadata: precondition, status };
    await this.#options.world.client.mergePatchStatus(consoleCommands, { name, namespace }, patch, signal);
  }
}
