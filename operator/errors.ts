/**
 * Every error code that crosses a boundary inside: what a client gets for it before the upgrade (HTTP status) and after it (WebSocket close
 * code). Callers branch on `code`, never on the message. What the Master refuses by itself is in master/refusal.ts.
 */
export const errorCodes = {
  /** A cursor that is malformed, or that belongs to another instance. */
  CURSOR_INVALID: { status: 400, closeCode: 1008 },
  /** The log source cannot be read now; retried. */
  LOG_SOURCE_UNAVAILABLE: { status: 503, closeCode: 1013 },
  /** No program runs that could read standard input. */
  NOT_RUNNING: { status: 409, closeCode: 1013 },
  /** Too many lines wait for the same program's standard input; nothing was typed. */
  STDIN_OVERLOADED: { status: 503, closeCode: 1013 },
  /** The program's standard input cannot be reached now; nothing was typed. */
  STDIN_UNAVAILABLE: { status: 503, closeCode: 1013 },
  /** The program does not read its standard input, which is full. */
  STDIN_FULL: { status: 504, closeCode: 1013 },
  /** The connection to standard input broke: whether the line was typed is unknown, so it is not sent again. */
  STDIN_UNCERTAIN: { status: 502, closeCode: 1013 },
  /** The Kubernetes API does not take the command, or too many are under way here; it did not run. */
  COMMAND_UNAVAILABLE: { status: 503, closeCode: 1013 },
  /** The Kubernetes API refuses the command as it is, such as one that is too long; it did not run. */
  COMMAND_REFUSED: { status: 400, closeCode: 1008 },
  INTERNAL: { status: 500, closeCode: 1011 },
} as const satisfies Record<string, { status: number; closeCode: number }>;

export type ErrorCode = keyof typeof errorCodes;

/** An expected fault. The message says what could not be done, then why; it may be shown to a client, so it holds no internals. */
export class OperatorError extends Error {
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.name = 'OperatorError';
    this.code = code;
  }

  get status(): number {
    return errorCodes[this.code].status;
  }

  get closeCode(): number {
    return errorCodes[this.code].closeCode;
  }
}

/** A fault that trying again cannot mend: ends the retry and becomes a condition. */
export class TerminalError extends Error {
  readonly reason: string;

  constructor(reason: string, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.name = 'TerminalError';
    this.reason = reason;
  }
}

/** The text of whatever was thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
