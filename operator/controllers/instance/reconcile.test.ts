/**
 * The whole loop of one Instance over an API server in memory. The caches are the store itself unless a test lets them lag, so each call of
 * `pass` is one reconcile of what is there, as after any event. A fault at each of the writes in turn stands for a crash between any two.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Instance, InstanceSpec } from '../../api/v1alpha1/instance.ts';
import { instanceSpec, instances } from '../../api/v1alpha1/instance.ts';
import { protocolVersions } from '../../../sidecar/protocol.ts';
import { idLabel, instanceFinalizer } from '../../names.ts';
import type { Client, Pod } from '../../runtime/client.ts';
import { ApiError, pods, services } from '../../runtime/client.ts';
import { keyOf } from '../../runtime/informer.ts';
import { createSilentLogger } from '../../log.ts';
import { FakeClient } from '../../testing/client.ts';
import { FakeClock } from '../../testing/clock.ts';
import { withFaults } from '../../testing/faults.ts';
import type { Fault } from '../../testing/faults.ts';
import { containerStatus, runningStatus, sidecarContext } from '../../testing/objects.ts';
import type { Caches } from './gather.ts';
import { indexedId } from './gather.ts';
import { ownerName } from './owner.ts';
import { InstanceReconciler } from './reconcile.ts';
import type { InstanceReconcilerOptions } from './reconcile.ts';
import { SidecarKeys, secrets } from './sidecarkeys.ts';
import { Stopper } from './stopper.ts';

const ref = { namespace: 'games', name: 'lobby' };
const { signal } = new AbortController();

class World {
  readonly clock = new FakeClock();
  readonly server = new FakeClient(this.clock);
  readonly events: string[] = [];
  client: Client = this.server;
  /** What the pod cache shows instead of the store, to let it lag. */
  podCache: Pod[] | undefined;
  reconciler = this.start();

  /** A new process: nothing is remembered. */
  start(client: Client = this.server, more: Partial<InstanceReconcilerOptions> = {}): InstanceReconciler {
    this.client = client;
    const stopper = new Stopper({ client, clock: this.clock, log: createSilentLogger(), signal });
    const events = { record: (_: unknown, { reason }: { reason: string }) => this.events.push(reason) };
    const caches = this.#caches();
    this.reconciler = new InstanceReconciler({ client, caches, stopper, events, clock: this.clock, ...more });
    return this.reconciler;
  }

  async create(spec: Partial<InstanceSpec> = {}, name = 'lobby'): Promise<void> {
    const metadata = { namespace: 'games', name };
    await this.server.create(instances, {
      metadata,
      spec: instanceSpec.parse({ image: 'example.com/server:1', ...spec }),
    });
  }

  async pass(name = 'lobby'): Promise<{ requeueAfterMs?: number }> {
    return this.reconciler.reconcile(`games/${name}`, signal);
  }

  /** Reconciles until nothing is written any more. */
  async settle(): Promise<void> {
    for (let round = 0; round < 10; round += 1) {
      const before = this.server.writes.length;
      await this.pass();
      if (this.server.writes.length === before) return;
    }
    assert.fail('still writing after ten passes');
  }

  get instance(): Instance {
    const instance = this.server.peek(instances, ref);
    assert.ok(instance);
    return instance;
  }

  get pods(): Pod[] {
    return this.server.peekAll(pods);
  }

  /** Plays scheduler and kubelet. */
  async podStatus(status: Pod['status'], at = 0): Promise<void> {
    const pod = this.pods[at];
    assert.ok(pod && status);
    const { name } = pod.metadata;
    await this.server.mergePatch(pods, { namespace: 'games', name }, { spec: { nodeName: 'node-1' } });
    this.server.setStatus(pods, { namespace: 'games', name }, status);
  }

  #caches(): Caches {
    const byName = <T extends { metadata: { namespace?: string; name: string } }>(
      list: readonly T[],
      key: string,
    ): T | undefined => list.find(({ metadata }) => keyOf(metadata) === key);
    const cachedPods = (): Pod[] => this.podCache ?? this.pods;
    return {
      instances: {
        get: (key) => byName(this.server.peekAll(instances), key),
        byIndex: (_, id) => this.server.peekAll(instances).filter((instance) => indexedId(instance) === id),
      },
      pods: {
        get: (key) => byName(cachedPods(), key),
        byIndex: (_, key) =>
          cachedPods().filter((pod) => `${pod.metadata.namespace ?? ''}/${ownerName(pod) ?? ''}` === key),
      },
      services: { get: (key) => byName(this.server.peekAll(services), key), byIndex: () => [] },
    };
  }
}

