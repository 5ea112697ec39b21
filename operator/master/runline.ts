/** Calls that change something are command lines of the console, run by the operator's loop: how they are written, and what their end is over HTTP. */
import type { Response } from 'express';
import type { Client } from './access.ts';
import { issuerOf, lineBytesMax } from './commandline.ts';
import type { CommandEnd, Dispatcher } from './dispatch.ts';
import type { Refusal } from './refusal.ts';
import { badRequest, unavailable } from './refusal.ts';

/** What a command did, for programs; empty where it says nothing. */
export type CommandResult = Readonly<Record<string, unknown>>;

/** Faults that a command may name in `result.code`, and that are the caller's. Others are ours. */
const callerFaults: readonly unknown[] = [400, 404, 409];

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
  dispatcher: Dispatcher,
  { line, client, response }: { line: string; client: Client; response: Response },
): Promise<{ readonly result: CommandResult } | Refusal> {
  if (Buffer.byteLength(line) > lineBytesMax) {
    return { status: 413, error: `The command is too large: its line has more than ${lineBytesMax} bytes` };
  }
  const abort = new AbortController();
  const onClose = (): void => {
    abort.abort(new Error('The client has gone'));
  };
  response.once('close', onClose);
  let first: string | undefined;
  let last: string | undefined;
  try {
    const onOutput = (lines: readonly string[]): void => {
      const said = lines.filter((text) => text.trim() !== '');
      first ??= said[0];
      last = said.at(-1) ?? last;
    };
    const end = await dispatcher.run({ line, issuedBy: issuerOf(client.name), onOutput }, abort.signal);
    return refusalOfEnd(end, { first, last }) ?? { result: end.result ?? {} };
  } finally {
    response.off('close', onClose);
  }
}

/** PURE: undefined if the command did what it says. Of a line that was not understood the first line of output says why, the rest is usage. */
export function refusalOfEnd(
  end: CommandEnd,
  { first, last }: { first: string | undefined; last: string | undefined },
): Refusal | undefined {
  if (end.exitCode === 0) return undefined;
  if (end.reason === 'Unavailable') {
    return unavailable(last ?? 'No operator takes commands now: nothing was changed', 1);
  }
  if (end.reason === 'Interrupted') {
    return {
      status: 500,
      error:
        'The operator was lost while it ran the command: it may or may not have been done. Look before you repeat it',
    };
  }
  if (end.exitCode === 2) return badRequest(first ?? 'The command was not understood');
  const code = end.result?.['code'];
  const status = callerFaults.includes(code) ? (code as number) : 500;
  return { status, error: last ?? 'The command failed' };
}
