/**
 * Many Instances at once (`--count`, 1,000 by default), beside a Deployment of as many replicas by kube-controller-manager, with pods of the same
 * spec on nodes that kwok plays. Client-side limits of kube-controller-manager are lifted: its default is 20 requests a second, which would
 * measure that. The Deployment is one object that is applied; the Instances are as many, and the time of applying them counts.
 *
 * Goals: at most 4 API writes an Instance from apply to ONLINE; at most 3 x the Deployment's time until it says that all are ready; then, at rest,
 * no API write but the leader's lease in 60 s, and under 1 % of a core.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Instance } from '../../operator/api/v1alpha1/instance.ts';
import { instances } from '../../operator/api/v1alpha1/instance.ts';
import { createSilentLogger } from '../../operator/log.ts';
import type { Client, KubernetesObject, Resource } from '../../operator/runtime/client.ts';
import { pods } from '../../operator/runtime/client.ts';
import { systemClock } from '../../operator/runtime/clock.ts';
import { connect } from '../../operator/runtime/http.ts';
import { Informer } from '../../operator/runtime/informer.ts';
import type { Bench } from '../bench.ts';
import { fakeNodeLabel, fakeNodeToleration, startFakeNodes } from '../cluster/kwok.ts';
import { AuditWindow, auditArgs, perObject, writesOf } from './readers/audit.ts';
import type { Requests } from './readers/audit.ts';
import type { Processes } from './readers/processes.ts';
import { cpuSecondsOf, memoryOf, processesOf } from './readers/processes.ts';
import { goal } from './readers/readers.ts';

const countDefault = 1_000;
const fakeNodes = 10;
/** Requests at the same time that make the Instances. */
const makers = 16;
const waitMs = 900_000;
/** For what comes late: Events, and what the last watch events lead to. */
const settleMs = 10_000;
const restMs = 60_000;

const unlimited = ['--kube-api-qps=5000', '--kube-api-burst=5000'];
export const extraArgs = {
  'kube-apiserver': auditArgs,
  'kube-controller-manager': unlimited,
  'kube-scheduler': unlimited,
};

interface Deployment extends KubernetesObject {
  readonly spec: object;
  readonly status?: { readonly readyReplicas?: number };
}

const deployments: Resource<Deployment> = {
  apiVersion: 'apps/v1',
  kind: 'Deployment',
  plural: 'deployments',
  namespaced: true,
};

const operatorUser = /^system:serviceaccount:ringmaster-system:ringmaster-operator$/;
const managerUsers = /^system:serviceaccount:kube-system:(deployment|replicaset)-controller$/;

interface Outcome {
  /** Seconds from the first request until the last pod was there, and until all was said to be ready. */
  readonly podsSeconds: number;
  readonly readySeconds: number;
  readonly requests: Requests;
  /** CPU seconds by process. */
  readonly cpu: ReadonlyMap<string, number>;
}

interface Rest {
  readonly requests: Requests;
  readonly cpuShare: number;
}

interface World {
  readonly bench: Bench;
  readonly client: Client;
  readonly count: number;
  readonly processes: Processes;
}

export async function run(bench: Bench): Promise<void> {
  const { progress, cluster } = bench;
  const count = bench.count ?? countDefault;
  const { client } = connect({ kubeconfigPath: cluster.kubeconfig, log: createSilentLogger() });
  await progress.step('Starting kwok', () =>
    startFakeNodes(cluster, fakeNodes, (line) => {
      progress.say(line);
    }),
  );
  const world: World = { bench, client, count, processes: await processesOf(bench) };
  const template = await progress.step('One Instance for a start', () => warmUp(world));
  const peer = await progress.step(`A Deployment of ${count} replicas`, () => runDeployment(world, template));
  const own = await progress.step(`${count} Instances`, () => runInstances(world));
  const memory = await memoryOf(world.processes.get('operator') ?? 0);
  const rest = await progress.step('At rest', () => atRest(world));
  process.stdout.write(`${report({ count, peer, own, rest, memory }).join('\n')}\n`);
}

