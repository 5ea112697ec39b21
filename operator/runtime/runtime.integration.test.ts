/** The behaviours of the unit tests, against a real API server: one file, because some of them kill it. */
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { attachCluster } from '../../e2e/cluster/cluster.ts';
import type { Cluster } from '../../e2e/cluster/cluster.ts';
import { createSilentLogger } from '../log.ts';
import { withFaults } from '../testing/faults.ts';
import { connectToTestServer, eventually } from '../testing/integration.ts';
import { configMaps } from '../testing/kinds.ts';
import type { ConfigMap } from '../testing/kinds.ts';
import { ApiError, events, isReason, leases, pods } from './client.ts';
import type { Client, Event } from './client.ts';
import { systemClock } from './clock.ts';
import { EventRecorder } from './events.ts';
import { NotLeadingError, fence } from './fence.ts';
import { Informer, keyOf } from './informer.ts';
import { LeaderElector } from './leader.ts';
import type { Leadership } from './leader.ts';

const { client, connectAgain, makeNamespace } = connectToTestServer(process.env);
const log = createSilentLogger();
const shared = { clock: systemClock, random: Math.random, log };
const escaped: unknown[] = [];
process.on('uncaughtException', (error) => escaped.push(error));
process.on('unhandledRejection', (error) => escaped.push(error));
after(() => {
  assert.deepEqual(escaped, []);
});

/** The cluster whose API server may be killed. */
async function ownCluster(): Promise<Cluster> {
  const name = process.env['RINGMASTER_TEST_CLUSTER'];
  assert.equal(name, 'integration', 'RINGMASTER_TEST_CLUSTER must be "integration": these tests kill its API server');
  const cluster = await attachCluster('integration');
  assert.ok(cluster !== undefined, 'the cluster "integration" is not up');
  return cluster;
}

async function put(namespace: string, name: string, value: string): Promise<void> {
  const object = { metadata: { name, namespace }, data: { value } };
  await client.apply(configMaps, object, { fieldManager: 'test', force: true });
}

function follow(
  source: Client,
  namespace: string,
): {
  informer: Informer<ConfigMap>;
  told: Map<string, ConfigMap>;
  changes: string[];
  lists: () => number;
  stop: () => Promise<void>;
} {
  let lists = 0;
  const observer = { onList: () => (lists += 1) };
  // Every namespace gets a ConfigMap of the cluster's own.
  const scope = { namespace, fieldSelector: 'metadata.name!=kube-root-ca.crt' };
  // Without randomness each delay is the shortest: the test need not wait.
  const options = { client: source, resource: configMaps, scope, observer, clock: systemClock, random: () => 0, log };
  const informer = new Informer(options);
  const told = new Map<string, ConfigMap>();
  const changes: string[] = [];
  informer.onChange((key, previous, next) => {
    assert.equal(told.get(key), previous);
    changes.push(`${key.split('/')[1] ?? ''} ${previous?.data?.['value'] ?? '-'}>${next?.data?.['value'] ?? '-'}`);
    if (next === undefined) told.delete(key);
    else told.set(key, next);
  });
  const stopping = new AbortController();
  const running = informer.run(stopping.signal);
  const stop = async (): Promise<void> => {
    stopping.abort();
    await running;
  };
  return { informer, told, changes, lists: () => lists, stop };
}

async function checkInStep(subject: ReturnType<typeof follow>, namespace: string): Promise<void> {
  const { items } = await client.list(configMaps, { namespace, fieldSelector: 'metadata.name!=kube-root-ca.crt' });
  const versions = (objects: Iterable<ConfigMap>): string[] =>
    [...objects]
      .map(({ metadata }) => `${keyOf(metadata)} ${metadata.uid ?? ''} ${metadata.resourceVersion ?? ''}`)
      .sort();
  await eventually(15_000, () => {
    assert.deepEqual(versions(subject.informer.list()), versions(items));
    assert.deepEqual(versions(subject.told.values()), versions(items));
  });
}

