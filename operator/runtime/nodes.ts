/** The nodes of the cluster, as far as they are looked at here. */
import type { KubernetesObject, Resource } from './client.ts';

export interface Node extends KubernetesObject {
  spec?: { unschedulable?: boolean };
  status?: {
    allocatable?: Readonly<Record<string, string>>;
    conditions?: readonly { readonly type: string; readonly status: string }[];
    addresses?: readonly { readonly type: string; readonly address: string }[];
    nodeInfo?: { readonly kubeletVersion?: string; readonly osImage?: string; readonly architecture?: string };
  };
}

export const nodes: Resource<Node> = { apiVersion: 'v1', kind: 'Node', plural: 'nodes', namespaced: false };

/** Whether Kubernetes says that its kubelet is well. */
export function isReady({ status }: Node): boolean {
  return status?.conditions?.some(({ type, status: holds }) => type === 'Ready' && holds === 'True') === true;
}

/** What is kept of a node: the names of its images alone may be most of it. */
export function keepNode({ metadata, spec, status }: Node): Node {
  const { name, uid, resourceVersion } = metadata;
  const { allocatable = {}, conditions = [], addresses, nodeInfo } = status ?? {};
  const ready = conditions.filter(({ type }) => type === 'Ready');
  return {
    metadata: { name, ...(uid && { uid }), ...(resourceVersion && { resourceVersion }) },
    spec: { unschedulable: spec?.unschedulable === true },
    status: {
      allocatable: { cpu: allocatable['cpu'] ?? '0', memory: allocatable['memory'] ?? '0' },
      conditions: ready.map(({ type, status: holds }) => ({ type, status: holds })),
      ...(addresses && { addresses }),
      ...(nodeInfo && { nodeInfo }),
    },
  };
}
