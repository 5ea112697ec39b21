/** What a cluster is made of, written down before anything is started: settings in, programs out. */
import { join } from 'node:path';
import { processGroupDir } from './cgroup.ts';
import { pkiDir } from './pki.ts';
import type { Program } from './processes.ts';
import type { ClusterSettings } from './settings.ts';
import { nodeAddress, nodeNetns } from './settings.ts';

/** The programs that may be given more arguments. */
export type ComponentKind =
  'etcd' | 'kube-apiserver' | 'kube-controller-manager' | 'kube-scheduler' | 'kubelet' | 'kube-proxy';

export interface ClusterPlan {
  settings: ClusterSettings;
  /** Folder of the programs. */
  binDir: string;
  /** 0 is a control plane alone: no scheduler, no nodes. */
  nodes: number;
  /** Added to a component's arguments; the last of two contrary ones counts. */
  extraArgs: Partial<Record<ComponentKind, string[]>>;
  /** Added to each node's KubeletConfiguration, for example `containerLogMaxSize`. */
  kubeletConfig: Record<string, unknown>;
  /** Added after it to that of the node with this number. */
  nodeKubeletConfig: Record<number, Record<string, unknown>>;
  /** Full name of the image that every pod's sandbox runs. */
  pauseImage: string;
}

/** The API server listens on the bridge if there are nodes, on loopback if not; never where others can reach it. */
export function apiHost({ settings, nodes }: Pick<ClusterPlan, 'settings' | 'nodes'>): string {
  return nodes > 0 ? `${settings.nodeNet}.1` : '127.0.0.1';
}

/** Where the API server is. */
export function apiUrl(plan: Pick<ClusterPlan, 'settings' | 'nodes'>): string {
  return `https://${apiHost(plan)}:${String(plan.settings.ports.api)}`;
}

/** Folder of the state of node N. */
export function nodeDir(settings: ClusterSettings, node: number): string {
  return join(settings.stateDir, `node${String(node)}`);
}

/** Socket of the containerd of node N. */
export function containerdSocket(settings: ClusterSettings, node: number): string {
  return join(nodeDir(settings, node), 'containerd.sock');
}

/** Folder of the programs' output: `NAME.log` each. */
export function logDir(settings: ClusterSettings): string {
  return join(settings.stateDir, 'log');
}

/** etcd. Its data survives the end of its process but not of the machine: nothing is synced to the disk. */
export function etcdProgram(plan: ClusterPlan): Program {
  const { settings } = plan;
  const client = `http://127.0.0.1:${String(settings.ports.etcd)}`;
  const peer = `http://127.0.0.1:${String(settings.ports.etcdPeer)}`;
  return controlProgram(plan, 'etcd', [
    `--name=${settings.name}`,
    `--data-dir=${join(settings.stateDir, 'etcd')}`,
    '--unsafe-no-fsync',
    `--listen-client-urls=${client}`,
    `--advertise-client-urls=${client}`,
    `--listen-peer-urls=${peer}`,
    `--initial-advertise-peer-urls=${peer}`,
    `--initial-cluster=${settings.name}=${peer}`,
    '--log-level=warn',
  ]);
}

/** kube-apiserver. Waits for etcd by itself. */
export function apiserverProgram(plan: ClusterPlan): Program {
  const { settings } = plan;
  const file = pkiFile(settings);
  const host = apiHost(plan);
  return controlProgram(plan, 'kube-apiserver', [
    `--etcd-servers=http://127.0.0.1:${String(settings.ports.etcd)}`,
    `--bind-address=${host}`,
    `--secure-port=${String(settings.ports.api)}`,
    // What the service `kubernetes` leads to; a loopback address is refused, and without nodes nobody asks.
    ...(plan.nodes > 0 ? [`--advertise-address=${host}`] : ['--endpoint-reconciler-type=none']),
    `--service-cluster-ip-range=${settings.serviceNet}.0.0/16`,
    `--client-ca-file=${file('ca.crt')}`,
    `--tls-cert-file=${file('apiserver.crt')}`,
    `--tls-private-key-file=${file('apiserver.key')}`,
    `--kubelet-client-certificate=${file('apiserver-kubelet-client.crt')}`,
    `--kubelet-client-key=${file('apiserver-kubelet-client.key')}`,
    `--kubelet-certificate-authority=${file('ca.crt')}`,
    '--kubelet-preferred-address-types=InternalIP',
    '--service-account-issuer=https://kubernetes.default.svc.cluster.local',
    `--service-account-key-file=${file('sa.pub')}`,
    `--service-account-signing-key-file=${file('sa.key')}`,
    '--authorization-mode=Node,RBAC',
    '--enable-admission-plugins=NodeRestriction',
    `--requestheader-client-ca-file=${file('front-proxy-ca.crt')}`,
    '--requestheader-allowed-names=front-proxy-client',
    '--requestheader-extra-headers-prefix=X-Remote-Extra-',
    '--requestheader-group-headers=X-Remote-Group',
    '--requestheader-username-headers=X-Remote-User',
    `--proxy-client-cert-file=${file('front-proxy-client.crt')}`,
    `--proxy-client-key-file=${file('front-proxy-client.key')}`,
    '--profiling=false',
  ]);
}

