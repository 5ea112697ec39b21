/** The HTTP calls. Errors are `{"error":"…"}`; without a token every path below `/api` but the two open ones gives the same 401. */
import express from 'express';
import type { IRoute, NextFunction, Request, RequestHandler, Response, Router } from 'express';
import { OperatorError } from '../errors.ts';
import type { Logger } from '../log.ts';
import type { Metrics } from '../metrics.ts';
import type { Access, Client } from './access.ts';
import type { Key } from './auth.ts';
import { decide, readToken } from './auth.ts';
import type { LineRunner } from './commandline.ts';
import { createCommands } from './commands.ts';
import { consoleRoute } from './console-messages.ts';
import { createExecute } from './execute.ts';
import type { KeyTable } from './keys.ts';
import { isInstanceId, liveRoute, malformedId, readInteger, readParameters } from './live-request.ts';
import type { Timers, InstanceDirectory, Limits, LogTail, TailResult } from './ports.ts';
import { createRateLimit } from './rate.ts';
import type { Refusal } from './refusal.ts';
import { badRequest, instanceNotFound, refusalOf, unauthorized } from './refusal.ts';
import type { Right } from './reviews.ts';
import type { SocketRegistry } from './sockets.ts';
import type { Typist } from './typist.ts';

export interface RestOptions {
  readonly directory: InstanceDirectory;
  readonly tails: LogTail;
  readonly typist: Typist;
  readonly runner: LineRunner;
  /** The release namespace. */
  readonly namespace: string;
  readonly keys: KeyTable;
  readonly access: Access;
  readonly sockets: SocketRegistry;
  readonly metrics: Metrics;
  readonly log: Logger;
  readonly limits: Limits;
  readonly clock: Timers;
  readonly clusterName: string;
  readonly nodeId: string;
  /** Whether the caches have been filled. */
  isSynced(): boolean;
}

export interface Rest {
  readonly router: Router;
  close(): void;
}

const linesDefault = 100;
const linesMax = 1_000;

export function createRest(options: RestOptions): Rest {
  const { clock, keys, limits } = options;
  const rate = createRateLimit({
    callsMax: limits.publicCallsMax,
    windowMs: limits.publicWindowMs,
    clock,
    keys,
  });
  const router = express.Router({ caseSensitive: true, strict: true });
  router.use(observe(options), setSecurityHeaders);
  addProbes(router, options);
  router.use('/api', limitPublic(options, rate));
  addOpenCalls(router, options);
  router.use('/api', requireClient(options));
  addInstanceCalls(router, options);
  addConsoleCalls(router, options);
  router.use((_request, response) => {
    refuse(response, { status: 404, error: 'Not found' });
  });
  router.use(answerError(options.log));
  return {
    router,
    close: () => {
      rate.close();
    },
  };
}

function addProbes(router: Router, options: RestOptions): void {
  addGet(router, { path: '/healthz', name: 'healthz' }, (_request, response) => {
    response.json({ status: 'ok' });
  });
  addGet(router, { path: '/readyz', name: 'readyz' }, (_request, response) => {
    if (options.sockets.isDraining) refuse(response, { status: 503, error: 'This replica is stopping' });
    else if (!options.isSynced()) refuse(response, { status: 503, error: 'The caches are not filled yet' });
    else response.json({ status: 'ok' });
  });
}

function addOpenCalls(router: Router, options: RestOptions): void {
  const { clusterName, metrics, nodeId, sockets } = options;
  addGet(router, { path: '/api/ping', name: 'ping' }, (_request, response) => {
    response.json({ status: 'ok', nodeId, clusterName, master: true });
  });
  addGet(router, { path: '/api/metrics', name: 'metrics' }, async (_request, response) => {
    sockets.measure();
    response.set('Content-Type', metrics.contentType).send(await metrics.text());
  });
}

