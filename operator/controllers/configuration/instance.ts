/** The Instance that a configuration's template describes. Pure. */
import type { Instance } from '../../api/v1alpha1/instance.ts';
import { instances } from '../../api/v1alpha1/instance.ts';
import type { InstanceConfiguration } from '../../api/v1alpha1/instanceconfiguration.ts';
import { configurationLabel, floorLabel, managedBy, managedByLabel } from '../../names.ts';

/** `name` counts before `generateName`; with neither it has the configuration's name. `isFloor`: the loop makes it for the floor. */
export function buildInstance(
  configuration: InstanceConfiguration,
  options: { name?: string; generateName?: string; isFloor: boolean },
): Instance {
  const { metadata, spec } = configuration;
  const { labels, annotations } = spec.template.metadata ?? {};
  const { name, generateName } = options;
  const named =
    name === undefined && generateName !== undefined ? { name: '', generateName } : { name: name ?? metadata.name };
  return {
    apiVersion: instances.apiVersion,
    kind: instances.kind,
    metadata: {
      ...named,
      ...(metadata.namespace === undefined ? {} : { namespace: metadata.namespace }),
      labels: {
        ...labels,
        [configurationLabel]: metadata.name,
        [managedByLabel]: managedBy,
        ...(options.isFloor ? { [floorLabel]: 'true' } : {}),
      },
      ...(annotations === undefined ? {} : { annotations }),
    },
    spec: structuredClone(spec.template.spec),
  };
}
