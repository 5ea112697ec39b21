import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isReason, pods } from '../runtime/client.ts';
import type { KubernetesObject, Pod, Resource } from '../runtime/client.ts';
import { FakeClient } from './client.ts';
import { configMaps } from './kinds.ts';

interface Thing extends KubernetesObject {
  spec?: { size?: number; containers?: { name: string; image?: string; env?: { name: string; value: string }[] }[] };
  status?: { phase?: string; conditions?: { type: string; status: string }[] };
}
const things: Resource<Thing> = { apiVersion: 'example.com/v1', kind: 'Thing', plural: 'things', namespaced: true };
const ref = { namespace: 'default', name: 'a' };
const metadata = { ...ref };

function rejectsWith(reason: string): (error: unknown) => boolean {
  return (error) => isReason(error, reason);
}

test('FakeClient: create gives uid, version and generation; again is AlreadyExists; nothing found is undefined', async () => {
  const client = new FakeClient();
  const made = await client.create(things, { metadata, spec: { size: 1 } });
  assert.equal(made.metadata.generation, 1);
  assert.ok(made.metadata.uid !== undefined && made.metadata.resourceVersion !== undefined);
  await assert.rejects(client.create(things, { metadata }), rejectsWith('AlreadyExists'));
  assert.equal(await client.get(things, { ...ref, name: 'b' }), undefined);
  await client.remove(things, { ...ref, name: 'b' });
});

test('FakeClient: a stale update is a Conflict, and an update without a change makes no version', async () => {
  const client = new FakeClient();
  const first = await client.create(things, { metadata, spec: { size: 1 } });
  const second = await client.update(things, { ...first, spec: { size: 2 } });
  assert.equal(second.metadata.generation, 2);
  await assert.rejects(client.update(things, { ...first, spec: { size: 3 } }), rejectsWith('Conflict'));
  const same = await client.update(things, second);
  assert.equal(same.metadata.resourceVersion, second.metadata.resourceVersion);
});

test('FakeClient: status and spec are written apart, and the generation counts the spec alone', async () => {
  const client = new FakeClient();
  await client.apply(things, { metadata, spec: { size: 1 }, status: { phase: 'x' } }, { fieldManager: 'm' });
  assert.equal(client.peek(things, ref)?.status, undefined);
  const status = { metadata, spec: { size: 9 }, status: { phase: 'Ready' } };
  const after = await client.applyStatus(things, status, { fieldManager: 'm' });
  assert.deepEqual([after.spec?.size, after.status?.phase, after.metadata.generation], [1, 'Ready', 1]);
  const applied = await client.apply(things, { metadata, spec: { size: 2 } }, { fieldManager: 'm' });
  assert.deepEqual([applied.status?.phase, applied.metadata.generation], ['Ready', 2]);
  await assert.rejects(
    client.applyStatus(things, { metadata: { ...ref, name: 'b' } }, { fieldManager: 'm' }),
    rejectsWith('NotFound'),
  );
});

test('FakeClient: apply merges by key, drops what its manager no longer names, and keeps what others own', async () => {
  const client = new FakeClient();
  const app = {
    name: 'app',
    image: 'app:1',
    env: [
      { name: 'A', value: '1' },
      { name: 'B', value: '2' },
    ],
  };
  await client.apply(things, { metadata, spec: { size: 1, containers: [app] } }, { fieldManager: 'one' });
  await client.apply(
    things,
    { metadata, spec: { containers: [{ name: 'side', image: 's:1' }] } },
    { fieldManager: 'two' },
  );
  const slim = { name: 'app', image: 'app:2', env: [{ name: 'B', value: '2' }] };
  const after = await client.apply(things, { metadata, spec: { containers: [slim] } }, { fieldManager: 'one' });
  assert.deepEqual(after.spec, { containers: [slim, { name: 'side', image: 's:1' }] });
  const gone = await client.apply(things, { metadata }, { fieldManager: 'two' });
  assert.deepEqual(gone.spec, { containers: [slim] });
});

test('FakeClient: applying another value to a field of another manager is a Conflict, unless forced or the same', async () => {
  const client = new FakeClient();
  await client.apply(things, { metadata, spec: { size: 1 } }, { fieldManager: 'one' });
  await client.apply(things, { metadata, spec: { size: 1 } }, { fieldManager: 'two' });
  const bigger = { metadata, spec: { size: 2 } };
  await assert.rejects(client.apply(things, bigger, { fieldManager: 'two' }), rejectsWith('Conflict'));
  await client.apply(things, bigger, { fieldManager: 'two', force: true });
  await client.apply(things, { metadata }, { fieldManager: 'one' });
  assert.equal(client.peek(things, ref)?.spec?.size, 2);
});

