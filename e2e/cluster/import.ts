import { existsSync } from 'node:fs';
import { mkdir, stat, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { run } from './command.ts';
import { containerdSocket, nodeDir } from './plan.ts';
import type { StartedProgram } from './processes.ts';
import type { ClusterSettings } from './settings.ts';
import { waitUntil } from './wait.ts';

/** Gives every node the images in these OCI archives that it has not got yet. */
export async function importImages(
  settings: ClusterSettings,
  nodes: readonly number[],
  tars: readonly string[],
): Promise<void> {
  await Promise.all(
    nodes.map(async (node) => {
      for (const tar of tars) await importImage(settings, node, tar);
    }),
  );
}

/** Waits until a node's containerd answers: a kubelet that starts before that gives up at once. */
export async function waitForContainerd(
  settings: ClusterSettings,
  containerd: StartedProgram,
  node: number,
): Promise<void> {
  await waitUntil({
    what: `${containerd.name} to answer`,
    timeoutMs: 30_000,
    programs: [containerd],
    check: async () => {
      try {
        await ctr(settings, node, ['version']);
        return true;
      } catch {
        // Not listening yet.
        return false;
      }
    },
  });
}

async function importImage(settings: ClusterSettings, node: number, tar: string): Promise<void> {
  const info = await stat(tar);
  const dir = join(nodeDir(settings, node), 'imported');
  const mark = join(dir, `${basename(tar)}.${String(info.size)}-${String(info.mtimeMs)}`);
  if (existsSync(mark)) return;
  await ctr(settings, node, ['images', 'import', tar]);
  await mkdir(dir, { recursive: true });
  await writeFile(mark, '');
}

/** `k8s.io` is the namespace in which the kubelet looks for images. */
async function ctr(settings: ClusterSettings, node: number, args: readonly string[]): Promise<string> {
  return run('ctr', ['--address', containerdSocket(settings, node), '--namespace', 'k8s.io', ...args]);
}
