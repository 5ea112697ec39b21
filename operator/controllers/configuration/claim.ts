/** The volume of a static configuration. Pure. */
import type { InstanceConfiguration } from '../../api/v1alpha1/instanceconfiguration.ts';
import { accessModeDefault } from '../../api/v1alpha1/instanceconfiguration.ts';
import { parseQuantity } from '../../api/v1alpha1/quantity.ts';
import { configurationLabel, managedBy, managedByLabel } from '../../names.ts';
import type { KubernetesObject, Resource } from '../../runtime/client.ts';

/** The fields of a PersistentVolumeClaim that are used here. */
export interface PersistentVolumeClaim extends KubernetesObject {
  spec: {
    accessModes: string[];
    storageClassName?: string;
    resources: { requests: { storage: string } };
  };
}

export const persistentVolumeClaims: Resource<PersistentVolumeClaim> = {
  apiVersion: 'v1',
  kind: 'PersistentVolumeClaim',
  plural: 'persistentvolumeclaims',
  namespaced: true,
};

/** Undefined where the configuration has no storage. It has no owner: what players built must not go with a configuration. */
export function buildClaim({ metadata, spec }: InstanceConfiguration): PersistentVolumeClaim | undefined {
  const { storage } = spec;
  if (!spec.static || storage === undefined) return undefined;
  const { size, storageClassName, accessModes } = storage;
  return {
    apiVersion: 'v1',
    kind: 'PersistentVolumeClaim',
    metadata: {
      name: metadata.name,
      ...(metadata.namespace === undefined ? {} : { namespace: metadata.namespace }),
      labels: { [managedByLabel]: managedBy, [configurationLabel]: metadata.name },
    },
    spec: {
      accessModes: accessModes.length === 0 ? [accessModeDefault] : accessModes,
      ...(storageClassName === undefined ? {} : { storageClassName }),
      resources: { requests: { storage: String(size) } },
    },
  };
}

/** Whether `present` is a claim of ours that asks for less. One that somebody else made under this name is used as it is. */
export function shouldGrow(present: PersistentVolumeClaim, wanted: PersistentVolumeClaim): boolean {
  if (present.metadata.labels?.[managedByLabel] !== managedBy) return false;
  const bytes = (claim: PersistentVolumeClaim): number => parseQuantity(claim.spec.resources.requests.storage);
  return bytes(wanted) > bytes(present);
}