test('FakeClient: dryRun stores nothing', async () => {
  const client = new FakeClient();
  const options = { fieldManager: 'm', dryRun: 'All' as const };
  assert.equal((await client.apply(things, { metadata, spec: { size: 1 } }, options)).spec?.size, 1);
  assert.equal(client.peek(things, ref), undefined);
  assert.deepEqual(client.writes, []);
});

test('FakeClient: a finalizer keeps a deleted object until it is taken away', async () => {
  const client = new FakeClient();
  await client.create(things, { metadata: { ...ref, finalizers: ['example.com/stop'] }, spec: {} });
  await client.remove(things, ref);
  await client.remove(things, ref);
  assert.ok(client.peek(things, ref)?.metadata.deletionTimestamp !== undefined);
  await client.mergePatch(things, ref, { metadata: { finalizers: null } });
  assert.equal(client.peek(things, ref), undefined);
});

test('FakeClient: a pod on a node stays until it is removed with no grace; a wrong uid is a Conflict', async () => {
  const client = new FakeClient();
  const pod: Pod = { metadata, spec: { nodeName: 'node-1', containers: [{ name: 'main' }] } };
  await client.create(pods, pod);
  await assert.rejects(client.remove(pods, ref, { uid: 'other' }), rejectsWith('Conflict'));
  await client.remove(pods, ref);
  assert.equal(client.peek(pods, ref)?.metadata.deletionGracePeriodSeconds, 30);
  await client.remove(pods, ref, { gracePeriodSeconds: 0 });
  assert.equal(client.peek(pods, ref), undefined);
});

test('FakeClient: a merge patch merges, null deletes, and its resourceVersion is compared', async () => {
  const client = new FakeClient();
  const made = await client.create(configMaps, { metadata, data: { a: '1', b: '2' } });
  const patched = await client.mergePatch(configMaps, ref, { data: { a: null, c: '3' } });
  assert.deepEqual(patched.data, { b: '2', c: '3' });
  const stale = { metadata: { resourceVersion: made.metadata.resourceVersion }, data: { d: '4' } };
  await assert.rejects(client.mergePatch(configMaps, ref, stale), rejectsWith('Conflict'));
});

test('FakeClient: selectors choose as the API server does', async () => {
  const client = new FakeClient();
  for (const [name, labels] of Object.entries({ a: { app: 'x', tier: 'web' }, b: { app: 'x' }, c: {} })) {
    await client.create(configMaps, { metadata: { name, namespace: 'default', labels } });
  }
  const cases: [string, string[]][] = [
    ['app=x', ['a', 'b']],
    ['app=x,tier', ['a']],
    ['app=x,!tier', ['b']],
    ['app!=x', ['c']],
    ['tier in (web, db)', ['a']],
    ['tier notin (web,db)', ['b', 'c']],
  ];
  for (const [labelSelector, expected] of cases) {
    const { items } = await client.list(configMaps, { labelSelector });
    assert.deepEqual(
      items.map((item) => item.metadata.name),
      expected,
      labelSelector,
    );
  }
  const { items } = await client.list(configMaps, { fieldSelector: 'metadata.name=b' });
  assert.equal(items.length, 1);
});

test('FakeClient: a watch from a compacted version gets 410 as an ERROR event; a bookmark carries the newest version', async () => {
  const client = new FakeClient();
  const made = await client.create(configMaps, { metadata });
  await client.create(configMaps, { metadata: { ...ref, name: 'b' } });
  const stop = new AbortController();
  const options = { timeoutSeconds: 1, idleTimeoutMs: 1, signal: stop.signal };
  const resourceVersion = made.metadata.resourceVersion ?? '';
  const types: string[] = [];
  for await (const event of client.watch(configMaps, { ...options, resourceVersion })) {
    types.push(event.type);
    if (event.type === 'BOOKMARK') break;
    client.bookmark();
  }
  client.compact();
  for await (const event of client.watch(configMaps, { ...options, resourceVersion })) {
    types.push(event.type === 'ERROR' ? String(event.object.code) : event.type);
  }
  assert.deepEqual(types, ['ADDED', 'BOOKMARK', '410']);
  assert.equal(client.watchers, 0);
});