test('reconcile: a new Instance gets id, label, finalizer, pod and status in three writes, ONLINE costs one more, rest costs none', async () => {
  const world = new World();
  await world.create();
  world.server.writes.length = 0;
  await world.pass();
  assert.deepEqual(
    world.server.writes.map(({ verb, kind }) => `${verb} ${kind}`),
    ['apply Instance', 'create Pod', 'applyStatus Instance'],
  );
  const { metadata, status } = world.instance;
  assert.equal(metadata.labels?.[idLabel], status?.id);
  assert.deepEqual(metadata.finalizers, [instanceFinalizer]);
  assert.equal(status?.state, 'CREATING');
  assert.equal(status.podName, world.pods[0]?.metadata.name);
  // That the pod is there, and on its way, is nothing new.
  await world.pass();
  assert.equal(world.server.writes.length, 3);
  await world.podStatus(runningStatus);
  await world.pass();
  assert.equal(world.instance.status?.state, 'ONLINE');
  // The fourth is the test's own: it plays the scheduler. An Event would be another one.
  assert.equal(world.server.writes.length, 5);
  assert.deepEqual(world.events, []);
  await world.pass();
  await world.pass();
  assert.equal(world.server.writes.length, 5);
});

test('reconcile: a new process that knows nothing writes nothing when nothing changed', async () => {
  const world = new World();
  await world.create({ ports: [{ name: 'game', port: 1, protocol: 'TCP' }] });
  await world.settle();
  const before = world.server.writes.length;
  world.start();
  await world.settle();
  assert.equal(world.server.writes.length, before);
});

const crash = (verb: Fault['verb'], how: 'fail' | 'lose', call: number): Fault => {
  const error = new Error('connection reset');
  return { verb, from: call, action: how === 'fail' ? { fail: error } : { lose: error } };
};

for (const verb of ['apply', 'create', 'applyStatus', 'get'] as const) {
  for (const how of ['fail', 'lose'] as const) {
    for (const call of [1, 2]) {
      test(`reconcile: a crash when ${verb} ${call} ${how === 'fail' ? 'did not arrive' : 'arrived and its answer was lost'} leaves one pod, one id, one Service`, async () => {
        const world = new World();
        await world.create({ ports: [{ name: 'game', port: 1, protocol: 'TCP' }] });
        world.start(withFaults(world.server, world.clock, [crash(verb, how, call)]));
        await world.pass().catch(() => undefined);
        const idBefore = world.instance.metadata.labels?.[idLabel];
        world.start();
        await world.settle();
        assert.equal(world.pods.length, 1);
        assert.equal(world.server.peekAll(services).length, 1);
        assert.equal(world.instance.status?.id, world.instance.metadata.labels?.[idLabel]);
        if (idBefore !== undefined) assert.equal(world.instance.status?.id, idBefore);
      });
    }
  }
}

test('reconcile: a pod cache that lags behind the status makes no second pod', async () => {
  const world = new World();
  await world.create();
  await world.settle();
  world.podCache = [];
  await assert.rejects(world.pass(), /still exists and is not in the cache/);
  assert.equal(world.pods.length, 1);
  world.podCache = undefined;
  await world.settle();
  assert.equal(world.pods.length, 1);
});

test('reconcile: a pod that was deleted is made again under the same id, with the next number', async () => {
  const world = new World();
  await world.create();
  await world.settle();
  const id = world.instance.status?.id;
  const [first] = world.pods;
  await world.server.remove(pods, first?.metadata ?? { name: '' }, { gracePeriodSeconds: 0 });
  await world.settle();
  assert.equal(world.pods.length, 1);
  assert.equal(world.pods[0]?.metadata.name, `lobby-${id ?? ''}-2`);
  assert.equal(world.instance.status?.id, id);
});

