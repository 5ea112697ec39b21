/**
 * The runtime docker where a pod goes and cannot take its container with it: its launcher is frozen, so that it does nothing at SIGTERM and is killed in
 * the end, or the kubelet of its node is away. One Engine serves both nodes of these clusters.
 */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { waitUntil } from './cluster/wait.ts';
import { applyInstance, applyInstances, enterWorld, eventually, onNode, podOf } from './live-harness.ts';
import type { Spec, World } from './live-harness.ts';
import { pidsInPod } from './pids.ts';
import { containersOf, programUnder } from './runtime-harness.ts';

const launcher = 'sidecar/docker/main.js';
const finalizer = 'ringmaster.dev/docker-container';
const program = (more: Spec = {}): Spec => programUnder('docker', 'echo up; exec sleep 1000', more);

let world: World;

before(async () => {
  world = await enterWorld('privileged');
});

after(() => world.leave());

interface Incarnation {
  readonly id: string;
  readonly pod: string;
  /** Of its container on the Engine. */
  readonly container: string;
  readonly launcherPid: number;
}

async function online(name: string, id: string): Promise<Incarnation> {
  await world.kubectl(['wait', '--for=condition=Ready', `instance/${name}`, '--timeout=120s']);
  const pod = await podOf(world, name);
  const uid = await world.kubectl(['get', 'pod', pod, '-o', 'jsonpath={.metadata.uid}']);
  const [launcherPid = 0, ...more] = await pidsInPod(uid, launcher);
  assert.ok(launcherPid > 0 && more.length === 0, `launchers in ${pod}: ${[launcherPid, ...more].join(' ')}`);
  const container = `/ringmaster-${id}-${uid.slice(0, 8)}`;
  assert.deepEqual(await containersOf(id), [container]);
  return { id, pod, container, launcherPid };
}

async function start(name: string, spec: Spec = program()): Promise<Incarnation> {
  return online(name, await applyInstance(world, name, spec));
}

async function deleteByForce(pod: string): Promise<void> {
  await world.kubectl(['delete', 'pod', pod, '--force', '--grace-period=0', '--wait=false']);
}

/** Names of the Instance's pods, and of pods that clean up after them. */
async function podsNamed(prefix: string): Promise<string[]> {
  const names = await world.kubectl(['get', 'pods', '-o', 'jsonpath={.items[*].metadata.name}']);
  return names.split(' ').filter((name) => name.startsWith(prefix));
}

async function events(reason: string, instance: string): Promise<string> {
  const selector = `reason=${reason},involvedObject.kind=Instance,involvedObject.name=${instance}`;
  return world.kubectl(['get', 'events', `--field-selector=${selector}`, '-o', 'jsonpath={.items[*].message}']);
}

async function told(reason: string, instance: string, what: RegExp): Promise<void> {
  await eventually(`the Event ${reason} of ${instance}`, async () => what.test(await events(reason, instance)));
}

test('docker: a pod that is deleted by force gets its successor only when its container is gone, though its launcher was killed', async () => {
  const old = await start('forced');
  process.kill(old.launcherPid, 'SIGSTOP');
  await deleteByForce(old.pod);
  await eventually('the next pod', async () => (await podsNamed(`forced-${old.id}-2`)).length > 0);
  assert.deepEqual(await containersOf(old.id), [], 'nothing of the old pod runs beside the new one');
  await eventually('the old pod to be gone', async () => !(await podsNamed('forced-')).includes(old.pod));
  const next = await online('forced', old.id);
  assert.notEqual(next.container, old.container);
  assert.deepEqual(await podsNamed('forced-'), [next.pod], 'nothing is left of the cleanup');
  await told(
    'ContainerRemoved',
    'forced',
    new RegExp(`^Removed the container of pod "${old.pod}" from the Docker Engine of node`),
  );
});