test('integration: every refusal has the reason that Kubernetes gives it', async () => {
  await using namespace = await makeNamespace();
  const ref = { namespace: namespace.name, name: 'a' };
  const made = await client.create(configMaps, { metadata: ref, data: { value: '1' } });
  const reasonIs = (reason: string) => (error: unknown) => isReason(error, reason);
  await assert.rejects(client.create(configMaps, { metadata: ref }), reasonIs('AlreadyExists'));
  const stale = { ...made, metadata: { ...made.metadata, resourceVersion: '1' } };
  await assert.rejects(client.update(configMaps, stale), reasonIs('Conflict'));
  await assert.rejects(
    client.mergePatch(configMaps, ref, { metadata: { resourceVersion: '1' } }),
    reasonIs('Conflict'),
  );
  await assert.rejects(client.remove(configMaps, ref, { uid: 'other' }), reasonIs('Conflict'));
  await assert.rejects(client.create(configMaps, { metadata: { ...ref, name: 'A_B' } }), reasonIs('Invalid'));
  await assert.rejects(client.attachStdin(ref, 'main', Buffer.from('x')), reasonIs('NotFound'));
  const logOptions = { container: 'main', follow: true, timestamps: true, signal: new AbortController().signal };
  await assert.rejects(
    client.log(ref, logOptions),
    (error) => error instanceof ApiError && /"a" not found/.test(error.message),
  );
  assert.equal(await client.get(configMaps, { ...ref, name: 'b' }), undefined);
  await client.remove(configMaps, ref);
  await client.remove(configMaps, ref);
  assert.equal((await client.list(pods, { namespace: namespace.name })).items.length, 0);
});

test('integration: apply leaves the fields of other managers alone, conflicts unless forced, and drops what it no longer names', async () => {
  await using namespace = await makeNamespace();
  const metadata = { namespace: namespace.name, name: 'a' };
  await client.apply(configMaps, { metadata, data: { ours: '1', both: '1' } }, { fieldManager: 'one' });
  await client.apply(configMaps, { metadata, data: { theirs: '2' } }, { fieldManager: 'two' });
  const wanted = { metadata, data: { theirs: '3' } };
  await assert.rejects(client.apply(configMaps, wanted, { fieldManager: 'one' }), (error) =>
    isReason(error, 'Conflict'),
  );
  const dry = await client.apply(configMaps, { metadata, data: { ours: '9' } }, { fieldManager: 'one', dryRun: 'All' });
  assert.deepEqual(dry.data, { ours: '9', theirs: '2' });
  const after = await client.apply(configMaps, { metadata, data: { ours: '1' } }, { fieldManager: 'one' });
  assert.deepEqual(after.data, { ours: '1', theirs: '2' });
  const forced = await client.apply(configMaps, wanted, { fieldManager: 'one', force: true });
  assert.deepEqual(forced.data, { theirs: '3' });
  const again = await client.apply(configMaps, wanted, { fieldManager: 'one', force: true });
  assert.equal(again.metadata.resourceVersion, forced.metadata.resourceVersion, 'no change, no version');
});

test('integration: a watch is ended by the server in time', async () => {
  await using namespace = await makeNamespace();
  const { metadata } = await client.list(configMaps, { namespace: namespace.name });
  const options = { namespace: namespace.name, idleTimeoutMs: 30_000, signal: new AbortController().signal };
  const { resourceVersion } = metadata;
  const startedMs = performance.now();
  for await (const event of client.watch(configMaps, { ...options, resourceVersion, timeoutSeconds: 3 })) {
    assert.notEqual(event.type, 'ERROR');
  }
  const lastedMs = performance.now() - startedMs;
  assert.ok(lastedMs > 2_500 && lastedMs < 10_000, `ended after ${lastedMs} ms`);
});

test('integration: an informer reads a collection of several pages and follows it', async () => {
  await using namespace = await makeNamespace();
  const names = Array.from({ length: 620 }, (_, index) => `item-${index}`);
  for (let start = 0; start < names.length; start += 20) {
    await Promise.all(names.slice(start, start + 20).map((name) => put(namespace.name, name, '1')));
  }
  const subject = follow(client, namespace.name);
  await checkInStep(subject, namespace.name);
  assert.equal(subject.informer.size, 620);
  await put(namespace.name, 'item-1', '2');
  await client.remove(configMaps, { namespace: namespace.name, name: 'item-2' });
  await checkInStep(subject, namespace.name);
  assert.deepEqual(subject.changes.slice(-2), ['item-1 1>2', 'item-2 1>-']);
  assert.equal(subject.lists(), 1);
  await subject.stop();
});

