/** Reads what is known of one configuration: from the caches, or, before anything is changed, from the API server. No decisions. */
import type { Instance } from '../../api/v1alpha1/instance.ts';
import { instances } from '../../api/v1alpha1/instance.ts';
import type { InstanceConfiguration } from '../../api/v1alpha1/instanceconfiguration.ts';
import { instanceConfigurations } from '../../api/v1alpha1/instanceconfiguration.ts';
import { configurationLabel } from '../../names.ts';
import type { Client } from '../../runtime/client.ts';
import { refOf } from '../../runtime/informer.ts';
import { selectorOf } from './instance.ts';
import { viewInstance } from './observe.ts';
import type { Observed } from './plan.ts';

/** Of the API server's answer, so many Instances at a time. */
const pageSize = 500;

export interface Caches {
  readonly configurations: { get(key: string): InstanceConfiguration | undefined };
  /** Index `configuration`: by `configurationKey`. */
  readonly instances: { byIndex(index: string, value: string): readonly Instance[] };
}

/** `namespace/name` of the configuration that an Instance is of, by its label; undefined if it has none. */
export function configurationKey({ metadata }: Instance): string | undefined {
  const name = metadata.labels?.[configurationLabel];
  return name === undefined || name === '' ? undefined : `${metadata.namespace ?? ''}/${name}`;
}

/** Undefined if there is no such configuration, or it is being deleted. */
export function gatherCached(caches: Caches, key: string, nowMs: number): Observed | undefined {
  return observe(caches.configurations.get(key), () => caches.instances.byIndex('configuration', key), nowMs);
}

/** The same, as it is: what was made a moment ago is in it, however far the caches lag. */
export async function gatherLive(
  client: Client,
  key: string,
  { nowMs, signal }: { nowMs: number; signal: AbortSignal },
): Promise<Observed | undefined> {
  const { namespace = '', name } = refOf(key);
  const configuration = await client.get(instanceConfigurations, { namespace, name }, signal);
  const found: Instance[] = [];
  let next: string | undefined;
  do {
    const page = await client.list(instances, {
      namespace,
      labelSelector: selectorOf(name),
      limit: pageSize,
      ...(next === undefined ? {} : { continue: next }),
      signal,
    });
    found.push(...page.items);
    next = page.metadata.continue;
  } while (next !== undefined && next !== '');
  return observe(configuration, () => found, nowMs);
}

function observe(
  configuration: InstanceConfiguration | undefined,
  instancesOf: () => readonly Instance[],
  nowMs: number,
): Observed | undefined {
  if (configuration === undefined || configuration.metadata.deletionTimestamp !== undefined) return undefined;
  return {
    configuration,
    views: instancesOf().map((instance) => viewInstance(instance, configuration)),
    nowMs,
  };
}
