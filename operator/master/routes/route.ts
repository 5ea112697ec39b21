/** What all routes share: which methods there are, who asks, and how a refusal is answered. */
import type { Request, RequestHandler, Response, Router } from 'express';
import type { Client } from '../access.ts';
import type { InstanceDirectory } from '../ports.ts';
import { isInstanceId, malformedId } from '../live-request.ts';
import type { Refusal } from '../refusal.ts';
import { instanceNotFound, unauthorized } from '../refusal.ts';
import type { Right } from '../reviews.ts';

export interface NamedRoute {
  readonly path: string;
  /** Label of the metrics. */
  readonly name: string;
  /** Runs before anything is said of the path. */
  readonly guard?: RequestHandler;
}

export type Method = 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';

/** GET gives HEAD as well; every method without a handler is 405 and says which there are. */
export function addRoute(
  router: Router,
  { path, name, guard }: NamedRoute,
  handlers: Partial<Record<Method, RequestHandler>>,
): void {
  const methods = Object.keys(handlers).flatMap((method) => (method === 'GET' ? ['GET', 'HEAD'] : [method]));
  const route = router.route(path);
  if (guard !== undefined) route.all(guard);
  route.all((request, response, next): unknown => {
    response.locals['route'] = name;
    const handler = handlers[(request.method === 'HEAD' ? 'GET' : request.method) as Method];
    // What it returns is Express' to wait for.
    if (handler !== undefined) return handler(request, response, next);
    refuse(response, { status: 405, error: 'Method not allowed', headers: { Allow: methods.join(', ') } });
    return undefined;
  });
}

export function refuse(response: Response, refusal: Refusal): void {
  response
    .status(refusal.status)
    .set({ ...refusal.headers })
    .json({ error: refusal.error });
}

/** What a WebSocket says to a plain request. */
export function askForUpgrade(_request: Request, response: Response): void {
  response.set({ Upgrade: 'websocket', 'Sec-WebSocket-Version': '13' });
  refuse(response, { status: 426, error: 'This is a WebSocket: ask for an upgrade' });
}

/** Set for everything behind a guard that asks for a token. */
export function clientOf(response: Response): Client | undefined {
  return response.locals['client'] as Client | undefined;
}

/** Undefined: the client has this right. */
export async function refusalFor(response: Response, right: Right): Promise<Refusal | undefined> {
  const client = clientOf(response);
  return client === undefined ? unauthorized : client.refusalFor(right);
}

/** What the path names, if the client has this right on it. Whoever has it on all may also know that there is none. */
export async function findInstance(
  directory: InstanceDirectory,
  { request, response, right }: { request: Request; response: Response; right: Right },
): Promise<NonNullable<ReturnType<InstanceDirectory['byId']>> | Refusal> {
  const id = request.params['id'];
  if (typeof id !== 'string' || !isInstanceId(id)) return malformedId;
  const found = directory.byId(id);
  return (await refusalFor(response, { ...right, target: found?.info })) ?? found ?? instanceNotFound;
}
