/**
 * Every fixed fact about the embedded clusters: versions, folders, names, addresses and ports. The named clusters share nothing, so that
 * any of them can be up at once. All addresses live in network namespaces and on bridges that exist only while a cluster is up.
 */
import { homedir } from 'node:os';
import { join } from 'node:path';

/** What is built, and with which Go. The `go.mod` files beside this one say the same; a test compares them. */
export const versions = {
  kubernetes: '1.37.2',
  etcd: '3.7.0',
  coredns: '1.14.3',
  helm: '3.22.0',
  kwok: '0.8.0',
  kubeRouter: '2.1.0',
  stern: '1.35.0',
  prometheusAdapter: '0.12.0',
  /** Fetched where there is none that is at least `goMin`. */
  go: '1.26.8',
  goMin: '1.26.1',
  /** stern asks for a newer one. */
  goForStern: '1.27.3',
} as const;

/** `dev` is `npm run up`, `test` the end-to-end tests, `integration` a control plane for integration tests, `bench` the benchmarks. */
export const clusterNames = ['dev', 'test', 'integration', 'bench'] as const;
export type ClusterName = (typeof clusterNames)[number];

/** At most this many nodes: a node's number is part of addresses and of interface names. */
export const nodesMax = 9;

export interface ClusterSettings {
  name: ClusterName;
  /** Holds state, logs and credentials; removed by `down` with `wipe`. */
  stateDir: string;
  /** The cgroup that holds every process of the cluster, below the root of each hierarchy. */
  cgroup: string;
  bridge: string;
  /** Network namespace of node N is this and N. */
  netnsPrefix: string;
  /** The machine's end of node N's cable is this and N. */
  vethPrefix: string;
  /** First three numbers: the bridge is `.1`, node N is `.10+N`, in a /24. */
  nodeNet: string;
  /** First two numbers: node N's pods are in `.N.0/24`. */
  podNet: string;
  /** First two numbers of the services' /16. */
  serviceNet: string;
  /** Cluster DNS, within `serviceNet`. */
  dnsAddress: string;
  /** Every port that is opened outside of the nodes' own network namespaces. */
  ports: { api: number; etcd: number; etcdPeer: number; controllerManager: number; scheduler: number };
}

/** Where everything that outlives a clone is kept. */
export function defaultCacheDir(env: NodeJS.ProcessEnv = process.env): string {
  const base = env['XDG_CACHE_HOME'];
  // The XDG specification says that a relative path counts as not set.
  return join(base?.startsWith('/') === true ? base : join(homedir(), '.cache'), 'ringmaster');
}

/** The settings of a named cluster. Pure, but for the default of the cache folder. */
export function clusterSettings(name: ClusterName, cacheDir: string = defaultCacheDir()): ClusterSettings {
  const index = clusterNames.indexOf(name);
  const serviceNet = `10.${String(210 + index)}`;
  // Below 32768, where the kernel begins to hand out ports for outgoing connections.
  const port = 26400 + 10 * index;
  return {
    name,
    stateDir: join(cacheDir, 'clusters', name),
    cgroup: `ringmaster-${name}`,
    bridge: `rmbr${String(index)}`,
    netnsPrefix: `ringmaster-${name}-node`,
    vethPrefix: `rmv${String(index)}n`,
    nodeNet: `10.198.${String(index)}`,
    podNet: `10.${String(200 + index)}`,
    serviceNet,
    dnsAddress: `${serviceNet}.0.10`,
    ports: { api: port, etcd: port + 1, etcdPeer: port + 2, controllerManager: port + 3, scheduler: port + 4 },
  };
}

/** Whether a text is the name of a cluster. */
export function isClusterName(text: string): text is ClusterName {
  return (clusterNames as readonly string[]).includes(text);
}

/** Address of node N on the bridge. */
export function nodeAddress(settings: ClusterSettings, node: number): string {
  return `${settings.nodeNet}.${String(10 + node)}`;
}

/** Name of the network namespace of node N. */
export function nodeNetns(settings: ClusterSettings, node: number): string {
  return `${settings.netnsPrefix}${String(node)}`;
}

/** The numbers of the nodes, from 1. */
export function nodeNumbers(nodes: number): number[] {
  return Array.from({ length: nodes }, (_, index) => index + 1);
}
