/**
 * The whole loop of one configuration over an API server in memory. The caches are the store itself unless a test lets them lag, so each call of
 * `pass` is one reconcile of what is there, as after any event.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Instance } from '../../api/v1alpha1/instance.ts';
import { instances } from '../../api/v1alpha1/instance.ts';
import type { InstanceConfiguration } from '../../api/v1alpha1/instanceconfiguration.ts';
import { instanceConfigurations } from '../../api/v1alpha1/instanceconfiguration.ts';
import { floorLabel } from '../../names.ts';
import type { Client, ObjectMeta } from '../../runtime/client.ts';
import { ApiError } from '../../runtime/client.ts';
import { FakeClient } from '../../testing/client.ts';
import { FakeClock } from '../../testing/clock.ts';
import { withFaults } from '../../testing/faults.ts';
import { makeConfiguration } from '../../testing/objects.ts';
import { persistentVolumeClaims } from './claim.ts';
import { configurationKey } from './gather.ts';
import { buildInstance } from './instance.ts';
import { ConfigurationReconciler } from './reconcile.ts';

const ref = { namespace: 'games', name: 'lobby' };
const { signal } = new AbortController();

class World {
  readonly clock = new FakeClock();
  readonly server = new FakeClient(this.clock);
  readonly events: string[] = [];
  /** What the cache shows instead of the store, to let it lag. */
  cache: Instance[] | undefined;
  reconciler = this.start();

  /** A new process: nothing is remembered. */
  start(client: Client = this.server, random?: (bound: number) => number): ConfigurationReconciler {
    const events = {
      record: (_: unknown, { reason, note }: { reason: string; note: string }) =>
        this.events.push(`${reason}: ${note}`),
    };
    const caches = {
      configurations: { get: () => this.server.peek(instanceConfigurations, ref) },
      instances: {
        byIndex: (_: string, key: string) =>
          (this.cache ?? this.instances).filter((instance) => configurationKey(instance) === key),
      },
    };
    const drawn = random === undefined ? {} : { random };
    this.reconciler = new ConfigurationReconciler({ client, caches, events, clock: this.clock, ...drawn });
    return this.reconciler;
  }

  async create(spec: object = {}): Promise<InstanceConfiguration> {
    const { metadata, ...rest } = makeConfiguration({ spec: { template: { spec: { image: 'a' } }, ...spec } });
    const { name, namespace } = metadata;
    return this.server.create(instanceConfigurations, { ...rest, metadata: { name, namespace: namespace ?? '' } });
  }

  async patch(spec: object): Promise<void> {
    await this.server.mergePatch(instanceConfigurations, ref, { spec });
  }

  async pass(): Promise<{ requeueAfterMs?: number }> {
    return this.reconciler.reconcile('games/lobby', signal);
  }

  /** Reconciles until nothing is written any more. */
  async settle(): Promise<void> {
    for (let round = 0; round < 20; round += 1) {
      const before = this.server.writes.length;
      await this.pass();
      if (this.server.writes.length === before) return;
    }
    assert.fail('still writing after twenty passes');
  }

  /** Plays the Instance controller: everything comes up. */
  online(...names: string[]): void {
    for (const { metadata } of this.instances) {
      if (names.length > 0 && !names.includes(metadata.name)) continue;
      this.server.setStatus(instances, metadata, {
        state: 'ONLINE',
        observedGeneration: metadata.generation,
        conditions: [{ type: 'Ready', status: 'True', reason: 'Ready', message: '' }],
      });
    }
  }

  get instances(): Instance[] {
    return this.server.peekAll(instances);
  }

  get configuration(): InstanceConfiguration {
    const configuration = this.server.peek(instanceConfigurations, ref);
    assert.ok(configuration);
    return configuration;
  }

  condition(type: string): string {
    const condition = this.configuration.status?.conditions?.find((one) => one.type === type);
    return condition === undefined ? 'none' : `${condition.status} ${condition.reason}`;
  }

  writes(): string[] {
    return this.server.writes.map(({ verb, kind }) => `${verb} ${kind}`);
  }
}

