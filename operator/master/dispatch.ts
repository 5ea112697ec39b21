/** A command line on its way through the operator's loop. */
import type { ConsoleCommandSpec } from '../api/v1alpha1/consolecommand.ts';

export interface CommandRequest {
  readonly line: string;
  readonly session?: string;
  readonly issuedBy: NonNullable<ConsoleCommandSpec['issuedBy']>;
  /** Each piece of output, once and in order, as it is produced. */
  onOutput(lines: readonly string[]): void;
}

/**
 * Why an end is none that the command came to by itself.
 * - `Interrupted`: the operator that ran it was lost; it may have run in part.
 * - `Unavailable`: no operator took it in time, and it was withdrawn: it did not run.
 * - `Deleted`: somebody deleted it before its end was seen; whether it ran is unknown.
 * - `Unknown`: the cluster does not answer; whether it runs or ran is unknown.
 */
export const brokenEnds = ['Interrupted', 'Unavailable', 'Deleted', 'Unknown'] as const;
export type BrokenEnd = (typeof brokenEnds)[number];

export interface CommandEnd {
  /** 0: done. 1: it failed, or nobody knows whether it ran to its end (`reason`). 2: the line was not understood. */
  readonly exitCode: number;
  /** Absent where the command came to its end, whichever. */
  readonly reason?: BrokenEnd;
  readonly isTruncated: boolean;
  /** What the command did, for programs. */
  readonly result?: Readonly<Record<string, unknown>>;
}

export interface Dispatcher {
  /**
   * Resolves when the command has ended; rejects with an `OperatorError` when it could not be given to the cluster, in which case it did not run,
   * and with the signal's reason when that aborts: a command that was not taken yet is then withdrawn, one that was runs on unheard.
   */
  run(request: CommandRequest, signal: AbortSignal): Promise<CommandEnd>;
}
