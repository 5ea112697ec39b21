/** `POST /api/instances/{id}/execute`: one line to a program's standard input. */
import type { IncomingMessage } from 'node:http';
import type { Socket } from 'node:net';
import type { Request, RequestHandler, Response } from 'express';
import { OperatorError } from '../errors.ts';
import type { Logger } from '../log.ts';
import type { Metrics } from '../metrics.ts';
import type { Client } from './access.ts';
import type { InstanceInfo } from './ports.ts';
import type { Refusal } from './refusal.ts';
import { badRequest } from './refusal.ts';
import type { Typist } from './typist.ts';

export interface ExecuteOptions {
  readonly typist: Typist;
  readonly metrics: Metrics;
  readonly log: Logger;
  /** The instance that the path names, or why there is none for this client. Never rejects. */
  find(request: Request, response: Response): Promise<Found | Refusal>;
  refuse(response: Response, refusal: Refusal): void;
}

interface Found {
  readonly info: InstanceInfo;
  readonly uid: string;
}

/** Bytes of a command, as UTF-8. */
export const commandBytesMax = 4096;
/** A command of that size in which JSON escapes every character, and some room for the rest. */
const bodyBytesMax = 6 * commandBytesMax + 1024;
/** C0 but tab, DEL and C1: a terminal would act on them. */
const controlPattern = /(?!\t)\p{Cc}/u;

const tooLarge: Refusal = {
  status: 413,
  error: `The body is too large: at most ${bodyBytesMax} bytes`,
  // The rest of the body is not waited for.
  headers: { Connection: 'close' },
};

/**
 * The handler. Commands of one connection are typed in the order of its requests, pipelined ones too: a body is waited for before the next
 * request's command may take its place in the queue.
 */
export function createExecute(options: ExecuteOptions): RequestHandler {
  const turns = new WeakMap<Socket, Promise<void>>();
  return async (request, response) => {
    const { socket } = request;
    const previous = turns.get(socket);
    const { promise: turn, resolve: pass } = Promise.withResolvers<undefined>();
    turns.set(socket, turn);
    let done: Promise<void>;
    try {
      const body = await readBody(request);
      await previous;
      // Before the turn passes: whoever has to be asked about must not be overtaken by who has not.
      const found = await options.find(request, response);
      done = execute(options, { found, response, body });
    } finally {
      pass(undefined);
    }
    await done;
  };
}

async function execute(
  options: ExecuteOptions,
  { found, response, body }: { found: Found | Refusal; response: Response; body: Buffer | Refusal },
): Promise<void> {
  const command = readCommand(body);
  if ('status' in found || typeof command !== 'string') {
    options.refuse(response, 'status' in found ? found : (command as Refusal));
    return;
  }
  const { info, uid } = found;
  const client = response.locals['client'] as Client | undefined;
  const abort = new AbortController();
  const onClose = (): void => {
    abort.abort(new Error('The client has gone'));
  };
  response.once('close', onClose);
  let result = 'ok';
  try {
    await options.typist.type(uid, command, abort.signal);
    response.json({ message: 'Command dispatched', instanceId: info.id, command });
  } catch (error) {
    result = error instanceof OperatorError ? error.code : abort.signal.aborted ? 'CANCELLED' : 'INTERNAL';
    // Nobody is left to be told.
    if (result !== 'CANCELLED') throw error;
  } finally {
    response.off('close', onClose);
    options.metrics.commandsTyped.inc({ runtime: info.runtime, result });
    // Never the text: people type passwords.
    options.log.info({ key: client?.name, instanceId: info.id, result }, 'Command to standard input');
  }
}

/** PURE: the command of a body, or what is wrong with it. */
export function readCommand(body: Buffer | Refusal): string | Refusal {
  if ('status' in body) return body;
  const value = parseJson(body);
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    return badRequest('Malformed body: it is a JSON object, {"command":"…"}');
  }
  const stray = Object.keys(value).find((name) => name !== 'command');
  if (stray !== undefined) return badRequest(`Unknown field "${stray.slice(0, 40)}" in the body: known is command`);
  const { command } = value as { command?: unknown };
  if (typeof command !== 'string') return badRequest('Malformed "command" in the body: it is a string');
  const fault = commandFault(command);
  return fault === undefined ? command : badRequest(`Malformed "command": ${fault}`);
}

/** PURE: what keeps a line from being typed; undefined if nothing does. The console's lines are held to the same. */
export function commandFault(command: string): string | undefined {
  const size = Buffer.byteLength(command);
  if (size === 0) return 'it is empty';
  if (size > commandBytesMax) return `it has ${size} bytes, more than ${commandBytesMax}`;
  if (!command.isWellFormed()) return 'it is not valid Unicode';
  const control = controlPattern.exec(command)?.[0];
  if (control === undefined) return undefined;
  if (control === '\n' || control === '\r') return 'it has a line break';
  return `it has the control character U+${control.charCodeAt(0).toString(16).toUpperCase().padStart(4, '0')}`;
}

function parseJson(body: Buffer): unknown {
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(body));
  } catch {
    // Not UTF-8 or not JSON: undefined is no object, and the caller says so.
    return undefined;
  }
}

async function readBody(request: IncomingMessage): Promise<Buffer | Refusal> {
  const chunks: Buffer[] = [];
  let size = 0;
  if (Number(request.headers['content-length'] ?? 0) > bodyBytesMax) return tooLarge;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > bodyBytesMax) return tooLarge;
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}
