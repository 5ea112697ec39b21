/** Brings a planned cluster up from nothing running. Whatever can be done while something else starts is done then. */
import { existsSync } from 'node:fs';
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Api } from './api.ts';
import { adminApi } from './api.ts';
import { prepareCgroups } from './cgroup.ts';
import { clearCluster } from './clear.ts';
import { applyDns, isDnsReady } from './dns.ts';
import { importImages, waitForContainerd } from './import.ts';
import { createNetwork } from './network.ts';
import { writeNodeFiles } from './node.ts';
import { ensurePki, pkiDir, writeKubeconfig } from './pki.ts';
import type { ClusterPlan } from './plan.ts';
import {
  apiserverProgram,
  apiUrl,
  containerdProgram,
  controllerPrograms,
  etcdProgram,
  logDir,
  nodePrograms,
} from './plan.ts';
import type { StartedProgram } from './processes.ts';
import { startProgram } from './processes.ts';
import type { ClusterSettings } from './settings.ts';
import { nodeNumbers, versions } from './settings.ts';
import { acquireSysctls } from './sysctl.ts';
import { waitUntil } from './wait.ts';

export interface BringUp {
  plan: ClusterPlan;
  /** Image files that every node gets, the ones of pause and DNS among them. */
  tars: string[];
  dnsImage: string;
  log: (line: string) => void;
}

/** Starts everything and waits until it works; gives what was started. After an error the caller must clear. */
export async function bringUp({ plan, tars, dnsImage, log }: BringUp): Promise<StartedProgram[]> {
  const startedAtMs = Date.now();
  const { settings } = plan;
  const nodes = nodeNumbers(plan.nodes);
  await removeForeignState(settings, log);
  await rm(logDir(settings), { recursive: true, force: true });
  await mkdir(logDir(settings), { recursive: true });
  await ensurePki(settings, nodes);
  await writeKubeconfigs(plan);
  await prepareCgroups(settings.cgroup, nodes);
  if (nodes.length > 0) {
    await acquireSysctls(settings.name, join(settings.stateDir, '../..'));
    await createNetwork(settings, nodes.length);
  }
  log('starting etcd and kube-apiserver');
  const control = [etcdProgram(plan), apiserverProgram(plan)].map(startProgram);
  await Promise.all(nodes.map((node) => writeNodeFiles(plan, node)));
  const containerds = nodes.map((node) => startProgram(containerdProgram(plan, node)));
  const runtimes = Promise.all(containerds.map((program, index) => waitForContainerd(settings, program, index + 1)));
  const imported = runtimes.then(() => importImages(settings, nodes, tars));
  // Awaited below; an error before that must not count as one that nobody handles.
  imported.catch(() => undefined);
  const api = await adminApi(apiUrl(plan), pkiDir(settings));
  await waitUntil({
    what: 'kube-apiserver to be ready',
    timeoutMs: 90_000,
    programs: control,
    check: () => api.isReady(),
  });
  log('kube-apiserver is ready');
  await removeStaleNodes(api, nodes);
  await runtimes;
  const rest = [...controllerPrograms(plan), ...nodes.flatMap((node) => nodePrograms(plan, node))].map(startProgram);
  const programs = [...control, ...containerds, ...rest];
  if (nodes.length > 0) await applyDns(api, { address: settings.dnsAddress, image: dnsImage });
  await imported;
  await waitForAccounts(api, programs);
  if (nodes.length > 0) await waitForNodes({ api, programs, startedAtMs, settings }, nodes);
  return programs;
}

/** State that was made with other settings or another etcd cannot be used: it is wiped. */
async function removeForeignState(settings: ClusterSettings, log: (line: string) => void): Promise<void> {
  const file = join(settings.stateDir, 'format.json');
  const { nodeNet, podNet, serviceNet } = settings;
  const { kubernetes, etcd } = versions;
  const format = JSON.stringify({ layout: 1, kubernetes, etcd, nodeNet, podNet, serviceNet });
  const found = existsSync(file) ? await readFile(file, 'utf8') : undefined;
  if (found !== undefined && found !== format) {
    log('the state is of another version: starting with an empty one');
    await clearCluster(settings, { wipe: true });
  }
  await mkdir(settings.stateDir, { recursive: true });
  await writeFile(file, format);
}

