/** `node`: the machines that programs run on. Without a name, all of them. */
import type { Node } from '../../../runtime/nodes.ts';
import { isReady } from '../../../runtime/nodes.ts';
import { findNodes } from '../find.ts';
import type { Command } from '../registry.ts';
import { allocatableOf, formatCpu, formatMemory, requestedOn } from '../usage.ts';

const info: Command = {
  group: 'node',
  verb: 'info',
  usage: '[node]',
  summary: 'Shows the state, address and system of a node, or of all.',
  changes: false,
  arguments: [0, 1],
  run({ world, arguments: [name], print, setResult }) {
    const found = findNodes(world, name).map(describe);
    for (const node of found) {
      print(`Node ${node.name}:`);
      print(`state: ${node.state}`);
      print(`schedulable: ${node.isSchedulable ? 'yes' : 'no'}`);
      print(`address: ${node.address}`);
      print(`kubelet: ${node.kubelet}`);
      print(`system: ${node.system}`);
    }
    setResult({ nodes: found });
  },
};

const resources: Command = {
  group: 'node',
  verb: 'resources',
  usage: '[node]',
  summary: 'Shows what a node, or each, has for pods, and how much of it the Instances request.',
  changes: false,
  arguments: [0, 1],
  run({ world, arguments: [name], print, setResult }) {
    const instances = world.instances.list();
    const found = findNodes(world, name).map((node) => {
      const share = requestedOn(node.metadata.name, instances);
      return { name: node.metadata.name, allocatable: allocatableOf(node), requested: share };
    });
    for (const { name: node, allocatable, requested } of found) {
      print(`Node ${node}:`);
      print(`cpu: ${formatCpu(requested.cpu)} of ${formatCpu(allocatable.cpu)} requested by Instances`);
      const memory = [requested, allocatable].map(({ memoryBytes }) => formatMemory(memoryBytes));
      print(`memory: ${memory.join(' of ')} requested by Instances`);
      print(`instances: ${requested.instances}`);
    }
    setResult({ nodes: found });
  },
};

export const nodeCommands: readonly Command[] = [info, resources];

function describe(node: Node): Record<'name' | 'state' | 'address' | 'kubelet' | 'system', string> & {
  isSchedulable: boolean;
} {
  const { addresses = [], nodeInfo = {} } = node.status ?? {};
  const internal = addresses.find(({ type }) => type === 'InternalIP') ?? addresses[0];
  return {
    name: node.metadata.name,
    state: isReady(node) ? 'READY' : 'NOT_READY',
    isSchedulable: node.spec?.unschedulable !== true,
    address: internal?.address ?? '-',
    kubelet: nodeInfo.kubeletVersion ?? '-',
    system: [nodeInfo.osImage, nodeInfo.architecture].filter((part) => part !== undefined).join(', ') || '-',
  };
}
