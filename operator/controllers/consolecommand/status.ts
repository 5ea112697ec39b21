/** The status of a ConsoleCommand at each of its stations. Pure. */
import type { ConsoleCommand, ConsoleCommandStatus } from '../../api/v1alpha1/consolecommand.ts';
import { makeCondition } from '../../api/v1alpha1/meta.ts';
import type { Reason } from '../../names.ts';
import type { Run } from './run.ts';

/** How a command can end. */
export type End = Extract<
  Reason,
  'Completed' | 'CommandFailed' | 'UnknownCommand' | 'Interrupted' | 'ForeignNamespace'
>;

const sentences: Readonly<Record<End, string>> = {
  Completed: 'The command did what it says.',
  CommandFailed: 'The command failed: its output says why.',
  UnknownCommand: 'The line was not understood: the output says what can be written.',
  Interrupted:
    'The operator that ran the command was lost: it may have been done, in part or whole. It is not run again.',
  ForeignNamespace: 'Commands count only in the namespace of the release: create it there.',
};

const exitCodes: Readonly<Record<End, number>> = {
  Completed: 0,
  CommandFailed: 1,
  UnknownCommand: 2,
  Interrupted: 1,
  ForeignNamespace: 1,
};

export function hasEnded({ status }: ConsoleCommand): boolean {
  return status?.phase === 'Succeeded' || status?.phase === 'Failed';
}

/**
 * Taken, and perhaps acting. `startedAtMs` stays the same over the statuses of a run. Without a run it is the claim, which says so to whoever waits by
 * conditions; what follows is merged into it.
 */
export function runningStatus(
  { metadata, status }: ConsoleCommand,
  { claimedBy, startedAtMs, run }: { claimedBy: string; startedAtMs: number; run?: Run },
): ConsoleCommandStatus {
  const context = { before: status?.conditions, generation: metadata.generation, nowMs: startedAtMs };
  const said = { reason: 'CommandRunning', message: 'The command was taken and has not ended.' } as const;
  const conditions = [
    makeCondition({ type: 'Ready', ...said, holds: false }, context),
    makeCondition({ type: 'Reconciling', ...said, holds: true }, context),
  ];
  return {
    phase: 'Running',
    claimedBy,
    startedAt: new Date(startedAtMs).toISOString(),
    ...(run === undefined ? { conditions } : outputOf(run)),
    ...(metadata.generation === undefined ? {} : { observedGeneration: metadata.generation }),
  };
}

/** `before` is what it already says: its claim, its start, and what it printed, where there is no run. */
export function endedStatus(
  { metadata, status }: ConsoleCommand,
  { end, before = {}, run, nowMs }: { end: End; before?: ConsoleCommandStatus; run?: Run; nowMs: number },
): ConsoleCommandStatus {
  const { generation } = metadata;
  const context = { before: status?.conditions, generation, nowMs };
  const holds = end === 'Completed';
  const said = { reason: end, message: sentences[end] };
  return {
    ...before,
    ...(run === undefined ? {} : outputOf(run)),
    phase: holds ? 'Succeeded' : 'Failed',
    finishedAt: new Date(nowMs).toISOString(),
    exitCode: exitCodes[end],
    ...(generation === undefined ? {} : { observedGeneration: generation }),
    conditions: [
      makeCondition({ type: 'Ready', ...said, holds }, context),
      makeCondition({ type: 'Stalled', ...said, holds: !holds }, context),
    ],
  };
}

function outputOf({ output, result }: Run): Pick<ConsoleCommandStatus, 'output' | 'truncated' | 'result'> {
  return {
    output: output.pieces(),
    ...(output.isTruncated ? { truncated: true } : {}),
    ...(result === undefined ? {} : { result: { ...result } }),
  };
}
