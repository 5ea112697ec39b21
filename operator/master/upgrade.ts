/**
 * Everything that can refuse a WebSocket, before `101`.
 *
 * express-ws answers an upgrade first and runs the routes afterwards, when it is too late to refuse. So all checks sit in ws's `verifyClient`, and
 * those faults that ws itself finds earlier (method, key, version, subprotocol syntax) come here as `wsClientError`, so that they too are told only to
 * those who have a token. A refusal is written by us; ws' callback is then never called and ws writes nothing.
 *
 * The order is fixed: token, path, handshake, id and query, right, instance, limits. Without a token every request gets the same 401, and without the
 * right to it an instance that exists and one that does not are the same.
 */
import type { IncomingMessage } from 'node:http';
import type { Socket } from 'node:net';
import type { VerifyClientCallbackAsync } from 'ws';
import { OperatorError } from '../errors.ts';
import type { Logger } from '../log.ts';
import type { Hub, Subscription } from '../logs/subscription.ts';
import type { Metrics } from '../metrics.ts';
import type { Access, Client } from './access.ts';
import { readToken, realProtocols } from './auth.ts';
import { commandRight } from './commandline.ts';
import { chooseConsoleProtocol, consoleRoute } from './console-messages.ts';
import type { Format } from './frames.ts';
import {
  chooseProtocol,
  formatOf,
  isInstanceId,
  liveIdOf,
  malformedId,
  offeredProtocols,
  readLiveQuery,
  splitUrl,
} from './live-request.ts';
import type { LiveQuery } from './live-request.ts';
import type { InstanceDirectory } from './ports.ts';
import type { Refusal } from './refusal.ts';
import { badRequest, instanceNotFound, refusalOf, sendRefusal, unauthorized } from './refusal.ts';
import type { Right } from './reviews.ts';
import type { Slot, SocketRegistry } from './sockets.ts';

/** An upgrade that will be answered with 101. All that is held for it is given back when the connection closes. */
export type Accepted = AcceptedLog | AcceptedConsole;

export interface AcceptedLog extends Held {
  readonly kind: 'live-log';
  readonly instanceUid: string;
  readonly format: Format;
  readonly subscription: Subscription;
}

export interface AcceptedConsole extends Held {
  readonly kind: 'console';
  /** As `Access` gives it. */
  readonly clientName: string;
}

interface Held {
  readonly protocol: string | undefined;
  readonly slot: Slot;
  /** Gives back all that is held for it. */
  readonly release: () => void;
}

export interface UpgradeGate {
  /** For ws: calls back only to accept. */
  readonly verifyClient: VerifyClientCallbackAsync;
  /** For ws: the subprotocol to answer with, or none. Never the one that carries the token. */
  readonly handleProtocols: (offered: Set<string>, request: IncomingMessage) => string | false;
  /** For the `wsClientError` event of ws. */
  readonly refuseHandshake: (error: Error, socket: Socket, request: IncomingMessage) => void;
  /** What this request was accepted as; for ws, which has to know how large its frames may be before it calls anybody. */
  kindOf(request: IncomingMessage): Accepted['kind'] | undefined;
  /** What was accepted for this request, once. */
  take(request: IncomingMessage): Accepted | undefined;
}

export interface UpgradeGateOptions {
  readonly hub: Hub;
  /** The release namespace: who may make ConsoleCommands there may open a console. */
  readonly releaseNamespace: string;
  readonly directory: InstanceDirectory;
  readonly access: Access;
  readonly sockets: SocketRegistry;
  readonly log: Logger;
  readonly metrics: Metrics;
  /** Whether an earlier request on this connection is still being answered. */
  readonly isBusy: (socket: Socket) => boolean;
}

/** A plain request: HTTP/1.1, and asks for a WebSocket and for nothing else. All others are answered as if they had not asked. */
export function isUpgrade(request: IncomingMessage): boolean {
  return request.httpVersion === '1.1' && request.headers.upgrade?.toLowerCase() === 'websocket';
}

export function createUpgradeGate(options: UpgradeGateOptions): UpgradeGate {
  const accepted = new WeakMap<IncomingMessage, Accepted>();

  const refuse = (socket: Socket, refusal: Refusal): void => {
    options.metrics.upgradesRefused.inc({ status: refusal.status });
    // The answer to the earlier request is still to come: ours would be taken for it.
    if (options.isBusy(socket)) socket.destroy();
    else sendRefusal(socket, refusal);
  };

  return {
    verifyClient: ({ req }, accept) => {
      if (options.isBusy(req.socket)) {
        refuse(req.socket, busy);
        return;
      }
      void check(options, req).then((outcome) => {
        if ('status' in outcome) {
          refuse(req.socket, outcome);
          return;
        }
        accepted.set(req, outcome);
        req.socket.once('close', outcome.release);
        // The client may have gone while it was asked about.
        if (req.socket.destroyed) outcome.release();
        else accept(true);
      });
    },
    handleProtocols: (_offered, request) => accepted.get(request)?.protocol ?? false,
    refuseHandshake: (error, socket, request) => {
      void preliminary(options, request).then((outcome) => {
        refuse(socket, 'status' in outcome ? outcome : badRequest(error.message));
      });
    },
    kindOf: (request) => accepted.get(request)?.kind,
    take(request) {
      const found = accepted.get(request);
      accepted.delete(request);
      return found;
    },
  };
}

