/**
 * Ends a cluster and removes what it made, whether it is up, half up, or what an interrupted run left. Processes are found by the cluster's
 * own cgroups and nothing else. They are killed at once: etcd writes before it answers, so what was accepted is kept.
 */
import { existsSync } from 'node:fs';
import { glob, readdir, readFile, readlink, rm } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { isPopulated, killCgroup, removeCgroups } from './cgroup.ts';
import { run } from './command.ts';
import { unmountBelow } from './mounts.ts';
import { removeNetwork } from './network.ts';
import { networkName } from './node.ts';
import { removeRecord } from './record.ts';
import type { ClusterSettings } from './settings.ts';
import { clusterNames, clusterSettings } from './settings.ts';
import { releaseSysctls } from './sysctl.ts';

/** The state (etcd's data, imported images, certificates) is kept unless `wipe` is set. */
export async function clearCluster(settings: ClusterSettings, { wipe }: { wipe: boolean }): Promise<void> {
  removeRecord(settings);
  await killCgroup(settings.cgroup);
  await removeOutsideFiles(settings);
  await unmountBelow(settings.stateDir);
  await removeNetwork(settings);
  await removeCgroups(settings.cgroup);
  await releaseSysctls(settings.name, join(settings.stateDir, '../..'));
  await (wipe ? removeTree(settings.stateDir) : removeRunState(settings));
}

/** What a reboot of a real node would have emptied. */
async function removeRunState({ stateDir }: ClusterSettings): Promise<void> {
  for await (const dir of glob(join(stateDir, 'node*/{containerd-state,runc}'))) await removeTree(dir);
}

async function removeTree(dir: string): Promise<void> {
  // Never into a mount, should one have come back.
  await run('rm', ['-rf', '--one-file-system', dir]);
}

/** containerd's shims, the CNI library and the kubelet each keep some files in fixed places outside of the state folder. */
async function removeOutsideFiles(settings: ClusterSettings): Promise<void> {
  const { stateDir } = settings;
  await removeShimSockets(stateDir, 'node*');
  await removeCniResults(networkName({ settings }));
  await removeLogLinks(stateDir);
  await removeKubeletDir(settings);
}

/** Our kubelets have their state elsewhere, but each makes this folder for device plugins. It stays if anyone else may be using it. */
async function removeKubeletDir({ name, stateDir }: ClusterSettings): Promise<void> {
  const dir = '/var/lib/kubelet';
  if (!existsSync(dir) || (await readdir(dir)).some((entry) => entry !== 'device-plugins')) return;
  const others = clusterNames.filter((other) => other !== name);
  if (others.some((other) => isPopulated(clusterSettings(other, join(stateDir, '../..')).cgroup))) return;
  await rm(dir, { recursive: true, force: true });
}

/** Removes the sockets of a node's shims, which must have been killed; `node` is the name of its folder, or a pattern. */
export async function removeShimSockets(stateDir: string, node: string): Promise<void> {
  const tasks = join(stateDir, node, 'containerd-state/io.containerd.runtime.v2.task/k8s.io');
  for await (const file of glob(join(tasks, '*/address'))) {
    const socket = (await readFile(file, 'utf8')).replace('unix://', '');
    if (socket.startsWith('/run/containerd/s/')) await rm(socket, { force: true });
  }
}

/** Results are `NETWORK-SANDBOX-eth0`; each sandbox has one of the loopback network, whose name does not say whose it is, as well. */
async function removeCniResults(network: string): Promise<void> {
  for await (const file of glob(`/var/lib/cni/{results,cache/results}/${network}-*-eth0`)) {
    const sandbox = basename(file).slice(network.length + 1, -'-eth0'.length);
    await rm(join(dirname(file), `cni-loopback-${sandbox}-lo`), { force: true });
    await rm(file, { force: true });
  }
}

async function removeLogLinks(stateDir: string): Promise<void> {
  const dir = '/var/log/containers';
  if (!existsSync(dir)) return;
  for (const name of await readdir(dir)) {
    const link = join(dir, name);
    if ((await targetOf(link)).startsWith(`${stateDir}/`)) await rm(link, { force: true });
  }
}

async function targetOf(link: string): Promise<string> {
  try {
    return await readlink(link);
  } catch {
    // No link, or gone already.
    return '';
  }
}
