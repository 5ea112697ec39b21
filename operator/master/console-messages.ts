/** The two subprotocols of the console: from a client's text frame to commands, and from what happens to text frames. Pure. */
import type { CommandEnd } from './dispatch.ts';

/** The plain frames under a name, for browsers: they need a subprotocol beside the one that carries the token. */
export const plainConsoleProtocol = 'ringmaster.console.v1';
export const jsonConsoleProtocol = 'ringmaster.console.v1+json';

export const consoleRoute = '/api/console';

/** Characters of the id that a client gives a command. */
const idCharactersMax = 128;

export type ConsoleMessage =
  | { readonly type: 'command'; readonly id: string; readonly line: string }
  /** No command can be made out. */
  | { readonly type: 'fault'; readonly error: string };

export interface ConsoleCodec {
  read(text: string): readonly ConsoleMessage[];
  output(id: string, lines: readonly string[]): readonly string[];
  done(id: string, end: Pick<CommandEnd, 'exitCode' | 'reason'>): readonly string[];
  fault(error: string): readonly string[];
}

export function codecOf(protocol: string | undefined): ConsoleCodec {
  return protocol === jsonConsoleProtocol ? jsonCodec : plainCodec;
}

/** The first offered protocol that exists here; undefined: none, and the answer names none (RFC 6455, 4.2.2). */
export function chooseConsoleProtocol(offered: readonly string[]): string | undefined {
  return offered.find((name) => name === jsonConsoleProtocol || name === plainConsoleProtocol);
}

/** Several lines in a frame are several commands; blank ones are none. */
const plainCodec: ConsoleCodec = {
  read: (text) =>
    text
      .split(/\r\n|\n|\r/)
      .filter((line) => line.trim() !== '')
      .map((line) => ({ type: 'command', id: '', line })),
  output: (_id, lines) => lines,
  done: () => [],
  fault: (error) => [error],
};

/** One frame is one command, and every one of them ends with a `done`, whatever comes of it. */
const jsonCodec: ConsoleCodec = {
  read: (text) => [readJson(text)],
  output: (id, lines) => lines.map((line) => JSON.stringify({ id, type: 'output', line })),
  // JSON leaves out what is undefined.
  done: (id, { exitCode, reason }) => [JSON.stringify({ id, type: 'done', exitCode, reason })],
  fault: (error) => [JSON.stringify({ type: 'error', error })],
};

const shape = 'it is an object, {"id":"1","line":"instance list"}';

function readJson(text: string): ConsoleMessage {
  const value = parse(text);
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return fault(shape);
  const { id, line } = value as { id?: unknown; line?: unknown };
  if (typeof id !== 'string' || id.length > idCharactersMax || !id.isWellFormed()) {
    return fault(`"id" is a string of at most ${idCharactersMax} characters`);
  }
  if (typeof line !== 'string') return fault('"line" is a string');
  return { type: 'command', id, line };
}

function fault(why: string): ConsoleMessage {
  return { type: 'fault', error: `Malformed message: ${why}` };
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    // Undefined is no object, and the caller says so.
    return undefined;
  }
}
