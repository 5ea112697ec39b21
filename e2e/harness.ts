/**
 * What the end-to-end tests share: the cluster of this run, a namespace for each file, manifests, and ways to wait that end with what was
 * seen last. Everything goes through kubectl and the API, as a user would; nothing here knows the operator's code.
 */
import assert from 'node:assert/strict';
import type { ChildProcess } from 'node:child_process';
import { spawn } from 'node:child_process';
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Cluster } from './cluster/cluster.ts';
import { attachCluster } from './cluster/cluster.ts';
import { CommandError } from './cluster/command.ts';
import { isClusterName } from './cluster/settings.ts';

/** The image of every program here: a shell and the usual commands. */
export const busybox = 'ringmaster.local/busybox:1';
export const instancesPath = '/apis/ringmaster.dev/v1alpha1';

const pollMs = 100;
const defaultTimeoutMs = 60_000;

export interface Condition {
  readonly type: string;
  readonly status: string;
  readonly reason: string;
  readonly message: string;
  readonly observedGeneration?: number;
}

/** Any object, as far as tests look at it. */
export interface KubeObject {
  apiVersion?: string;
  kind?: string;
  metadata: {
    name: string;
    namespace?: string;
    uid?: string;
    generation?: number;
    resourceVersion?: string;
    creationTimestamp?: string;
    deletionTimestamp?: string;
    labels?: Record<string, string>;
    annotations?: Record<string, string>;
    finalizers?: string[];
    ownerReferences?: { kind: string; name: string }[];
  };
  spec?: Record<string, unknown>;
  status?: Record<string, unknown>;
}

export interface InstanceObject extends KubeObject {
  status?: {
    id?: string;
    state?: string;
    podName?: string;
    podSequence?: number;
    nodeName?: string;
    hostAddress?: string;
    port?: number;
    restarts?: number;
    observedGeneration?: number;
    conditions?: Condition[];
  };
}

export interface PodObject extends KubeObject {
  spec: { nodeName?: string; containers: { name: string; stdin?: boolean; image: string; env?: { name: string }[] }[] };
  status: {
    phase?: string;
    podIP?: string;
    conditions?: Condition[];
    containerStatuses?: {
      name: string;
      ready: boolean;
      restartCount: number;
      containerID?: string;
      lastState?: { terminated?: { exitCode: number; signal?: number } };
    }[];
  };
}

/** The cluster of this run. Throws where the test was not started by `npm test`. */
export async function testCluster(): Promise<Cluster> {
  const name = process.env.RINGMASTER_TEST_CLUSTER ?? '';
  const cluster = isClusterName(name) ? await attachCluster(name) : undefined;
  if (cluster === undefined) throw new Error('No cluster to test on: start this by "npm test -- --only e2e"');
  return cluster;
}

/** One namespace under Pod Security "restricted", as strict as a cluster gets. What is left of an earlier run goes first. */
export async function freshNamespace(cluster: Cluster, name: string): Promise<Namespace> {
  await cluster.kubectl(['delete', 'namespace', name, '--ignore-not-found', '--timeout=60s']);
  const labels = ['enforce', 'warn'].map((mode) => [`pod-security.kubernetes.io/${mode}`, 'restricted']);
  await createObject(cluster, {
    apiVersion: 'v1',
    kind: 'Namespace',
    metadata: { name, labels: Object.fromEntries(labels) as Record<string, string> },
  });
  return new Namespace(cluster, name);
}

async function createObject(cluster: Cluster, object: KubeObject): Promise<void> {
  await cluster.kubectl(['create', '-f', '-'], { input: JSON.stringify(object) });
}

/** kubectl in one namespace, and all that is in it, watched. */
export class Namespace {
  readonly cluster: Cluster;
  readonly name: string;

  constructor(cluster: Cluster, name: string) {
    this.cluster = cluster;
    this.name = name;
  }

  /** Its standard output. Throws what it wrote when it fails. */
  async kubectl(args: readonly string[], input?: string): Promise<string> {
    return this.cluster.kubectl(['--namespace', this.name, ...args], input === undefined ? {} : { input });
  }

