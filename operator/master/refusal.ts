/**
 * An HTTP answer written straight to a connection that has no `ServerResponse`: a refused upgrade, or bytes that were no HTTP at all. The
 * answer is whole (JSON body, exact length, `Connection: close`) and the connection ends after it.
 */
import { STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';
import type { OperatorError } from '../errors.ts';

export interface Refusal {
  readonly status: number;
  /** What the client is told; no internals. */
  readonly error: string;
  readonly headers?: Readonly<Record<string, string>>;
}

/** How long, and for how much input, a refused client may go on sending before the connection is cut. */
const lingerMs = 2_000;
const lingerBytesMax = 64 * 1024;

export const unauthorized: Refusal = {
  status: 401,
  error: 'Unauthorized',
  headers: { 'WWW-Authenticate': 'Bearer' },
};

export const instanceNotFound: Refusal = { status: 404, error: 'Instance not found' };

/** Says when to come back, so that refused clients do not hammer. */
export function unavailable(error: string, retryAfterSeconds: number): Refusal {
  return { status: 503, error, headers: { 'Retry-After': retryAfterSeconds.toString() } };
}

export function badRequest(error: string): Refusal {
  return { status: 400, error };
}

/** The answer to an expected fault. */
export function refusalOf(error: OperatorError): Refusal {
  if (error.status === 401) return unauthorized;
  if (error.status === 503) return unavailable(error.message, 1);
  return { status: error.status, error: error.message };
}

/** Writes the answer and ends the connection. Never throws; later errors of the socket are swallowed, there is nobody to tell. */
export function sendRefusal(socket: Socket, refusal: Refusal): void {
  socket.on('error', ignoreError);
  if (!socket.writable) {
    socket.destroy();
    return;
  }
  socket.end(toResponse(refusal));
  linger(socket);
}

/**
 * Reads on for a moment. A connection that is closed while input waits unread is reset, and a reset may overtake our answer: the client
 * would see a broken connection instead of the reason.
 */
function linger(socket: Socket): void {
  let ignoredBytes = 0;
  const timer = setTimeout(() => {
    socket.destroy();
  }, lingerMs);
  timer.unref();
  socket.on('data', (data: Buffer) => {
    ignoredBytes += data.length;
    if (ignoredBytes > lingerBytesMax) socket.destroy();
  });
  socket.once('end', () => {
    socket.destroySoon();
  });
  socket.once('close', () => {
    clearTimeout(timer);
  });
  socket.resume();
}

function toResponse(refusal: Refusal): string {
  const body = JSON.stringify({ error: refusal.error });
  const headers = {
    Date: new Date().toUTCString(),
    'Content-Type': 'application/json; charset=utf-8',
    'Content-Length': Buffer.byteLength(body).toString(),
    'Cache-Control': 'no-store',
    'X-Content-Type-Options': 'nosniff',
    Connection: 'close',
    ...refusal.headers,
  };
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
  return `HTTP/1.1 ${refusal.status} ${STATUS_CODES[refusal.status] ?? 'Error'}\r\n${lines.join('')}\r\n${body}`;
}

/** The peer went away while it was being refused. */
function ignoreError(): void {
  // Node destroys the socket after an error by itself.
}
