/** Nodes that do not exist, played by kwok: a pod that is given to one is ready at once and gone when it is deleted, and no container runs. */
import { join } from 'node:path';
import { ensureKwok } from './build.ts';
import { processGroupDir } from './cgroup.ts';
import type { Cluster } from './cluster.ts';
import { logDir } from './plan.ts';
import { startProgram } from './processes.ts';

/** Of such nodes; a pod must choose it. */
export const fakeNodeLabel = { 'ringmaster.test/node': 'fake' };
/** On such nodes; a pod must bear it. */
const taint = { key: 'ringmaster.test/node', value: 'fake', effect: 'NoSchedule' };
export const fakeNodeToleration = { ...taint, operator: 'Equal' };

/** Adds this many of them to a cluster that is up, beside its own. kwok ends with the cluster. */
export async function startFakeNodes(cluster: Cluster, count: number, log: (line: string) => void): Promise<void> {
  const dir = await ensureKwok({ log });
  const [[label, value] = ['', '']] = Object.entries(fakeNodeLabel);
  startProgram({
    name: 'kwok',
    file: join(dir, 'kwok'),
    args: [
      `--kubeconfig=${cluster.kubeconfig}`,
      `--config=${join(dir, 'stages.yaml')}`,
      `--manage-nodes-with-label-selector=${label}=${value}`,
      '--node-lease-duration-seconds=40',
    ],
    cgroupDir: processGroupDir(cluster.settings.cgroup, 'control'),
    logFile: join(logDir(cluster.settings), 'kwok.log'),
  });
  const items = Array.from({ length: count }, (_, index) => ({
    apiVersion: 'v1',
    kind: 'Node',
    metadata: { name: `fake-${String(index + 1)}`, labels: fakeNodeLabel },
    spec: { taints: [taint] },
  }));
  const nodes = JSON.stringify({ apiVersion: 'v1', kind: 'List', items });
  await cluster.kubectl(['apply', '-f', '-'], { input: nodes });
  await cluster.kubectl(['wait', 'node', '-l', `${label}=${value}`, '--for=condition=Ready', '--timeout=60s']);
}