async function writeKubeconfigs(plan: ClusterPlan): Promise<void> {
  const { settings } = plan;
  const server = apiUrl(plan);
  const users = [
    'controller-manager',
    'scheduler',
    'proxy',
    ...nodeNumbers(plan.nodes).map((node) => `node${String(node)}`),
  ];
  const files = users.map((user) => ({ user, file: join(pkiDir(settings), `${user}.kubeconfig`) }));
  const admin = { user: 'admin', file: kubeconfigFile(settings) };
  await Promise.all([admin, ...files].map((entry) => writeKubeconfig(settings, { ...entry, server })));
}

/** The administrator's kubeconfig. */
export function kubeconfigFile(settings: ClusterSettings): string {
  return join(settings.stateDir, 'admin.kubeconfig');
}

/** The kept state may know more nodes than there are now; pods must not be given to those, and the ones they had are made elsewhere. */
async function removeStaleNodes(api: Api, nodes: readonly number[]): Promise<void> {
  const list = JSON.parse((await api.get('/api/v1/nodes')).body) as { items: { metadata: { name: string } }[] };
  const names = list.items.map((item) => item.metadata.name);
  const stale = names.filter((name) => !nodes.some((node) => name === `node${String(node)}`));
  await Promise.all(stale.map((name) => api.remove(`/api/v1/nodes/${name}`)));
}

/** Until then the API server refuses pods, and a pod could not trust it. */
async function waitForAccounts(api: Api, programs: readonly StartedProgram[]): Promise<void> {
  const namespace = '/api/v1/namespaces/default';
  const paths = [`${namespace}/serviceaccounts/default`, `${namespace}/configmaps/kube-root-ca.crt`];
  await waitUntil({
    what: 'the default service account',
    timeoutMs: 60_000,
    programs: programs.filter((program) => program.name === 'kube-controller-manager'),
    check: async () => {
      const answers = await Promise.all(paths.map((path) => api.get(path)));
      return answers.every((answer) => answer.status === 200);
    },
  });
}

interface NodeWait {
  api: Api;
  programs: readonly StartedProgram[];
  startedAtMs: number;
  settings: ClusterSettings;
}

async function waitForNodes(
  { api, programs, startedAtMs, settings }: NodeWait,
  nodes: readonly number[],
): Promise<void> {
  for (const node of nodes) {
    const name = `node${String(node)}`;
    await waitUntil({
      what: `${name} to be Ready`,
      timeoutMs: 90_000,
      programs: programs.filter((program) => program.name.endsWith(`-${String(node)}`)),
      check: () => isNodeReady(api, name, startedAtMs),
    });
  }
  await waitUntil({
    what: 'cluster DNS to answer',
    timeoutMs: 60_000,
    programs: programs.filter((program) => program.name === 'kubelet-1'),
    check: () => isDnsReady(settings.dnsAddress),
  });
}

interface NodeCondition {
  type: string;
  status: string;
  lastHeartbeatTime: string;
}

/** The state that was kept says Ready from before: only what a kubelet wrote since then counts. */
async function isNodeReady(api: Api, name: string, startedAtMs: number): Promise<boolean> {
  const { status, body } = await api.get(`/api/v1/nodes/${name}`);
  if (status !== 200) return false;
  const node = JSON.parse(body) as { status?: { conditions?: NodeCondition[] } };
  const ready = node.status?.conditions?.find((condition) => condition.type === 'Ready');
  // The time has whole seconds.
  return ready?.status === 'True' && Date.parse(ready.lastHeartbeatTime) >= startedAtMs - 1000;
}
