/**
 * The NetworkPolicies of the chart and of docs/security.md, in force: what Ringmaster and its users need goes through, all else is held back. The
 * same paths are tried before they are enforced, meanwhile, and afterwards: what is held back then was open without them.
 */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { isDeepStrictEqual } from 'node:util';
import { parseAllDocuments } from 'yaml';
import { endNetworkPolicies, enforceNetworkPolicies } from './cluster/network-policies.ts';
import { nodeAddress, nodeNumbers } from './cluster/settings.ts';
import { busybox } from './harness.ts';
import type { KubeObject } from './harness.ts';
import { applyInstances, call, enterWorld, eventually, masters, onNode, openSocket, podOf } from './live-harness.ts';
import type { LiveSocket, Spec, World } from './live-harness.ts';
import { chartDir, releaseName, releaseNamespace } from './release.ts';
import { programUnder, Typist } from './runtime-harness.ts';

const atHome = ['--namespace', releaseNamespace];
const roleLabel = 'ringmaster.test/role';
const rulesTimeoutMs = 30_000;
/** Says what it reads, and listens on a port of its own. */
const script = 'busybox httpd -p 8080 -h /tmp; echo up; while read -r line; do echo "got $line"; done; exec sleep 1000';

/** Its Instances are under the policy of docs/security.md. */
let page: World;
/** Its Instances are under the policy that the chart makes in each of `watchNamespaces`. */
let chart: World;
let isRolledOut = false;

before(async () => {
  page = await enterWorld();
  chart = await enterWorld();
  await applyInstances(page, { old: { ...programUnder('process', script), ...onNode('node1') } });
  await applyInstances(chart, { old: { ...programUnder('screen', script), ...onNode('node2') } });
  await prepareProbers(page, { 'stranger-1': 'node1', client: 'node2', prometheus: 'node1' });
  await prepareProbers(chart, { 'stranger-2': 'node2' });
  await page.kubectl(['apply', '-f', '-'], await policyOfPage());
  await chart.kubectl(['apply', '-f', '-'], await policyOfChart());
  await page.cluster.helm(['upgrade', releaseName, chartDir, ...atHome, '--reuse-values', ...policyValues()]);
  isRolledOut = true;
  for (const world of [page, chart])
    await world.kubectl(['wait', '--for=condition=Ready', 'instance/old', '--timeout=60s']);
});

after(async () => {
  const { settings, plan } = page.cluster;
  await endNetworkPolicies(settings, plan.nodes);
  if (isRolledOut) await page.cluster.helm(['rollback', releaseName, ...atHome]);
  await chart.leave();
  await page.leave();
});

/** Pods from which connections are tried, by name and node; the name is the role as well. */
async function prepareProbers(world: World, nodes: Readonly<Record<string, string>>): Promise<void> {
  const pods = Object.entries(nodes).map(([name, node]) => ({
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name, labels: { [roleLabel]: name } },
    spec: {
      nodeSelector: { 'kubernetes.io/hostname': node },
      terminationGracePeriodSeconds: 0,
      securityContext: { runAsNonRoot: true, runAsUser: 65532, seccompProfile: { type: 'RuntimeDefault' } },
      containers: [
        {
          name: 'prober',
          image: busybox,
          command: ['sleep', '3600'],
          securityContext: { allowPrivilegeEscalation: false, capabilities: { drop: ['ALL'] } },
        },
      ],
    },
  }));
  await world.kubectl(['apply', '-f', '-'], JSON.stringify({ apiVersion: 'v1', kind: 'List', items: pods }));
  await world.kubectl(['wait', '--for=condition=Ready', 'pods', '-l', roleLabel, '--timeout=60s']);
}

/** The API server is where this network has it; this machine reaches the Masters by a node. */
function policyValues(): string[] {
  const { settings, apiUrl } = page.cluster;
  const { hostname, port } = new URL(apiUrl);
  const pods = (role: string): unknown => ({
    namespaceSelector: { matchLabels: { 'kubernetes.io/metadata.name': page.namespace } },
    podSelector: { matchLabels: { [roleLabel]: role } },
  });
  const networkPolicy = {
    enabled: true,
    apiServer: { cidrs: [`${hostname}/32`], ports: [Number(port)] },
    clients: [pods('client'), { ipBlock: { cidr: `${settings.nodeNet}.0/24` } }],
    metrics: [pods('prometheus')],
  };
  return ['--set-json', `networkPolicy=${JSON.stringify(networkPolicy)}`];
}

