/**
 * What `/healthz` and `/readyz` of operator and Master assert, and the operator's own small HTTP server for them and the metrics (it serves no clients; the
 * Master does).
 *
 * Live is a process whose event loop turns and whose caches still try: an API server that is away makes nobody unhealthy, because a restart would mend
 * nothing and lose what is known. Ready is one whose caches are filled and that hears the API server: docs/adr/0023-health.md.
 */
import { createServer } from 'node:http';
import type { ServerResponse } from 'node:http';
import type { Metrics } from './metrics.ts';
import type { ContactState } from './runtime/contact.ts';

const requestTimeoutMs = 10_000;
const connectionsMax = 64;

/** Longer than an API server takes to be restarted. */
export const lostMaxMs = 60_000;
/**
 * A cache hears or fails within 3.5 minutes whatever happens: bookmarks come each minute, silence ends a watch after 150 s, and a failure is followed by
 * another try within 30 s, whose answer may take 30 s.
 */
export const idleMaxMs = 600_000;

export const healthFaults = {
  notSynced: 'The caches are not filled yet',
  lost: 'The Kubernetes API does not answer: what this replica knows may be out of date',
  idle: 'A watch does nothing any more',
} as const;

export interface CacheState {
  readonly hasSynced: boolean;
  readonly contact: ContactState;
}

/** Why a process with these caches is not ready; undefined if it is. */
export function readinessFault(caches: readonly CacheState[]): string | undefined {
  if (!caches.every(({ hasSynced }) => hasSynced)) return healthFaults.notSynced;
  return caches.some(({ contact }) => contact.lostForMs > lostMaxMs) ? healthFaults.lost : undefined;
}

/** Why a process with these caches has to be started anew; undefined if it has not. */
export function livenessFault(caches: readonly CacheState[]): string | undefined {
  return caches.some(({ contact }) => contact.idleForMs > idleMaxMs) ? healthFaults.idle : undefined;
}

export interface HealthOptions {
  readonly port: number;
  readonly metrics: Metrics;
  /** Those that this replica needs to lead. */
  readonly caches: readonly CacheState[];
}

/** Listens until the signal aborts. Rejects if the port cannot be had. */
export async function serveHealth(options: HealthOptions, signal: AbortSignal): Promise<void> {
  const server = createServer(
    { requestTimeout: requestTimeoutMs, headersTimeout: requestTimeoutMs },
    (request, response) => {
      respond(request.url ?? '', response, options).catch(() =>
        response.writeHead(500).end('metrics cannot be read\n'),
      );
    },
  );
  server.maxConnections = connectionsMax;
  signal.addEventListener('abort', () => {
    server.close();
    server.closeAllConnections();
  });
  const { promise, resolve, reject } = Promise.withResolvers<undefined>();
  server.once('error', reject);
  server.listen(options.port, () => {
    resolve(undefined);
  });
  await promise;
}

async function respond(path: string, response: ServerResponse, options: HealthOptions): Promise<void> {
  const answer = (status: number, text: string): void => {
    response.writeHead(status, { 'content-type': 'text/plain; charset=utf-8' }).end(text);
  };
  const assert = (fault: string | undefined): void => {
    if (fault === undefined) answer(200, 'ok\n');
    else answer(503, `${fault}\n`);
  };
  if (path === '/healthz') assert(livenessFault(options.caches));
  else if (path === '/readyz') assert(readinessFault(options.caches));
  else if (path === '/metrics')
    response.writeHead(200, { 'content-type': options.metrics.contentType }).end(await options.metrics.text());
  else answer(404, 'not found\n');
}