test(
  'integration: an informer outlives a SIGKILL of the API server and learns what changed',
  { timeout: 120_000 },
  async () => {
    const cluster = await ownCluster();
    await using namespace = await makeNamespace();
    for (const name of ['kept', 'changed', 'deleted', 'recreated']) await put(namespace.name, name, '1');
    const subject = follow(connectAgain(), namespace.name);
    await checkInStep(subject, namespace.name);
    const { uid } = subject.informer.get(`${namespace.name}/recreated`)?.metadata ?? {};
    await cluster.kill('kube-apiserver', 'SIGKILL');
    await assert.rejects(put(namespace.name, 'kept', '1'));
    await cluster.start('kube-apiserver');
    await put(namespace.name, 'changed', '2');
    await put(namespace.name, 'added', '1');
    await client.remove(configMaps, { namespace: namespace.name, name: 'deleted' });
    await client.remove(configMaps, { namespace: namespace.name, name: 'recreated' });
    await put(namespace.name, 'recreated', '1');
    await checkInStep(subject, namespace.name);
    assert.notEqual(subject.informer.get(`${namespace.name}/recreated`)?.metadata.uid, uid);
    assert.equal(subject.changes.filter((change) => change.startsWith('kept')).length, 1);
    await subject.stop();
  },
);

test(
  'integration: a version that the API server no longer has leads to a new list, deletions and re-creations seen',
  { timeout: 180_000 },
  async () => {
    const cluster = await ownCluster();
    await using namespace = await makeNamespace();
    for (const name of ['kept', 'deleted', 'recreated']) await put(namespace.name, name, '1');
    const faulty = withFaults(connectAgain(), systemClock);
    const subject = follow(faulty, namespace.name);
    await checkInStep(subject, namespace.name);
    const allow = faulty.add({ verb: 'watch', times: Infinity, action: { fail: new Error('held back') } });
    await cluster.kill('kube-apiserver', 'SIGKILL');
    await cluster.start('kube-apiserver');
    await client.remove(configMaps, { namespace: namespace.name, name: 'deleted' });
    await client.remove(configMaps, { namespace: namespace.name, name: 'recreated' });
    await put(namespace.name, 'recreated', '2');
    // Its history begins anew with each start, after these changes.
    await cluster.kill('kube-apiserver', 'SIGKILL');
    await cluster.start('kube-apiserver');
    subject.changes.length = 0;
    allow();
    await eventually(40_000, () => {
      assert.equal(subject.lists(), 2);
    });
    await checkInStep(subject, namespace.name);
    assert.deepEqual(subject.changes.sort(), ['deleted 1>-', 'recreated ->2', 'recreated 1>-']);
    await subject.stop();
  },
);

interface Candidate {
  leadership: Leadership | undefined;
  ledAtMs: number;
  term: AbortController;
  /** As SIGKILL or a cut cable: nothing of it reaches the server any more. */
  cut: () => void;
  ended: Promise<string>;
}

function campaign(namespace: string, identity: string): Candidate {
  const faulty = withFaults(connectAgain(), systemClock);
  const elector = new LeaderElector({ client: faulty, namespace, name: 'operator', identity, ...shared });
  const candidate: Candidate = {
    leadership: undefined,
    ledAtMs: NaN,
    term: new AbortController(),
    cut: () => {
      for (const verb of ['get', 'create', 'update', 'watch'] as const) {
        faulty.add({ verb, times: Infinity, action: { hang: true } });
      }
    },
    ended: Promise.resolve(''),
  };
  candidate.ended = elector.run(candidate.term.signal, async (leadership) => {
    candidate.leadership = leadership;
    candidate.ledAtMs = performance.now();
    await new Promise<void>((resolve) => {
      leadership.stopping.addEventListener('abort', () => {
        resolve();
      });
    });
  });
  return candidate;
}