test('reconcile: the floor is made at once, its status follows, and rest costs no request at all', async () => {
  const world = new World();
  await world.create({ minimumServiceCount: 2 });
  world.server.writes.length = 0;
  await world.pass();
  assert.deepEqual(world.writes(), ['create Instance', 'create Instance', 'applyStatus InstanceConfiguration']);
  for (const { metadata } of world.instances) {
    assert.match(metadata.name, /^lobby-[a-z0-9]{5}$/);
    assert.equal(metadata.labels?.[floorLabel], 'true');
    assert.equal((metadata as ObjectMeta).ownerReferences?.[0]?.uid, world.configuration.metadata.uid);
  }
  await world.settle();
  assert.equal(world.condition('Ready'), 'False MinimumNotReached');
  world.online();
  await world.settle();
  const { conditions, ...status } = world.configuration.status ?? {};
  assert.deepEqual(status, {
    instances: 2,
    readyInstances: 2,
    updatedInstances: 2,
    selector: 'ringmaster.dev/configuration=lobby',
    observedGeneration: 1,
  });
  assert.equal(conditions?.length, 3);
  assert.equal(world.condition('Ready'), 'True Ready');
  assert.match(world.events.join(), /^InstancesCreated: Made 2 Instances "lobby-[^"]*", "lobby-[^"]*"\.$/);
  const watched = withFaults(world.server, world.clock);
  world.start(watched);
  await world.pass();
  assert.deepEqual(watched.calls, []);
});

test('reconcile: a cache that shows none of what was made does not make any of it twice', async () => {
  const world = new World();
  await world.create({ minimumServiceCount: 3 });
  world.cache = [];
  for (let round = 0; round < 5; round += 1) await world.pass();
  world.start();
  await world.pass();
  assert.equal(world.instances.length, 3);
});

test('reconcile: a cache that still shows what was removed does not remove another one', async () => {
  const world = new World();
  await world.create({ minimumServiceCount: 3 });
  await world.pass();
  world.online();
  world.cache = world.instances;
  await world.patch({ minimumServiceCount: 2 });
  await world.pass();
  assert.equal(world.instances.length, 2);
  // It shows as well that another one is the least useful now.
  const [first] = world.instances;
  assert.ok(first);
  world.server.setStatus(instances, first.metadata, { state: 'OFFLINE' });
  world.cache = world.cache.map((cached) => world.instances.find(isSame(cached)) ?? cached);
  await world.pass();
  assert.equal(world.instances.length, 2);
});

test('reconcile: a cache that shows the old template does not change more at a time than may be away', async () => {
  const world = new World();
  await world.create({ minimumServiceCount: 3 });
  await world.pass();
  world.online();
  world.cache = world.instances;
  await world.patch({ template: { spec: { image: 'b' } } });
  for (let round = 0; round < 3; round += 1) await world.pass();
  assert.equal(world.instances.filter(({ spec }) => spec.image === 'b').length, 1);
});

for (const verb of ['create', 'list', 'applyStatus'] as const) {
  for (const how of ['fail', 'lose'] as const) {
    for (const call of [1, 2]) {
      test(`reconcile: a crash when ${verb} ${call} ${how === 'fail' ? 'did not arrive' : 'arrived and its answer was lost'} leaves exactly the floor`, async () => {
        const world = new World();
        await world.create({ minimumServiceCount: 3 });
        const error = new Error('connection reset');
        const action = how === 'fail' ? { fail: error } : { lose: error };
        world.start(withFaults(world.server, world.clock, [{ verb, from: call, action }]));
        await world.pass().catch(() => undefined);
        world.start();
        await world.settle();
        assert.equal(world.instances.length, 3);
      });
    }
  }
}