interface Results {
  readonly count: number;
  readonly peer: Outcome;
  readonly own: Outcome;
  readonly rest: Rest;
  readonly memory: string;
}

function report({ count, peer, own, rest, memory }: Results): string[] {
  const ratio = own.readySeconds / peer.readySeconds;
  const cpu = (name: string): string => {
    const [ours = 0, theirs = 0] = [own.cpu.get(name), peer.cpu.get(name)];
    return `  ${`CPU s, ${name}`.padEnd(32)}${ours.toFixed(2).padStart(10)}${theirs.toFixed(2).padStart(12)}`;
  };
  const row = (name: string, ours: number, theirs: number): string =>
    `  ${name.padEnd(32)}${ours.toFixed(2).padStart(10)}${theirs.toFixed(2).padStart(12)}   ratio ${(ours / theirs).toFixed(2)}`;
  return [
    `\nreconcile: ${count} Instances beside a Deployment of ${count} replicas`,
    `  ${''.padEnd(32)} Instances  Deployment`,
    row('s until every pod exists', own.podsSeconds, peer.podsSeconds),
    row('s until all are said to be ready', own.readySeconds, peer.readySeconds),
    ...[...own.cpu.keys()].map(cpu),
    `  operator: ${memory}`,
    `  requests of the operator, an Instance: ${perObject(own.requests, count)}`,
    `  requests of the Deployment's controllers, a replica: ${perObject(peer.requests, count)}`,
    `  at rest, in ${restMs / 1_000} s: ${perObject(rest.requests, 1) || 'nothing'}`,
    goal('API writes an Instance', writesOf(own.requests) / count, { most: 4, unit: '' }),
    goal("time until ONLINE, ratio to the Deployment's", ratio, { most: 3, unit: 'x' }),
    goal(`API writes at rest in ${restMs / 1_000} s, without the lease`, writesOf(rest.requests), {
      most: 0,
      unit: '',
    }),
    goal('CPU of the operator at rest', 100 * rest.cpuShare, { most: 1, unit: '% of a core' }),
  ];
}

function instanceNamed(name: string, namespace: string): Instance {
  const onFakeNode = { nodeSelector: fakeNodeLabel, tolerations: [fakeNodeToleration] };
  const spec = { image: 'ringmaster.local/busybox:1', podTemplate: { spec: onFakeNode } };
  return { metadata: { name, namespace }, spec } as unknown as Instance;
}

/** Gives the spec of a pod as the operator makes it, for the Deployment. */
async function warmUp({ bench, client }: World): Promise<object> {
  const { cluster } = bench;
  const namespace = await makeNamespace(bench, 'start');
  await client.create(instances, instanceNamed('first', namespace));
  await cluster.kubectl(['wait', 'instance/first', '-n', namespace, '--for=condition=Ready', '--timeout=60s']);
  const [pod] = (await client.list(pods, { namespace })).items;
  const spec = Object.entries(pod?.spec ?? {}).filter(([field]) => field !== 'nodeName');
  await cluster.kubectl(['delete', 'instance', 'first', '-n', namespace, '--wait']);
  return Object.fromEntries(spec);
}

/** A new one, in which pods can be made. */
async function makeNamespace({ cluster }: Bench, name: string): Promise<string> {
  await cluster.kubectl(['create', 'namespace', name]);
  await cluster.kubectl(['wait', 'serviceaccount/default', '-n', name, '--for=create', '--timeout=30s']);
  return name;
}

