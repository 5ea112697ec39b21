/** Calls that make, end, start, stop and restart Instances, and that report on them from outside: each is one command line. */
import type { RequestHandler, Response } from 'express';
import type { InstanceConfiguration } from '../../api/v1alpha1/instanceconfiguration.ts';
import type { LineRunner } from '../commandline.ts';
import { parseBody, readBody } from '../jsonbody.ts';
import type { CommandResult } from '../runline.ts';
import { runLine, toLine } from '../runline.ts';
import { readParameters } from '../live-request.ts';
import type { Cached, InstanceDirectory, InstanceInfo, Limits, Timers } from '../ports.ts';
import type { Refusal } from '../refusal.ts';
import { badRequest, unauthorized } from '../refusal.ts';
import type { Right } from '../reviews.ts';
import type { LifecycleTarget } from '../schemas.ts';
import { createInstanceBody, instanceStateBody, lifecycleTargets } from '../schemas.ts';
import { clientOf, findInstance, refusalFor, refuse } from './route.ts';
import { untilSettled } from './settled.ts';
import { appendWarnings } from './warnings.ts';

export interface InstanceWriteOptions {
  readonly directory: InstanceDirectory;
  readonly limits: Limits;
  readonly clock: Timers;
  readonly runner: LineRunner;
  readonly configurations?: Cached<InstanceConfiguration> | undefined;
}

export interface InstanceWrites {
  readonly create: RequestHandler;
  readonly remove: RequestHandler;
  readonly changeLifecycle: RequestHandler;
  readonly putState: RequestHandler;
}

/** Names have at most 253 characters; the rest is room for the JSON around them. */
const bodyBytesMax = 4096;

export function createInstanceWrites(options: InstanceWriteOptions): InstanceWrites {
  return {
    create: async (request, response) => {
      const body = parseBody(await readBody(request, bodyBytesMax), createInstanceBody, '{"configurationName":"…"}');
      const outcome = 'status' in body ? body : await create(options, body.value.configurationName, response);
      if ('status' in outcome) refuse(response, outcome);
      else response.status(201).json(outcome.info);
    },
    remove: async (request, response) => {
      const found = await findInstance(options.directory, { request, response, right: { verb: 'delete' } });
      const outcome = 'status' in found ? found : await run(options, response, ['instance', 'delete', found.info.id]);
      if ('status' in outcome) {
        refuse(response, outcome);
        return;
      }
      appendWarnings(response, outcome.result);
      response.json({ message: 'Instance stopped', instanceId: request.params['id'] });
    },
    changeLifecycle: async (request, response) => {
      const found = await findInstance(options.directory, { request, response, right: { verb: 'patch' } });
      const target = 'status' in found ? found : readTarget(request.originalUrl);
      const outcome =
        typeof target === 'string' && 'info' in found
          ? await run(options, response, ['instance', target, found.info.id])
          : (target as Refusal);
      if ('status' in outcome) {
        refuse(response, outcome);
        return;
      }
      appendWarnings(response, outcome.result);
      response.json({ message: 'Lifecycle change dispatched', instanceId: request.params['id'], target });
    },
    putState: async (request, response) => {
      const body = parseBody(await readBody(request, bodyBytesMax), instanceStateBody, '{"state":"ONLINE"}');
      const right = { verb: 'patch' } as const satisfies Right;
      const found = await findInstance(options.directory, { request, response, right });
      const outcome =
        'status' in found ? found : 'status' in body ? body : await report(options, response, { found, ...body });
      if ('status' in outcome) refuse(response, outcome);
      else response.json(outcome.info);
    },
  };
}

/** The Instance with its id, as soon as this replica knows it. */
async function create(
  options: InstanceWriteOptions,
  configurationName: string,
  response: Response,
): Promise<{ readonly info: InstanceInfo } | Refusal> {
  const namespace = namespaceOf(options.configurations?.list() ?? [], configurationName);
  const target = namespace === undefined ? undefined : { namespace };
  const refusal = await refusalFor(response, { verb: 'create', target });
  if (refusal !== undefined) return refusal;
  const outcome = await run(options, response, ['instance', 'create', configurationName]);
  // What is not there is named in the body, not in the path.
  if ('status' in outcome) return outcome.status === 404 ? { ...outcome, status: 400 } : outcome;
  const made = readMade(outcome.result);
  if (made === undefined) return { status: 500, error: 'The command named no Instance that it made' };
  const { directory, limits, clock } = options;
  await untilSettled({
    onChange: (listener) => directory.onChange(listener),
    isSettled: () => directory.byUid(made.uid) !== undefined,
    timeoutMs: limits.createTimeoutMs,
    clock,
  });
  const info = directory.byUid(made.uid);
  if (info === undefined) {
    const name = `${made.namespace}/${made.name}`;
    return {
      status: 504,
      error: `Instance "${name}" was made, but it has no id yet: look for it in GET /api/instances`,
    };
  }
  // It may have come further meanwhile: what was accepted is said here, and how it is now by the next read.
  return { info: { ...info, state: 'CREATING' } };
}

async function report(
  options: InstanceWriteOptions,
  response: Response,
  {
    found,
    value,
  }: {
    found: { readonly info: InstanceInfo; readonly uid: string };
    value: { state: InstanceInfo['state']; lastHeartbeat?: number | undefined };
  },
): Promise<{ readonly info: InstanceInfo } | Refusal> {
  const lastHeartbeat = value.lastHeartbeat ?? options.clock.nowMs();
  const { id } = found.info;
  const outcome = await run(options, response, ['instance', 'state', id, value.state, lastHeartbeat.toString()]);
  if ('status' in outcome) return outcome;
  // This replica may not have seen it yet.
  return { info: { ...(options.directory.byUid(found.uid) ?? found.info), state: value.state, lastHeartbeat } };
}

async function run(
  { runner }: InstanceWriteOptions,
  response: Response,
  words: readonly string[],
): Promise<{ readonly result: CommandResult } | Refusal> {
  const client = clientOf(response);
  return client === undefined ? unauthorized : runLine(runner, { line: toLine(words), client, response });
}

/** Where its Instances are made; undefined where that is not certain. */
function namespaceOf(configurations: readonly InstanceConfiguration[], name: string): string | undefined {
  const [first, ...others] = configurations.filter(({ metadata }) => metadata.name === name);
  return others.length === 0 ? first?.metadata.namespace : undefined;
}

function readTarget(url: string): LifecycleTarget | Refusal {
  const parameters = readParameters(url, ['target']);
  if ('status' in parameters) return parameters;
  const target = lifecycleTargets.find((known) => known === parameters.values['target']);
  return target ?? badRequest(`Malformed query parameter "target": it is one of ${lifecycleTargets.join(', ')}`);
}

/** PURE: the first Instance that `instance create` says it made. */
function readMade({ instances }: CommandResult): { name: string; namespace: string; uid: string } | undefined {
  const [made] = Array.isArray(instances) ? (instances as unknown[]) : [];
  if (typeof made !== 'object' || made === null) return undefined;
  const { name, namespace, uid } = made as Record<string, unknown>;
  if (typeof name !== 'string' || typeof namespace !== 'string' || typeof uid !== 'string') return undefined;
  return { name, namespace, uid };
}