  /** What kubectl wrote while it failed; throws if it did not. */
  async kubectlFails(args: readonly string[], input?: string): Promise<string> {
    return failureOf(() => this.kubectl(args, input));
  }

  async apply(...objects: readonly KubeObject[]): Promise<string> {
    const list = { apiVersion: 'v1', kind: 'List', items: objects };
    return this.kubectl(['apply', '-f', '-'], JSON.stringify(objects.length === 1 ? objects[0] : list));
  }

  /** Changes part of an Instance, as `kubectl edit` would. */
  async patch(name: string, spec: Record<string, unknown>): Promise<void> {
    await this.kubectl(['patch', 'instance', name, '--type=merge', '--patch', JSON.stringify({ spec })]);
  }

  async get<T extends KubeObject = KubeObject>(kind: string, name: string): Promise<T> {
    return JSON.parse(await this.kubectl(['get', kind, name, '--output=json'])) as T;
  }

  async list<T extends KubeObject = KubeObject>(kind: string, selector?: string): Promise<T[]> {
    const chosen = selector === undefined ? [] : ['--selector', selector];
    return (JSON.parse(await this.kubectl(['get', kind, ...chosen, '--output=json'])) as { items: T[] }).items;
  }

  /** Polls an object; for what no watch is open on. */
  async until<T extends KubeObject>(kind: string, name: string, is: (object: T) => boolean): Promise<T> {
    return poll(`${kind} "${name}"`, async () => {
      const object = await this.get<T>(kind, name);
      return is(object) ? object : undefined;
    });
  }

  /** Reasons and notes of the Events on an object. */
  async events(name: string): Promise<{ reason: string; note: string; type: string; reporter: string }[]> {
    const path = `/apis/events.k8s.io/v1/namespaces/${this.name}/events?fieldSelector=regarding.name%3D${name}`;
    const { items } = JSON.parse(await this.kubectl(['get', '--raw', path])) as {
      items: { reason: string; note: string; type: string; reportingInstance: string }[];
    };
    return items.map(({ reason, note, type, reportingInstance }) => ({
      reason,
      note,
      type,
      reporter: reportingInstance,
    }));
  }

  /** Waits for an Event; they are written beside the work, and so a little later than the status. */
  async eventOf(name: string, reason: string): Promise<string> {
    return poll(`Event ${reason} on "${name}"`, async () => {
      return (await this.events(name)).find((event) => event.reason === reason)?.note;
    });
  }

  /** Follows the log of a pod from its beginning; `ended` gives all lines once the container has ended. */
  followLog(pod: string): LogFollower {
    return new LogFollower(this, pod);
  }

  async remove(): Promise<void> {
    await this.kubectl(['delete', 'instances', '--all', '--timeout=60s']);
    await this.kubectl(['delete', 'namespace', this.name, '--wait=false']);
  }
}

export interface LogLine {
  readonly atMs: number;
  readonly text: string;
}

/** `kubectl logs --follow`. */
export class LogFollower {
  readonly lines: LogLine[] = [];
  readonly ended: Promise<LogLine[]>;
  readonly #child: ChildProcess;
  #wake = (): void => undefined;

  constructor(namespace: Namespace, pod: string) {
    const { child, stdout } = kubectlStream(namespace.cluster, [
      ...['--namespace', namespace.name, 'logs', pod, '--container=instance', '--follow', '--timestamps'],
    ]);
    this.#child = child;
    const { promise, resolve } = Promise.withResolvers<LogLine[]>();
    this.ended = promise;
    const reader = createInterface({ input: stdout });
    reader.on('line', (line) => {
      const space = line.indexOf(' ');
      this.lines.push({ atMs: Date.parse(line.slice(0, space)), text: line.slice(space + 1) });
      this.#wake();
    });
    reader.on('close', () => {
      resolve(this.lines);
    });
  }

