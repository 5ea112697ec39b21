/**
 * The Master's outside: one HTTP server with the REST calls and the two WebSockets.
 *
 *   connection -> limits of Node's server -> upgrade? -> upgrade.ts (may refuse) -> 101 -> express-ws route -> live.ts -> hub
 *                                         |                                                               `-> console.ts -> commandline.ts
 *                                         `-> request  -> rest.ts
 *
 * With a certificate all of this is behind TLS (tls.ts, certificate.ts). access.ts says who may (auth.ts reads tokens, keys.ts holds the keys,
 * users.ts asks Kubernetes), sockets.ts counts, pings and ends sockets, frames.ts makes bytes. PROTOCOL.md beside this file is what clients may rely on.
 *
 * Stopping: not ready and no new sockets at once, 1001 to the open ones, plain requests go on being answered; when the sockets are gone or the grace is
 * over the port closes, requests in flight finish within another grace, and the rest is cut.
 */
import { createServer as createHttpServer } from 'node:http';
import type { RequestListener, Server, ServerOptions as HttpOptions } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import express from 'express';
import expressWs from 'express-ws';
import type { InstanceConfiguration } from '../api/v1alpha1/instanceconfiguration.ts';
import type { Logger } from '../log.ts';
import type { Hub } from '../logs/subscription.ts';
import type { Metrics } from '../metrics.ts';
import { createAccess } from './access.ts';
import type { CertificateSource } from './certificate.ts';
import { createLineRunner } from './commandline.ts';
import type { LineRunner } from './commandline.ts';
import { Connections } from './connections.ts';
import { consoleRoute } from './console-messages.ts';
import { serveConsole } from './console.ts';
import type { Dispatcher } from './dispatch.ts';
import type { KeyTable } from './keys.ts';
import { liveRoute } from './live-request.ts';
import { serveLive } from './live.ts';
import type { Node } from '../runtime/nodes.ts';
import type { Cached, Timers, InstanceDirectory, Limits, LogTail } from './ports.ts';
import { defaultLimits, systemTimers } from './ports.ts';
import type { Refusal } from './refusal.ts';
import { badRequest, sendRefusal } from './refusal.ts';
import { createRest } from './rest.ts';
import type { Reviews } from './reviews.ts';
import { createSockets } from './sockets.ts';
import type { SocketRegistry } from './sockets.ts';
import type { TemplateMap } from './templates.ts';
import { createTlsServer } from './tls.ts';
import type { Typist } from './typist.ts';
import { createUpgradeGate, isUpgrade } from './upgrade.ts';
import type { Accepted, UpgradeGate } from './upgrade.ts';

export interface MasterServerOptions {
  readonly port: number;
  /** Address to listen on; all of them if absent. */
  readonly host?: string;
  readonly hub: Hub;
  readonly directory: InstanceDirectory;
  readonly tails: LogTail;
  readonly typist: Typist;
  readonly keys: KeyTable;
  /** Absent: tokens of Kubernetes do not count. */
  readonly reviews?: Reviews | undefined;
  readonly metrics: Metrics;
  readonly log: Logger;
  readonly clusterName: string;
  readonly nodeId: string;
  /** The namespace that Ringmaster is installed in. */
  readonly releaseNamespace: string;
  /** The way to the operator's loop. */
  readonly dispatcher: Dispatcher;
  readonly configurations?: Cached<InstanceConfiguration> | undefined;
  readonly templates?: Cached<TemplateMap> | undefined;
  /** Absent: this Master has no right to read them. */
  readonly nodes?: Cached<Node> | undefined;
  /** Serves TLS and nothing else; plain HTTP if absent. */
  readonly certificate?: CertificateSource;
  /** Why this replica should get no new clients, besides that it stops; undefined if it should. */
  readinessFault(): string | undefined;
  /** Why it has to be started anew; undefined if it has not. */
  livenessFault(): string | undefined;
  /** Those that are absent are `defaultLimits`. */
  readonly limits?: Partial<Limits>;
  readonly clock?: Timers;
}

