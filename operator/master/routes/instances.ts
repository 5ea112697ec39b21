/** Calls that read Instances and their logs, type into them, and stand where their WebSocket is. */
import type { Request, Response, Router } from 'express';
import { OperatorError } from '../../errors.ts';
import type { ExecuteOptions } from '../execute.ts';
import { createExecute } from '../execute.ts';
import { liveRoute, readInteger, readParameters } from '../live-request.ts';
import type { InstanceDirectory, Limits, LogTail, TailResult, Timers } from '../ports.ts';
import type { Refusal } from '../refusal.ts';
import { badRequest } from '../refusal.ts';
import { addRoute, askForUpgrade, findInstance, refusalFor, refuse } from './route.ts';
import type { InstanceWriteOptions } from './instance-writes.ts';
import { createInstanceWrites } from './instance-writes.ts';

export interface InstanceRoutesOptions
  extends Pick<ExecuteOptions, 'typist' | 'metrics' | 'log'>, InstanceWriteOptions {
  readonly directory: InstanceDirectory;
  readonly tails: LogTail;
  readonly limits: Limits;
  readonly clock: Timers;
}

const linesDefault = 100;
const linesMax = 1_000;

export function addInstanceRoutes(router: Router, options: InstanceRoutesOptions): void {
  const { directory } = options;
  const writes = createInstanceWrites(options);
  addRoute(
    router,
    { path: '/api/instances', name: 'instances' },
    {
      GET: async (_request, response) => {
        const refusal = await refusalFor(response, { verb: 'list' });
        if (refusal === undefined) response.json(directory.list());
        else refuse(response, refusal);
      },
      POST: writes.create,
    },
  );
  addRoute(
    router,
    { path: '/api/instances/:id', name: 'instance' },
    {
      GET: async (request, response) => {
        const found = await findInstance(directory, { request, response, right: { verb: 'get' } });
        if ('status' in found) refuse(response, found);
        else response.json(found.info);
      },
      DELETE: writes.remove,
    },
  );
  addRoute(
    router,
    { path: '/api/instances/:id/lifecycle', name: 'instance-lifecycle' },
    { PATCH: writes.changeLifecycle },
  );
  addRoute(router, { path: '/api/instances/:id/state', name: 'instance-state' }, { PUT: writes.putState });
  addRoute(
    router,
    { path: '/api/instances/:id/logs', name: 'instance-logs' },
    { GET: (request, response) => answerLogs(options, request, response) },
  );
  const find = (request: Request, response: Response): ReturnType<typeof findInstance> =>
    findInstance(directory, { request, response, right: { verb: 'create', subresource: 'execute' } });
  addRoute(
    router,
    { path: '/api/instances/:id/execute', name: 'instance-execute' },
    { POST: createExecute({ ...options, find, refuse }) },
  );
  addRoute(router, { path: liveRoute, name: 'live-log' }, { GET: askForUpgrade });
}

async function answerLogs(options: InstanceRoutesOptions, request: Request, response: Response): Promise<void> {
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
  options: InstanceRoutesOptions,
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