/** As somebody would copy it. */
async function policyOfPage(): Promise<string> {
  const text = await readFile(join(import.meta.dirname, '../docs/security.md'), 'utf8');
  const blocks = [...text.matchAll(/^```yaml\n(.*?)^```$/gms)].map(([, block = '']) => block);
  const policies = blocks.filter((block) => block.includes('kind: NetworkPolicy'));
  assert.equal(policies.length, 1);
  return policies[0] ?? '';
}

/** Rendered, because this release watches all namespaces. */
async function policyOfChart(): Promise<string> {
  const output = await page.cluster.helm([
    ...['template', releaseName, chartDir, ...atHome, '--show-only', 'templates/networkpolicy.yaml'],
    ...['--set', `watchNamespaces={${chart.namespace}}`, ...policyValues()],
  ]);
  const policies = parseAllDocuments(output).map((document) => document.toJS() as KubeObject);
  const [policy, ...others] = policies.filter(({ metadata }) => metadata.namespace === chart.namespace);
  assert.deepEqual(others, []);
  return JSON.stringify(policy);
}

interface Source {
  readonly world: Pick<World, 'kubectl'>;
  readonly pod: string;
  /** Without a shell: what Ringmaster itself runs in. */
  readonly isNode?: boolean;
  /** Names of the targets that it must reach, of all that it tries. */
  readonly reaches: readonly string[];
  readonly tries: Targets;
}

/** Address and port by name. */
type Targets = Readonly<Record<string, string>>;

/** Every path that is tried. Pods of Ringmaster are asked for anew: they are replaced on the way. */
async function sources(): Promise<Readonly<Record<string, Source>>> {
  const { cluster } = page;
  const instances = {
    ...portsOf('page', await addressOf(page, await podOf(page, 'old')), [7070, 7071, 8080]),
    ...portsOf('chart', await addressOf(chart, await podOf(chart, 'old')), [7070, 7071, 8080]),
  };
  const home: Source['world'] = { kubectl: (args) => cluster.kubectl([...atHome, ...args]) };
  const release = { master: await podsOfRelease('master'), operator: await podsOfRelease('operator') };
  const { host } = new URL(page.url);
  const api: Targets = { service: host, ...portsOfAll(release.master, 7000) };
  const health = portsOfAll(release.operator, 8080);
  const answers = Object.fromEntries(
    Object.entries(portsOfAll(release.master, 7001)).map(([pod, target]) => [`${pod}:answers`, target]),
  );
  const all = { ...instances, ...api, ...health, ...answers };
  const { settings, plan, apiUrl } = cluster;
  const kubelets = Object.fromEntries(
    nodeNumbers(plan.nodes).map((node) => [`kubelet-${String(node)}`, `${nodeAddress(settings, node)}:10250`]),
  );
  const outwards = {
    ...instances,
    ...kubelets,
    apiserver: new URL(apiUrl).host,
    kubernetes: `${settings.serviceNet}.0.1:443`,
    dns: `${settings.dnsAddress}:53`,
  };
  const strangers = ['page:7071', 'page:8080', 'chart:8080'];
  const ours = ['page:7070', 'chart:7070', 'apiserver', 'kubernetes', 'dns'];
  return {
    'stranger-1': { world: page, pod: 'stranger-1', tries: all, reaches: strangers },
    'stranger-2': { world: chart, pod: 'stranger-2', tries: all, reaches: strangers },
    client: { world: page, pod: 'client', tries: all, reaches: [...strangers, ...Object.keys(api)] },
    prometheus: {
      world: page,
      pod: 'prometheus',
      tries: all,
      reaches: [...strangers, 'chart:7071', ...Object.keys(api), ...Object.keys(health)],
    },
    'an Instance': {
      world: page,
      pod: await podOf(page, 'old'),
      tries: Object.fromEntries(Object.entries(all).filter(([name]) => !name.startsWith('page:'))),
      reaches: ['chart:8080'],
    },
    ...Object.fromEntries(
      Object.keys(release.master).map((pod) => [
        pod,
        { world: home, pod, isNode: true, tries: outwards, reaches: ours },
      ]),
    ),
    ...Object.fromEntries(
      Object.keys(release.operator).map((pod) => [
        pod,
        {
          ...{ world: home, pod, isNode: true },
          tries: { ...outwards, ...answers },
          reaches: [...ours, ...Object.keys(answers)],
        },
      ]),
    ),
  };
}

