/** One request to a sidecar, as far as the headers of its answer: HTTP over TLS with a pre-shared key. */
import { request as httpsRequest } from 'node:https';
import type { Agent, RequestOptions } from 'node:https';
import type { ClientRequest, IncomingMessage } from 'node:http';
import type { Duplex } from 'node:stream';
import { defaultPort, deriveKey, headers, identityOf, limits, tlsOptions } from '../../sidecar/protocol.ts';
import { Tap } from './tap.ts';

/** Where an instance's sidecar is. */
export interface SidecarAddress {
  readonly host: string;
  /** The protocol's own if absent. */
  readonly port?: number | undefined;
  readonly instanceUid: string;
}

/** No connection was made, so nothing that was to be sent can have arrived. */
export class SidecarUnreachableError extends Error {
  /** Node's word for it, such as ECONNREFUSED. */
  readonly code: string | undefined;

  constructor(at: SidecarAddress, cause: unknown) {
    super(`Cannot reach the sidecar at ${at.host}: ${cause instanceof Error ? cause.message : String(cause)}`, {
      cause,
    });
    this.name = 'SidecarUnreachableError';
    this.code = (cause as NodeJS.ErrnoException | undefined)?.code;
  }
}

export const sidecarTimeouts = {
  /** TCP and the handshake. */
  connectMs: 3000,
  /** From the request to the headers of a log; a tail of very long lines takes the sidecar a moment. */
  headersMs: 10_000,
  /** A whole status call. */
  statusMs: 3000,
  /** A whole call to standard input: more than the sidecar lets a line wait. */
  stdinMs: limits.stdinTimeoutMs + 5000,
  /** How long a kept connection may be idle; half of what the sidecar allows. */
  idleMs: limits.keepAliveTimeoutMs / 2,
  /** Silence after which the kernel asks whether the other side lives; it does so ten times, once a second. */
  tcpKeepAliveMs: 3000,
};

/** One request to a sidecar. */
export interface Call {
  readonly at: SidecarAddress;
  readonly method: string;
  readonly path: string;
  readonly agent: Agent;
  readonly body?: Uint8Array;
  /** What the connection may be changed to. */
  readonly upgrade?: string;
  readonly signal: AbortSignal;
  /** From the connection to the headers. */
  readonly timeoutMs: number;
  readonly key: Buffer;
  readonly timeouts: typeof sidecarTimeouts;
  /** The newest that is spoken here. */
  readonly version: number;
}

/** What HTTP has left of a connection. */
export interface Upgraded {
  readonly socket: Duplex;
  /** What came with the headers. */
  readonly head: Buffer;
  /** A shorter way for what comes than the socket's readers; there is one wherever a change was asked for. */
  readonly tap: Tap | undefined;
}

/** An answer of which the headers are there. */
export interface CallAnswer {
  readonly response: IncomingMessage;
  /** Of a 101. The call's signal cuts it. */
  readonly upgraded: Upgraded | undefined;
}

/** Resolves once the headers are there. */
export async function sendCall(call: Call): Promise<CallAnswer> {
  const { at, body, timeouts, signal } = call;
  signal.throwIfAborted();
  const tap = call.upgrade === undefined ? undefined : new Tap();
  const request = httpsRequest({ ...toOptions(call), ...(tap === undefined ? {} : { onread: tap.onread }) });
  const { promise, resolve, reject } = Promise.withResolvers<CallAnswer>();
  const giveUp = (reason: Error): void => {
    request.destroy(reason);
  };
  const state = { isConnected: false };
  let timer = setTimeout(giveUp, timeouts.connectMs, timeoutError('no connection', timeouts.connectMs));
  whenConnected(request, () => {
    state.isConnected = true;
    clearTimeout(timer);
    timer = setTimeout(giveUp, call.timeoutMs, timeoutError('no answer', call.timeoutMs));
  });
  const onAbort = (): void => {
    giveUp(signal.reason as Error);
  };
  signal.addEventListener('abort', onAbort, { once: true });
  request.once('close', () => {
    signal.removeEventListener('abort', onAbort);
  });
  request.once('response', (response) => {
    resolve({ response, upgraded: undefined });
  });
  request.once('socket', (socket) => {
    tap?.attach(socket);
  });
  request.once('upgrade', (response, socket, head) => {
    cutWith(socket, signal);
    resolve({ response, upgraded: { socket, head, tap } });
  });
  // Stays for the life of the request: an error without a listener would end the process.
  request.on('error', (error) => {
    reject(signal.aborted || state.isConnected ? error : new SidecarUnreachableError(at, error));
  });
  request.end(body);
  try {
    return await promise;
  } finally {
    clearTimeout(timer);
  }
}

/** The request that led to it has ended. */
function cutWith(socket: Duplex, signal: AbortSignal): void {
  const onAbort = (): void => {
    socket.destroy(signal.reason as Error);
  };
  // An error that comes while nobody reads must not end the process.
  socket.on('error', () => undefined);
  signal.addEventListener('abort', onAbort, { once: true });
  socket.once('close', () => {
    signal.removeEventListener('abort', onAbort);
  });
}

function toOptions({ at, key, agent, method, path, body, upgrade, timeouts, version }: Call): RequestOptions {
  return {
    ...tlsOptions,
    pskCallback: () => ({ psk: deriveKey(key, at.instanceUid), identity: identityOf(at.instanceUid) }),
    host: at.host,
    port: at.port ?? defaultPort,
    // Keeps the pools apart, also where an address is used again.
    servername: identityOf(at.instanceUid),
    agent,
    method,
    path,
    noDelay: true,
    keepAlive: true,
    keepAliveInitialDelay: timeouts.tcpKeepAliveMs,
    headers: {
      [headers.protocol]: String(version),
      ...(body === undefined ? {} : { 'content-length': body.length }),
      ...(upgrade === undefined ? {} : { connection: 'Upgrade', upgrade }),
    },
  } as RequestOptions;
}

function whenConnected(request: ClientRequest, run: () => void): void {
  request.once('socket', (socket) => {
    if (request.reusedSocket) {
      run();
    } else {
      socket.once('secureConnect', run);
    }
  });
}

function timeoutError(what: string, timeoutMs: number): Error {
  return Object.assign(new Error(`${what} within ${timeoutMs} ms`), { code: 'ETIMEDOUT' });
}