test('reconcile: deletion stops the pod first and lets go when it is gone', async () => {
  const world = new World();
  await world.create();
  await world.settle();
  await world.podStatus(runningStatus);
  await world.server.remove(instances, ref);
  await world.pass();
  assert.ok(world.pods[0]?.metadata.deletionTimestamp);
  assert.deepEqual(world.instance.metadata.finalizers, [instanceFinalizer]);
  await world.server.remove(pods, { namespace: 'games', name: world.pods[0].metadata.name }, { gracePeriodSeconds: 0 });
  await world.pass();
  assert.equal(world.server.peek(instances, ref), undefined);
});

test('reconcile: the stop command is written once, however often the loop turns and whoever leads', async () => {
  const world = new World();
  await world.create({ stop: { command: 'stop', gracePeriodSeconds: 10 } });
  await world.settle();
  await world.podStatus(runningStatus);
  await world.settle();
  await world.server.mergePatch(instances, ref, { spec: { desiredState: 'Stopped' } });
  await world.pass();
  await world.pass();
  world.start();
  await world.pass();
  assert.deepEqual(
    // An attach without a byte only asks whether the program still runs.
    world.server.stdin.map(({ text }) => text).filter((text) => text !== ''),
    ['stop\n'],
  );
});

test('reconcile: a Service of somebody else is left alone and said', async () => {
  const world = new World();
  await world.server.create(services, { metadata: ref, spec: { selector: { mine: 'yes' } } });
  await world.create({ ports: [{ name: 'game', port: 1, protocol: 'TCP' }] });
  const outcome = await world.pass();
  assert.deepEqual(world.server.peek(services, ref)?.spec?.selector, { mine: 'yes' });
  const stalled = world.instance.status?.conditions?.find(({ type }) => type === 'Stalled');
  assert.equal(stalled?.reason, 'ServiceConflict');
  assert.match(stalled.message, /spec\.service\.type to None/);
  assert.ok(world.events.includes('ServiceConflict'));
  assert.equal(outcome.requeueAfterMs, 30_000);
});

test('reconcile: a pod that the API server refuses stalls with its words, and is tried again', async () => {
  const world = new World();
  await world.create();
  const refusal = new ApiError({
    code: 403,
    reason: 'Forbidden',
    message: 'pods "x" is forbidden: violates PodSecurity "restricted"',
  });
  world.start(withFaults(world.server, world.clock, [{ verb: 'create', action: { fail: refusal } }]));
  assert.equal((await world.pass()).requeueAfterMs, 30_000);
  const stalled = world.instance.status?.conditions?.find(({ type }) => type === 'Stalled');
  assert.match(stalled?.message ?? '', /violates PodSecurity/);
  await world.settle();
  assert.equal(world.pods.length, 1);
  assert.equal(world.instance.status?.conditions?.find(({ type }) => type === 'Stalled')?.status, 'False');
});

test('reconcile: a foreign pod of our name is neither taken over nor removed', async () => {
  const world = new World();
  await world.create();
  await world.pass();
  const name = world.instance.status?.podName ?? '';
  await world.server.remove(pods, { namespace: 'games', name }, { gracePeriodSeconds: 0 });
  const next = name.replace(/1$/, '2');
  await world.server.create(pods, { metadata: { namespace: 'games', name: next }, spec: { containers: [] } });
  await world.pass();
  const stalled = world.instance.status?.conditions?.find(({ type }) => type === 'Stalled');
  assert.equal(stalled?.reason, 'PodConflict');
  assert.equal(world.server.peek(pods, { namespace: 'games', name: next })?.metadata.ownerReferences, undefined);
});

test('reconcile: two Instances that appear at the same moment get two ids', async () => {
  const world = new World();
  await world.create({}, 'one');
  await world.create({}, 'two');
  await Promise.all([world.pass('one'), world.pass('two')]);
  const ids = world.server.peekAll(instances).map(({ status }) => status?.id);
  assert.equal(new Set(ids).size, 2);
});

test('reconcile: an Instance restored without its status keeps the id of its label, unless another has it', async () => {
  const world = new World();
  await world.create();
  await world.server.mergePatch(instances, ref, { metadata: { labels: { [idLabel]: 'abc123' } } });
  await world.pass();
  assert.equal(world.instance.status?.id, 'abc123');
  await world.create({}, 'copy');
  await world.server.mergePatch(
    instances,
    { namespace: 'games', name: 'copy' },
    { metadata: { labels: { [idLabel]: 'abc123' } } },
  );
  await world.pass('copy');
  const copy = world.server.peek(instances, { namespace: 'games', name: 'copy' });
  assert.notEqual(copy?.status?.id, 'abc123');
  assert.equal(copy?.metadata.labels?.[idLabel], copy?.status?.id);
});

