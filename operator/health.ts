/** The operator's own small HTTP server: liveness, readiness and metrics. It serves no clients; the Master does. */
import { createServer } from 'node:http';
import type { ServerResponse } from 'node:http';
import type { Metrics } from './metrics.ts';

const requestTimeoutMs = 10_000;
const connectionsMax = 64;

export interface HealthOptions {
  readonly port: number;
  readonly metrics: Metrics;
  /** Whether the caches are filled, so that this replica can lead. */
  isReady(): boolean;
}

/** Listens until the signal aborts. Rejects if the port cannot be had. `/healthz` answers as long as the event loop turns. */
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
  if (path === '/healthz') answer(200, 'ok\n');
  else if (path === '/readyz') answer(...readiness(options.isReady()));
  else if (path === '/metrics')
    response.writeHead(200, { 'content-type': options.metrics.contentType }).end(await options.metrics.text());
  else answer(404, 'not found\n');
}

function readiness(isReady: boolean): [number, string] {
  return isReady ? [200, 'ok\n'] : [503, 'the caches are not filled yet\n'];
}
