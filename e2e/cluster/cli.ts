/** The embedded clusters by hand: `node e2e/cluster/cli.ts up|down|status NAME [--nodes N] [--control-plane] [--wipe]`. */
import { parseArgs } from 'node:util';
import { attachCluster, downCluster, startCluster } from './cluster.ts';
import type { ClusterName } from './settings.ts';
import { clusterNames, isClusterName } from './settings.ts';

const usage = `usage: cli.ts up|down|status ${clusterNames.join('|')} [--nodes N] [--control-plane] [--wipe]`;

interface Flags {
  nodes: string;
  'control-plane': boolean;
  wipe: boolean;
}

const actions = { up, down, status } as const;

async function up(name: ClusterName, flags: Flags): Promise<void> {
  const startedAt = Date.now();
  const log = (line: string): void => {
    console.log(`${((Date.now() - startedAt) / 1000).toFixed(1).padStart(6)} s  ${line}`);
  };
  const cluster = await startCluster({
    name,
    nodes: Number(flags.nodes),
    controlPlaneOnly: flags['control-plane'],
    log,
  });
  log('up');
  console.log(`export KUBECONFIG=${cluster.kubeconfig}`);
}

async function down(name: ClusterName, flags: Flags): Promise<void> {
  await downCluster(name, { wipe: flags.wipe });
  console.log(`cluster "${name}" is down${flags.wipe ? ' and its state removed' : ''}`);
}

async function status(name: ClusterName): Promise<void> {
  const cluster = await attachCluster(name);
  if (cluster === undefined) {
    console.log(`cluster "${name}" is not up`);
    process.exitCode = 1;
    return;
  }
  for (const component of cluster.components) {
    console.log(`${component.padEnd(26)} ${String(cluster.pid(component) ?? 'ended')}`);
  }
  console.log(`export KUBECONFIG=${cluster.kubeconfig}`);
}

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: {
    nodes: { type: 'string', default: '1' },
    'control-plane': { type: 'boolean', default: false },
    wipe: { type: 'boolean', default: false },
  },
});
const [action = '', name = ''] = positionals;
if (action in actions && isClusterName(name)) {
  await actions[action as keyof typeof actions](name, values);
} else {
  console.error(usage);
  process.exitCode = 2;
}
