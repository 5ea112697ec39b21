/** Configurations on a real cluster: the floor, kubectl scale, a roll-out that is watched, and the volume of a static one. */
import assert from 'node:assert/strict';
import { chmod, mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import type { Cluster } from './cluster/cluster.ts';
import type { Condition, InstanceObject, KubeObject, Namespace, PodObject } from './harness.ts';
import { condition, freshNamespace, instance, instancesPath, isOnline, poll, testCluster, Watch } from './harness.ts';

const namespaceName = 'e2e-configurations';
const kind = 'instanceconfiguration';
const configurationLabel = 'ringmaster.dev/configuration';
const volumeName = 'e2e-configurations-world';

interface ConfigurationObject extends KubeObject {
  status?: { instances?: number; readyInstances?: number; updatedInstances?: number; conditions?: Condition[] };
}

let cluster: Cluster;
let namespace: Namespace;
let instances: Watch<InstanceObject>;
let configurations: Watch<ConfigurationObject>;

before(async () => {
  cluster = await testCluster();
  namespace = await freshNamespace(cluster, namespaceName);
  instances = new Watch(cluster, `${instancesPath}/namespaces/${namespaceName}/instances`);
  configurations = new Watch(cluster, `${instancesPath}/namespaces/${namespaceName}/instanceconfigurations`);
});

after(async () => {
  await namespace.kubectl(['delete', `${kind}s`, '--all', '--timeout=60s']);
  await namespace.remove();
  await cluster.kubectl(['delete', 'persistentvolume', volumeName, '--ignore-not-found', '--wait=false']);
  instances.stop();
  configurations.stop();
});

/** Its Instances run the program of the harness, or `script`. */
function configuration(
  name: string,
  spec: Record<string, unknown> = {},
  template: Record<string, unknown> = {},
): KubeObject {
  const templateSpec = instance(name, { stop: { gracePeriodSeconds: 2 }, ...template }).spec;
  return {
    apiVersion: 'ringmaster.dev/v1alpha1',
    kind: 'InstanceConfiguration',
    metadata: { name },
    spec: { template: { spec: templateSpec }, ...spec },
  };
}

async function change(name: string, spec: Record<string, unknown>): Promise<void> {
  await namespace.kubectl(['patch', kind, name, '--type=merge', '--patch', JSON.stringify({ spec })]);
}

/** Everything that it should be, said of its present generation. */
async function untilReady(name: string): Promise<ConfigurationObject> {
  return configurations.until(name, (object) => isAtRest(object));
}

function isAtRest(object: ConfigurationObject): boolean {
  const ready = condition(object, 'Ready');
  return ready?.status === 'True' && ready.observedGeneration === object.metadata.generation;
}

function namesOf(name: string): string[] {
  const names = new Set(instances.history.map(({ object }) => object.metadata.name));
  return [...names].filter((one) => instances.now(one)?.metadata.labels?.[configurationLabel] === name).sort();
}

describe('a configuration', () => {
  test('keeps its floor ONLINE, also when one is deleted, and its selector finds the pods', async () => {
    await namespace.apply(configuration('lobby', { minimumServiceCount: 2 }));
    const { status } = await untilReady('lobby');
    assert.deepEqual([status?.instances, status?.readyInstances, status?.updatedInstances], [2, 2, 2]);
    const names = namesOf('lobby');
    assert.equal(names.length, 2);
    for (const name of names) {
      assert.match(name, /^lobby-[a-z0-9]{5}$/);
      // Asked for: the watch of Instances may be behind that of configurations.
      assert.equal((await namespace.get<InstanceObject>('instance', name)).status?.state, 'ONLINE');
    }
    const pods = await namespace.list<PodObject>('pod', `${configurationLabel}=lobby`);
    assert.equal(pods.length, 2);
    await namespace.kubectl(['delete', 'instance', names[0] ?? '', '--timeout=30s']);
    await poll('another one', () => Promise.resolve(namesOf('lobby').length === 2 ? true : undefined));
    for (const name of namesOf('lobby')) await instances.until(name, isOnline);
  });

  test('follows kubectl scale up and down, and leaves alone what somebody made; its end takes only its own', async () => {
    const hand = instance('by-hand');
    await namespace.apply({ ...hand, metadata: { name: 'by-hand', labels: { [configurationLabel]: 'lobby' } } });
    await namespace.kubectl(['scale', kind, 'lobby', '--replicas=4']);
    await untilReady('lobby');
    assert.equal(namesOf('lobby').length, 4);
    await namespace.kubectl(['scale', kind, 'lobby', '--replicas=1']);
    await configurations.until('lobby', (object) => isAtRest(object) && object.status?.instances === 2);
    await namespace.kubectl(['delete', kind, 'lobby', '--timeout=30s']);
    await poll('the end of its own', () => Promise.resolve(namesOf('lobby').join() === 'by-hand' ? true : undefined));
    assert.equal(instances.now('by-hand')?.metadata.deletionTimestamp, undefined);
  });

  test('rolls a change out with at most maxUnavailable away, under the same names and ids', async () => {
    await namespace.apply(configuration('match', { minimumServiceCount: 3 }));
    await untilReady('match');
    const names = namesOf('match');
    const ids = names.map((name) => instances.now(name)?.status?.id);
    const from = instances.history.length;
    const seen = new Map(names.map((name) => [name, instances.now(name)]));
    await change('match', { template: { spec: { env: [{ name: 'ROUND', value: '2' }] } } });
    await configurations.until('match', (object) => isAtRest(object) && object.metadata.generation === 2);
    const away: number[] = [];
    for (const { object } of instances.history.slice(from)) {
      if (seen.has(object.metadata.name)) seen.set(object.metadata.name, object);
      away.push([...seen.values()].filter((one) => one === undefined || !isServing(one)).length);
    }
    assert.equal(Math.max(...away), 1);
    assert.deepEqual(namesOf('match'), names);
    for (const [index, name] of names.entries()) {
      const now = instances.now(name);
      assert.ok(now);
      assert.deepEqual(now.spec?.['env'], [{ name: 'ROUND', value: '2' }]);
      assert.deepEqual([now.status?.id, now.status?.podSequence], [ids[index], 2]);
    }
  });

  test('stops a roll-out that does not come up, says why, and goes on with the next change', async () => {
    await change('match', { template: { spec: { image: 'ringmaster.local/missing:1', imagePullPolicy: 'Never' } } });
    const stalled = await configurations.until(
      'match',
      (object) => condition(object, 'Stalled')?.reason === 'InstanceStalled',
    );
    assert.match(
      condition(stalled, 'Stalled')?.message ?? '',
      /ImageUnavailable: .*2 of 3 Instances keep the old template/,
    );
    assert.equal(stalled.status?.readyInstances, 2);
    await change('match', { template: { spec: { image: instance('x').spec?.['image'], imagePullPolicy: null } } });
    const { metadata } = await namespace.get(kind, 'match');
    await configurations.until(
      'match',
      (object) => isAtRest(object) && object.metadata.generation === metadata.generation,
    );
  });

  test('static: keeps its name and its volume over a restart, another runtime, and the end of the configuration', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'ringmaster-world-'));
    await chmod(folder, 0o777);
    try {
      await cluster.kubectl(['create', '-f', '-'], { input: JSON.stringify(volumeIn(folder)) });
      const script = `echo start >> /world/starts; trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done`;
      const storage = { size: '1Mi', storageClassName: '', mountPath: '/world' };
      await namespace.apply(configuration('world', { static: true, minimumServiceCount: 1, storage }, { script }));
      await untilReady('world');
      const first = instances.now('world');
      assert.deepEqual(namesOf('world'), ['world']);
      await untilStarts(folder, 1);
      await namespace.kubectl(['annotate', 'instance', 'world', 'ringmaster.dev/restarted-at=now']);
      await untilStarts(folder, 2);
      await change('world', { template: { spec: { runtime: 'process' } } });
      await untilStarts(folder, 3);
      const again = await instances.until(
        'world',
        (object) => isOnline(object) && object.metadata.uid !== first?.metadata.uid,
      );
      assert.equal(again.spec?.['runtime'], 'process');
      await namespace.kubectl(['delete', kind, 'world', '--timeout=30s']);
      await instances.untilGone('world');
      const claim = await namespace.get('persistentvolumeclaim', 'world');
      assert.equal(claim.metadata.deletionTimestamp, undefined);
      assert.equal(await startsIn(folder), 3);
    } finally {
      await rm(folder, { recursive: true });
    }
  });
});

function isServing({ metadata, status }: InstanceObject): boolean {
  const ready = status?.conditions?.find(({ type }) => type === 'Ready');
  return status?.observedGeneration === metadata.generation && status?.state === 'ONLINE' && ready?.status === 'True';
}

/** The nodes share this machine's files: one folder is the same on each. */
function volumeIn(path: string): KubeObject {
  return {
    apiVersion: 'v1',
    kind: 'PersistentVolume',
    metadata: { name: volumeName },
    spec: {
      capacity: { storage: '1Mi' },
      accessModes: ['ReadWriteOnce'],
      persistentVolumeReclaimPolicy: 'Retain',
      storageClassName: '',
      claimRef: { namespace: namespaceName, name: 'world' },
      hostPath: { path, type: 'Directory' },
    },
  };
}

async function startsIn(folder: string): Promise<number> {
  const text = await readFile(join(folder, 'starts'), 'utf8').catch(() => '');
  return text.split('\n').length - 1;
}

async function untilStarts(folder: string, count: number): Promise<void> {
  await poll(`start ${count}`, async () => ((await startsIn(folder)) === count ? true : undefined));
}
