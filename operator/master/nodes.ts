/** The nodes of the cluster as clients see them: what Kubernetes says of a node, and what the Instances on it have set aside. */
import { parseQuantity } from '../api/v1alpha1/quantity.ts';
import type { Node } from '../runtime/nodes.ts';
import { isReady } from '../runtime/nodes.ts';
import type { InstanceInfo } from './ports.ts';

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

/** PURE: all of them, by name. Instances that are STOPPED count nowhere. */
export function toNodeInfos(nodes: readonly Node[], instances: readonly InstanceInfo[]): NodeInfo[] {
  const onNode = Map.groupBy(
    instances.filter(({ state }) => state !== 'STOPPED'),
    ({ wrapperNodeId }) => wrapperNodeId,
  );
  return nodes.map((node) => toInfo(node, onNode.get(node.metadata.name) ?? [])).sort((a, b) => (a.id < b.id ? -1 : 1));
}

function toInfo(node: Node, instances: readonly InstanceInfo[]): NodeInfo {
  const { metadata, spec, status } = node;
  return {
    id: metadata.name,
    name: metadata.name,
    state: isReady(node) ? 'ONLINE' : 'OFFLINE',
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