  /** Waits for a line with this text. */
  async until(text: string, timeoutMs = defaultTimeoutMs): Promise<LogLine> {
    const deadline = Date.now() + timeoutMs;
    for (;;) {
      const found = this.lines.find((line) => line.text.includes(text));
      if (found !== undefined) return found;
      if (Date.now() > deadline || this.#child.exitCode !== null)
        throw new Error(`No line "${text}" in: ${this.lines.map((line) => line.text).join(' | ')}`);
      const { promise, resolve } = Promise.withResolvers<undefined>();
      this.#wake = () => {
        resolve(undefined);
      };
      await Promise.race([promise, sleep(pollMs, undefined, { ref: false })]);
    }
  }

  stop(): void {
    this.#child.kill();
  }
}

export interface Seen<T> {
  readonly type: 'ADDED' | 'MODIFIED' | 'DELETED';
  readonly object: T;
  readonly atMs: number;
}

interface Answered<T> {
  readonly type: Seen<T>['type'] | 'ERROR';
  readonly object: T;
}

/**
 * A watch on one resource of a namespace by `kubectl get --raw`: all that happened since it was opened, in order. The server ends watches, those of a
 * custom resource at each change of its definition: it goes on behind what it has seen. Only where the server no longer knows that far back is a deletion missed.
 */
export class Watch<T extends KubeObject> {
  readonly history: Seen<T>[] = [];
  readonly #what: string;
  readonly #cluster: Cluster;
  readonly #path: string;
  readonly #waiting = new Set<() => void>();
  #child: ChildProcess;
  #isStopped = false;

  /** `path` is that of the collection. */
  constructor(cluster: Cluster, path: string) {
    this.#what = path.slice(path.lastIndexOf('/') + 1);
    this.#cluster = cluster;
    this.#path = path;
    this.#child = this.#open();
  }