function addInstanceCalls(router: Router, options: RestOptions): void {
  const { directory } = options;
  addGet(router, { path: '/api/instances', name: 'instances' }, async (_request, response) => {
    const client = clientOf(response);
    const refusal = client === undefined ? unauthorized : await client.refusalFor({ verb: 'list' });
    if (refusal === undefined) response.json(directory.list());
    else refuse(response, refusal);
  });
  addGet(router, { path: '/api/instances/:id', name: 'instance' }, async (request, response) => {
    const found = await findInstance(directory, { request, response, right: { verb: 'get' } });
    if ('status' in found) refuse(response, found);
    else response.json(found.info);
  });
  addGet(router, { path: '/api/instances/:id/logs', name: 'instance-logs' }, async (request, response) => {
    await answerLogs(options, request, response);
  });
  const find = (request: Request, response: Response): ReturnType<typeof findInstance> =>
    findInstance(directory, { request, response, right: { verb: 'create', subresource: 'execute' } });
  const execute = createExecute({ ...options, find, refuse });
  addPost(router, { path: '/api/instances/:id/execute', name: 'instance-execute' }, execute);
  addGet(router, { path: liveRoute, name: 'live-log' }, askForUpgrade);
}

function addConsoleCalls(router: Router, { namespace, runner }: RestOptions): void {
  addGet(router, { path: consoleRoute, name: 'console' }, askForUpgrade);
  addPost(router, { path: '/api/commands/execute', name: 'command' }, createCommands({ runner, namespace, refuse }));
}

function askForUpgrade(_request: Request, response: Response): void {
  response.set({ Upgrade: 'websocket', 'Sec-WebSocket-Version': '13' });
  refuse(response, { status: 426, error: 'This is a WebSocket: ask for an upgrade' });
}

async function answerLogs(options: RestOptions, request: Request, response: Response): Promise<void> {
  const right = { verb: 'get', subresource: 'live-log' } as const;
  const found = await findInstance(options.directory, { request, response, right });
  if ('status' in found) {
    refuse(response, found);
    return;
  }
  const lines = readLines(request.originalUrl);
  if (typeof lines !== 'number') {
    refuse(response, lines);
    return;
  }
  const result = await readTail(options, { uid: found.uid, lines, response });
  if (response.destroyed) return;
  response.json({
    instanceId: found.info.id,
    lines: result.lines,
    totalLines: result.lines.length,
    nextCursor: result.nextCursor,
  });
}

/** The tail, or `LOG_SOURCE_UNAVAILABLE` when it takes too long. The read is given up also when the client has gone. */
async function readTail(
  options: RestOptions,
  { uid, lines, response }: { uid: string; lines: number; response: Response },
): Promise<TailResult> {
  const abort = new AbortController();
  const gaveUp = Promise.withResolvers<never>();
  const giveUp = (): void => {
    const error = new OperatorError('LOG_SOURCE_UNAVAILABLE', 'Cannot read the log: it did not answer in time');
    gaveUp.reject(error);
    abort.abort(error);
  };
  response.once('close', giveUp);
  const cancel = options.clock.after(options.limits.tailTimeoutMs, giveUp);
  try {
    return await Promise.race([options.tails.tail(uid, lines, abort.signal), gaveUp.promise]);
  } finally {
    cancel();
    response.off('close', giveUp);
  }
}

/** What the path names, if the client has this right on it. Whoever has it on all may also know that there is none. */
async function findInstance(
  directory: InstanceDirectory,
  { request, response, right }: { request: Request; response: Response; right: Right },
): Promise<NonNullable<ReturnType<InstanceDirectory['byId']>> | Refusal> {
  const id = request.params['id'];
  if (typeof id !== 'string' || !isInstanceId(id)) return malformedId;
  const found = directory.byId(id);
  const client = clientOf(response);
  const refusal = client === undefined ? unauthorized : await client.refusalFor({ ...right, target: found?.info });
  return refusal ?? found ?? instanceNotFound;
}

function readLines(url: string): number | Refusal {
  const parameters = readParameters(url, ['lines']);
  if ('status' in parameters) return parameters;
  const { lines } = parameters.values;
  if (lines === undefined) return linesDefault;
  return (
    readInteger(lines, 1, linesMax) ??
    badRequest(`Malformed query parameter "lines": it is a whole number from 1 to ${linesMax}`)
  );
}

interface NamedRoute {
  readonly path: string;
  /** Label of the metrics. */
  readonly name: string;
}

