/** `/api/configurations`: reads are answered from the watch, writes are command lines, whose faults are the API server's own sentences. */
import type { Request, Response, Router } from 'express';
import type { InstanceConfiguration } from '../../api/v1alpha1/instanceconfiguration.ts';
import type { LineRunner } from '../commandline.ts';
import { parseObject, readBody } from '../jsonbody.ts';
import type { CommandResult } from '../runline.ts';
import { runLine, toLine } from '../runline.ts';
import { findConfiguration, toConfigurationInfo, toConfigurationInfos } from '../configurations.ts';
import { readParameters } from '../live-request.ts';
import type { Cached, Limits, Timers } from '../ports.ts';
import type { Refusal } from '../refusal.ts';
import { badRequest, unauthorized, unavailable } from '../refusal.ts';
import type { Right } from '../reviews.ts';
import { isObjectName } from '../schemas.ts';
import { addRoute, clientOf, refusalFor, refuse } from './route.ts';
import { untilSettled } from './settled.ts';
import { appendWarnings } from './warnings.ts';

export interface ConfigurationRoutesOptions {
  readonly configurations?: Cached<InstanceConfiguration> | undefined;
  readonly runner: LineRunner;
  /** Where a configuration is made when nothing else is said. */
  readonly releaseNamespace: string;
  readonly limits: Limits;
  readonly clock: Timers;
}

/** What the path and the query name. */
interface Named {
  readonly name: string;
  readonly namespace: string;
  /** Undefined: there is none of the name. */
  readonly found: InstanceConfiguration | undefined;
  readonly cache: Cached<InstanceConfiguration>;
}

/** A line has at most 65536 bytes; JSON may spell each of them with several. */
const bodyBytesMax = 262_144;
const resource = 'instanceconfigurations';
const example = '{"template":{"spec":{"image":"…"}}}';
const notFound: Refusal = { status: 404, error: 'Configuration not found' };
const notSynced = unavailable('The configurations are not known here yet', 1);

export function addConfigurationRoutes(router: Router, options: ConfigurationRoutesOptions): void {
  addRoute(
    router,
    { path: '/api/configurations', name: 'configurations' },
    {
      GET: async (_request, response) => {
        const refusal = await refusalFor(response, { verb: 'list', resource });
        const cache = syncedCache(options);
        if (refusal !== undefined) refuse(response, refusal);
        else if ('status' in cache) refuse(response, cache);
        else response.json(toConfigurationInfos(cache.list()));
      },
    },
  );
  addRoute(
    router,
    { path: '/api/configurations/:name', name: 'configuration' },
    {
      GET: async (request, response) => {
        const named = await nameConfiguration(options, { request, response, verb: 'get' });
        if ('status' in named) refuse(response, named);
        else if (named.found === undefined) refuse(response, notFound);
        else response.json(toConfigurationInfo(named.found));
      },
      PUT: async (request, response) => {
        const body = await readBody(request, bodyBytesMax);
        const named = await nameConfiguration(options, { request, response, verb: 'update' });
        const outcome = 'status' in named ? named : await put(options, response, { named, body });
        answerWrite(response, outcome);
      },
      DELETE: async (request, response) => {
        const named = await nameConfiguration(options, { request, response, verb: 'delete' });
        const outcome = 'status' in named ? named : await remove(options, response, named);
        answerWrite(response, outcome);
      },
    },
  );
}

async function put(
  options: ConfigurationRoutesOptions,
  response: Response,
  { named, body }: { named: Named; body: Buffer | Refusal },
): Promise<undefined | Refusal> {
  const parsed = parseObject(body, example);
  if ('status' in parsed) return parsed;
  const { name, namespace, ...spec } = parsed.object;
  if ((name ?? named.name) !== named.name) return badRequest('Malformed "name" in the body: it is that of the path');
  if ((namespace ?? named.namespace) !== named.namespace) {
    return badRequest(`Malformed "namespace" in the body: the configuration is in "${named.namespace}"`);
  }
  const words = ['config', 'apply', qualify(options, named), JSON.stringify(spec)];
  const outcome = await run(options, response, words);
  if ('status' in outcome) return outcome;
  const { generation } = outcome.result;
  await settle(options, named, (present) =>
    typeof generation === 'number' ? (present?.metadata.generation ?? 0) >= generation : present !== undefined,
  );
  appendWarnings(response, outcome.result);
  return undefined;
}