for (const how of ['fail', 'lose'] as const) {
  test(`reconcile: another runtime: a crash at the removal (${how}) after its successor was made leaves one in place of one`, async () => {
    const world = new World();
    await world.create({ minimumServiceCount: 1 });
    const byHand = buildInstance(world.configuration, { name: 'lobby-hand', isFloor: false });
    await world.server.create(instances, byHand);
    await world.pass();
    world.online();
    await world.patch({ minimumServiceCount: 1, template: { spec: { runtime: 'process', command: ['/x'] } } });
    const error = new Error('connection reset');
    const action = how === 'fail' ? { fail: error } : { lose: error };
    world.start(withFaults(world.server, world.clock, [{ verb: 'remove', action }]));
    await world.pass().catch(() => undefined);
    world.start();
    await world.settle();
    world.online();
    await world.settle();
    const made = world.instances.map(({ spec, metadata }) => [spec.runtime, metadata.labels?.[floorLabel]]);
    assert.deepEqual(made, [['process', undefined]]);
  });
}

test('reconcile: a roll-out changes one after the other, each when the last is ONLINE, and keeps what somebody stopped stopped', async () => {
  const world = new World();
  await world.create({ minimumServiceCount: 2 });
  await world.pass();
  const stopped = buildInstance(world.configuration, { name: 'lobby-hand', isFloor: false });
  await world.server.create(instances, { ...stopped, spec: { ...stopped.spec, desiredState: 'Stopped' } });
  world.online();
  await world.patch({ template: { spec: { image: 'b' } } });
  const images = (): string[] => world.instances.map(({ spec }) => `${spec.image} ${spec.desiredState}`).sort();
  await world.settle();
  assert.deepEqual(images(), ['a Running', 'b Running', 'b Stopped']);
  assert.equal(world.condition('Reconciling'), 'True RollingOut');
  world.online();
  await world.settle();
  assert.deepEqual(images(), ['b Running', 'b Running', 'b Stopped']);
  world.online();
  await world.settle();
  assert.equal(world.condition('Ready'), 'True Ready');
});

test('reconcile: a broken template stops the roll-out, that is said once, and the next template goes on', async () => {
  const world = new World();
  await world.create({ minimumServiceCount: 3, updateStrategy: { maxUnavailable: 2 } });
  await world.pass();
  world.online();
  await world.patch({ template: { spec: { image: 'broken' } } });
  await world.pass();
  const broken = world.instances.filter(({ spec }) => spec.image === 'broken');
  assert.equal(broken.length, 2);
  const [first, second] = broken;
  world.online(second?.metadata.name ?? '');
  const condition = { type: 'Stalled', status: 'True', reason: 'CrashLoop', message: 'It ends with code 1.' };
  const status = { state: 'OFFLINE', observedGeneration: first?.metadata.generation, conditions: [condition] };
  world.server.setStatus(instances, first?.metadata ?? ref, status);
  await world.settle();
  assert.equal(world.instances.filter(({ spec }) => spec.image === 'broken').length, 2);
  assert.equal(world.condition('Stalled'), 'True InstanceStalled');
  const message = world.configuration.status?.conditions?.find(({ type }) => type === 'Stalled')?.message;
  assert.match(message ?? '', /CrashLoop: It ends with code 1\. The roll-out has stopped: 1 of 3 Instances keep/);
  assert.equal(world.events.filter((event) => event.startsWith('InstanceStalled')).length, 1);
  await world.patch({ template: { spec: { image: 'good' } } });
  await world.settle();
  assert.equal(first && world.server.peek(instances, first.metadata)?.spec.image, 'good');
});

test('reconcile: what somebody stopped of the floor is released: it stays, another takes its place, and started again nobody removes it', async () => {
  const world = new World();
  await world.create({ minimumServiceCount: 1 });
  await world.pass();
  const name = world.instances[0]?.metadata.name ?? '';
  await world.server.mergePatch(instances, { ...ref, name }, { spec: { desiredState: 'Stopped' } });
  await world.settle();
  const released = world.server.peek(instances, { ...ref, name });
  assert.equal(released?.metadata.labels?.[floorLabel], undefined);
  assert.deepEqual((released?.metadata as ObjectMeta).ownerReferences, []);
  assert.equal(world.instances.length, 2);
  await world.server.mergePatch(instances, { ...ref, name }, { spec: { desiredState: 'Running' } });
  await world.settle();
  assert.equal(world.instances.length, 2);
});