/** GET and HEAD; every other method is 405 and says so. */
function addGet(router: Router, route: NamedRoute, handler: RequestHandler): void {
  onlyMethods(router, route, ['GET', 'HEAD']).get(handler);
}

function addPost(router: Router, route: NamedRoute, handler: RequestHandler): void {
  onlyMethods(router, route, ['POST']).post(handler);
}

function onlyMethods(router: Router, { path, name }: NamedRoute, methods: readonly string[]): IRoute {
  return router.route(path).all((request, response, next) => {
    response.locals['route'] = name;
    if (methods.includes(request.method)) {
      next();
      return;
    }
    refuse(response, { status: 405, error: 'Method not allowed', headers: { Allow: methods.join(', ') } });
  });
}

/** A call that carries a PUBLIC key counts against its limit, whatever it asks for. */
function limitPublic(options: RestOptions, rate: ReturnType<typeof createRateLimit>): RequestHandler {
  return (request, response, next) => {
    const key = keyOf(options, request);
    const retryAfterMs = key?.permission === 'PUBLIC' ? rate.take(key.name) : undefined;
    if (retryAfterMs === undefined) {
      next();
      return;
    }
    response.set('Retry-After', Math.ceil(retryAfterMs / 1_000).toString());
    response.status(429).json({ error: `Rate limit exceeded. Retry after ${retryAfterMs}ms.`, retryAfterMs });
  };
}

/** What a client may do is looked at by each call. */
function requireClient({ access }: RestOptions): RequestHandler {
  return async (request, response, next) => {
    const presented = readToken({ authorization: request.headersDistinct['authorization'] });
    const client = 'fault' in presented ? unauthorized : await access.identify(presented.token);
    if ('status' in client) {
      refuse(response, client);
      return;
    }
    response.locals['client'] = client;
    next();
  };
}

/** Set for everything behind `requireClient`. */
function clientOf(response: Response): Client | undefined {
  return response.locals['client'] as Client | undefined;
}

/** The valid key that a request presents, of either permission. */
function keyOf(options: RestOptions, request: Request): Key | undefined {
  const presented = readToken({ authorization: request.headersDistinct['authorization'] });
  if ('fault' in presented) return undefined;
  const decision = decide(options.keys, presented.token, { nowMs: options.clock.nowMs(), need: 'PUBLIC' });
  return decision.granted ? decision.key : undefined;
}

function observe({ metrics }: RestOptions): RequestHandler {
  return (_request, response, next) => {
    const startedAtMs = performance.now();
    response.once('close', () => {
      const route = (response.locals['route'] as string | undefined) ?? 'other';
      metrics.httpRequests.inc({ route, status: response.writableFinished ? response.statusCode : 0 });
      metrics.httpSeconds.observe({ route }, (performance.now() - startedAtMs) / 1_000);
    });
    next();
  };
}

function setSecurityHeaders(_request: Request, response: Response, next: NextFunction): void {
  response.set({
    'X-Content-Type-Options': 'nosniff',
    'Cache-Control': 'no-store',
    'Content-Security-Policy': "default-src 'none'; frame-ancestors 'none'",
  });
  next();
}

function refuse(response: Response, refusal: Refusal): void {
  response
    .status(refusal.status)
    .set({ ...refusal.headers })
    .json({ error: refusal.error });
}

function answerError(log: Logger) {
  return (error: unknown, _request: Request, response: Response, next: NextFunction): void => {
    if (response.headersSent) {
      next(error);
      return;
    }
    if (response.destroyed) return;
    if (error instanceof OperatorError) {
      refuse(response, refusalOf(error));
      return;
    }
    // What Express itself refuses, such as a path that cannot be decoded, says its status.
    if (error instanceof URIError || hasStatus(error, 400)) {
      refuse(response, badRequest('Malformed request'));
      return;
    }
    log.error({ err: error }, 'Request failed');
    refuse(response, { status: 500, error: 'Internal error' });
  };
}

function hasStatus(error: unknown, status: number): boolean {
  return typeof error === 'object' && error !== null && 'status' in error && error.status === status;
}
