/**
 * Everything that can refuse a WebSocket, before `101`.
 *
 * express-ws answers an upgrade first and runs the routes afterwards, when it is too late to refuse. So all checks sit in ws's `verifyClient`, and
 * those faults that ws itself finds earlier (method, key, version, subprotocol syntax) come here as `wsClientError`, so that they too are told only to
 * those who have a token. A refusal is written by us; ws' callback is then never called and ws writes nothing.
 *
 * The order is fixed: token, path, handshake, id and query, instance, limits. Without a token every request gets the same 401.
 */
import type { IncomingMessage } from 'node:http';
import type { Socket } from 'node:net';
import type { VerifyClientCallbackAsync } from 'ws';
import { OperatorError } from '../errors.ts';
import type { Logger } from '../log.ts';
import type { Hub, Subscription } from '../logs/subscription.ts';
import type { Metrics } from '../metrics.ts';
import type { Key } from './auth.ts';
import { decide, readToken, realProtocols } from './auth.ts';
import type { Format } from './frames.ts';
import type { KeyTable } from './keys.ts';
import {
  chooseProtocol,
  formatOf,
  isInstanceId,
  liveIdOf,
  malformedId,
  offeredProtocols,
  readLiveQuery,
} from './live-request.ts';
import type { Timers, InstanceDirectory } from './ports.ts';
import type { Refusal } from './refusal.ts';
import { badRequest, instanceNotFound, refusalOf, sendRefusal, unauthorized } from './refusal.ts';
import type { Slot, SocketRegistry } from './sockets.ts';

/** An upgrade that will be answered with 101. Its slot and subscription are given back when the connection closes. */
export interface Accepted {
  readonly instanceUid: string;
  readonly protocol: string | undefined;
  readonly format: Format;
  readonly subscription: Subscription;
  readonly slot: Slot;
}

export interface UpgradeGate {
  /** For ws: calls back only to accept. */
  readonly verifyClient: VerifyClientCallbackAsync;
  /** For ws: the subprotocol to answer with, or none. Never the one that carries the token. */
  readonly handleProtocols: (offered: Set<string>, request: IncomingMessage) => string | false;
  /** For the `wsClientError` event of ws. */
  readonly refuseHandshake: (error: Error, socket: Socket, request: IncomingMessage) => void;
  /** What was accepted for this request, once. */
  take(request: IncomingMessage): Accepted | undefined;
}

export interface UpgradeGateOptions {
  readonly hub: Hub;
  readonly directory: InstanceDirectory;
  readonly keys: KeyTable;
  readonly sockets: SocketRegistry;
  readonly clock: Timers;
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
      const outcome = options.isBusy(req.socket) ? busy : check(options, req);
      if ('status' in outcome) {
        refuse(req.socket, outcome);
        return;
      }
      accepted.set(req, outcome);
      req.socket.once('close', () => {
        outcome.subscription.close();
        outcome.slot.release();
      });
      accept(true);
    },
    handleProtocols: (_offered, request) => accepted.get(request)?.protocol ?? false,
    refuseHandshake: (error, socket, request) => {
      refuse(socket, preliminary(options, request) ?? badRequest(error.message));
    },
    take(request) {
      const found = accepted.get(request);
      accepted.delete(request);
      return found;
    },
  };
}

const busy = badRequest('Upgrade refused: an earlier request on this connection is not answered yet');

function check(options: UpgradeGateOptions, request: IncomingMessage): Accepted | Refusal {
  const key = authenticate(options, request);
  if (key === undefined) return unauthorized;
  const fault = routeFault(request) ?? handshakeFault(request);
  if (fault !== undefined) return fault;
  return admit(options, request, key);
}

/** What comes before the fault that ws has found; undefined if that fault is to be told. */
function preliminary(options: UpgradeGateOptions, request: IncomingMessage): Refusal | undefined {
  if (authenticate(options, request) === undefined) return unauthorized;
  return routeFault(request) ?? handshakeFault(request);
}

function authenticate(options: UpgradeGateOptions, request: IncomingMessage): Key | undefined {
  const presented = readToken({
    authorization: request.headersDistinct['authorization'],
    protocols: offeredProtocols(request),
  });
  if ('fault' in presented) return undefined;
  const decision = decide(options.keys, presented.token, { nowMs: options.clock.nowMs(), need: 'ALL' });
  return decision.granted ? decision.key : undefined;
}

function routeFault(request: IncomingMessage): Refusal | undefined {
  return liveIdOf(request.url ?? '') === undefined ? { status: 404, error: 'Not found' } : undefined;
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

function admit(options: UpgradeGateOptions, request: IncomingMessage, key: Key): Accepted | Refusal {
  const url = request.url ?? '';
  const id = liveIdOf(url) ?? '';
  if (!isInstanceId(id)) return malformedId;
  const query = readLiveQuery(url);
  if ('status' in query) return query;
  const instance = options.directory.byId(id);
  if (instance === undefined) return instanceNotFound;

  let subscription: Subscription | undefined;
  const slot = options.sockets.reserve({
    kind: 'live-log',
    key,
    instanceUid: instance.uid,
    behindLines: () => subscription?.behindLines ?? 0,
  });
  if ('status' in slot) return slot;
  try {
    // Subscribed before 101, so that a bad cursor is still an HTTP answer.
    subscription = options.hub.subscribe(instance.uid, query.start);
  } catch (error) {
    slot.release();
    return subscribeRefusal(error, options.log);
  }
  const protocol = chooseProtocol(realProtocols(offeredProtocols(request)));
  return { instanceUid: instance.uid, protocol, format: formatOf(protocol, query), subscription, slot };
}

function subscribeRefusal(error: unknown, log: Logger): Refusal {
  if (error instanceof OperatorError) return refusalOf(error);
  log.error({ err: error }, 'Cannot subscribe to a log');
  return { status: 500, error: 'Internal error' };
}
