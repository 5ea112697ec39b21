/**
 * Kernel settings that belong to the whole machine, not to a network namespace: one of them is raised, and the kubelet changes the others
 * without asking. The first cluster notes what they were; the last one to go puts them back.
 */
import { existsSync, readFileSync } from 'node:fs';
import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { isPopulated } from './cgroup.ts';
import { withLock } from './lock.ts';
import type { ClusterName } from './settings.ts';
import { clusterNames, clusterSettings, defaultCacheDir } from './settings.ts';

const inotifyInstances = 'fs/inotify/max_user_instances';
/** kubelet and containerd watch many files; the usual default of 128 runs out. */
const inotifyInstancesMin = 1024;

const kubeletChanges = [
  'vm/overcommit_memory',
  'vm/panic_on_oom',
  'kernel/panic',
  'kernel/panic_on_oops',
  'kernel/keys/root_maxkeys',
  'kernel/keys/root_maxbytes',
] as const;

interface Saved {
  /** Values of an earlier boot are not worth putting back. */
  bootId: string;
  values: Record<string, string>;
  users: ClusterName[];
}

/** Notes the machine's settings if this is the first cluster that has nodes, and raises what is too low. */
export async function acquireSysctls(name: ClusterName, cacheDir: string = defaultCacheDir()): Promise<void> {
  await locked(cacheDir, async () => {
    const saved = readSaved(cacheDir) ?? { bootId: bootId(), values: currentValues(), users: [] };
    const users = [...new Set([...saved.users, name])];
    await writeSaved(cacheDir, { ...saved, users });
    if (Number(readSysctl(inotifyInstances)) < inotifyInstancesMin) {
      await writeFile(join('/proc/sys', inotifyInstances), String(inotifyInstancesMin));
    }
  });
}

/** Puts the machine's settings back if no other cluster needs them. Does nothing for a cluster that never acquired them. */
export async function releaseSysctls(name: ClusterName, cacheDir: string = defaultCacheDir()): Promise<void> {
  if (!existsSync(savedFile(cacheDir))) return;
  await locked(cacheDir, async () => {
    const saved = readSaved(cacheDir);
    if (saved === undefined) return;
    const others = clusterNames.filter((other) => other !== name && saved.users.includes(other));
    const users = others.filter((other) => isPopulated(clusterSettings(other, cacheDir).cgroup));
    if (users.length > 0) {
      await writeSaved(cacheDir, { ...saved, users });
      return;
    }
    for (const [key, value] of Object.entries(saved.values)) await writeFile(join('/proc/sys', key), value);
    await rm(savedFile(cacheDir));
  });
}

async function locked(cacheDir: string, work: () => Promise<void>): Promise<void> {
  await withLock(join(cacheDir, 'clusters', 'sysctl.lock'), () => undefined, work);
}

function savedFile(cacheDir: string): string {
  return join(cacheDir, 'clusters', 'sysctl.json');
}

function readSaved(cacheDir: string): Saved | undefined {
  const file = savedFile(cacheDir);
  if (!existsSync(file)) return undefined;
  const saved = JSON.parse(readFileSync(file, 'utf8')) as Saved;
  return saved.bootId === bootId() ? saved : undefined;
}

async function writeSaved(cacheDir: string, saved: Saved): Promise<void> {
  await writeFile(savedFile(cacheDir), JSON.stringify(saved));
}

function currentValues(): Record<string, string> {
  const keys = [inotifyInstances, ...kubeletChanges].filter((key) => existsSync(join('/proc/sys', key)));
  return Object.fromEntries(keys.map((key) => [key, readSysctl(key)]));
}

function readSysctl(key: string): string {
  return readFileSync(join('/proc/sys', key), 'utf8').trim();
}

function bootId(): string {
  return readSysctl('kernel/random/boot_id');
}
