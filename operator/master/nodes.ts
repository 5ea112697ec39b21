/** The nodes of the cluster as clients see them: what Kubernetes says of a node, and what the Instances on it have set aside. */
import { parseQuantity } from '../api/v1alpha1/quantity.ts';
import type { KubernetesObject, Resource } from '../runtime/client.ts';
import type { InstanceInfo } from './ports.ts';

export interface ClusterNode extends KubernetesObject {
  spec?: { unschedulable?: boolean };
  status?: {
    allocatable?: Readonly<Record<string, string>>;
    conditions?: readonly { readonly type: string; readonly status: string }[];
  };
}

export const clusterNodes: Resource<ClusterNode> = {
  apiVersion: 'v1',
  kind: 'Node',
  plural: 'nodes',
  namespaced: false,
};

/** Field names are the protocol's. */
export interface NodeInfo {
  readonly id: string;
  readonly name: string;
  readonly state: 'ONLINE' | 'OFFLINE';
  readonly schedulable: boolean;
  readonly allocatableRamMB: number;
  /** 100 is one core. */
  readonly allocatableCpu: number;
  readonly allocatedRamMB: number;
  readonly allocatedCpu: number;
  readonly instances: number;
}

/** What is kept of a node: the names of its images alone may be most of it. */
export function trimNode({ metadata, spec, status }: ClusterNode): ClusterNode {
  const { name, uid, resourceVersion } = metadata;
  const { allocatable = {}, conditions = [] } = status ?? {};
  const ready = conditions.filter(({ type }) => type === 'Ready');
  return {
    metadata: { name, ...(uid && { uid }), ...(resourceVersion && { resourceVersion }) },
    spec: { unschedulable: spec?.unschedulable === true },
    status: {
      allocatable: { cpu: allocatable['cpu'] ?? '0', memory: allocatable['memory'] ?? '0' },
      conditions: ready.map(({ type, status: value }) => ({ type, status: value })),
    },
  };
}

/** PURE: all of them, by name. Instances that are STOPPED count nowhere. */
export function toNodeInfos(nodes: readonly ClusterNode[], instances: readonly InstanceInfo[]): NodeInfo[] {
  const onNode = Map.groupBy(
    instances.filter(({ state }) => state !== 'STOPPED'),
    ({ wrapperNodeId }) => wrapperNodeId,
  );
  return nodes.map((node) => toInfo(node, onNode.get(node.metadata.name) ?? [])).sort((a, b) => (a.id < b.id ? -1 : 1));
}

function toInfo({ metadata, spec, status }: ClusterNode, instances: readonly InstanceInfo[]): NodeInfo {
  const isReady = status?.conditions?.some((condition) => condition.type === 'Ready' && condition.status === 'True');
  return {
    id: metadata.name,
    name: metadata.name,
    state: isReady === true ? 'ONLINE' : 'OFFLINE',
    schedulable: spec?.unschedulable !== true,
    allocatableRamMB: Math.floor(parseQuantity(status?.allocatable?.['memory'] ?? 0) / (1024 * 1024)),
    allocatableCpu: Math.floor(parseQuantity(status?.allocatable?.['cpu'] ?? 0) * 100),
    allocatedRamMB: sum(instances, ({ allocatedRamMB }) => allocatedRamMB),
    allocatedCpu: sum(instances, ({ allocatedCpu }) => allocatedCpu),
    instances: instances.length,
  };
}

function sum(instances: readonly InstanceInfo[], part: (info: InstanceInfo) => number): number {
  return instances.reduce((total, info) => total + part(info), 0);
}