test('reconcile: an evicted pod is replaced, and removed once its successor runs', async () => {
  const world = new World();
  await world.create();
  await world.settle();
  await world.podStatus({ phase: 'Failed', reason: 'Evicted', containerStatuses: [containerStatus({})] });
  await world.clock.advance(60_000);
  await world.settle();
  assert.equal(world.pods.length, 2);
  assert.equal(world.instance.status?.state, 'CREATING');
  await world.podStatus(
    runningStatus,
    world.pods.findIndex(({ metadata }) => metadata.name.endsWith('-2')),
  );
  await world.settle();
  assert.deepEqual(
    world.pods
      .filter(({ metadata }) => metadata.deletionTimestamp === undefined)
      .map(({ metadata }) => metadata.name.slice(-2)),
    ['-2'],
  );
  assert.equal(world.instance.status.state, 'ONLINE');
});

/** An operator that was set up for sidecars; docker is off. */
function sidecarWorld(client?: (server: FakeClient) => Client): World {
  const world = new World();
  const through = client?.(world.server) ?? world.server;
  const keys = new SidecarKeys({
    client: through,
    namespace: 'ringmaster-system',
    secretName: 'master-key',
    randomBytes: (size) => new Uint8Array(size).fill(7),
    clock: world.clock,
    log: createSilentLogger(),
  });
  const { settings } = sidecarContext;
  const docker = { ...settings.docker, isEnabled: false };
  world.start(through, { sidecars: { settings: { ...settings, docker }, keys } });
  return world;
}

const stalledOf = ({ status }: Instance): string | undefined => {
  const stalled = status?.conditions?.find(({ type }) => type === 'Stalled');
  return stalled?.status === 'True' ? stalled.reason : undefined;
};

test('reconcile: under a runtime with a sidecar the key is there before the pod, and the pod names it', async () => {
  const world = sidecarWorld();
  await world.create({ runtime: 'process', command: ['/server'] });
  await world.settle();
  const order = world.server.writes.filter(({ verb }) => verb === 'create').map(({ kind }) => kind);
  assert.deepEqual(order, ['Instance', 'Secret', 'Secret', 'Pod']);
  const [pod] = world.pods;
  const key = pod?.spec?.volumes?.find(({ name }) => name === 'ringmaster-key')?.secret?.secretName ?? '';
  assert.ok(world.server.peek(secrets, { namespace: 'games', name: key }));
  await world.podStatus({ ...runningStatus, phase: 'Running' });
  await world.settle();
  assert.equal(world.instance.status?.state, 'ONLINE');
  assert.equal(world.instance.status.podIP, '10.0.0.7');
});

test('reconcile: docker is off until somebody turns it on, then the same Instance runs', async () => {
  const world = sidecarWorld();
  await world.create({ runtime: 'docker', ports: [{ name: 'game', port: 1, protocol: 'TCP' }] });
  await world.settle();
  assert.equal(stalledOf(world.instance), 'RuntimeDisabled');
  const message = world.instance.status?.conditions?.find(({ type }) => type === 'Stalled')?.message ?? '';
  assert.match(message, /runtimes\.docker\.enabled/);
  assert.deepEqual(world.pods, []);
  assert.deepEqual(world.server.peekAll(services), []);
  assert.deepEqual(world.server.peekAll(secrets), []);
  const keys = { ensure: () => Promise.resolve('key') };
  world.start(world.server, { sidecars: { settings: sidecarContext.settings, keys } });
  await world.settle();
  assert.equal(world.pods.length, 1);
  assert.equal(stalledOf(world.instance), undefined);
  assert.deepEqual(world.server.peekAll(services), [], 'no Service reaches the container of the Engine');
});

test('reconcile: an operator without an image for the sidecar says so', async () => {
  const world = new World();
  await world.create({ runtime: 'tmux', command: ['/server'] });
  await world.settle();
  assert.equal(stalledOf(world.instance), 'RuntimeDisabled');
  assert.deepEqual(world.pods, []);
});

