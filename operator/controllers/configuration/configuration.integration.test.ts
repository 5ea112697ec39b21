/** Configurations on a real API server: its schema, its scale subresource, and a loop whose caches lag as real ones do. Nobody runs the Instances. */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { before, test } from 'node:test';
import { parse } from 'yaml';
import { attachCluster } from '../../../e2e/cluster/cluster.ts';
import type { Cluster } from '../../../e2e/cluster/cluster.ts';
import { isClusterName } from '../../../e2e/cluster/settings.ts';
import type { Instance } from '../../api/v1alpha1/instance.ts';
import { instances } from '../../api/v1alpha1/instance.ts';
import type { InstanceConfiguration } from '../../api/v1alpha1/instanceconfiguration.ts';
import { instanceConfigurations } from '../../api/v1alpha1/instanceconfiguration.ts';
import { createSilentLogger } from '../../log.ts';
import { configurationLabel, floorLabel } from '../../names.ts';
import type { KubernetesObject, Resource } from '../../runtime/client.ts';
import { systemClock } from '../../runtime/clock.ts';
import { Controller } from '../../runtime/controller.ts';
import { Informer } from '../../runtime/informer.ts';
import { WorkQueue } from '../../runtime/workqueue.ts';
import { connectToTestServer, eventually } from '../../testing/integration.ts';
import { persistentVolumeClaims } from './claim.ts';
import { configurationKey } from './gather.ts';
import { buildInstance } from './instance.ts';
import { ConfigurationReconciler } from './reconcile.ts';

const definitions: Resource<KubernetesObject> = {
  apiVersion: 'apiextensions.k8s.io/v1',
  kind: 'CustomResourceDefinition',
  plural: 'customresourcedefinitions',
  namespaced: false,
};
const root = join(import.meta.dirname, '../../..');
const { client, connectAgain, makeNamespace } = connectToTestServer(process.env);
const timeoutMs = 15_000;

before(async () => {
  for (const name of ['instances', 'instanceconfigurations']) {
    const object = parse(await readFile(join(root, 'crds', `${name}.yaml`), 'utf8')) as KubernetesObject;
    await client.apply(definitions, object, { fieldManager: 'test', force: true });
  }
  await eventually(timeoutMs, async () => {
    await client.list(instances, {});
    await client.list(instanceConfigurations, {});
  });
});

async function ownCluster(): Promise<Cluster> {
  const name = process.env['RINGMASTER_TEST_CLUSTER'] ?? '';
  const cluster = isClusterName(name) ? await attachCluster(name) : undefined;
  assert.ok(cluster !== undefined, 'the cluster named by RINGMASTER_TEST_CLUSTER is not up');
  return cluster;
}

/** As written by a user: the API server fills in what is missing. */
async function put(namespace: string, name: string, spec: object): Promise<InstanceConfiguration> {
  const object = { metadata: { namespace, name }, spec: { template: { spec: { image: 'a' } }, ...spec } };
  return client.create(instanceConfigurations, object as unknown as InstanceConfiguration);
}

async function patch(namespace: string, name: string, spec: object): Promise<void> {
  await client.mergePatch(instanceConfigurations, { namespace, name }, { spec });
}

/** What an operator process runs for configurations, with a connection and caches of its own. `isAbrupt`: its end cuts what is under way. */
function startOperator(namespace: string, { isAbrupt = false } = {}): () => Promise<void> {
  const own = connectAgain();
  const shared = { clock: systemClock, random: Math.random, log: createSilentLogger(), scope: { namespace } };
  const indexes = { configuration: (instance: Instance): string[] => [configurationKey(instance) ?? ''] };
  const caches = {
    configurations: new Informer({ ...shared, client: own, resource: instanceConfigurations }),
    instances: new Informer({ ...shared, client: own, resource: instances, indexes }),
  };
  const queue = new WorkQueue(shared);
  const reconciler = new ConfigurationReconciler({
    client: own,
    caches,
    events: { record: () => undefined },
    clock: systemClock,
  });
  caches.configurations.onChange((key) => {
    queue.add(key);
  });
  caches.instances.onChange((_, previous, next) => {
    const instance = next ?? previous;
    const key = instance === undefined ? undefined : configurationKey(instance);
    if (key !== undefined) queue.add(key);
  });
  const stop = new AbortController();
  const informers = [caches.configurations, caches.instances];
  const controller = new Controller({
    ...shared,
    name: 'configuration',
    queue,
    informers,
    ...(isAbrupt ? { stopTimeoutMs: 0 } : {}),
    reconcile: (key, signal) => reconciler.reconcile(key, signal),
  });
  const running = [controller.run(stop.signal), ...informers.map((informer) => informer.run(stop.signal))];
  return async () => {
    stop.abort();
    await Promise.all(running);
  };
}

