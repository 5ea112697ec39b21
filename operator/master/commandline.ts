/**
 * A command line of a client, whichever way it came: dispatched, with what the Master adds to it.
 *
 * `key create` is the one command of which the Master does a part. It makes the token, sends only its hash, and tells the token once, to the client
 * that asked, after the key exists. The token is never part of a line, of a record or of the log.
 */
import { randomBytes } from 'node:crypto';
import type { Logger } from '../log.ts';
import { fingerprintOf } from './auth.ts';
import type { BrokenEnd, CommandEnd, CommandRequest, Dispatcher } from './dispatch.ts';
import { commandFault } from './schemas.ts';
import type { Right } from './reviews.ts';

/** A command line in UTF-8. */
export const lineBytesMax = 65_536;

export interface LineRequest {
  readonly line: string;
  /** Name of the client, as `Access` gives it. */
  readonly client: string;
  readonly session?: string;
  /** Each piece of output, once and in order, as it is produced; what is to be said of the end is its last piece. */
  onOutput(lines: readonly string[]): void;
}

export interface LineRunner {
  /** As `Dispatcher.run`. The line is one for which `lineFault` finds nothing. */
  run(request: LineRequest, signal: AbortSignal): Promise<CommandEnd>;
}

/** What a Kubernetes user needs for it. */
export function commandRight(namespace: string): Right {
  return { verb: 'create', resource: 'consolecommands', target: { namespace } };
}

/** PURE: what keeps a line from being run; undefined if nothing does. */
export function lineFault(line: string): string | undefined {
  return commandFault(line, lineBytesMax);
}

export function createLineRunner(options: { dispatcher: Dispatcher; log: Logger }): LineRunner {
  return {
    async run(request, signal) {
      const startedAtMs = performance.now();
      let outcome: Partial<CommandEnd> & { fault?: string } = {};
      try {
        const end = await dispatch(options.dispatcher, request, signal);
        outcome = { exitCode: end.exitCode, ...(end.reason === undefined ? {} : { reason: end.reason }) };
        return end;
      } catch (error) {
        outcome = { fault: signal.aborted ? 'the client has gone' : String(error) };
        throw error;
      } finally {
        const { client: key, line, session } = request;
        const ms = Math.round(performance.now() - startedAtMs);
        options.log.info({ key, session, command: commandName(line), ...outcome, ms }, 'Console command');
      }
    },
  };
}

async function dispatch(dispatcher: Dispatcher, request: LineRequest, signal: AbortSignal): Promise<CommandEnd> {
  const { client, line, session } = request;
  const token = isKeyCreation(line) ? createToken() : undefined;
  const given: CommandRequest = {
    line: token === undefined ? line : `${line} --token-sha256=${fingerprintOf(token)}`,
    issuedBy: issuerOf(client),
    ...(session === undefined ? {} : { session }),
    onOutput: (lines) => {
      request.onOutput(lines);
    },
  };
  const end = await dispatcher.run(given, signal);
  const notes = [
    ...(end.isTruncated ? ['[ringmaster] the output was longer than is kept: the rest was dropped'] : []),
    ...(end.reason === undefined ? [] : [brokenNotes[end.reason]]),
    ...(token === undefined || end.exitCode !== 0 ? [] : [`Token (shown only now, stored nowhere): ${token}`]),
  ];
  if (notes.length > 0) request.onOutput(notes);
  return end;
}

const brokenNotes: Readonly<Record<BrokenEnd, string>> = {
  Interrupted:
    'Interrupted: the operator that ran this command was lost. It may have run in part; it is not run again.',
  Unavailable: 'Unavailable: no operator took this command in time. It was withdrawn and did not run.',
  Deleted: 'Deleted: somebody deleted this command before its end was seen. Whether it ran is unknown.',
  Unknown: 'Unknown: the cluster does not answer. Whether this command runs, or ran, is unknown.',
};

/** What of a line may be logged: its first two words, and no long ones, because what follows and what is mistyped may be a secret. */
export function commandName(line: string): string {
  const words = line.trim().split(/\s+/, 2);
  return words.map((word) => (/^[a-z-]{1,20}$/i.test(word) ? word : '?')).join(' ');
}

/** A line that brings a hash of its own needs no token. */
function isKeyCreation(line: string): boolean {
  return /^\s*keys?\s+create(?:\s|$)/.test(line) && !line.includes('--token-sha256');
}

/** 256 bits. The prefix lets scanners find one that was published by mistake. */
function createToken(): string {
  return `rm_${randomBytes(32).toString('base64url')}`;
}

const userPrefix = 'user:';
/** What the resource takes. */
const issuerCharactersMax = 512;

/** PURE: who gives the command, as its record says. No ApiKey has a colon in its name. */
export function issuerOf(client: string): CommandRequest['issuedBy'] {
  if (!client.startsWith(userPrefix)) return { kind: 'ApiKey', name: client };
  return { kind: 'User', name: client.slice(userPrefix.length, userPrefix.length + issuerCharactersMax) };
}
