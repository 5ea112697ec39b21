/** Calls that change something are command lines of the console, run by the operator's loop: how they are written, and what their end is over HTTP. */
import type { Response } from 'express';
import type { Client } from './access.ts';
import type { LineRunner } from './commandline.ts';
import { lineBytesMax } from './commandline.ts';
import type { BrokenEnd, CommandEnd } from './dispatch.ts';
import { signalOfClient } from './gone.ts';
import type { Refusal } from './refusal.ts';
import { badRequest, unavailable } from './refusal.ts';

/** What a command did, for programs; empty where it says nothing. */
export type CommandResult = Readonly<Record<string, unknown>>;

/** Faults that a command may name in `result.code`, and that are the caller's. Others are ours. */
const callerFaults: readonly unknown[] = [400, 404, 409];

/** What the console says of these is for people who see the output; a call says what its client may do now. */
const brokenEnds: Readonly<Record<BrokenEnd, Refusal>> = {
  Unavailable: unavailable('No operator takes commands now: nothing was changed', 1),
  Interrupted: unknownOutcome('The operator was lost while it ran the command'),
  Deleted: unknownOutcome('The command was deleted before its end was seen'),
  Unknown: unknownOutcome('The cluster does not answer'),
};

function unknownOutcome(what: string): Refusal {
  return { status: 500, error: `${what}: it may or may not have been done. Look before you repeat it` };
}

/** PURE: one word of a command line, exactly, whatever it holds: in single quotes, and `'` as `'\''`, as POSIX shells have it. */
export function quoteWord(word: string): string {
  return /^[-\w./:=]+$/.test(word) ? word : `'${word.replaceAll("'", String.raw`'\''`)}'`;
}

/** PURE: a command line of these words. */
export function toLine(words: readonly string[]): string {
  return words.map(quoteWord).join(' ');
}

/**
 * Runs a line as this client and waits for its end. A client that goes takes it back if nobody has begun with it. Rejects with an `OperatorError` when it
 * could not be given to the cluster.
 */
export async function runLine(
  runner: LineRunner,
  { line, client, response }: { line: string; client: Client; response: Response },
): Promise<{ readonly result: CommandResult } | Refusal> {
  if (Buffer.byteLength(line) > lineBytesMax) {
    return { status: 413, error: `The command is too large: its line has more than ${lineBytesMax} bytes` };
  }
  const { signal, release } = signalOfClient(response);
  let first: string | undefined;
  let last: string | undefined;
  try {
    const onOutput = (lines: readonly string[]): void => {
      const said = lines.filter((text) => text.trim() !== '');
      first ??= said[0];
      last = said.at(-1) ?? last;
    };
    const end = await runner.run({ line, client: client.name, onOutput }, signal);
    return refusalOfEnd(end, { first, last }) ?? { result: end.result ?? {} };
  } finally {
    release();
  }
}

/** PURE: undefined if the command did what it says. Of a line that was not understood the first line of output says why, the rest is usage. */
export function refusalOfEnd(
  end: CommandEnd,
  { first, last }: { first: string | undefined; last: string | undefined },
): Refusal | undefined {
  if (end.exitCode === 0) return undefined;
  if (end.reason !== undefined) return brokenEnds[end.reason];
  if (end.exitCode === 2) return badRequest(first ?? 'The command was not understood');
  const code = end.result?.['code'];
  const status = callerFaults.includes(code) ? (code as number) : 500;
  return { status, error: last ?? 'The command failed' };
}