async function listOf(namespace: string, name = 'lobby'): Promise<Instance[]> {
  return (await client.list(instances, { namespace, labelSelector: `${configurationLabel}=${name}` })).items;
}

/** Waits for so many, as the status says as well. */
async function untilCount(namespace: string, count: number): Promise<Instance[]> {
  await eventually(timeoutMs, async () => {
    assert.equal((await listOf(namespace)).length, count);
    const present = await client.get(instanceConfigurations, { namespace, name: 'lobby' });
    assert.equal(present?.status?.instances, count);
    assert.equal(present.status.observedGeneration, present.metadata.generation);
  });
  return listOf(namespace);
}

test('schema: refusals say what to write', async () => {
  await using namespace = await makeNamespace();
  const storage = { size: '1Gi', mountPath: '/data' };
  const only = { static: true, storage };
  const refused: readonly [string, object, RegExp][] = [
    ['Lobby2'.toLowerCase().repeat(8), {}, /at most 42 characters: Instances are named after it/],
    ['1lobby', {}, /must begin with a letter/],
    ['lobby', { static: true, minimumServiceCount: 2 }, /a static configuration has one Instance/],
    ['lobby', { minimumServiceCount: 1001 }, /minimumServiceCount/],
    ['lobby', { storage }, /set static to true, or use volumes in the template/],
    ['lobby', { static: true, storage: { size: '1Gi' } }, /storage needs mountPath, or workingDir in the template/],
    ['lobby', { ...only, template: { spec: { image: 'a', runtime: 'docker' } } }, /docker has no volumes/],
    [
      'lobby',
      { ...only, template: { spec: { image: 'a', volumes: [{ name: 'storage', emptyDir: {} }] } } },
      /may be named storage/,
    ],
    ['lobby', { updateStrategy: { maxUnavailable: 0 } }, /write a number from 1, or a percentage from 1% to 100%/],
    ['lobby', { updateStrategy: { maxUnavailable: '0%' } }, /write a number from 1, or a percentage/],
    ['lobby', { updateStrategy: { maxUnavailable: '5' } }, /write a number from 1, or a percentage/],
    ['lobby', { template: { spec: { image: 'a', desiredState: 'Stopped' } } }, /a template is of Instances that run/],
    ['lobby', { template: { spec: { image: 'a', runtime: 'tmux' } } }, /tmux need command/],
    [
      'lobby',
      { template: { metadata: { labels: { [floorLabel]: 'true' } }, spec: { image: 'a' } } },
      /set by Ringmaster/,
    ],
  ];
  for (const [name, spec, sentence] of refused) await assert.rejects(put(namespace.name, name, spec), sentence);
  await put(namespace.name, 'lobby', { ...only, minimumServiceCount: 1 });
  await assert.rejects(patch(namespace.name, 'lobby', { storage: { size: '512Mi' } }), /a volume cannot shrink/);
  await patch(namespace.name, 'lobby', { storage: { size: '2Gi' } });
});

test('schema: a template may change its runtime, an Instance may not; the longest name is one that Instances can have', async () => {
  await using namespace = await makeNamespace();
  const name = `a${'b'.repeat(41)}`;
  const configuration = await put(namespace.name, name, { updateStrategy: { maxUnavailable: '25%' } });
  const made = await client.create(instances, buildInstance(configuration, { isFloor: true }));
  const generated = buildInstance(configuration, { generateName: `${name}-`, isFloor: false });
  assert.match((await client.create(instances, generated)).metadata.name, /^ab+-[a-z0-9]{5}$/);
  const template = { spec: { runtime: 'process', command: ['/x'] } };
  await patch(namespace.name, name, { template });
  const { metadata } = made;
  await assert.rejects(client.mergePatch(instances, metadata, template), /runtime cannot be changed/);
});