async function runDeployment(world: World, template: object): Promise<Outcome> {
  const { bench, client, count } = world;
  const namespace = await makeNamespace(bench, 'deployment');
  const labels = { app: 'peer' };
  const spec = {
    replicas: count,
    selector: { matchLabels: labels },
    template: { metadata: { labels }, spec: template },
  };
  const outcome = await measure(world, namespace, {
    start: async () => {
      await client.create(deployments, { metadata: { name: 'peer', namespace }, spec });
    },
    follow: (signal) =>
      follow(
        world,
        { resource: deployments, namespace, count: 1, signal },
        ({ status }) => status?.readyReplicas === count,
      ),
    user: managerUsers,
  });
  await bench.cluster.kubectl(['delete', 'deployment', 'peer', '-n', namespace, '--cascade=foreground', '--wait']);
  return outcome;
}

async function runInstances(world: World): Promise<Outcome> {
  const { bench, client, count } = world;
  const namespace = await makeNamespace(bench, 'instances');
  const names = Array.from({ length: count }, (_, index) => `server-${index}`).values();
  return measure(world, namespace, {
    start: async () => {
      const make = async (): Promise<void> => {
        for (const name of names) await client.create(instances, instanceNamed(name, namespace));
      };
      await Promise.all(Array.from({ length: makers }, make));
    },
    follow: (signal) =>
      follow(world, { resource: instances, namespace, count, signal }, ({ status }) => status?.state === 'ONLINE'),
    user: operatorUser,
  });
}

interface Measured {
  readonly start: () => Promise<void>;
  /** Until all is said to be ready. */
  readonly follow: (signal: AbortSignal) => Promise<number>;
  readonly user: RegExp;
}

async function measure(world: World, namespace: string, { start, follow: ready, user }: Measured): Promise<Outcome> {
  const stop = new AbortController();
  const signal = AbortSignal.any([stop.signal, AbortSignal.timeout(waitMs)]);
  const podsThere = follow(world, { resource: pods, namespace, count: world.count, signal }, () => true);
  const allReady = ready(signal);
  // Until both watch, so that neither looks at the machine while the other is measured.
  await sleep(1_000);
  const window = await AuditWindow.open();
  const startedAtMs = performance.now();
  let [podsAtMs, readyAtMs] = [0, 0];
  const cpu = await cpuSecondsOf(world.processes, async () => {
    [podsAtMs, readyAtMs] = await Promise.all([podsThere, allReady, start()]);
    await sleep(settleMs);
  });
  stop.abort();
  return {
    podsSeconds: (podsAtMs - startedAtMs) / 1_000,
    readySeconds: (readyAtMs - startedAtMs) / 1_000,
    requests: await window.read(user),
    cpu,
  };
}

interface Followed<T extends KubernetesObject> {
  readonly resource: Resource<T>;
  readonly namespace: string;
  /** How many must fit. */
  readonly count: number;
  readonly signal: AbortSignal;
}

/** Resolves with the time at which so many objects fit for the first time; rejects when the signal ends the wait. */
async function follow<T extends KubernetesObject>(
  { client }: World,
  { resource, namespace, count, signal }: Followed<T>,
  fits: (object: T) => boolean,
): Promise<number> {
  const { promise, resolve, reject } = Promise.withResolvers<number>();
  const settings = { client, resource, scope: { namespace }, clock: systemClock, random: Math.random };
  const informer = new Informer<T>({ ...settings, log: createSilentLogger() });
  const fitting = new Set<string>();
  informer.onChange((key, _, next) => {
    if (next === undefined || !fits(next)) return;
    fitting.add(key);
    if (fitting.size === count) resolve(performance.now());
  });
  signal.addEventListener('abort', () => {
    reject(new Error(`Of ${count} ${resource.plural} only ${fitting.size} came to be as they should`));
  });
  void informer.run(signal);
  return promise;
}

async function atRest({ processes }: World): Promise<Rest> {
  const window = await AuditWindow.open();
  const cpu = await cpuSecondsOf(processes, () => sleep(restMs));
  const cpuShare = (cpu.get('operator') ?? Number.NaN) / (restMs / 1_000);
  return { requests: await window.read(operatorUser), cpuShare };
}
