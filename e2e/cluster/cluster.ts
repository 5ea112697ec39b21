/**
 * A real Kubernetes on one Linux machine: etcd and the control plane as plain processes, each node a network namespace with containerd,
 * kubelet and kube-proxy of its own. `build.ts` makes the programs, `plan.ts` says how each is started, `bringup.ts` starts them in order,
 * `clear.ts` ends them, `record.ts` keeps what is running so that another process can find it. A cluster belongs to its cgroup, not to the process
 * that started it: it stays up until someone takes it down.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { busyboxImage, corednsImage, pauseImage } from '../images/images.ts';
import type { Api } from './api.ts';
import { adminApi } from './api.ts';
import type { BringUp } from './bringup.ts';
import { bringUp, kubeconfigFile } from './bringup.ts';
import { ensureBuilt } from './build.ts';
import { killCgroup, unifiedRoot } from './cgroup.ts';
import { clearCluster, removeShimSockets } from './clear.ts';
import { run } from './command.ts';
import { importImages, waitForContainerd } from './import.ts';
import { withLock } from './lock.ts';
import { setNodeCable } from './network.ts';
import { endNetworkPolicies } from './network-policies.ts';
import { pkiDir } from './pki.ts';
import type { ClusterPlan, ComponentKind } from './plan.ts';
import { apiUrl, logDir } from './plan.ts';
import type { StartedProgram } from './processes.ts';
import { isRunning, signalProgram, startProgram, waitForExit } from './processes.ts';
import type { ClusterRecord } from './record.ts';
import { readRecord, writeRecord } from './record.ts';
import type { ClusterName, ClusterSettings } from './settings.ts';
import { clusterSettings, defaultCacheDir, nodeNumbers, nodesMax } from './settings.ts';
import { waitUntil } from './wait.ts';

export type { ComponentKind };

/** One running program: the control plane's by their names, a node's with the node's number. */
export type ComponentName =
  | 'etcd'
  | 'kube-apiserver'
  | 'kube-controller-manager'
  | 'kube-scheduler'
  | `kubelet-${number}`
  | `containerd-${number}`
  | `kube-proxy-${number}`;

export interface StartOptions {
  name: ClusterName;
  /** How many nodes, 1 by default. */
  nodes?: number;
  /** No nodes and no scheduler: an API server with etcd and the controllers. */
  controlPlaneOnly?: boolean;
  /** Gets progress lines. */
  log?: (line: string) => void;
  /** Added to each node's KubeletConfiguration, for example `{ containerLogMaxSize: '1Mi' }`. */
  kubeletConfig?: Record<string, unknown>;
  /** The same for the node with this number alone, from 1. */
  nodeKubeletConfig?: Record<number, Record<string, unknown>>;
  /** Added to the components' arguments, for example a short node monitor grace period. */
  extraArgs?: Partial<Record<ComponentKind, string[]>>;
  /** OCI archives that every node gets; pause, DNS and `ringmaster.local/busybox:1` it gets anyway. */
  images?: string[];
  cacheDir?: string;
}

const stopTimeoutMs = 10_000;
const killTimeoutMs = 5_000;
const readyTimeoutMs = 90_000;

/** Whether this machine and user can run a cluster, and if not, why, as the end of a sentence. */
export function canRunEmbedded(): { ok: true } | { ok: false; why: string } {
  if (process.platform !== 'linux') return { ok: false, why: `it needs Linux, and this is ${process.platform}` };
  if (process.getuid?.() !== 0) return { ok: false, why: 'it needs root' };
  const effective = /^CapEff:\s*([0-9a-f]+)$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? '0';
  const missing = neededCapabilities.filter(({ bit }) => ((BigInt(`0x${effective}`) >> bit) & 1n) === 0n);
  if (missing.length > 0) return { ok: false, why: `it needs ${missing.map(({ name }) => name).join(', ')}` };
  if (unifiedRoot() === undefined) return { ok: false, why: 'it needs a mounted cgroup v2 hierarchy' };
  return { ok: true };
}

