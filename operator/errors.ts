/**
 * Every error code of the project: what a client gets for it before the upgrade (HTTP status) and after it (WebSocket close code).
 * Codes are API: callers branch on `code`, never on the message; a code is never renamed.
 */
export const errorCodes = {
  /** No token, or one that is malformed, unknown, expired, revoked or not permitted. */
  UNAUTHORIZED: { status: 401, closeCode: 1008 },
  /** A malformed id, query or body. */
  BAD_REQUEST: { status: 400, closeCode: 1008 },
  /** A cursor that is malformed, or that belongs to another instance. */
  CURSOR_INVALID: { status: 400, closeCode: 1008 },
  NOT_FOUND: { status: 404, closeCode: 1011 },
  INSTANCE_NOT_FOUND: { status: 404, closeCode: 1000 },
  INSTANCE_NOT_RUNNING: { status: 409, closeCode: 1011 },
  METHOD_NOT_ALLOWED: { status: 405, closeCode: 1011 },
  RATE_LIMITED: { status: 429, closeCode: 1013 },
  /** Too many sockets, or this replica is draining. */
  OVERLOADED: { status: 503, closeCode: 1013 },
  DRAINING: { status: 503, closeCode: 1001 },
  FRAME_TOO_BIG: { status: 413, closeCode: 1009 },
  /** The log source cannot be read now; retried. */
  LOG_SOURCE_UNAVAILABLE: { status: 503, closeCode: 1013 },
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
