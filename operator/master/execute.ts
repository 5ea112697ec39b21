/** `POST /api/instances/{id}/execute`: one line to a program's standard input. */
import type { Socket } from 'node:net';
import type { Request, RequestHandler, Response } from 'express';
import { OperatorError } from '../errors.ts';
import type { Logger } from '../log.ts';
import type { Metrics } from '../metrics.ts';
import type { Client } from './access.ts';
import { signalOfClient } from './gone.ts';
import { parseBody, readBody } from './jsonbody.ts';
import type { InstanceInfo } from './ports.ts';
import type { Refusal } from './refusal.ts';
import { commandBytesMax, executeBody } from './schemas.ts';
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

/** A command of that size in which JSON escapes every character, and some room for the rest. */
const bodyBytesMax = 6 * commandBytesMax + 1024;

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
      const body = await readBody(request, bodyBytesMax);
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
  const { signal, release } = signalOfClient(response);
  let result = 'ok';
  try {
    await options.typist.type(uid, command, signal);
    response.json({ message: 'Command dispatched', instanceId: info.id, command });
  } catch (error) {
    result = error instanceof OperatorError ? error.code : signal.aborted ? 'CANCELLED' : 'INTERNAL';
    // Nobody is left to be told.
    if (result !== 'CANCELLED') throw error;
  } finally {
    release();
    options.metrics.commandsTyped.inc({ runtime: info.runtime, result });
    // Never the text: people type passwords.
    options.log.info({ key: client?.name, instanceId: info.id, result }, 'Command to standard input');
  }
}

/** PURE: the command of a body, or what is wrong with it. */
export function readCommand(body: Buffer | Refusal): string | Refusal {
  const parsed = parseBody(body, executeBody, '{"command":"…"}');
  return 'status' in parsed ? parsed : parsed.value.command;
}
