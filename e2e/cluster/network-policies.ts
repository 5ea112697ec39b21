/**
 * NetworkPolicies of a cluster that is up, enforced for as long as somebody wants it: the cluster's own network, the bridge plugin of CNI, lets
 * everything through. The controller of kube-router in each node's network namespace does it, by iptables and ipset.
 */
import { existsSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { ensureProgram } from './build.ts';
import { killCgroup, processGroupDir, removeCgroups } from './cgroup.ts';
import type { Cluster } from './cluster.ts';
import { run } from './command.ts';
import { ensurePackages, networkPolicyRequirements } from './packages.ts';
import { logDir } from './plan.ts';
import type { Program } from './processes.ts';
import { startProgram } from './processes.ts';
import type { GoProgram } from './recipe.ts';
import type { ClusterSettings } from './settings.ts';
import { nodeNetns, nodeNumbers, versions } from './settings.ts';
import { waitUntil } from './wait.ts';

/** Below the cluster's. It is there from before the first rule is made until after the last is removed. */
const group = 'network-policies';
const firstRulesTimeoutMs = 60_000;

const kubeRouter: GoProgram = {
  module: 'go-kube-router',
  target: '.',
  output: 'kube-router',
  title: `kube-router ${versions.kubeRouter}`,
  ldflags: '-s -w',
};

/**
 * Begins to enforce them on every node, and waits until there are rules for the pods that there are. A later change of pods or policies counts
 * a moment after it was made. Builds kube-router and installs ipset if need be. Whoever calls this calls `endNetworkPolicies`; if it cannot, the next start does.
 */
export async function enforceNetworkPolicies(cluster: Cluster, log: (line: string) => void): Promise<void> {
  const { settings, plan } = cluster;
  await ensurePackages(log, networkPolicyRequirements);
  const file = await ensureProgram(kubeRouter, { log, sources: ['main.go'] });
  await endNetworkPolicies(settings, plan.nodes);
  await mkdir(processGroupDir(settings.cgroup, group), { recursive: true });
  const nodes = nodeNumbers(plan.nodes);
  const programs = nodes.map((node) => startProgram(programOf(cluster, node, file)));
  await waitUntil({
    what: 'the rules of the NetworkPolicies',
    timeoutMs: firstRulesTimeoutMs,
    programs,
    check: async () => {
      const rules = await Promise.all(nodes.map((node) => rulesOf(nodeNetns(settings, node))));
      return rules.every((text) => text.includes('KUBE-POD-FW-'));
    },
  });
}

/** Ends that, whoever began it and however that ended, and removes every rule and set of it. Nothing there is fine. */
export async function endNetworkPolicies(settings: ClusterSettings, nodes: number): Promise<void> {
  if (!existsSync(processGroupDir(settings.cgroup, group))) return;
  await killCgroup(settings.cgroup, group);
  for (const node of nodeNumbers(nodes)) await removeRules(nodeNetns(settings, node));
  await removeCgroups(join(settings.cgroup, group));
}

function programOf({ settings, kubeconfig }: Cluster, node: number, file: string): Program {
  const name = `kube-router-${String(node)}`;
  return {
    name,
    file,
    args: [
      `--kubeconfig=${kubeconfig}`,
      `--hostname-override=node${String(node)}`,
      `--service-cluster-ip-range=${settings.serviceNet}.0.0/16`,
      '--v=1',
    ],
    netns: nodeNetns(settings, node),
    cgroupDir: processGroupDir(settings.cgroup, group),
    logFile: join(logDir(settings), `${name}.log`),
  };
}

async function rulesOf(netns: string): Promise<string> {
  return inNode(netns, ['iptables-save', '--table', 'filter']);
}

/** The controller removes nothing by itself. The kubelet has chains in the same table. */
async function removeRules(netns: string): Promise<void> {
  const rules = (await rulesOf(netns)).split('\n').filter((line) => !/KUBE-(?:ROUTER|POD-FW|NWPLCY)-/.test(line));
  await inNode(netns, ['iptables-restore'], rules.join('\n'));
  // Nobody else makes any in there.
  await inNode(netns, ['ipset', 'destroy']);
}

async function inNode(netns: string, command: readonly string[], input = ''): Promise<string> {
  return run('nsenter', [`--net=/run/netns/${netns}`, ...command], { input });
}
