/** docs/autoscaling.md on a real cluster: its rules and commands, Masters that follow their sockets, a configuration that follows its players. */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { startCustomMetrics } from './autoscaling.ts';
import { waitUntil } from './cluster/wait.ts';
import { Reader, readGuide } from './guide.ts';
import { restrictedPod } from './harness.ts';
import type { KubeObject } from './harness.ts';
import {
  applyInstance,
  enterWorld,
  eventually,
  masters,
  nodeProgram,
  numberWriter,
  openSocket,
  readyMasters,
  ResumingClient,
  Tally,
} from './live-harness.ts';
import type { LiveSocket, MasterPod, World } from './live-harness.ts';
import { chartDir, releaseName, releaseNamespace } from './release.ts';
import { Typist } from './runtime-harness.ts';

const page = 'docs/autoscaling.md';
const socketsPerReplica = 10;
/** A scrape, a look of the autoscaler, and a pod that starts. */
const scalingTimeoutMs = 90_000;

let world: World;
let id: string;

before(async () => {
  world = await enterWorld();
  const rules = await fileOfPage('rules.yaml');
  const log = (line: string): void => {
    process.stderr.write(`${line}\n`);
  };
  const metrics = await startCustomMetrics(world.cluster, { rules, programs: world.namespace, log });
  world.cleanups.push(() => metrics.close());
  id = await applyInstance(world, 'writer', numberWriter(world, { lines: 1_000_000, perSecond: 200 }));
});

after(() => world.leave());

async function fileOfPage(name: string): Promise<string> {
  const text = await readFile(join(import.meta.dirname, '..', page), 'utf8');
  const file = readGuide(text).find((step) => step.kind === 'file' && step.name === name);
  assert.ok(file?.kind === 'file', `${page} shows ${name}`);
  return file.content;
}

async function upgradeWith(values: Readonly<Record<string, string>>): Promise<void> {
  const settings = Object.entries(values).flatMap(([name, value]) => ['--set', `master.autoscaling.${name}=${value}`]);
  const where = ['-n', releaseNamespace, '--reset-then-reuse-values', '--wait', '--timeout', '180s'];
  await world.cluster.helm(['upgrade', releaseName, chartDir, ...where, ...settings]);
}

function names(pods: readonly MasterPod[]): string[] {
  return pods.map(({ name }) => name).sort();
}

/** A client that follows the numbers, at first at one Master, then where there is one. */
class Follower {
  readonly tally = new Tally();
  readonly client: ResumingClient;

  constructor(first: MasterPod) {
    this.client = new ResumingClient({
      ...{ world, id, urls: [first.url, world.url, world.url, world.url] },
      onMessage: ({ type, line = '', cause }) => {
        assert.equal(type, 'line', `only lines may come, no ${type} (${String(cause)})`);
        this.tally.note(Number.parseInt(line, 10));
      },
    });
    this.client.start();
  }

  async goesOn(): Promise<void> {
    const wanted = this.tally.last + 400;
    await eventually(`line ${wanted}`, () => Promise.resolve(this.tally.last >= wanted));
  }
}

async function untilMasters(count: number): Promise<MasterPod[]> {
  let ready: MasterPod[] = [];
  await waitUntil({
    what: `${count} Masters to be ready, by the autoscaler`,
    timeoutMs: scalingTimeoutMs,
    check: async () => {
      ready = await readyMasters(world);
      return ready.length === count;
    },
  });
  return ready;
}

test('autoscaling: what the page says turns it on, and leaves the Masters that there are', async () => {
  const before = await masters(world);
  const followers = before.map((master) => new Follower(master));
  const { kubeconfig, binDir } = world.cluster;
  const reader = await Reader.open({ page, kubeconfig, binDir, env: world.cluster.env() });
  // Whatever fails later, the files behind this one find two Masters.
  world.cleanups.push(async () => {
    await upgradeWith({ enabled: 'false' });
    await masters(world);
  });
  try {
    await reader.follow();
  } finally {
    await reader.close();
  }
  for (const follower of followers) {
    await follower.goesOn();
    assert.deepEqual([follower.client.connects, follower.client.closes], [1, []]);
    await follower.client.stop();
  }
  assert.deepEqual(names(await masters(world)), names(before));
});

