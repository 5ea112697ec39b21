/** A Master of a test's own: the real program as a process of this machine, on the cluster of the run, so that nobody else's test is disturbed. */
import { spawn } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { call, eventually } from '../live-harness.ts';
import type { World } from '../live-harness.ts';
import { freePort } from '../ports.ts';
import { releaseName, releaseNamespace } from '../release.ts';

export interface OwnMaster {
  readonly host: string;
  readonly port: number;
  readonly url: string;
  /** Resident memory now, and the most that it ever was. */
  memory(): Promise<{ nowMb: number; peakMb: number }>;
}

/** What Node takes for its heap in a container with the memory limit of the chart, 1 GiB. */
const heapMb = 512;

/** Ready to serve, with the account of the installed Masters. It ends with the test file. `settings` are of its environment. */
export async function startOwnMaster(
  world: World,
  name: string,
  settings: Record<string, string> = {},
): Promise<OwnMaster> {
  const port = await freePort();
  const kubeconfig = await writeKubeconfig(world);
  const program = join(import.meta.dirname, '../../operator/master.ts');
  const child = spawn(process.execPath, [`--max-old-space-size=${heapMb}`, program], {
    env: {
      ...process.env,
      KUBECONFIG: kubeconfig,
      POD_NAME: name,
      RINGMASTER_NAMESPACE: releaseNamespace,
      RINGMASTER_PORT: String(port),
      RINGMASTER_LOG_LEVEL: 'error',
      ...settings,
    },
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  world.cleanups.push(() => child.kill('SIGKILL'));
  const url = `http://127.0.0.1:${port}`;
  await eventually('the Master to be ready', async () => {
    if (child.exitCode !== null) throw new Error(`The Master ended with ${child.exitCode}`);
    return (await call(url, '/readyz').catch(() => undefined))?.status === 200;
  });
  return { host: '127.0.0.1', port, url, memory: () => memoryOf(child.pid ?? 0) };
}

/** A Master may do what its account may, and nobody else may write commands in the name of a key. */
async function writeKubeconfig(world: World): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'ringmaster-own-master-'));
  world.cleanups.push(() => rm(folder, { recursive: true, force: true }));
  const account = `${releaseName}-master`;
  const token = await world.cluster.kubectl(['create', 'token', account, '-n', releaseNamespace, '--duration=1h']);
  const config = JSON.parse(await readFile(world.cluster.kubeconfig, 'utf8')) as { users: { user: object }[] };
  const path = join(folder, 'kubeconfig');
  const users = config.users.map((user) => ({ ...user, user: { token: token.trim() } }));
  await writeFile(path, JSON.stringify({ ...config, users }), { mode: 0o600 });
  return path;
}

async function memoryOf(pid: number): Promise<{ nowMb: number; peakMb: number }> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8');
  const mb = (field: string): number =>
    Math.round(Number(new RegExp(`^${field}:\\s+(\\d+) kB$`, 'm').exec(status)?.[1]) / 1024);
  return { nowMb: mb('VmRSS'), peakMb: mb('VmHWM') };
}
