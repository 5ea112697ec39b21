/** A command line on its way through the operator's loop. */
import type { ConsoleCommandSpec } from '../api/v1alpha1/consolecommand.ts';

export interface CommandRequest {
  readonly line: string;
  readonly session?: string;
  readonly issuedBy: NonNullable<ConsoleCommandSpec['issuedBy']>;
  /** Each piece of output, once and in order, as it is produced. */
  onOutput(lines: readonly string[]): void;
}

export interface CommandEnd {
  /** 0: done. 1: it failed, or nobody knows whether it ran to its end (`reason`). 2: the line was not understood. */
  readonly exitCode: number;
  /** `Interrupted`: the operator that ran it was lost. `Unavailable`: no operator took it in time, and it was withdrawn: it did not run. */
  readonly reason?: string;
  readonly isTruncated: boolean;
  /** What the command did, for programs. */
  readonly result?: Readonly<Record<string, unknown>>;
}

export interface Dispatcher {
  /** Resolves when the command has ended; rejects with an `OperatorError` when it could not be given to the cluster, in which case it did not run. */
  run(request: CommandRequest, signal: AbortSignal): Promise<CommandEnd>;
}
