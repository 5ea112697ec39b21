/** How much of a node its Instances ask for. Pure. */
import type { Instance } from '../../api/v1alpha1/instance.ts';
import { parseQuantity } from '../../api/v1alpha1/quantity.ts';
import type { Node } from '../../runtime/nodes.ts';

export interface Share {
  readonly instances: number;
  /** Cores. */
  readonly cpu: number;
  readonly memoryBytes: number;
}

/** What the Instances with a program on this node request; a limit counts where there is no request, as Kubernetes counts it. */
export function requestedOn(node: string, instances: readonly Instance[]): Share {
  const placed = instances.filter(({ status }) => status?.nodeName === node && status.state !== 'STOPPED');
  return {
    instances: placed.length,
    cpu: sum(placed, 'cpu'),
    memoryBytes: sum(placed, 'memory'),
  };
}

export function allocatableOf({ status }: Node): Omit<Share, 'instances'> {
  const { cpu = '0', memory = '0' } = status?.allocatable ?? {};
  return { cpu: parseQuantity(cpu), memoryBytes: parseQuantity(memory) };
}

/** Cores as people write them, to a thousandth. */
export function formatCpu(cores: number): string {
  return String(Math.round(cores * 1000) / 1000);
}

export function formatMemory(bytes: number): string {
  return `${Math.round(bytes / 2 ** 20)}Mi`;
}

function sum(instances: readonly Instance[], resource: string): number {
  return instances.reduce((total, { spec }) => {
    const quantity = spec.resources?.requests?.[resource] ?? spec.resources?.limits?.[resource];
    return total + (quantity === undefined ? 0 : parseQuantity(quantity));
  }, 0);
}