export interface MasterServer {
  /** Listens. Rejects if the port cannot be had. When the signal aborts, `drain` begins. */
  start(signal: AbortSignal): Promise<void>;
  /** Stops as described above; the same promise each time. Never rejects. The hub and the key table are the caller's to close. */
  drain(): Promise<void>;
  /** Where it listens; undefined before `start` and after `drain`. */
  readonly address: AddressInfo | undefined;
}

/** How often Node looks for connections whose request is late; the precision of the two time limits. */
const lateCheckIntervalMs = 1_000;
/** Connections that the kernel holds for us while we are busy, if it is allowed so many: others try again after a second or more. */
const backlog = 4_096;
/** Data frames of one message from the client, and pieces of it that wait. Those of a live log are small and ignored. */
const piecesMax = { 'live-log': 64, console: 1_024 } as const;

/** With an option of the installed ws that its published types do not know yet. */
type ServerOptions = NonNullable<expressWs.Options['wsOptions']> & { readonly closeTimeout: number };

export function createServer(options: MasterServerOptions): MasterServer {
  const limits: Limits = { ...defaultLimits, ...options.limits };
  const clock = options.clock ?? systemTimers;
  const { keys, metrics } = options;
  const app = createApp();
  const connections = new Connections({ limits, metrics });
  const server = createListener(boundBy(connections, app), limits, options);
  connections.watch(server);
  const access = createAccess({ keys, clock, reviews: options.reviews, metrics, log: options.log });
  const sockets = createSockets({ limits, clock, keys: access, metrics });
  const gate = createUpgradeGate({
    ...options,
    access,
    sockets,
    isBusy: (socket) => connections.isBusy(socket),
  });
  const runner = createLineRunner(options);
  addWebSockets({ app, server, connections, gate, limits, runner, options });
  const rest = createRest({ ...options, access, clock, limits, runner, sockets });
  app.use(rest.router);

  let draining: Promise<void> | undefined;
  const drain = (): Promise<void> => {
    draining ??= stop({ server, connections, sockets, clock, graceMs: limits.drainGraceMs }).finally(() => {
      rest.close();
      access.close();
    });
    return draining;
  };
  return {
    async start(signal) {
      signal.throwIfAborted();
      await listen(server, options);
      const onAbort = (): void => void drain();
      signal.addEventListener('abort', onAbort, { once: true });
      if (signal.aborted) onAbort();
    },
    drain,
    get address() {
      const address = server.address();
      return address === null || typeof address === 'string' ? undefined : address;
    },
  };
}

function createApp(): express.Application {
  const app = express();
  app.disable('x-powered-by');
  app.disable('etag');
  app.set('query parser', false);
  app.enable('case sensitive routing');
  app.enable('strict routing');
  return app;
}

function boundBy(connections: Connections, app: express.Application): RequestListener {
  return (request, response) => {
    if (connections.admit(request, response)) app(request, response);
  };
}

function createListener(app: RequestListener, limits: Limits, options: MasterServerOptions): Server {
  const { certificate, metrics } = options;
  const http: HttpOptions = {
    maxHeaderSize: limits.headerBytesMax,
    headersTimeout: limits.headersTimeoutMs,
    requestTimeout: limits.requestTimeoutMs,
    keepAliveTimeout: limits.keepAliveTimeoutMs,
    connectionsCheckingInterval: lateCheckIntervalMs,
    shouldUpgradeCallback: isUpgrade,
  };
  const server =
    certificate === undefined
      ? createHttpServer(http, app)
      : createTlsServer(app, { certificate, http, limits, metrics });
  server.on('clientError', clientOnError);
  return server;
}

