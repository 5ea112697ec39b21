/**
 * The Master's port with TLS on it.
 *
 *   connection -> first byte -> plain HTTP? -> a 400 that says so
 *                            -> handshake (bounded in time) -> the same HTTP server as without TLS
 *
 * A new certificate counts for handshakes from then on. A connection that is open has finished its own and keeps it.
 */
import { constants } from 'node:crypto';
import type { RequestListener, Server, ServerOptions } from 'node:http';
import { createServer } from 'node:https';
import type { Socket } from 'node:net';
import type { SecureContextOptions } from 'node:tls';
import type { TlsMetrics } from '../metrics.ts';
import type { Certificate, CertificateSource } from './certificate.ts';
import type { Limits } from './ports.ts';
import { badRequest, sendRefusal } from './refusal.ts';

export interface TlsServerOptions {
  readonly certificate: CertificateSource;
  /** Options of Node's HTTP server. */
  readonly http: ServerOptions;
  readonly limits: Limits;
  readonly metrics: TlsMetrics;
}

/** Why a handshake did not come to its end; a label. */
type HandshakeFault = 'plain-http' | 'timeout' | 'closed' | 'refused';

const plainHttp = badRequest('Plain HTTP on a port that speaks TLS: use https:// or wss://');
const handshakeFaults: Readonly<Record<string, HandshakeFault>> = {
  ERR_TLS_HANDSHAKE_TIMEOUT: 'timeout',
  ECONNRESET: 'closed',
};

export function createTlsServer(app: RequestListener, options: TlsServerOptions): Server {
  const { certificate, http, limits, metrics } = options;
  const server = createServer(
    { ...http, ...contextOptions(certificate.current), handshakeTimeout: limits.handshakeTimeoutMs },
    app,
  );
  const stopListening = certificate.onChange((next) => {
    server.setSecureContext(contextOptions(next));
  });
  server.once('close', stopListening);
  // Before the HTTP server's own listener, which would answer in HTTP to somebody who does not understand us.
  server.prependListener('tlsClientError', (error: NodeJS.ErrnoException, socket) => {
    metrics.handshakesFailed.inc({ cause: handshakeFaults[error.code ?? ''] ?? 'refused' });
    socket.destroy();
  });
  refusePlainHttp(server, options);
  return server;
}

function contextOptions({ cert, key }: Certificate): SecureContextOptions {
  // Renegotiation, which only TLS 1.2 has, makes us work for a stranger before there is a token.
  return { cert, key, minVersion: 'TLSv1.2', secureOptions: constants.SSL_OP_NO_RENEGOTIATION };
}

/** Node's TLS server closes what is no TLS without a word. Whoever forgot the "s" is told, as other servers do. */
function refusePlainHttp(server: Server, { limits, metrics }: TlsServerOptions): void {
  const listeners = server.listeners('connection') as ((this: Server, socket: Socket) => void)[];
  server.removeAllListeners('connection');
  server.on('connection', (socket: Socket) => {
    peek(socket, limits.handshakeTimeoutMs, (first) => {
      if (isLetter(first)) {
        metrics.handshakesFailed.inc({ cause: 'plain-http' });
        sendRefusal(socket, plainHttp);
      } else for (const listener of listeners) listener.call(server, socket);
    });
  });
}

/** Calls with the first byte, which stays in the socket. A socket that sends none is destroyed. */
function peek(socket: Socket, timeoutMs: number, use: (byte: number) => void): void {
  const give = (): void => {
    socket.destroy();
  };
  const look = (): void => {
    const bytes = socket.read() as Buffer | null;
    const [first] = bytes ?? [];
    if (bytes === null || first === undefined) return;
    socket.off('readable', look).off('end', give).off('timeout', give).setTimeout(0);
    socket.unshift(bytes);
    use(first);
  };
  socket.on('error', give).on('readable', look).on('end', give).on('timeout', give).setTimeout(timeoutMs);
}

/** Every HTTP method begins with one; no TLS record does. */
function isLetter(byte: number): boolean {
  return byte >= 0x41 && byte <= 0x5a;
}