test('integration: of two candidates one leads; it releases the lease on SIGTERM and the other leads within 2 s', async () => {
  await using namespace = await makeNamespace();
  const candidates = [campaign(namespace.name, 'a'), campaign(namespace.name, 'b')] as const;
  await eventually(10_000, () => {
    assert.ok(candidates.some((candidate) => candidate.leadership !== undefined));
  });
  await new Promise((resolve) => setTimeout(resolve, 5_000));
  const [first, second] = candidates[0].leadership === undefined ? [candidates[1], candidates[0]] : candidates;
  assert.equal(second.leadership, undefined);
  const endedAtMs = performance.now();
  first.term.abort();
  assert.equal(await first.ended, 'stopped');
  await eventually(2_000, () => {
    assert.notEqual(second.leadership, undefined);
  });
  assert.ok(second.ledAtMs - endedAtMs < 2_000, `led after ${second.ledAtMs - endedAtMs} ms`);
  console.log(`  led ${Math.round(second.ledAtMs - endedAtMs)} ms after SIGTERM`);
  const lease = await client.get(leases, { namespace: namespace.name, name: 'operator' });
  assert.equal(lease?.spec?.leaseTransitions, 1);
  second.term.abort();
  await second.ended;
});

test(
  'integration: a leader that is cut off writes nothing more, and another leads within 20 s',
  { timeout: 60_000 },
  async () => {
    await using namespace = await makeNamespace();
    const first = campaign(namespace.name, 'a');
    await eventually(10_000, () => {
      assert.notEqual(first.leadership, undefined);
    });
    const second = campaign(namespace.name, 'b');
    await new Promise((resolve) => setTimeout(resolve, 3_000));
    const cutAtMs = performance.now();
    first.cut();
    await eventually(20_000, () => {
      assert.notEqual(second.leadership, undefined);
      assert.equal(second.leadership?.isLeading(), true);
    });
    console.log(`  led ${Math.round(second.ledAtMs - cutAtMs)} ms after the cut`);
    assert.equal(await first.ended, 'lost');
    assert.ok(first.leadership !== undefined && !first.leadership.isLeading());
    const fenced = fence(client, first.leadership);
    const late = { metadata: { namespace: namespace.name, name: 'late' } };
    await assert.rejects(fenced.create(configMaps, late), NotLeadingError);
    second.term.abort();
    await second.ended;
  },
);

test('integration: a leader keeps leading through a restart of the API server', { timeout: 60_000 }, async () => {
  const cluster = await ownCluster();
  await using namespace = await makeNamespace();
  const first = campaign(namespace.name, 'a');
  await eventually(10_000, () => {
    assert.notEqual(first.leadership, undefined);
  });
  const second = campaign(namespace.name, 'b');
  await new Promise((resolve) => setTimeout(resolve, 3_000));
  await cluster.kill('kube-apiserver', 'SIGKILL');
  await cluster.start('kube-apiserver');
  await new Promise((resolve) => setTimeout(resolve, 12_000));
  assert.equal(first.leadership?.isLeading(), true);
  assert.equal(second.leadership, undefined);
  first.term.abort();
  await first.ended;
  await eventually(5_000, () => {
    assert.equal(second.leadership?.isLeading(), true);
  });
  second.term.abort();
  await second.ended;
});

test('integration: an Event and its series are accepted', { timeout: 60_000 }, async () => {
  await using namespace = await makeNamespace();
  const object = await client.create(configMaps, { metadata: { namespace: namespace.name, name: 'a' } });
  const drops: string[] = [];
  const recorder = new EventRecorder({
    client,
    clock: systemClock,
    log,
    reportingController: 'example.com/test',
    reportingInstance: 'test-0',
    observer: { onDropped: (cause) => drops.push(cause) },
  });
  const stopping = new AbortController();
  const running = recorder.run(stopping.signal);
  const text = { type: 'Warning', reason: 'Tested', action: 'Test', note: 'ä'.repeat(2_000) } as const;
  recorder.record(object, text);
  const read = async (): Promise<Event | undefined> =>
    (await client.list(events, { namespace: namespace.name })).items[0];
  await eventually(5_000, async () => {
    assert.equal((await read())?.reason, 'Tested');
  });
  recorder.record(object, text);
  recorder.record(object, text);
  stopping.abort();
  await running;
  const event = await read();
  assert.equal(event?.series?.count, 3);
  assert.equal(event.regarding?.uid, object.metadata.uid);
  assert.deepEqual(drops, []);
});