  #open(since?: string): ChildProcess {
    const query = since === undefined ? 'watch=true' : `watch=true&resourceVersion=${since}`;
    const { child, stdout } = kubectlStream(this.#cluster, ['get', '--raw', `${this.#path}?${query}`]);
    let next = since;
    const lines = createInterface({ input: stdout });
    lines.on('line', (line) => {
      const { type, object } = JSON.parse(line) as Answered<T>;
      if (type === 'ERROR') {
        next = undefined;
        return;
      }
      next = object.metadata.resourceVersion;
      this.#note(type, object);
    });
    lines.once('close', () => {
      if (this.#isStopped) return;
      setTimeout(() => {
        if (!this.#isStopped) this.#child = this.#open(next);
      }, pollMs).unref();
    });
    return child;
  }

  /** Opened anew from the beginning, a watch begins with all that there is. */
  #note(type: Seen<T>['type'], object: T): void {
    const { name, uid, resourceVersion } = object.metadata;
    const known = this.now(name)?.metadata;
    if (type === 'ADDED' && known?.uid === uid && known?.resourceVersion === resourceVersion) return;
    const isKnown = type === 'ADDED' && known !== undefined && known.uid === uid;
    this.history.push({ type: isKnown ? 'MODIFIED' : type, object, atMs: Date.now() });
    for (const wake of this.#waiting) wake();
  }

  /** What happened to one object. */
  of(name: string): Seen<T>[] {
    return this.history.filter(({ object }) => object.metadata.name === name);
  }

  /** The object as it is now; undefined if it is gone or was never there. */
  now(name: string): T | undefined {
    const last = this.of(name).at(-1);
    return last === undefined || last.type === 'DELETED' ? undefined : last.object;
  }

  /** Waits until the object, as it is now, fulfils something. */
  async until(name: string, is: (object: T) => boolean, options: WaitOptions = {}): Promise<T> {
    const check = (): T | undefined => {
      const object = this.now(name);
      return object !== undefined && is(object) ? object : undefined;
    };
    return this.#wait(`${this.#what} "${name}"`, check, options);
  }

  /** Waits until the object is gone. */
  async untilGone(name: string, options: WaitOptions = {}): Promise<void> {
    await this.#wait(`the end of ${this.#what} "${name}"`, () => this.of(name).at(-1)?.type === 'DELETED', options);
  }

  stop(): void {
    this.#isStopped = true;
    this.#child.kill();
  }

  async #wait<R>(what: string, check: () => R | undefined | false, options: WaitOptions): Promise<R> {
    const { timeoutMs = defaultTimeoutMs } = options;
    const immediate = check();
    if (immediate !== undefined && immediate !== false) return immediate;
    const { promise, resolve, reject } = Promise.withResolvers<R>();
    const timer = setTimeout(() => {
      const last = this.history.filter(({ object }) => what.includes(`"${object.metadata.name}"`)).at(-1);
      reject(
        new Error(`Gave up waiting for ${what} after ${timeoutMs} ms. Last: ${JSON.stringify(last?.object.status)}`),
      );
    }, timeoutMs);
    const look = (): void => {
      const found = check();
      if (found !== undefined && found !== false) resolve(found);
    };
    this.#waiting.add(look);
    try {
      return await promise;
    } finally {
      clearTimeout(timer);
      this.#waiting.delete(look);
    }
  }
}

export interface WaitOptions {
  readonly timeoutMs?: number;
}

function kubectlStream(cluster: Cluster, args: readonly string[]): { child: ChildProcess; stdout: Readable } {
  const child = spawn(join(cluster.binDir, 'kubectl'), args, {
    env: { ...process.env, ...cluster.env() },
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  // A stream that a failing test left open must not keep the run from ending.
  child.unref();
  (child.stdout as Readable & { unref?: () => void }).unref?.();
  process.once('exit', () => child.kill());
  return { child, stdout: child.stdout };
}

/** Asks until there is an answer. What `ask` throws counts as none: it is shown when the time is over. */
export async function poll<T>(
  what: string,
  ask: () => Promise<T | undefined>,
  { timeoutMs = defaultTimeoutMs }: WaitOptions = {},
): Promise<T> {
  const deadline = Date.now() + timeoutMs;
  let last: unknown;
  for (;;) {
    try {
      const answer = await ask();
      if (answer !== undefined) return answer;
      last = undefined;
    } catch (error) {
      last = error;
    }
    if (Date.now() > deadline)
      throw new Error(`Gave up waiting for ${what} after ${timeoutMs} ms`, last === undefined ? {} : { cause: last });
    await sleep(pollMs);
  }
}

/** What a command wrote while it failed; throws if it did not fail. */
export async function failureOf(command: () => Promise<string>): Promise<string> {
  try {
    const output = await command();
    assert.fail(`This should have been refused: ${output}`);
  } catch (error) {
    if (error instanceof CommandError) return error.output;
    throw error;
  }
}

/** An Instance that Pod Security "restricted" lets in. A script given as `script` runs in a shell. */
export function instance(name: string, spec: Record<string, unknown> & { script?: string } = {}): KubeObject {
  const { script, ...rest } = spec;
  return {
    apiVersion: 'ringmaster.dev/v1alpha1',
    kind: 'Instance',
    metadata: { name },
    spec: {
      image: busybox,
      ...(rest.command === undefined ? { command: ['sh', '-c'], args: [script ?? programs.idle] } : {}),
      podTemplate: restrictedPod(),
      ...rest,
    },
  };
}

/** What Pod Security "restricted" asks for besides what Ringmaster sets by itself; `spec` is laid over it. */
export function restrictedPod(spec: Record<string, unknown> = {}): { spec: Record<string, unknown> } {
  return {
    spec: {
      securityContext: { runAsNonRoot: true, runAsUser: 65532 },
      containers: [{ name: 'instance', securityContext: { capabilities: { drop: ['ALL'] } } }],
      ...spec,
    },
  };
}

/** Shell programs. `sleep &` and `wait`, because a trap waits for a command to end, but not for `wait`. */
export const programs = {
  /** Runs, and ends at once on SIGTERM. */
  idle: `trap 'echo "got TERM"; exit 0' TERM; echo up; while :; do sleep 3600 & wait $!; done`,
  /** Says what it reads, ends two seconds after "stop", and says when SIGTERM comes. */
  reader: `trap 'echo "got TERM"; exit 1' TERM; echo up; while read -r line; do echo "read $line"; [ "$line" = stop ] && sleep 2 && echo bye && exit 0; done; sleep 3600 & wait $!`,
  /** Reads "stop" and hears SIGTERM, and goes on: five lines a second until it is killed. */
  stubborn: `trap 'echo "got TERM"' TERM; exec 3<&0; while read -r line; do echo "read $line"; done <&3 & echo up; while :; do sleep 0.2; echo tick; done`,
  crash: 'echo up; exit 3',
  success: 'echo up; exit 0',
} as const;

/** A condition of an object. */
export function condition(
  object: { status?: { conditions?: Condition[] } | undefined },
  type: string,
): Condition | undefined {
  return object.status?.conditions?.find((candidate) => candidate.type === type);
}

export function isOnline(object: InstanceObject): boolean {
  return (
    object.status?.state === 'ONLINE' &&
    condition(object, 'Ready')?.status === 'True' &&
    object.status.observedGeneration === object.metadata.generation
  );
}

/** Whether it is stalled for this reason, as of its present spec. */
export function isStalled(reason: string): (object: InstanceObject) => boolean {
  return (object) => {
    const stalled = condition(object, 'Stalled');
    return (
      stalled?.status === 'True' &&
      stalled.reason === reason &&
      stalled.observedGeneration === object.metadata.generation
    );
  };
}

export function hasState(state: string): (object: InstanceObject) => boolean {
  return (object) => object.status?.state === state && object.status.observedGeneration === object.metadata.generation;
}

/** The process that a container runs, on this machine: nodes are network namespaces, so their processes are among ours. */
export function containerPid(pod: PodObject, container: string): number {
  const status = pod.status.containerStatuses?.find(({ name }) => name === container);
  const id = status?.containerID?.replace(/^containerd:\/\//, '');
  if (id === undefined) throw new Error(`Container "${container}" of pod "${pod.metadata.name}" has no id`);
  const pids = readdirSync('/proc').filter((entry) => /^\d+$/.test(entry) && cgroupOf(entry).includes(id));
  // The container's first process is the one that was there before the others.
  const [first] = pids.map(Number).sort((a, b) => a - b);
  if (first === undefined) throw new Error(`No process of container "${id}"`);
  return first;
}

function cgroupOf(pid: string): string {
  try {
    return readFileSync(`/proc/${pid}/cgroup`, 'utf8');
  } catch {
    // It ended in between.
    return '';
  }
}

export interface AuditEntry {
  readonly verb: string;
  readonly requestURI: string;
  readonly user: { readonly username: string; readonly extra?: Record<string, string[]> };
  readonly objectRef?: { resource: string; subresource?: string; name?: string; namespace?: string };
  readonly responseStatus?: { code: number };
  readonly requestReceivedTimestamp: string;
}

/** What the operator and the Master asked the API server, as its audit log has it, from a moment on. */
export function auditSince(cluster: Cluster, sinceMs: number): AuditEntry[] {
  const lines = readFileSync(join(cluster.logDir, 'audit.log'), 'utf8').split('\n');
  return lines
    .filter((line) => line.endsWith('}'))
    .map((line) => JSON.parse(line) as AuditEntry)
    .filter((entry) => Date.parse(entry.requestReceivedTimestamp) >= sinceMs);
}

/** The pod that sent a request, from its token. */
export function auditPod(entry: AuditEntry): string | undefined {
  return entry.user.extra?.['authentication.kubernetes.io/pod-name']?.[0];
}

export function isWrite(entry: AuditEntry): boolean {
  return ['create', 'update', 'patch', 'delete', 'deletecollection'].includes(entry.verb);
}

/** Lets a fault last. Not for waiting until something has happened. */
export async function lasting(ms: number): Promise<void> {
  await sleep(ms);
}
