/**
 * The network of a cluster that has nodes. Each node is a network namespace with one cable to a bridge of the machine; the control plane is
 * in the machine's own namespace and listens on the bridge. Pods and services can be reached from the machine, and nothing of it from elsewhere.
 */
import { existsSync } from 'node:fs';
import { run } from './command.ts';
import type { ClusterSettings } from './settings.ts';
import { nodeAddress, nodeNetns, nodeNumbers, nodesMax } from './settings.ts';

/** High, so that the routes to real pods win. */
const unreachableMetric = '9000';

/** Makes the bridge, the namespaces and the routes. What is there from before must have been removed. */
export async function createNetwork(settings: ClusterSettings, nodes: number): Promise<void> {
  // A module on most machines, built in on others.
  if (!existsSync('/proc/sys/net/bridge')) await run('modprobe', ['br_netfilter']);
  await ip('link', 'add', settings.bridge, 'type', 'bridge');
  await ip('addr', 'add', `${settings.nodeNet}.1/24`, 'dev', settings.bridge);
  await ip('link', 'set', settings.bridge, 'up');
  // No packet for an address that is not there may leave the machine by the default route.
  for (const net of clusterNets(settings)) {
    await ip('route', 'add', 'unreachable', net, 'metric', unreachableMetric);
  }
  for (const node of nodeNumbers(nodes)) await createNode(settings, node, nodes);
  // Services, from the machine: by way of node 1, whose kube-proxy sends them on.
  await ip('route', 'add', `${settings.serviceNet}.0.0/16`, 'via', nodeAddress(settings, 1));
}

/** Removes the network, whatever is left of it. */
export async function removeNetwork(settings: ClusterSettings): Promise<void> {
  for (const node of nodeNumbers(nodesMax)) {
    // The cable first: the kernel takes it away with the namespace, but later, and only when no process is left in that.
    await removeLink(`${settings.vethPrefix}${String(node)}`);
    const netns = nodeNetns(settings, node);
    if (existsSync(`/run/netns/${netns}`)) await ip('netns', 'del', netns);
  }
  await removeLink(settings.bridge);
  for (const net of clusterNets(settings)) {
    const route = await ip('route', 'show', 'type', 'unreachable', net);
    if (route.trim() !== '') await ip('route', 'del', 'unreachable', net, 'metric', unreachableMetric);
  }
}

async function removeLink(name: string): Promise<void> {
  const file = `/sys/class/net/${name}`;
  if (!existsSync(file)) return;
  try {
    await ip('link', 'del', name);
  } catch (error) {
    // The kernel may have been about to remove it by itself.
    if (existsSync(file)) throw error;
  }
}

/** Pulls a node's cable, or plugs it in again. Its processes go on. */
export async function setNodeCable(settings: ClusterSettings, node: number, state: 'up' | 'down'): Promise<void> {
  await ip('link', 'set', `${settings.vethPrefix}${String(node)}`, state);
}

async function createNode(settings: ClusterSettings, node: number, nodes: number): Promise<void> {
  const netns = nodeNetns(settings, node);
  const veth = `${settings.vethPrefix}${String(node)}`;
  await ip('netns', 'add', netns);
  await ip('link', 'add', veth, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', netns);
  await ip('link', 'set', veth, 'master', settings.bridge, 'up');
  const others = nodeNumbers(nodes).filter((other) => other !== node);
  await ipBatch(netns, [
    `addr add ${nodeAddress(settings, node)}/24 dev eth0`,
    'link set lo up',
    'link set eth0 up',
    // A process of the node itself that dials a service needs some route; kube-proxy changes the destination after the look-up.
    `route add ${settings.serviceNet}.0.0/16 dev eth0`,
    // No default route: a pod that dials the outside fails at once.
    `route add unreachable ${settings.podNet}.0.0/16 metric ${unreachableMetric}`,
    ...others.map((other) => `route add ${settings.podNet}.${String(other)}.0/24 via ${nodeAddress(settings, other)}`),
  ]);
  // The second: a service address that leads to a pod of the same node is answered past conntrack if the bridge does not ask it.
  const enable = 'echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables';
  await run('nsenter', [`--net=/run/netns/${netns}`, 'sh', '-c', enable]);
  await ip('route', 'add', `${settings.podNet}.${String(node)}.0/24`, 'via', nodeAddress(settings, node));
}

function clusterNets(settings: ClusterSettings): string[] {
  return [`${settings.podNet}.0.0/16`, `${settings.serviceNet}.0.0/16`];
}

async function ip(...args: string[]): Promise<string> {
  return run('ip', args);
}

async function ipBatch(netns: string, lines: readonly string[]): Promise<void> {
  await run('ip', ['-n', netns, '-batch', '-'], { input: `${lines.join('\n')}\n` });
}
