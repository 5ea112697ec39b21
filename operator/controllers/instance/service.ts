/** The Service in front of an Instance's ports. Pure. */
import { protocolDefault } from '../../api/v1alpha1/instance.ts';
import type { Instance } from '../../api/v1alpha1/instance.ts';
import { instanceLabel, managedBy, managedByLabel } from '../../names.ts';
import type { Service } from '../../runtime/client.ts';
import { ownerReference } from './owner.ts';
import { podLabels } from './pod.ts';

/** Undefined where the Instance wants none: it has no ports, or says so. */
export function buildService(instance: Instance, id: string): Service | undefined {
  const { ports = [], service } = instance.spec;
  const type = service?.type ?? 'ClusterIP';
  // The Engine's container does not belong to the pod: no Service reaches it.
  if (ports.length === 0 || type === 'None' || instance.spec.runtime === 'docker') return undefined;
  return {
    apiVersion: 'v1',
    kind: 'Service',
    metadata: {
      name: instance.metadata.name,
      ...(instance.metadata.namespace === undefined ? {} : { namespace: instance.metadata.namespace }),
      labels: podLabels(instance, id),
      ...(service?.annotations === undefined ? {} : { annotations: service.annotations }),
      ownerReferences: [ownerReference(instance)],
    },
    spec: {
      type,
      selector: { [managedByLabel]: managedBy, [instanceLabel]: instance.metadata.name },
      // The port number and not its name: it also reaches a pod made before the name was given.
      ports: ports.map(({ name, port, protocol = protocolDefault }) => ({ name, port, protocol, targetPort: port })),
    },
  };
}
