/**
 * The cgroups of a cluster. Every process belongs to one tree in the v2 hierarchy, so that exactly what was started can be ended: shims and
 * containers included, whoever started them, and whether or not that is still alive. Works where v2 has all controllers and where
 * they are still in v1 hierarchies beside an empty v2 one.
 *
 *   <root>/ringmaster-<name>/control      etcd and the control plane
 *   <root>/ringmaster-<name>/nodeN-sys    containerd, shims, kubelet, kube-proxy
 *   <root>/ringmaster-<name>/nodeN        pods (the kubelet's cgroup root)
 */
import { existsSync, readdirSync, readFileSync, rmdirSync } from 'node:fs';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

const killTimeoutMs = 15_000;
const pollMs = 20;

export interface Hierarchy {
  root: string;
  version: 1 | 2;
  /** Of a v1 hierarchy: what it is mounted with, `cpuset` or `name=systemd`. */
  controllers: string[];
}

/** The mounted hierarchies, from the text of `/proc/self/mountinfo`. */
export function parseHierarchies(mountinfo: string): Hierarchy[] {
  const hierarchies = new Map<string, Hierarchy>();
  for (const line of mountinfo.split('\n')) {
    const [left = '', right = ''] = line.split(' - ');
    const [type, , options = ''] = right.split(' ');
    const root = left.split(' ')[4];
    if (root === undefined || (type !== 'cgroup' && type !== 'cgroup2')) continue;
    const controllers = type === 'cgroup2' ? [] : options.split(',').filter((option) => option !== 'rw');
    hierarchies.set(root, { root, version: type === 'cgroup2' ? 2 : 1, controllers });
  }
  return [...hierarchies.values()];
}

/** The hierarchies of this machine. */
export function hierarchies(): Hierarchy[] {
  return parseHierarchies(readFileSync('/proc/self/mountinfo', 'utf8'));
}

/** Where v2 is mounted; undefined where it is not. */
export function unifiedRoot(): string | undefined {
  return hierarchies().find((hierarchy) => hierarchy.version === 2)?.root;
}

/** Folder of a group of a cluster's processes in the v2 hierarchy. */
export function processGroupDir(cgroup: string, group: string): string {
  const root = unifiedRoot();
  if (root === undefined) throw new Error('Cannot start a cluster: no cgroup v2 hierarchy is mounted');
  return join(root, cgroup, group);
}

/** Makes the groups. After it, `control` and `nodeN-sys` take processes, and the kubelet can use `nodeN`. */
export async function prepareCgroups(cgroup: string, nodes: readonly number[]): Promise<void> {
  const pods = nodes.map((node) => `node${String(node)}`);
  for (const hierarchy of hierarchies()) {
    const base = join(hierarchy.root, cgroup);
    if (hierarchy.version === 2) {
      await prepareUnified(hierarchy.root, base, ['control', ...pods, ...pods.map((name) => `${name}-sys`)]);
    } else {
      for (const name of pods) await mkdir(join(base, name), { recursive: true });
      if (hierarchy.controllers.includes('cpuset') && pods.length > 0) await fillCpusets(hierarchy.root, base, pods);
    }
  }
}

async function prepareUnified(root: string, base: string, groups: readonly string[]): Promise<void> {
  for (const name of groups) await mkdir(join(base, name), { recursive: true });
  // Top down: a group can hand on only what it was given.
  await enableControllers(root);
  await enableControllers(base);
}

async function enableControllers(dir: string): Promise<void> {
  const available = (await readFile(join(dir, 'cgroup.controllers'), 'utf8')).trim();
  if (available === '') return;
  const wanted = available
    .split(' ')
    .map((controller) => `+${controller}`)
    .join(' ');
  try {
    await writeFile(join(dir, 'cgroup.subtree_control'), wanted);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EBUSY') throw error;
    // The root of a cgroup namespace (we are in a container) that holds processes itself. As the entrypoints of node images do: move
    // them one level down.
    await evacuate(dir);
    await writeFile(join(dir, 'cgroup.subtree_control'), wanted);
  }
}

async function evacuate(dir: string): Promise<void> {
  const target = join(dir, 'init');
  await mkdir(target, { recursive: true });
  for (const pid of pidsIn(dir)) {
    try {
      await writeFile(join(target, 'cgroup.procs'), String(pid));
    } catch {
      // It ended in between.
    }
  }
}

/** A v1 cpuset takes no process until its lists are set, and does not inherit them. */
async function fillCpusets(root: string, base: string, pods: readonly string[]): Promise<void> {
  for (const file of ['cpuset.cpus', 'cpuset.mems']) {
    const all = await readFile(join(root, file), 'utf8');
    for (const dir of [base, ...pods.map((name) => join(base, name))]) await writeFile(join(dir, file), all);
  }
}

/** Ends every process below a group (or of the whole cluster) at once, and waits until there is none. */
export async function killCgroup(...path: string[]): Promise<void> {
  const deadline = Date.now() + killTimeoutMs;
  const all = hierarchies();
  const kill = all
    .filter((hierarchy) => hierarchy.version === 2)
    .map((hierarchy) => join(hierarchy.root, ...path, 'cgroup.kill'))
    .find((file) => existsSync(file));
  for (;;) {
    if (kill !== undefined) await writeFile(kill, '1');
    const pids = all.flatMap((hierarchy) => pidsBelow(join(hierarchy.root, ...path)));
    if (pids.length === 0) return;
    // Linux before 5.14 has no cgroup.kill; and v1 groups may hold processes that the v2 one does not.
    for (const pid of pids) killQuietly(pid);
    if (Date.now() > deadline) {
      throw new Error(`Cannot end the processes of "${path.join('/')}": ${pids.join(', ')} are still there`);
    }
    await sleep(pollMs);
  }
}

/** Whether the cluster has any process. */
export function isPopulated(cgroup: string): boolean {
  return hierarchies().some((hierarchy) => pidsBelow(join(hierarchy.root, cgroup)).length > 0);
}

/** Removes the cluster's groups, which must have no processes. Retries for a moment: the kernel lets go of them with a delay. */
export async function removeCgroups(cgroup: string): Promise<void> {
  for (const hierarchy of hierarchies()) {
    const dir = join(hierarchy.root, cgroup);
    for (let tries = 0; tries < 100 && !removeTree(dir); tries++) await sleep(pollMs);
  }
}

function removeTree(dir: string): boolean {
  for (const child of childGroups(dir)) removeTree(child);
  try {
    rmdirSync(dir);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ENOENT';
  }
}

function pidsBelow(dir: string): number[] {
  return [...pidsIn(dir), ...childGroups(dir).flatMap((child) => pidsBelow(child))];
}

function pidsIn(dir: string): number[] {
  try {
    const lines = readFileSync(join(dir, 'cgroup.procs'), 'utf8').split('\n');
    // 0 is a process of another pid namespace.
    return lines.map(Number).filter((pid) => pid > 0);
  } catch {
    // The group is gone, or was never made.
    return [];
  }
}

function childGroups(dir: string): string[] {
  try {
    const children = readdirSync(dir, { withFileTypes: true });
    return children.filter((child) => child.isDirectory()).map((child) => join(dir, child.name));
  } catch {
    // The group is gone, or was never made.
    return [];
  }
}

function killQuietly(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // It ended in between.
  }
}
