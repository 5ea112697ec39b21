/** InstanceConfigurations as clients see them, and which one a name means. */
import type { InstanceConfiguration, InstanceConfigurationSpec } from '../api/v1alpha1/instanceconfiguration.ts';
import type { Refusal } from './refusal.ts';

/** The spec, and whose it is. */
export type ConfigurationInfo = InstanceConfigurationSpec & { readonly name: string; readonly namespace: string };

export function toConfigurationInfo({ metadata, spec }: InstanceConfiguration): ConfigurationInfo {
  return { name: metadata.name, namespace: metadata.namespace ?? '', ...spec };
}

/** PURE: all that count, by namespace and name. One that is being deleted is no more. */
export function toConfigurationInfos(objects: readonly InstanceConfiguration[]): ConfigurationInfo[] {
  return objects
    .filter(isPresent)
    .map(toConfigurationInfo)
    .sort((a, b) => (sortKey(a) < sortKey(b) ? -1 : 1));
}

/**
 * PURE: the one that a name means: in the namespace, where one is given; else the only one of that name. Undefined: there is none. 409 where
 * several have the name.
 */
export function findConfiguration(
  objects: readonly InstanceConfiguration[],
  { name, namespace }: { readonly name: string; readonly namespace: string | undefined },
): { readonly found: InstanceConfiguration | undefined } | Refusal {
  const found = objects.filter(
    (object) =>
      isPresent(object) &&
      object.metadata.name === name &&
      (namespace === undefined || object.metadata.namespace === namespace),
  );
  if (found.length < 2) return { found: found[0] };
  const namespaces = found.map(({ metadata }) => metadata.namespace ?? '').sort();
  return {
    status: 409,
    error: `Several configurations have the name "${name}": say which one with ?namespace=, one of ${namespaces.join(', ')}`,
  };
}

function isPresent({ metadata }: InstanceConfiguration): boolean {
  return metadata.deletionTimestamp === undefined;
}

function sortKey({ namespace, name }: ConfigurationInfo): string {
  return `${namespace}/${name}`;
}