async function remove(
  options: ConfigurationRoutesOptions,
  response: Response,
  named: Named,
): Promise<undefined | Refusal> {
  if (named.found === undefined) return notFound;
  const outcome = await run(options, response, ['config', 'delete', qualify(options, named)]);
  if ('status' in outcome) return outcome;
  const { uid } = named.found.metadata;
  await settle(options, named, (present) => present?.metadata.uid !== uid);
  appendWarnings(response, outcome.result);
  return undefined;
}

function answerWrite(response: Response, refusal: Refusal | undefined): void {
  if (refusal === undefined) response.status(204).end();
  else refuse(response, refusal);
}

/** Which one is meant, if the client has this right on it. Whoever has it on all may also know that there is none. */
async function nameConfiguration(
  options: ConfigurationRoutesOptions,
  { request, response, verb }: { request: Request; response: Response; verb: Right['verb'] },
): Promise<Named | Refusal> {
  const { name } = request.params;
  if (typeof name !== 'string' || !isObjectName(name)) {
    return badRequest(
      'Malformed configuration name: it is lower-case letters, digits, hyphens and dots, as of Kubernetes objects',
    );
  }
  const parameters = readParameters(request.originalUrl, ['namespace']);
  if ('status' in parameters) return parameters;
  const { namespace } = parameters.values;
  if (namespace !== undefined && !/^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$/.test(namespace)) {
    return badRequest('Malformed query parameter "namespace": it is a namespace of Kubernetes');
  }
  const cache = syncedCache(options);
  const choice = 'status' in cache ? cache : findConfiguration(cache.list(), { name, namespace });
  const place = 'found' in choice ? (choice.found?.metadata.namespace ?? namespace) : namespace;
  const isMade = verb === 'update';
  const inPlace = isMade ? (place ?? options.releaseNamespace) : place;
  const target = inPlace === undefined ? undefined : { namespace: inPlace, name };
  const refusal = await refusalFor(response, { verb, resource, target });
  if (refusal !== undefined) return refusal;
  if ('status' in choice) return choice;
  if ('status' in cache) return cache;
  return { name, namespace: inPlace ?? options.releaseNamespace, found: choice.found, cache };
}

function syncedCache({ configurations }: ConfigurationRoutesOptions): Cached<InstanceConfiguration> | Refusal {
  return configurations?.hasSynced === true ? configurations : notSynced;
}

/** As commands name it. */
function qualify({ releaseNamespace }: ConfigurationRoutesOptions, { name, namespace }: Named): string {
  return namespace === releaseNamespace ? name : `${namespace}/${name}`;
}

async function run(
  { runner }: ConfigurationRoutesOptions,
  response: Response,
  words: readonly string[],
): Promise<{ readonly result: CommandResult } | Refusal> {
  const client = clientOf(response);
  return client === undefined ? unauthorized : runLine(runner, { line: toLine(words), client, response });
}

async function settle(
  { clock, limits }: ConfigurationRoutesOptions,
  { cache, name, namespace }: Named,
  isSettled: (present: InstanceConfiguration | undefined) => boolean,
): Promise<void> {
  await untilSettled({
    onChange: (listener) => cache.onChange(listener),
    isSettled: () => {
      const outcome = findConfiguration(cache.list(), { name, namespace });
      return isSettled('found' in outcome ? outcome.found : undefined);
    },
    timeoutMs: limits.settleTimeoutMs,
    clock,
  });
}