/** The WebSocket routes. They stand before every other handler, because express-ws sends an accepted upgrade through the whole application. */
function addWebSockets(parts: {
  app: express.Application;
  server: Server;
  connections: Connections;
  gate: UpgradeGate;
  limits: Limits;
  runner: LineRunner;
  options: MasterServerOptions;
}): void {
  const { connections, gate, limits, runner, server } = parts;
  const { log, metrics } = parts.options;
  const wsOptions: ServerOptions = {
    verifyClient: (info, accept) => {
      gate.verifyClient(info, (isAccepted) => {
        // ws reads its options while it is called back, in the same turn, and each socket keeps what it was given.
        Object.assign(webSockets.getWss().options, clientFrameLimits(limits, gate.kindOf(info.req)));
        connections.upgrade(info.req.socket);
        accept(isAccepted);
      });
    },
    handleProtocols: gate.handleProtocols,
    clientTracking: false,
    // chatter.ts does.
    autoPong: false,
    perMessageDeflate: false,
    skipUTF8Validation: false,
    ...clientFrameLimits(limits, undefined),
    // sockets.ts ends a close that takes too long, and knows which ones may; this is only the last resort behind it.
    closeTimeout: 2 * limits.stalledTimeoutMs,
  };
  const webSockets = expressWs(parts.app, server, { leaveRouterUntouched: true, wsOptions });
  webSockets.getWss().on('wsClientError', gate.refuseHandshake);
  webSockets.app.ws(liveRoute, (ws, request) => {
    const accepted = gate.take(request);
    // Cannot happen: no upgrade gets here that the gate has not accepted.
    if (accepted?.kind !== 'live-log') ws.terminate();
    else void serveLive(ws, request.socket, accepted, { limits, log, metrics });
  });
  webSockets.app.ws(consoleRoute, (ws, request) => {
    const accepted = gate.take(request);
    if (accepted?.kind !== 'console') ws.terminate();
    else void serveConsole(ws, request.socket, accepted, { runner, limits, log, metrics });
  });
}

function clientFrameLimits(limits: Limits, kind: Accepted['kind'] = 'live-log'): Partial<ServerOptions> {
  return {
    maxPayload: kind === 'console' ? limits.consoleFrameBytesMax : limits.clientFrameBytesMax,
    maxFragments: piecesMax[kind],
    maxBufferedChunks: piecesMax[kind],
  };
}

/** What was no HTTP request: too large, too late, or garbage. */
function clientOnError(error: NodeJS.ErrnoException, socket: Socket): void {
  // In the middle of an earlier answer ours would be taken for a part of it.
  if (error.code === 'ECONNRESET' || !socket.writable || socket.bytesWritten > 0) {
    socket.destroy();
    return;
  }
  sendRefusal(socket, faultOf(error.code));
}

function faultOf(code: string | undefined): Refusal {
  if (code === 'HPE_HEADER_OVERFLOW') return { status: 431, error: 'Request header fields too large' };
  if (code === 'ERR_HTTP_REQUEST_TIMEOUT') return { status: 408, error: 'Request timeout' };
  return badRequest('Malformed HTTP request');
}

async function listen(server: Server, { port, host }: MasterServerOptions): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<undefined>();
  server.once('error', reject);
  server.listen({ port, backlog, ...(host === undefined ? {} : { host }) }, () => {
    resolve(undefined);
  });
  await promise;
  server.off('error', reject);
}

async function stop(parts: {
  server: Server;
  connections: Connections;
  sockets: SocketRegistry;
  clock: Timers;
  graceMs: number;
}): Promise<void> {
  const { server, connections, sockets, clock, graceMs } = parts;
  await sockets.drain();
  sockets.close();
  if (!server.listening) return;
  const { promise, resolve } = Promise.withResolvers<undefined>();
  server.close(() => {
    resolve(undefined);
  });
  server.closeIdleConnections();
  const cancel = clock.after(graceMs, () => {
    connections.destroy();
  });
  await promise;
  cancel();
}
