/** What a command says when it cannot do what it was asked to. */
import { OperatorError } from '../../errors.ts';
import { ApiError } from '../../runtime/client.ts';

/** As an HTTP status would say it: the caller's input, something that is not there, something that is in the way. */
export type FaultCode = 400 | 404 | 409;

/** The command failed, and the message says why, to whoever gave it: one line, no internals. */
export class CommandFault extends Error {
  readonly code: FaultCode | undefined;

  constructor(message: string, code?: FaultCode) {
    super(message);
    this.name = 'CommandFault';
    this.code = code;
  }
}

/** The line was not understood. */
export class UsageFault extends Error {
  /** What can be written instead, one line each. */
  readonly usage: readonly string[];

  constructor(message: string, usage: readonly string[]) {
    super(message);
    this.name = 'UsageFault';
    this.usage = usage;
  }
}

/** PURE: an expected fault as one; undefined for everything else, which is a bug or the loss of the API server. */
export function toCommandFault(error: unknown): CommandFault | undefined {
  if (error instanceof CommandFault) return error;
  if (error instanceof OperatorError) return new CommandFault(error.message, error.status === 409 ? 409 : undefined);
  if (error instanceof ApiError)
    return new CommandFault(`Kubernetes refuses it: ${oneLine(error.message)}`, codeOf(error));
  return undefined;
}

/** PURE: without line breaks. */
export function oneLine(text: string): string {
  return text.replace(/\s*[\r\n]+\s*/g, ' ').trim();
}

function codeOf({ code }: ApiError): FaultCode | undefined {
  if (code === 422) return 400;
  return code === 400 || code === 404 || code === 409 ? code : undefined;
}
