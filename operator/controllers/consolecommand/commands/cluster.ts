/** `cluster`: everything at a glance. */
import { states } from '../../../api/v1alpha1/instance.ts';
import { isReady } from '../../../runtime/nodes.ts';
import { readNodes } from '../find.ts';
import type { Command } from '../registry.ts';
import { allocatableOf, formatCpu, formatMemory, requestedOn } from '../usage.ts';
import type { World } from '../world.ts';

const status: Command = {
  group: 'cluster',
  verb: 'status',
  usage: '',
  summary: 'Counts the nodes, the Instances by state, the configurations and the keys.',
  changes: false,
  arguments: [0, 0],
  run({ world, print, setResult }) {
    const counts = countStates(world);
    const total = world.instances.list().length;
    const nodes = describeNodes(world);
    print(`Nodes: ${nodes.text}`);
    print(`Instances: ${total} (${states.map((state) => `${state} ${counts[state] ?? 0}`).join(', ')})`);
    print(`Configurations: ${world.configurations.list().length}`);
    print(`Operator: ${world.identity}`);
    setResult({
      ...(nodes.count === undefined ? {} : { nodes: nodes.count, readyNodes: nodes.ready }),
      instances: total,
      states: counts,
      configurations: world.configurations.list().length,
    });
  },
};

const nodes: Command = {
  group: 'cluster',
  verb: 'nodes',
  usage: '',
  summary: 'Lists the nodes: name, READY or NOT_READY, cores and memory for pods, number of Instances.',
  changes: false,
  arguments: [0, 0],
  run({ world, print, setResult }) {
    const found = readNodes(world);
    const instances = world.instances.list();
    print(`Nodes (${found.length}):`);
    const rows = found.map((node) => {
      const { cpu, memoryBytes } = allocatableOf(node);
      const state = isReady(node) ? 'READY' : 'NOT_READY';
      const count = requestedOn(node.metadata.name, instances).instances;
      print(`${node.metadata.name} ${state} ${formatCpu(cpu)} ${formatMemory(memoryBytes)} ${count}`);
      return { name: node.metadata.name, state, cpu, memoryBytes, instances: count };
    });
    setResult({ nodes: rows });
  },
};

export const clusterCommands: readonly Command[] = [status, nodes];

function countStates({ instances }: World): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const { status: current } of instances.list()) {
    const state = current?.state ?? 'CREATING';
    counts[state] = (counts[state] ?? 0) + 1;
  }
  return counts;
}

/** A cluster whose nodes cannot be read still has a status. */
function describeNodes(world: World): { text: string; count?: number; ready?: number } {
  if (world.nodes?.hasSynced !== true) return { text: 'unknown (the operator cannot read them)' };
  const all = world.nodes.list();
  const ready = all.filter(isReady).length;
  return { text: `${all.length} (${ready} ready)`, count: all.length, ready };
}
