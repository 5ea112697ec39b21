/** `POST /api/commands/execute`: one line of the console, and its end as the answer. */
import type { RequestHandler, Response } from 'express';
import type { Client } from './access.ts';
import { signalOfClient } from './gone.ts';
import { parseBody, readBody } from './jsonbody.ts';
import type { LineRunner } from './commandline.ts';
import { commandRight, lineBytesMax, lineFault } from './commandline.ts';
import type { CommandEnd } from './dispatch.ts';
import type { Refusal } from './refusal.ts';
import { badRequest, unauthorized, unavailable } from './refusal.ts';
import { consoleBody } from './schemas.ts';

export interface CommandsOptions {
  readonly runner: LineRunner;
  /** The release namespace. */
  readonly releaseNamespace: string;
  refuse(response: Response, refusal: Refusal): void;
}

/** A line of that size in which JSON escapes every character, and some room for the rest. */
const bodyBytesMax = 6 * lineBytesMax + 1024;
const retryAfterSeconds = 5;

/** The handler. A client that closes its connection takes a command back that no operator has yet. */
export function createCommands(options: CommandsOptions): RequestHandler {
  return async (request, response) => {
    const command = readCommand(await readBody(request, bodyBytesMax));
    const client = response.locals['client'] as Client | undefined;
    const refusal =
      client === undefined ? unauthorized : await client.refusalFor(commandRight(options.releaseNamespace));
    if (client === undefined || refusal !== undefined) options.refuse(response, refusal ?? unauthorized);
    else if (typeof command !== 'string') options.refuse(response, command);
    else await execute(options, response, { command, client: client.name });
  };
}

async function execute(
  options: CommandsOptions,
  response: Response,
  { command, client }: { command: string; client: string },
): Promise<void> {
  const { signal, release } = signalOfClient(response);
  const output: string[] = [];
  const onOutput = (lines: readonly string[]): void => {
    for (const line of lines) output.push(line);
  };
  try {
    const end = await options.runner.run({ line: command, client, onOutput }, signal);
    const refusal = refusalOfEnd(end, output);
    if (refusal === undefined) {
      response.json({ command, output: output.join('\n'), exitCode: end.exitCode, reason: end.reason });
    } else options.refuse(response, refusal);
  } catch (error) {
    // Nobody is left to be told.
    if (!signal.aborted) throw error;
  } finally {
    release();
  }
}

/** Only where it is certain that nothing ran is it an error of the call; every other end is an answer that says what is known. */
function refusalOfEnd({ reason }: CommandEnd, output: readonly string[]): Refusal | undefined {
  return reason === 'Unavailable' ? unavailable(output.at(-1) ?? reason, retryAfterSeconds) : undefined;
}

/** PURE: the command of a body, or what is wrong with it. */
function readCommand(body: Buffer | Refusal): string | Refusal {
  const parsed = parseBody(body, consoleBody, '{"command":"…"}');
  if ('status' in parsed) return parsed;
  const { command } = parsed.value;
  const fault = command.trim() === '' ? 'it is empty' : lineFault(command);
  if (fault !== undefined) return badRequest(`Malformed "command": ${fault}`);
  return command.trim() === 'exit' ? badRequest('Malformed "command": exit is for console sessions') : command;
}