const neededCapabilities = [
  { name: 'CAP_NET_ADMIN', bit: 12n },
  { name: 'CAP_SYS_ADMIN', bit: 21n },
] as const;

/**
 * Makes the named cluster be up with these options, and gives a handle. One that is up already is used as it is, with what died in it started
 * again; one of another shape is taken down first, its state kept; what an interrupted run left is cleared.
 */
export async function startCluster(options: StartOptions): Promise<Cluster> {
  const able = canRunEmbedded();
  if (!able.ok) throw new Error(`Cannot run the embedded cluster: ${able.why}`);
  const { cacheDir = defaultCacheDir(), log = () => undefined } = options;
  const settings = clusterSettings(options.name, cacheDir);
  const binDir = await ensureBuilt({ log, cacheDir });
  return locked(settings, log, () => startLocked(options, { settings, binDir, cacheDir, log }));
}

/** A handle for the named cluster if it is up; undefined if it is not, or was interrupted while it came up. */
export async function attachCluster(
  name: ClusterName,
  cacheDir: string = defaultCacheDir(),
): Promise<Cluster | undefined> {
  const settings = clusterSettings(name, cacheDir);
  const record = readRecord(settings);
  if (record === undefined || !record.programs.some(isRunning)) return undefined;
  return new Cluster(settings, record, await adminApi(apiUrl(record.plan), pkiDir(settings)));
}

/** Ends the named cluster and what an interrupted run left of it. Its state is kept unless `wipe` is set. Nothing there is fine. */
export async function downCluster(
  name: ClusterName,
  { wipe, cacheDir = defaultCacheDir() }: { wipe: boolean; cacheDir?: string },
): Promise<void> {
  const settings = clusterSettings(name, cacheDir);
  await locked(
    settings,
    () => undefined,
    () => clearCluster(settings, { wipe }),
  );
}

/** A cluster that is up. Each method acts on the real thing; nothing is kept in this object that the record does not have. */
export class Cluster {
  readonly settings: ClusterSettings;
  readonly plan: ClusterPlan;
  /** File of the administrator's kubeconfig. */
  readonly kubeconfig: string;
  readonly apiUrl: string;
  /** Files to talk to the API as the administrator. */
  readonly ca: string;
  readonly cert: string;
  readonly key: string;
  /** Folder of `kubectl`, `helm` and the rest. */
  readonly binDir: string;
  /** Folder of `COMPONENT.log`. */
  readonly logDir: string;
  readonly #api: Api;
  readonly #programs: Map<string, StartedProgram>;

  constructor(settings: ClusterSettings, record: ClusterRecord, api: Api) {
    this.settings = settings;
    this.plan = record.plan;
    this.kubeconfig = kubeconfigFile(settings);
    this.apiUrl = api.url;
    const pki = pkiDir(settings);
    this.ca = join(pki, 'ca.crt');
    this.cert = join(pki, 'admin.crt');
    this.key = join(pki, 'admin.key');
    this.binDir = record.plan.binDir;
    this.logDir = logDir(settings);
    this.#api = api;
    this.#programs = new Map(record.programs.map((program) => [program.name, program]));
  }