const busy = badRequest('Upgrade refused: an earlier request on this connection is not answered yet');

/** Never rejects. */
async function check(options: UpgradeGateOptions, request: IncomingMessage): Promise<Accepted | Refusal> {
  const client = await preliminary(options, request);
  return 'status' in client ? client : admit(options, request, client);
}

/** Who asks, or what comes before any fault that ws finds. */
async function preliminary(options: UpgradeGateOptions, request: IncomingMessage): Promise<Client | Refusal> {
  const client = await identify(options, request);
  if ('status' in client) return client;
  return routeFault(request) ?? handshakeFault(request) ?? client;
}

async function identify({ access }: UpgradeGateOptions, request: IncomingMessage): Promise<Client | Refusal> {
  const presented = readToken({
    authorization: request.headersDistinct['authorization'],
    protocols: offeredProtocols(request),
  });
  return 'fault' in presented ? unauthorized : access.identify(presented.token);
}

function routeFault(request: IncomingMessage): Refusal | undefined {
  const url = request.url ?? '';
  return liveIdOf(url) === undefined && !isConsole(url) ? { status: 404, error: 'Not found' } : undefined;
}

/** Faults that ws does not look for, and two of its own that deserve a better answer than 400. */
function handshakeFault(request: IncomingMessage): Refusal | undefined {
  const { headers } = request;
  if (request.method !== 'GET') {
    return { status: 405, error: 'Method not allowed: a WebSocket is opened with GET', headers: { Allow: 'GET' } };
  }
  if (headers['sec-websocket-version'] !== '13') {
    return {
      status: 426,
      error: 'Missing or unsupported Sec-WebSocket-Version header: 13 is spoken here',
      headers: { Upgrade: 'websocket', 'Sec-WebSocket-Version': '13' },
    };
  }
  if (headers.expect !== undefined) return { status: 417, error: 'Expect header on an upgrade' };
  if (headers.host === undefined) return badRequest('Missing Host header');
  // A body would be taken for frames.
  if (headers['content-length'] !== undefined || headers['transfer-encoding'] !== undefined) {
    return badRequest('Upgrade request with a body');
  }
  return undefined;
}

async function admit(
  options: UpgradeGateOptions,
  request: IncomingMessage,
  client: Client,
): Promise<Accepted | Refusal> {
  const url = request.url ?? '';
  if (isConsole(url)) return admitToConsole(options, request, client);
  const id = liveIdOf(url) ?? '';
  if (!isInstanceId(id)) return malformedId;
  const query = readLiveQuery(url);
  if ('status' in query) return query;
  const instance = options.directory.byId(id);
  // Without an instance the right to all of them is asked for: whoever has it may know that there is none.
  const right: Right = { verb: 'get', subresource: 'live-log', target: instance?.info };
  const refusal = await client.refusalFor(right);
  if (refusal !== undefined) return refusal;
  if (instance === undefined) return instanceNotFound;
  const reserved = reserve(options, { client, right, instanceUid: instance.uid, query });
  if ('status' in reserved) return reserved;
  const protocol = chooseProtocol(realProtocols(offeredProtocols(request)));
  const format = formatOf(protocol, query);
  return { kind: 'live-log', instanceUid: instance.uid, protocol, format, ...reserved };
}

function isConsole(url: string): boolean {
  return splitUrl(url).path === consoleRoute;
}

async function admitToConsole(
  { releaseNamespace, sockets }: UpgradeGateOptions,
  request: IncomingMessage,
  client: Client,
): Promise<AcceptedConsole | Refusal> {
  if (splitUrl(request.url ?? '').query !== '') return badRequest('Unknown query parameter: a console takes none');
  const right = commandRight(releaseNamespace);
  const refusal = await client.refusalFor(right);
  if (refusal !== undefined) return refusal;
  const { grant, end } = client.hold(right);
  const slot = sockets.reserve({ kind: 'console', key: grant, instanceUid: undefined, behindLines: () => 0 });
  if ('status' in slot) {
    end();
    return slot;
  }
  const release = (): void => {
    slot.release();
    end();
  };
  const protocol = chooseConsoleProtocol(realProtocols(offeredProtocols(request)));
  return { kind: 'console', clientName: client.name, protocol, slot, release };
}

function reserve(
  options: UpgradeGateOptions,
  asked: { client: Client; right: Right; instanceUid: string; query: LiveQuery },
): Pick<AcceptedLog, 'slot' | 'subscription' | 'release'> | Refusal {
  const { client, right, instanceUid, query } = asked;
  const { grant, end } = client.hold(right);
  let subscription: Subscription | undefined;
  const slot = options.sockets.reserve({
    kind: 'live-log',
    key: grant,
    instanceUid,
    behindLines: () => subscription?.behindLines ?? 0,
  });
  if ('status' in slot) {
    end();
    return slot;
  }
  const release = (): void => {
    subscription?.close();
    slot.release();
    end();
  };
  try {
    // Subscribed before 101, so that a bad cursor is still an HTTP answer.
    subscription = options.hub.subscribe(instanceUid, query.start);
  } catch (error) {
    release();
    return subscribeRefusal(error, options.log);
  }
  return { slot, subscription, release };
}

function subscribeRefusal(error: unknown, log: Logger): Refusal {
  if (error instanceof OperatorError) return refusalOf(error);
  log.error({ err: error }, 'Cannot subscribe to a log');
  return { status: 500, error: 'Internal error' };
}
