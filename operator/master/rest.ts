/** The HTTP calls. Errors are `{"error":"…"}`; without a token every path below `/api` but the open ones gives the same 401. */
import express from 'express';
import type { NextFunction, Request, RequestHandler, Response, Router } from 'express';
import type { Permission } from '../api/v1alpha1/apikey.ts';
import { OperatorError } from '../errors.ts';
import type { Logger } from '../log.ts';
import type { Metrics } from '../metrics.ts';
import type { Access } from './access.ts';
import type { Key } from './auth.ts';
import { decide, readToken } from './auth.ts';
import { createCommands } from './commands.ts';
import { consoleRoute } from './console-messages.ts';
import { createGate } from './gate.ts';
import type { KeyTable } from './keys.ts';
import { openApiDocument } from './openapi.ts';
import type { Timers } from './ports.ts';
import { createRateLimit } from './rate.ts';
import { badRequest, refusalOf, unauthorized } from './refusal.ts';
import type { ClusterRoutesOptions } from './routes/cluster.ts';
import { addNodeRoutes, addTemplateRoutes } from './routes/cluster.ts';
import type { ConfigurationRoutesOptions } from './routes/configurations.ts';
import { addConfigurationRoutes } from './routes/configurations.ts';
import type { InstanceRoutesOptions } from './routes/instances.ts';
import { addInstanceRoutes } from './routes/instances.ts';
import { addRoute, askForUpgrade, refuse } from './routes/route.ts';
import { stoppingFault } from './sockets.ts';
import type { SocketRegistry } from './sockets.ts';

export interface RestOptions extends InstanceRoutesOptions, ConfigurationRoutesOptions, ClusterRoutesOptions {
  readonly keys: KeyTable;
  readonly access: Access;
  readonly sockets: SocketRegistry;
  readonly metrics: Metrics;
  readonly log: Logger;
  readonly clusterName: string;
  /** Why this replica should get no new clients, besides that it stops; undefined if it should. */
  readinessFault(): string | undefined;
  /** Why it has to be started anew; undefined if it has not. */
  livenessFault(): string | undefined;
}

/** Scrapes are far fewer. */
const pageLimits = { perSecond: 5, burst: 20, inFlightMax: 2 };

export interface Rest {
  readonly router: Router;
  close(): void;
}

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
  addNodeRoutes(router, options, requireClient(options, 'PUBLIC'));
  router.use('/api', requireClient(options, 'ALL'));
  addInstanceRoutes(router, options);
  addConfigurationRoutes(router, options);
  addTemplateRoutes(router, options);
  addConsoleRoutes(router, options);
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
  const assert = (response: Response, fault: string | undefined): void => {
    if (fault === undefined) response.json({ status: 'ok' });
    else refuse(response, { status: 503, error: fault });
  };
  const answerHealth: RequestHandler = (_request, response) => {
    assert(response, options.livenessFault());
  };
  const answerReadiness: RequestHandler = (_request, response) => {
    assert(response, options.sockets.isDraining ? stoppingFault : options.readinessFault());
  };
  addRoute(router, { path: '/healthz', name: 'healthz' }, { GET: answerHealth });
  addRoute(router, { path: '/readyz', name: 'readyz' }, { GET: answerReadiness });
}

function addOpenCalls(router: Router, options: RestOptions): void {
  const { clock, clusterName, metrics, nodeId, sockets } = options;
  const answerPing: RequestHandler = (_request, response) => {
    response.json({ status: 'ok', nodeId, clusterName, master: true });
  };
  const page = createPage(clock, async () => {
    sockets.measure();
    return metrics.text();
  });
  const answerMetrics: RequestHandler = async (_request, response) => {
    response.set('Content-Type', metrics.contentType).send(await page());
  };
  // One copy for everybody: who does not read it costs no memory.
  const document = Buffer.from(JSON.stringify(openApiDocument()), 'utf8');
  const answerDocument: RequestHandler = (_request, response) => {
    response.set('Content-Type', 'application/json; charset=utf-8').send(document);
  };
  addRoute(router, { path: '/api/ping', name: 'ping' }, { GET: answerPing });
  addRoute(router, { path: '/api/metrics', name: 'metrics' }, { GET: answerMetrics });
  addRoute(router, { path: '/api/openapi.json', name: 'openapi' }, { GET: answerDocument });
}

/** A page that anybody may ask for and that costs something to make: beyond so many a second the last one is given again. */
function createPage(clock: Timers, make: () => Promise<string>): () => Promise<Buffer> {
  const gate = createGate(pageLimits, clock);
  let last: Promise<Buffer> | undefined;
  return async () => {
    if (gate.enter() || last === undefined) {
      last = make()
        .then((text) => Buffer.from(text, 'utf8'))
        .finally(() => {
          gate.leave();
        });
    }
    return last;
  };
}

function addConsoleRoutes(router: Router, { releaseNamespace, runner }: RestOptions): void {
  addRoute(router, { path: consoleRoute, name: 'console' }, { GET: askForUpgrade });
  const execute = createCommands({ runner, releaseNamespace, refuse });
  addRoute(router, { path: '/api/commands/execute', name: 'command' }, { POST: execute });
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

/** A token that counts, if it is a key's of this permission at least. What a client may do is looked at by each call. */
function requireClient({ access }: RestOptions, need: Permission): RequestHandler {
  return async (request, response, next) => {
    const presented = readToken({ authorization: request.headersDistinct['authorization'] });
    const client = 'fault' in presented ? unauthorized : await access.identify(presented.token, need);
    if ('status' in client) {
      refuse(response, client);
      return;
    }
    response.locals['client'] = client;
    next();
  };
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