function portsOf(name: string, address: string, ports: readonly number[]): Targets {
  return Object.fromEntries(ports.map((port) => [`${name}:${String(port)}`, `${address}:${String(port)}`]));
}

function portsOfAll(pods: Targets, port: number): Targets {
  return Object.fromEntries(Object.entries(pods).map(([name, address]) => [name, `${address}:${String(port)}`]));
}

async function addressOf(world: World, pod: string): Promise<string> {
  return world.kubectl(['get', 'pod', pod, '--output=jsonpath={.status.podIP}']);
}

/** Addresses of a component's pods, by name. */
async function podsOfRelease(component: string): Promise<Targets> {
  const output = await page.cluster.kubectl([
    ...['get', 'pods', ...atHome, '-l', `app.kubernetes.io/component=${component}`],
    '--output=jsonpath={range .items[*]}{.metadata.name} {.status.podIP} {.metadata.deletionTimestamp}{"\\n"}{end}',
  ]);
  const rows = output
    .trim()
    .split('\n')
    .map((line) => line.trim().split(' '));
  return Object.fromEntries(
    rows.filter((row) => row.length === 2).map(([name, address]) => [name, address]),
  ) as Targets;
}

/** Names of the targets that take a connection from there. */
async function reached({ world, pod, isNode = false, tries }: Source): Promise<string[]> {
  const command = isNode ? ['/usr/local/bin/node', '-e', nodeAttempts(tries)] : ['sh', '-c', shellAttempts(tries)];
  return (await world.kubectl(['exec', pod, '--', ...command]))
    .split('\n')
    .filter((line) => line !== '')
    .sort();
}

function shellAttempts(tries: Targets): string {
  const attempts = Object.entries(tries).map(
    ([name, target]) => `busybox nc -w 2 ${target.replace(':', ' ')} -e true </dev/null 2>/dev/null && echo ${name}`,
  );
  return [...attempts, 'true'].join('\n');
}

function nodeAttempts(tries: Targets): string {
  return `for (const [name, target] of Object.entries(${JSON.stringify(tries)})) {
    const [host, port] = target.split(':');
    const socket = require('node:net').connect({ host, port: Number(port) });
    socket.setTimeout(2000, () => socket.destroy());
    socket.on('connect', () => { console.log(name); socket.destroy(); });
    socket.on('error', () => undefined);
  }`;
}

interface Tried {
  readonly reached: Record<string, readonly string[]>;
  readonly wanted: Record<string, readonly string[]>;
}

const everything = (source: Source): string[] => Object.keys(source.tries);
const allowed = (source: Source): readonly string[] => source.reaches;

/** What is reached from everywhere, beside what is to be. */
async function tryAll(wanted: (source: Source) => readonly string[]): Promise<Tried> {
  const all = Object.entries(await sources());
  const lists = await Promise.all(all.map(([, source]) => reached(source)));
  return {
    reached: Object.fromEntries(all.map(([name], index) => [name, lists[index] ?? []])),
    wanted: Object.fromEntries(all.map(([name, source]) => [name, [...wanted(source)].sort()])),
  };
}

/** The rules follow pods and policies a moment later. What is then still wrong is shown path by path. */
async function untilAllowed(): Promise<void> {
  const deadline = Date.now() + rulesTimeoutMs;
  for (;;) {
    const tried = await tryAll(allowed);
    if (isDeepStrictEqual(tried.reached, tried.wanted)) return;
    if (Date.now() > deadline) assert.deepEqual(tried.reached, tried.wanted);
  }
}

test('networkpolicy: nothing is held back without enforcement, and only what was meant with it', async () => {
  const open = await tryAll(everything);
  assert.deepEqual(open.reached, open.wanted);
  await enforceNetworkPolicies(page.cluster, (line) => {
    process.stdout.write(`${line}\n`);
  });
  await untilAllowed();
});