test('reconcile: a master key that cannot be read is said, tried again, and then the pod is made', async () => {
  const forbidden = new ApiError({ code: 403, reason: 'Forbidden', message: 'secrets is forbidden' });
  const rule: Fault = { verb: 'get', resource: 'secrets', action: { fail: forbidden } };
  const world = sidecarWorld((server) => withFaults(server, new FakeClock(), [rule]));
  await world.create({ runtime: 'process', command: ['/server'] });
  const { requeueAfterMs } = await world.pass();
  assert.equal(requeueAfterMs, 30_000);
  assert.equal(stalledOf(world.instance), 'MasterKeyUnavailable');
  assert.deepEqual(world.pods, []);
  await world.settle();
  assert.equal(world.pods.length, 1);
  assert.equal(stalledOf(world.instance), undefined);
});

test('reconcile: a pattern that cannot be used is said before there is a pod', async () => {
  const world = new World();
  world.start(world.server, { patterns: { check: () => Promise.resolve('it is too large') } });
  const times = { periodSeconds: 5, timeoutSeconds: 1, failureThreshold: 3 };
  await world.create({ readiness: { logPattern: 'x{1000}', ...times } });
  await world.settle();
  assert.equal(stalledOf(world.instance), 'InvalidSpec');
  assert.deepEqual(world.pods, []);
});

test('reconcile: templates need the image of the sidecar and nothing else of it; a fault of theirs is a condition until it is mended', async () => {
  const world = new World();
  await world.create({ workingDir: '/data', templates: [{ name: 'server-files' }] });
  await world.settle();
  assert.equal(stalledOf(world.instance), 'RuntimeDisabled');
  assert.equal(world.pods.length, 0);
  const keys = { ensure: () => Promise.reject(new Error('no key is needed')) };
  world.start(world.server, { sidecars: { settings: sidecarContext.settings, keys } });
  await world.settle();
  assert.deepEqual(
    world.pods[0]?.spec?.initContainers?.map(({ name, image }) => [name, image]),
    [['ringmaster-templates', 'example.com/sidecar:1']],
  );
  const said = { exitCode: 1, message: 'The ConfigMap "server-files" does not exist.\n' };
  const initOf = (state: object): Pod['status'] => ({
    phase: 'Pending',
    initContainerStatuses: [containerStatus({ name: 'ringmaster-templates', state, lastState: { terminated: said } })],
  });
  await world.podStatus(initOf({ waiting: { reason: 'CrashLoopBackOff' } }));
  await world.settle();
  assert.equal(stalledOf(world.instance), 'TemplateFailed');
  assert.equal(world.pods.length, 1, 'the kubelet tries again in the same pod');
  assert.ok(world.events.includes('TemplateFailed'));
  await world.podStatus(initOf({ terminated: { exitCode: 0 } }));
  await world.settle();
  assert.equal(stalledOf(world.instance), undefined);
});

for (const [reason, version, words] of [
  ['SidecarTooOld', protocolVersions.oldest - 1, 'too old'],
  ['SidecarTooNew', protocolVersions.current + 2, 'too new'],
] as const) {
  test(`reconcile: a sidecar that is ${words} for this release is said once, beside a status that stays what it is, until the Instance is restarted`, async () => {
    const world = sidecarWorld();
    await world.create({ runtime: 'process', command: ['/server'] });
    await world.settle();
    await world.podStatus({ ...runningStatus, phase: 'Running' });
    await world.settle();
    const conditions = (): Record<string, string> =>
      Object.fromEntries((world.instance.status?.conditions ?? []).map(({ type, status }) => [type, status]));
    const healthy = { Ready: 'True', Reconciling: 'False', Stalled: 'False' };
    assert.deepEqual(conditions(), healthy);
    const name = world.pods[0]?.metadata.name ?? '';
    const labels = { 'ringmaster.dev/sidecar-protocol': String(version) };
    await world.server.mergePatch(pods, { namespace: 'games', name }, { metadata: { labels } });
    await world.settle();
    assert.deepEqual(conditions(), { ...healthy, SidecarUnsupported: 'True' });
    assert.equal(world.instance.status?.state, 'ONLINE');
    const said = world.instance.status.conditions?.find(({ type }) => type === 'SidecarUnsupported');
    assert.equal(said?.reason, reason);
    assert.match(said.message, new RegExp(`speaks protocol ${version}, this Ringmaster .*Restart the Instance\\.$`));
    await world.pass();
    assert.deepEqual(
      world.events.filter((event) => event === reason),
      [reason],
    );
    await world.server.remove(pods, { namespace: 'games', name }, { gracePeriodSeconds: 0 });
    await world.settle();
    assert.equal(conditions()['SidecarUnsupported'], undefined);
  });
}