  /** Names of all components. */
  get components(): ComponentName[] {
    return [...this.#programs.keys()] as ComponentName[];
  }

  /** Runs kubectl as the administrator and gives its stdout; `input` goes to its stdin. Throws what it wrote when it fails. */
  async kubectl(args: readonly string[], options: { input?: string; signal?: AbortSignal } = {}): Promise<string> {
    return run(join(this.binDir, 'kubectl'), args, { ...options, env: this.env() });
  }

  /** Runs Helm as the administrator. */
  async helm(args: readonly string[], options: { signal?: AbortSignal } = {}): Promise<string> {
    return run(join(this.binDir, 'helm'), args, { ...options, env: this.env() });
  }

  /** What kubectl, Helm and others need in their environment: no file of the user is read or written. */
  env(): Record<string, string> {
    const { stateDir } = this.settings;
    return {
      KUBECONFIG: this.kubeconfig,
      KUBECACHEDIR: join(stateDir, 'kubectl-cache'),
      HELM_CACHE_HOME: join(stateDir, 'helm/cache'),
      HELM_CONFIG_HOME: join(stateDir, 'helm/config'),
      HELM_DATA_HOME: join(stateDir, 'helm/data'),
    };
  }

  /** Gives every node these OCI archives, as far as it does not have them. */
  async importImages(tars: readonly string[]): Promise<void> {
    await importImages(this.settings, nodeNumbers(this.plan.nodes), tars);
  }

  /** The process of a component; undefined while it is not running. */
  pid(component: ComponentName): number | undefined {
    const program = this.#program(component);
    return isRunning(program) ? program.pid : undefined;
  }

  /** Sends a signal and, if it is one that ends the process, waits until it has ended. */
  async kill(component: ComponentName, signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    const program = this.#program(component);
    signalProgram(program, signal);
    if (signal === 'SIGKILL') await this.#waitForExit(program, killTimeoutMs);
  }

  /** Ends a component in an orderly way, or after ten seconds by force. */
  async stop(component: ComponentName): Promise<void> {
    const program = this.#program(component);
    signalProgram(program, 'SIGCONT');
    signalProgram(program, 'SIGTERM');
    if (await waitForExit(program, stopTimeoutMs)) return;
    await this.kill(component);
  }

  /** Starts a component that was ended, exactly as it was, and waits for an API server or containerd to answer. */
  async start(component: ComponentName): Promise<void> {
    if (!isRunning(this.#program(component))) {
      const started = startProgram(this.#program(component));
      this.#programs.set(component, started);
      writeRecord(this.settings, { plan: this.plan, programs: [...this.#programs.values()] });
    }
    if (component === 'kube-apiserver') await this.waitUntilReady();
    const [, node] = /^containerd-(\d+)$/.exec(component) ?? [];
    if (node !== undefined) await waitForContainerd(this.settings, this.#program(component), Number(node));
  }

  /** Freezes a component: it keeps its sockets and answers nothing. */
  pause(component: ComponentName): void {
    signalProgram(this.#program(component), 'SIGSTOP');
  }

  /** Lets a frozen component go on. */
  resume(component: ComponentName): void {
    signalProgram(this.#program(component), 'SIGCONT');
  }

  /** Waits until the API server says that it is ready. */
  async waitUntilReady(): Promise<void> {
    await waitUntil({
      what: 'kube-apiserver to be ready',
      timeoutMs: readyTimeoutMs,
      programs: [this.#program('kube-apiserver')],
      check: () => this.#api.isReady(),
    });
  }

  /** Pulls a node's network cable. Its pods go on, unseen. */
  async disconnectNode(node: number): Promise<void> {
    await setNodeCable(this.settings, node, 'down');
  }

  /** Plugs a node's network cable in again. */
  async connectNode(node: number): Promise<void> {
    await setNodeCable(this.settings, node, 'up');
  }

  /** Ends everything on a node at once, pods included, as a power cut does. */
  async killNode(node: number): Promise<void> {
    const { cgroup, stateDir } = this.settings;
    await killCgroup(cgroup, `node${String(node)}-sys`);
    await killCgroup(cgroup, `node${String(node)}`);
    await removeShimSockets(stateDir, `node${String(node)}`);
  }

  /** Starts what {@link killNode} ended. */
  async startNode(node: number): Promise<void> {
    for (const kind of ['containerd', 'kubelet', 'kube-proxy'] as const) await this.start(`${kind}-${node}`);
  }

  /** Starts again whatever has died. */
  async revive(): Promise<ComponentName[]> {
    const dead = this.components.filter((component) => this.pid(component) === undefined);
    for (const component of dead) await this.start(component);
    return dead;
  }

  /** Ends the cluster. This handle is of no use after it. */
  async down({ wipe }: { wipe: boolean }): Promise<void> {
    await downCluster(this.settings.name, { wipe, cacheDir: join(this.settings.stateDir, '../..') });
  }

  #program(name: string): StartedProgram {
    const program = this.#programs.get(name);
    if (program === undefined) throw new RangeError(`Cluster "${this.settings.name}" has no component "${name}"`);
    return program;
  }

  async #waitForExit(program: StartedProgram, timeoutMs: number): Promise<void> {
    if (await waitForExit(program, timeoutMs)) return;
    throw new Error(`Cannot end "${program.name}": process ${String(program.pid)} is still there`);
  }
}

interface Start {
  settings: ClusterSettings;
  binDir: string;
  cacheDir: string;
  log: (line: string) => void;
}

async function startLocked(options: StartOptions, { settings, binDir, cacheDir, log }: Start): Promise<Cluster> {
  const nodes = nodesOf(options);
  const images = await Promise.all([
    pauseImage(binDir, cacheDir),
    corednsImage(binDir, cacheDir),
    busyboxImage(cacheDir),
  ]);
  const [pause, dns] = images;
  const { extraArgs = {}, kubeletConfig = {}, nodeKubeletConfig = {} } = options;
  const plan: ClusterPlan = {
    settings,
    binDir,
    nodes,
    extraArgs,
    kubeletConfig,
    nodeKubeletConfig,
    pauseImage: pause.name,
  };
  const tars = [...images.map((image) => image.tar), ...(options.images ?? [])];
  const present = await useRunning(plan, tars, log);
  if (present !== undefined) return present;
  await clearCluster(settings, { wipe: false });
  const programs = await bringUpOrClear({ plan, tars, dnsImage: dns.name, log });
  const record = { plan, programs };
  writeRecord(settings, record);
  return new Cluster(settings, record, await adminApi(apiUrl(plan), pkiDir(settings)));
}

/** A start that failed leaves its logs and state to look into, and nothing that runs. */
async function bringUpOrClear(options: BringUp): Promise<StartedProgram[]> {
  try {
    return await bringUp(options);
  } catch (error) {
    await clearCluster(options.plan.settings, { wipe: false });
    throw error;
  }
}

function nodesOf({ nodes = 1, controlPlaneOnly = false }: StartOptions): number {
  if (controlPlaneOnly) return 0;
  if (Number.isInteger(nodes) && nodes >= 1 && nodes <= nodesMax) return nodes;
  throw new RangeError(`A cluster has 1 to ${String(nodesMax)} nodes, not ${String(nodes)}`);
}

async function useRunning(
  plan: ClusterPlan,
  tars: readonly string[],
  log: (line: string) => void,
): Promise<Cluster | undefined> {
  const { name, stateDir } = plan.settings;
  const cluster = await attachCluster(name, join(stateDir, '../..'));
  if (cluster === undefined) return undefined;
  if (JSON.stringify(cluster.plan) !== JSON.stringify(plan)) {
    log(`cluster "${name}" is up with other settings: starting it anew`);
    return undefined;
  }
  // A run that was interrupted may have left them in force.
  await endNetworkPolicies(plan.settings, plan.nodes);
  const revived = await cluster.revive();
  if (revived.length > 0) log(`started again: ${revived.join(', ')}`);
  await cluster.waitUntilReady();
  await cluster.importImages(tars);
  return cluster;
}

/** One start or end of a cluster at a time. */
async function locked<T>(settings: ClusterSettings, log: (line: string) => void, work: () => Promise<T>): Promise<T> {
  const onWait = (): void => {
    log(`waiting for another start or end of cluster "${settings.name}"`);
  };
  return withLock(`${settings.stateDir}.lock`, onWait, work);
}