test('networkpolicy: Instances under kubernetes, process and screen come ONLINE, stream and are typed into', async () => {
  const specs: Record<string, Spec> = {
    kubernetes: programUnder('kubernetes', script),
    process: programUnder('process', script),
    screen: programUnder('screen', script),
  };
  const made = { page: await applyInstances(page, specs), chart: await applyInstances(chart, specs) };
  const typist = new Typist(page);
  const talk = async (world: World, name: string, id: string): Promise<void> => {
    await world.kubectl(['wait', '--for=condition=Ready', `instance/${name}`, '--timeout=60s']);
    const socket = await openSocket(world, { id, query: '?tail=100' });
    await says(socket, 'up');
    assert.equal((await typist.type(id, 'hello')).status, 200);
    await says(socket, 'got hello');
    socket.terminate();
  };
  await Promise.all([
    ...Object.entries(made.page).map(([name, id]) => talk(page, name, id)),
    ...Object.entries(made.chart).map(([name, id]) => talk(chart, name, id)),
  ]);
});

async function says(socket: LiveSocket, line: string): Promise<void> {
  await socket.until(`"${line}"`, () => socket.frames.some((frame) => frame.trim() === line));
}

test('networkpolicy: the console restarts an Instance and reports on it', async () => {
  const id = await page.kubectl(['get', 'instance', 'process', '--output=jsonpath={.status.id}']);
  const before = await podOf(page, 'process');
  assert.match(await execute(`instance restart ${id}`), new RegExp(id));
  await eventually('the next pod', async () => ![before, ''].includes(await podOf(page, 'process')));
  await page.kubectl(['wait', '--for=condition=Ready', 'instance/process', '--timeout=60s']);
  assert.match(await execute('instance list'), new RegExp(`${id} process ONLINE`));
});

async function execute(command: string): Promise<string> {
  const response = await fetch(`${page.url}/api/commands/execute`, {
    method: 'POST',
    headers: { authorization: `Bearer ${page.token}` },
    body: JSON.stringify({ command }),
  });
  const { output, exitCode } = (await response.json()) as { output: string; exitCode: number };
  assert.equal(exitCode, 0, output);
  return output;
}

test('networkpolicy: Masters and operators start anew, find the API server and DNS, and are probed and scraped', async () => {
  const deployments = ['operator', 'master'].map((component) => `deployment/${releaseName}-${component}`);
  await page.cluster.kubectl(['rollout', 'restart', ...atHome, ...deployments]);
  await Promise.all(
    deployments.map((name) => page.cluster.kubectl(['rollout', 'status', ...atHome, name, '--timeout=120s'])),
  );
  await untilAllowed();
  const [master] = await masters(page);
  const lookUp = `require('node:dns').promises.resolve4('kubernetes.default.svc.cluster.local').then(console.log)`;
  await page.cluster.kubectl(['exec', ...atHome, master.name, '--', '/usr/local/bin/node', '-e', lookUp]);
  assert.equal((await call(page.url, '/api/instances', { token: page.token })).status, 200);
  const scrapes = [
    ...Object.values(await podsOfRelease('master')).map((address) => `${address}:7000/api/metrics`),
    ...Object.values(await podsOfRelease('operator')).map((address) => `${address}:8080/metrics`),
    `${await addressOf(page, await podOf(page, 'old'))}:7071/metrics`,
    `${await addressOf(chart, await podOf(chart, 'old'))}:7071/metrics`,
  ];
  for (const target of scrapes) {
    const text = await page.kubectl(['exec', 'prometheus', '--', 'busybox', 'wget', '-qO-', `http://${target}`]);
    assert.match(text, /^ringmaster_/m, target);
  }
});

test('networkpolicy: helm test passes', async () => {
  assert.match(await page.cluster.helm(['test', releaseName, ...atHome, '--timeout', '60s']), /Phase:\s+Succeeded/);
});

test('networkpolicy: all is open again when they are not enforced any more', async () => {
  const { settings, plan } = page.cluster;
  await endNetworkPolicies(settings, plan.nodes);
  const open = await tryAll(everything);
  assert.deepEqual(open.reached, open.wanted);
});