const dockerKeys = { settings: sidecarContext.settings, keys: { ensure: () => Promise.resolve('key') } };

/** One under docker that runs, and whose pod is then deleted by force; its launcher is killed before it says anything. */
async function forcedWorld(through: (server: FakeClient) => Client = (server) => server): Promise<World> {
  const world = new World();
  world.start(through(world.server), { sidecars: dockerKeys });
  await world.create({ runtime: 'docker' });
  await world.settle();
  await world.podStatus(runningStatus);
  await world.settle();
  const { name } = world.pods[0]?.metadata ?? { name: '' };
  await world.server.remove(pods, { ...ref, name }, { gracePeriodSeconds: 0 });
  const finishedAt = new Date(world.clock.now()).toISOString();
  const terminated = { exitCode: 137, containerID: 'containerd://1', finishedAt };
  await world.podStatus({ phase: 'Failed', containerStatuses: [containerStatus({ state: { terminated } })] });
  return world;
}

function namesOf(list: readonly Pod[]): string[] {
  return list.map(({ metadata }) => metadata.name.replace(/-[0-9a-z]{6}-/, '-'));
}

/** Plays the kubelet of the cleanup. */
async function endCleanup(world: World, phase: 'Succeeded' | 'Failed'): Promise<void> {
  await world.podStatus(
    { phase },
    world.pods.findIndex(({ metadata }) => metadata.name.endsWith('-cleanup')),
  );
}

test('reconcile: what a lost pod left on the Engine is removed before the next pod is made, whenever the operator is killed', async () => {
  for (const verb of ['create', 'mergePatch', 'remove'] as const) {
    let client: ReturnType<typeof withFaults> | undefined;
    const world = await forcedWorld((server) => (client = withFaults(server, new FakeClock())));
    // The write is carried out, and the process that made it does not live to know.
    client?.add({ verb, resource: 'pods', action: { lose: new Error('killed') } });
    const survive = async (): Promise<void> => {
      await world.settle().catch(() => undefined);
      world.start(world.client, { sidecars: dockerKeys });
      await world.settle();
    };
    await survive();
    assert.deepEqual(namesOf(world.pods), ['lobby-1', 'lobby-1-cleanup'], verb);
    await endCleanup(world, 'Succeeded');
    await survive();
    const left = world.pods.filter(({ metadata }) => metadata.deletionTimestamp === undefined);
    assert.deepEqual(namesOf(left), ['lobby-2'], verb);
  }
});

test('reconcile: an Instance whose pod was lost is gone when its container is, and says so', async () => {
  const world = await forcedWorld();
  await world.server.remove(instances, ref);
  await world.settle();
  assert.deepEqual(namesOf(world.pods), ['lobby-1', 'lobby-1-cleanup']);
  assert.ok(world.instance.metadata.finalizers?.includes(instanceFinalizer));
  await endCleanup(world, 'Succeeded');
  await world.settle();
  assert.equal(world.server.peek(instances, ref), undefined);
  assert.ok(world.events.includes('ContainerRemoved'));
  assert.ok(!namesOf(world.pods).includes('lobby-1'), 'its cleanup goes with it');
});

test('reconcile: a cleanup that the API server refuses is a condition, and given up after a while', async () => {
  const forbidden = new ApiError({ code: 403, reason: 'Forbidden', message: 'violates PodSecurity' });
  const rule: Fault = { verb: 'create', resource: 'pods', from: 2, times: Infinity, action: { fail: forbidden } };
  const world = await forcedWorld((server) => withFaults(server, new FakeClock(), [rule]));
  await world.server.remove(instances, ref);
  assert.deepEqual(await world.pass(), { requeueAfterMs: 10_000 });
  assert.equal(stalledOf(world.instance), 'PodRejected');
  await world.clock.advance(11_000);
  assert.deepEqual(await world.pass(), { requeueAfterMs: 30_000 });
  await world.clock.advance(110_000);
  await world.settle();
  assert.equal(world.server.peek(instances, ref), undefined);
  assert.ok(world.events.includes('ContainerLeft'));
  assert.deepEqual(world.pods, []);
});