test('configuration: the floor is made exactly, follows kubectl scale up and down, counts what was made by hand, and is left alone by the next operator', async () => {
  await using namespace = await makeNamespace();
  const cluster = await ownCluster();
  const where = ['--namespace', namespace.name];
  const stop = startOperator(namespace.name);
  try {
    const configuration = await put(namespace.name, 'lobby', { minimumServiceCount: 3 });
    await untilCount(namespace.name, 3);
    await client.create(instances, buildInstance(configuration, { name: 'lobby-hand', isFloor: false }));
    await untilCount(namespace.name, 4);
    await cluster.kubectl(['scale', 'instcfg', 'lobby', '--replicas=8', ...where]);
    await untilCount(namespace.name, 8);
    await cluster.kubectl(['scale', 'instcfg', 'lobby', '--replicas=1', ...where]);
    const left = await untilCount(namespace.name, 2);
    assert.ok(left.some(({ metadata }) => metadata.name === 'lobby-hand'));
    const scale = JSON.parse(
      await cluster.kubectl([
        'get',
        '--raw',
        `/apis/ringmaster.dev/v1alpha1/namespaces/${namespace.name}/instanceconfigurations/lobby/scale`,
      ]),
    ) as { spec: object; status: object };
    assert.deepEqual(
      [scale.spec, scale.status],
      [{ replicas: 1 }, { replicas: 2, selector: `${configurationLabel}=lobby` }],
    );
    await stop();
    // Another process, which knows nothing, changes none of them.
    const stopNext = startOperator(namespace.name);
    await client.create(instances, buildInstance(configuration, { name: 'lobby-last', isFloor: false }));
    const now = await untilCount(namespace.name, 3);
    await stopNext();
    for (const { metadata } of left) {
      const same = now.find((instance) => instance.metadata.name === metadata.name);
      assert.equal(same?.metadata.resourceVersion, metadata.resourceVersion);
    }
  } finally {
    await stop();
  }
});

test('configuration: a hundred are made once each, also when the operator is cut off in the middle', async () => {
  await using namespace = await makeNamespace();
  const stop = startOperator(namespace.name, { isAbrupt: true });
  await put(namespace.name, 'lobby', { minimumServiceCount: 100 });
  await eventually(timeoutMs, async () => {
    assert.ok((await listOf(namespace.name)).length >= 10);
  });
  await stop();
  const stopNext = startOperator(namespace.name);
  await untilCount(namespace.name, 100);
  await stopNext();
});

test('configuration: a change of the template is written into Instances, also where it takes fields away, and what somebody stopped stays stopped', async () => {
  await using namespace = await makeNamespace();
  const stop = startOperator(namespace.name);
  try {
    const env = [{ name: 'A', value: '1' }];
    const template = { spec: { image: 'a', env, readiness: { exec: { command: ['x'] } } } };
    const configuration = await put(namespace.name, 'lobby', { minimumServiceCount: 1, template });
    await untilCount(namespace.name, 1);
    const hand = buildInstance(configuration, { name: 'lobby-hand', isFloor: false });
    await client.create(instances, { ...hand, spec: { ...hand.spec, desiredState: 'Stopped' } });
    const next = { spec: { image: 'b', env: null, readiness: { exec: null, tcpSocket: { port: 1 } } } };
    await patch(namespace.name, 'lobby', { template: next });
    await eventually(timeoutMs, async () => {
      for (const { spec } of await listOf(namespace.name)) {
        assert.deepEqual([spec.image, spec.env], ['b', undefined]);
        assert.ok(spec.readiness?.exec === undefined && spec.readiness?.tcpSocket !== undefined);
      }
    });
    const states = (await listOf(namespace.name)).map(({ spec }) => spec.desiredState).sort();
    assert.deepEqual(states, ['Running', 'Stopped']);
  } finally {
    await stop();
  }
});

test('configuration: a static one makes its claim and one Instance; a size that the API server refuses is said', async () => {
  await using namespace = await makeNamespace();
  const stop = startOperator(namespace.name);
  try {
    const storage = { size: '1Gi', storageClassName: '', mountPath: '/data' };
    await put(namespace.name, 'lobby', { static: true, minimumServiceCount: 1, storage });
    const [only] = await untilCount(namespace.name, 1);
    assert.equal(only?.metadata.name, 'lobby');
    const ref = { namespace: namespace.name, name: 'lobby' };
    const claim = await client.get(persistentVolumeClaims, ref);
    assert.equal(claim?.spec.resources.requests.storage, '1Gi');
    assert.deepEqual(claim.metadata.ownerReferences, undefined);
    await patch(namespace.name, 'lobby', { storage: { size: '2Gi' } });
    await eventually(timeoutMs, async () => {
      const present = await client.get(instanceConfigurations, ref);
      const stalled = present?.status?.conditions?.find(({ type }) => type === 'Stalled');
      assert.deepEqual([stalled?.status, stalled?.reason], ['True', 'StorageRejected']);
    });
  } finally {
    await stop();
  }
});