test('autoscaling: sockets above the target make another Master, fewer take one away; open streams stay, and those of the one that goes are resumed without a loss', async () => {
  const scaleDown = { 'scaleDown.stabilizationWindowSeconds': '5', 'scaleDown.periodSeconds': '5' };
  await upgradeWith({ socketsPerReplica: String(socketsPerReplica), ...scaleDown });
  const two = await masters(world);
  const followers = two.map((master) => new Follower(master));
  const crowd: LiveSocket[] = [];
  for (const { url } of two)
    for (let count = 1; count <= 1.4 * socketsPerReplica; count += 1)
      crowd.push(await openSocket(world, { id, url, query: '?tail=0', onFrame: () => undefined }));
  const three = await untilMasters(3);
  const added = three.find(({ name }) => !names(two).includes(name)) ?? assert.fail();
  followers.push(new Follower(added));
  for (const follower of followers) await follower.goesOn();
  assert.ok(crowd.every(({ close }) => close === undefined));
  assert.ok(followers.every(({ client }) => client.closes.length === 0));
  for (const socket of crowd) socket.terminate();
  const left = await untilMasters(2);
  const gone = three.findIndex(({ name }) => !names(left).includes(name));
  await eventually('the stream of the Master that goes to be closed', () =>
    Promise.resolve(followers.some(({ client }) => client.closes.length > 0)),
  );
  for (const follower of followers) await follower.goesOn();
  const order = [...two, added].map(({ name }) => name);
  followers.forEach(({ client, tally }, index) => {
    const isOfGone = order[index] === three[gone]?.name;
    const closes = client.closes.map(({ code, reason }) => [code, reason]);
    assert.deepEqual(closes, isOfGone ? [[1001, 'draining']] : [], order[index]);
    tally.check(`the client of ${order[index] ?? ''}`, tally.last);
  });
});

test('autoscaling: a configuration has as many Instances as its players need, found by the selector of its scale', async () => {
  const arena = {
    apiVersion: 'ringmaster.dev/v1alpha1',
    kind: 'InstanceConfiguration',
    metadata: { name: 'arena' },
    spec: { minimumServiceCount: 1, template: { spec: { ...server(), podTemplate: restrictedPod() } } },
  };
  await world.kubectl(['apply', '-f', '-'], JSON.stringify(arena));
  world.cleanups.push(() => world.kubectl(['delete', 'instanceconfiguration', 'arena', '--timeout=60s']));
  await world.kubectl(['wait', 'instanceconfiguration/arena', '--for=condition=Ready', '--timeout=60s']);
  const path = 'jsonpath={.items[*].status.id}';
  const selector = ['-l', 'ringmaster.dev/configuration=arena'];
  const ids = async (): Promise<string[]> =>
    (await world.kubectl(['get', 'instances', ...selector, '-o', path])).trim().split(' ');
  const [first = ''] = await ids();
  await world.kubectl(['apply', '-f', '-'], await fileOfPage('players.yaml'));
  await world.kubectl(['wait', 'hpa/arena', '--for=condition=ScalingActive', '--timeout=60s']);
  await new Typist(world).typeAll(first, ['25']);
  await waitUntil({
    what: 'three Instances, by the autoscaler',
    timeoutMs: scalingTimeoutMs,
    check: async () => (await ids()).length === 3,
  });
  await world.kubectl(['wait', 'instanceconfiguration/arena', '--for=condition=Ready', '--timeout=60s']);
  const read = async (kind: string): Promise<KubeObject> =>
    JSON.parse(await world.kubectl(['get', kind, 'arena', '-o', 'json'])) as KubeObject;
  assert.equal((await read('instanceconfiguration')).spec?.['minimumServiceCount'], 3);
  // All three were seen, or the average over one pod would still be 25.
  await eventually('the autoscaler to know three pods', async () => {
    const { status } = (await read('hpa')) as { status?: { currentMetrics?: { pods?: { current?: object } }[] } };
    const current = status?.currentMetrics?.[0]?.pods?.current as { averageValue?: string } | undefined;
    return current?.averageValue === '8333m' || current?.averageValue === '8334m';
  });
});

/** Serves the last number that was typed into it as its players. */
function server(): Record<string, unknown> {
  const script = `let players = 0;
    process.stdin.on('data', (data) => { players = Number(data); });
    require('node:http').createServer((_, response) => { response.end('# TYPE players gauge\\nplayers ' + players + '\\n'); }).listen(9100);
    process.on('SIGTERM', () => process.exit(0));`;
  return { ...nodeProgram(world, script), ports: [{ name: 'metrics', port: 9100 }], stop: { gracePeriodSeconds: 2 } };
}