test('reconcile: a refusal stops the pass, is said with the words of the API server, and is tried again after a while', async () => {
  const world = new World();
  await world.create({ minimumServiceCount: 5 });
  const fail = new ApiError({ code: 403, reason: 'Forbidden', message: 'exceeded quota: count' });
  const faulty = withFaults(world.server, world.clock, [
    { verb: 'create', from: 3, times: Infinity, action: { fail } },
  ]);
  world.start(faulty);
  assert.deepEqual(await world.pass(), { requeueAfterMs: 30_000 });
  assert.equal(world.instances.length, 2);
  assert.equal(faulty.calls.filter(({ verb }) => verb === 'create').length, 3);
  assert.equal(world.condition('Stalled'), 'True InstanceRejected');
  world.start();
  await world.settle();
  assert.equal(world.instances.length, 5);
});

test('reconcile: a name that is taken draws another one', async () => {
  const world = new World();
  await world.create({ minimumServiceCount: 2 });
  world.start(world.server, () => 0);
  await assert.rejects(world.pass());
  let draws = 0;
  world.start(world.server, (bound) => (draws += 1) % bound);
  await world.settle();
  assert.equal(world.instances.length, 2);
});

test('reconcile: an Instance of somebody else under the name of a static configuration is not taken over', async () => {
  const world = new World();
  await world.create({ static: true, minimumServiceCount: 1 });
  await world.server.create(instances, { metadata: { ...ref }, spec: makeConfiguration().spec.template.spec });
  await world.pass();
  assert.equal(world.condition('Stalled'), 'True InstanceConflict');
  assert.equal(world.instances.length, 1);
});

test('reconcile: a static configuration makes its claim before its Instance, lets it grow, and never deletes it', async () => {
  const world = new World();
  const storage = { size: '1Gi', mountPath: '/data' };
  await world.create({ static: true, minimumServiceCount: 1, storage });
  world.server.writes.length = 0;
  await world.pass();
  assert.deepEqual(world.writes().slice(0, 2), ['create PersistentVolumeClaim', 'create Instance']);
  const size = (): string | undefined =>
    world.server.peek(persistentVolumeClaims, ref)?.spec.resources.requests.storage;
  assert.equal(size(), '1Gi');
  world.online();
  await world.settle();
  await world.patch({ storage: { size: '2Gi' } });
  await world.settle();
  assert.equal(size(), '2Gi');
  assert.equal(world.condition('Ready'), 'True Ready');
  await world.patch({ minimumServiceCount: 0 });
  await world.settle();
  assert.equal(world.instances.length, 0);
  assert.equal(size(), '2Gi');
});

test('reconcile: a claim that somebody else made under the name is used as it is', async () => {
  const world = new World();
  const claim = { accessModes: ['ReadWriteOnce'], resources: { requests: { storage: '1Mi' } } };
  await world.server.create(persistentVolumeClaims, { metadata: { ...ref }, spec: claim });
  await world.create({ static: true, minimumServiceCount: 1, storage: { size: '1Gi', mountPath: '/data' } });
  await world.settle();
  assert.deepEqual(world.server.peek(persistentVolumeClaims, ref)?.spec, claim);
  assert.equal(world.instances.length, 1);
});

test('reconcile: a configuration that is being deleted makes nothing, and neither does one that only the cache still has', async () => {
  const world = new World();
  await world.create({ minimumServiceCount: 1 });
  await world.server.mergePatch(instanceConfigurations, ref, { metadata: { finalizers: ['foregroundDeletion'] } });
  const stale = world.configuration;
  await world.server.remove(instanceConfigurations, ref);
  await world.pass();
  assert.equal(world.instances.length, 0);
  const lagging = new ConfigurationReconciler({
    client: world.server,
    caches: { configurations: { get: () => stale }, instances: { byIndex: () => [] } },
    events: { record: () => undefined },
    clock: world.clock,
  });
  await lagging.reconcile('games/lobby', signal);
  assert.equal(world.instances.length, 0);
});

function isSame(instance: Instance): (other: Instance) => boolean {
  return (other) => other.metadata.uid === instance.metadata.uid;
}