for (const cascade of ['background', 'foreground']) {
  test(`docker: an Instance that is deleted (${cascade}) while its pod goes by force takes the container with it`, async () => {
    const name = `deleted-${cascade}`;
    const { id, pod, launcherPid } = await start(name);
    process.kill(launcherPid, 'SIGSTOP');
    await deleteByForce(pod);
    await world.kubectl(['delete', 'instance', name, `--cascade=${cascade}`, '--timeout=60s']);
    assert.deepEqual(await containersOf(id), []);
    await eventually('its pods to be gone', async () => (await podsNamed(name)).length === 0);
    await told('ContainerRemoved', name, /^Removed the container/);
  });
}

test('docker: a launcher that is killed and not started again leaves no program running', async () => {
  const { id, pod, launcherPid } = await start('once', program({ restartPolicy: 'Never' }));
  process.kill(launcherPid, 'SIGKILL');
  await eventually('its container to be gone', async () => (await containersOf(id)).length === 0);
  await eventually(
    'its pod to be released',
    async () =>
      !(await world.kubectl(['get', 'pod', pod, '-o', 'jsonpath={.metadata.finalizers}'])).includes(finalizer),
  );
  await eventually('the cleanup to be gone', async () => (await podsNamed('once-')).length === 1);
});

test('docker: a launcher that ends as it should says so, and nothing is cleaned up after it', async () => {
  const { id, pod } = await start('plain');
  await world.kubectl(['delete', 'pod', pod, '--timeout=30s']);
  await online('plain', id);
  assert.equal(await events('ContainerRemoved', 'plain'), '');
  assert.equal(await events('ContainerLeft', 'plain'), '');
});

test('docker: while the kubelet is away an Instance is made elsewhere and another is deleted; what both left goes when it is back', async () => {
  const { cluster } = world;
  const tolerations = ['not-ready', 'unreachable'].map((what) => ({
    ...{ key: `node.kubernetes.io/${what}`, operator: 'Exists', effect: 'NoExecute', tolerationSeconds: 2 },
  }));
  const onNode2 = onNode('node2') as { podTemplate: { spec: Spec } };
  const prefers = {
    preferredDuringSchedulingIgnoredDuringExecution: [
      {
        weight: 100,
        preference: { matchExpressions: [{ key: 'kubernetes.io/hostname', operator: 'In', values: ['node2'] }] },
      },
    ],
  };
  const ids = await applyInstances(world, {
    moved: program({ podTemplate: { spec: { tolerations, affinity: { nodeAffinity: prefers } } } }),
    orphan: program({ podTemplate: { spec: { ...onNode2.podTemplate.spec, tolerations } } }),
  });
  const [moved, orphan] = [await online('moved', ids.moved), await online('orphan', ids.orphan)];
  await cluster.kill('kubelet-2');
  try {
    for (const { launcherPid } of [moved, orphan]) process.kill(launcherPid, 'SIGKILL');
    // Kubernetes gives a node half a minute and more.
    await waitUntil({
      what: 'another pod',
      timeoutMs: 120_000,
      check: async () => (await podOf(world, 'moved')) !== moved.pod,
    });
    await world.kubectl(['delete', 'instance', 'orphan', '--timeout=60s']);
    await told(
      'ContainerLeft',
      'orphan',
      /^Did not remove the container of pod .* of node "node2": the node does not answer\.$/,
    );
  } finally {
    await cluster.start('kubelet-2');
    await cluster.kubectl(['wait', 'node/node2', '--for=condition=Ready', '--timeout=60s']);
  }
  const next = await online('moved', ids.moved);
  assert.notEqual(next.pod, moved.pod);
  await eventually('the lost pods to be gone', async () => {
    const names = [...(await podsNamed('moved-')), ...(await podsNamed('orphan-'))];
    return names.length === 1 && names[0] === next.pod;
  });
  assert.deepEqual(await containersOf(ids.moved), [next.container]);
  assert.deepEqual(await containersOf(ids.orphan), [orphan.container], 'as the Event says');
});