/** kube-controller-manager and, if there is anything to schedule to, kube-scheduler. */
export function controllerPrograms(plan: ClusterPlan): Program[] {
  const { settings, nodes } = plan;
  const file = pkiFile(settings);
  const manager = controlProgram(plan, 'kube-controller-manager', [
    ...controllerArgs(file('controller-manager.kubeconfig'), settings.ports.controllerManager),
    '--use-service-account-credentials=true',
    `--service-account-private-key-file=${file('sa.key')}`,
    `--root-ca-file=${file('ca.crt')}`,
    `--cluster-signing-cert-file=${file('ca.crt')}`,
    `--cluster-signing-key-file=${file('ca.key')}`,
    `--requestheader-client-ca-file=${file('front-proxy-ca.crt')}`,
  ]);
  if (nodes === 0) return [manager];
  const args = controllerArgs(file('scheduler.kubeconfig'), settings.ports.scheduler);
  return [manager, controlProgram(plan, 'kube-scheduler', args)];
}

function controllerArgs(kubeconfig: string, port: number): string[] {
  return [
    `--kubeconfig=${kubeconfig}`,
    `--authentication-kubeconfig=${kubeconfig}`,
    `--authorization-kubeconfig=${kubeconfig}`,
    '--bind-address=127.0.0.1',
    `--secure-port=${String(port)}`,
    // There is one of each, so there is no lease to win first, which takes two seconds.
    '--leader-elect=false',
    // Each controller first asks for a token of its own: at the default of 20 requests a second that alone takes five seconds.
    '--kube-api-qps=500',
    '--kube-api-burst=1000',
    '--profiling=false',
  ];
}

/** containerd of node N. */
export function containerdProgram(plan: ClusterPlan, node: number): Program {
  const config = join(nodeDir(plan.settings, node), 'containerd.toml');
  return { ...nodeProgram(plan, node, 'containerd'), file: 'containerd', args: ['--config', config] };
}

/** kubelet and kube-proxy of node N. */
export function nodePrograms(plan: ClusterPlan, node: number): Program[] {
  const { settings, extraArgs } = plan;
  const dir = nodeDir(settings, node);
  const file = pkiFile(settings);
  const kubelet = [
    `--config=${join(dir, 'kubelet.json')}`,
    `--kubeconfig=${file(`node${String(node)}.kubeconfig`)}`,
    `--root-dir=${join(dir, 'kubelet')}`,
    `--cert-dir=${join(dir, 'kubelet/pki')}`,
    `--hostname-override=node${String(node)}`,
    `--node-ip=${nodeAddress(settings, node)}`,
    ...(extraArgs.kubelet ?? []),
  ];
  const proxy = [`--config=${join(dir, 'proxy.json')}`, ...(extraArgs['kube-proxy'] ?? [])];
  return [
    { ...nodeProgram(plan, node, 'kubelet'), args: kubelet },
    { ...nodeProgram(plan, node, 'kube-proxy'), args: proxy },
  ];
}

function controlProgram(plan: ClusterPlan, name: ComponentKind, args: string[]): Program {
  const { settings, binDir } = plan;
  return {
    name,
    file: join(binDir, name),
    args: [...args, ...(plan.extraArgs[name] ?? [])],
    cgroupDir: processGroupDir(settings.cgroup, 'control'),
    logFile: join(logDir(settings), `${name}.log`),
  };
}

function nodeProgram({ settings, binDir }: ClusterPlan, node: number, kind: string): Omit<Program, 'args'> {
  const name = `${kind}-${String(node)}`;
  return {
    name,
    file: join(binDir, kind),
    netns: nodeNetns(settings, node),
    cgroupDir: processGroupDir(settings.cgroup, `node${String(node)}-sys`),
    logFile: join(logDir(settings), `${name}.log`),
  };
}

function pkiFile(settings: ClusterSettings): (name: string) => string {
  return (name) => join(pkiDir(settings), name);
}
