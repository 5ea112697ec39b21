import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { createSilentLogger } from '../log.ts';
import { FakeClient } from '../testing/client.ts';
import { FakeClock, settle } from '../testing/clock.ts';
import { withFaults } from '../testing/faults.ts';
import { configMaps } from '../testing/kinds.ts';
import type { ConfigMap } from '../testing/kinds.ts';
import { Informer, dropManagedFields, keyOf, refOf } from './informer.ts';
import type { InformerOptions } from './informer.ts';

const namespace = 'default';

function start(
  extra: Partial<InformerOptions<ConfigMap>> = {},
  server = new FakeClient(),
): {
  server: FakeClient;
  clock: FakeClock;
  informer: Informer<ConfigMap>;
  stop: () => Promise<void>;
} {
  const clock = new FakeClock();
  const stopping = new AbortController();
  const log = createSilentLogger();
  const informer = new Informer({ client: server, resource: configMaps, clock, random: () => 0.5, log, ...extra });
  const running = informer.run(stopping.signal);
  const stop = async (): Promise<void> => {
    stopping.abort();
    await running;
  };
  return { server, clock, informer, stop };
}

async function put(
  server: FakeClient,
  name: string,
  value: string,
  labels: Record<string, string> = {},
): Promise<void> {
  const object = { metadata: { name, namespace, labels }, data: { value } };
  await server.apply(configMaps, object, { fieldManager: 'test', force: true });
}

test('keyOf: namespace/name, or the name alone, and back again', () => {
  assert.equal(keyOf({ namespace: 'a', name: 'b' }), 'a/b');
  assert.equal(keyOf({ name: 'b' }), 'b');
  assert.deepEqual(refOf('a/b'), { namespace: 'a', name: 'b' });
  assert.deepEqual(refOf('b'), { name: 'b' });
});

test('informer: has synced after the first list, and not before; who waits can be told to stop', async () => {
  const server = new FakeClient();
  await put(server, 'a', '1');
  const faulty = withFaults(server, new FakeClock(), [{ verb: 'list', action: { hang: true } }]);
  const hung = start({ client: faulty }, server);
  await settle();
  assert.equal(hung.informer.hasSynced, false);
  await assert.rejects(hung.informer.whenSynced(AbortSignal.abort(new Error('enough'))), /enough/);
  await hung.stop();
  const { informer, stop } = start({}, server);
  await informer.whenSynced(new AbortController().signal);
  assert.equal(informer.hasSynced, true);
  assert.equal(informer.get('default/a')?.data?.['value'], '1');
  assert.equal(informer.get('default/a')?.kind, 'ConfigMap');
  await stop();
});

test('informer: a handler is told old and new, a late one also what is there, and a removed one nothing', async () => {
  const { server, informer, stop } = start();
  const seen: string[] = [];
  const say = (key: string, previous?: ConfigMap, next?: ConfigMap): void => {
    seen.push(`${key} ${previous?.data?.['value'] ?? '-'}>${next?.data?.['value'] ?? '-'}`);
  };
  const remove = informer.onChange(say);
  await settle();
  await put(server, 'a', '1');
  await put(server, 'a', '2');
  await server.remove(configMaps, { namespace, name: 'a' });
  await put(server, 'b', '1');
  await settle();
  assert.deepEqual(seen, ['default/a ->1', 'default/a 1>2', 'default/a 2>-', 'default/b ->1']);
  remove();
  seen.length = 0;
  informer.onChange(say);
  assert.deepEqual(seen, ['default/b ->1']);
  await stop();
});

for (const way of ['watched', 'while away'] as const) {
  test(`informer: deleted and made again under the same name (${way}) is a deletion and an addition`, async () => {
    const { server, clock, informer, stop } = start();
    await put(server, 'a', 'same');
    await settle();
    const seen: string[] = [];
    informer.onChange((key, previous, next) => {
      seen.push(`${key} ${previous?.metadata.uid?.slice(-1) ?? '-'}>${next?.metadata.uid?.slice(-1) ?? '-'}`);
    });
    seen.length = 0;
    if (way === 'while away') server.breakWatches();
    await settle();
    await server.remove(configMaps, { namespace, name: 'a' });
    await put(server, 'a', 'same');
    if (way === 'while away') server.compact();
    await clock.advance(5_000);
    assert.deepEqual(seen, ['default/a 1>-', 'default/a ->2']);
    await stop();
  });
}

test('informer: a new list tells nothing about what has not changed', async () => {
  const { server, clock, informer, stop } = start();
  await put(server, 'a', '1');
  await put(server, 'b', '1');
  await settle();
  let calls = 0;
  informer.onChange(() => (calls += 1));
  calls = 0;
  const before = informer.get('default/a');
  server.breakWatches();
  await settle();
  await put(server, 'b', '2');
  server.compact();
  await clock.advance(5_000);
  assert.equal(calls, 1);
  assert.equal(informer.get('default/a'), before);
  await stop();
});

test('informer: a handler that throws costs the others nothing', async () => {
  const { server, informer, stop } = start();
  const seen: string[] = [];
  informer.onChange(() => {
    throw new Error('bug');
  });
  informer.onChange((key) => {
    seen.push(key);
  });
  await settle();
  await put(server, 'a', '1');
  await put(server, 'b', '1');
  await settle();
  assert.deepEqual(seen, ['default/a', 'default/b']);
  await stop();
});

test('informer: indexes follow changes and deletions', async () => {
  const { server, informer, stop } = start({
    indexes: {
      team: (object) => {
        const { team } = object.metadata.labels ?? {};
        return team === undefined ? [] : team.split('.');
      },
    },
  });
  const find = (value: string): string[] => informer.byIndex('team', value).map((object) => object.metadata.name);
  await put(server, 'a', '1', { team: 'red.blue' });
  await put(server, 'b', '1', { team: 'red' });
  await put(server, 'c', '1');
  await settle();
  assert.deepEqual([find('red'), find('blue'), find('green')], [['a', 'b'], ['a'], []]);
  await put(server, 'a', '2', { team: 'green' });
  await server.remove(configMaps, { namespace, name: 'b' });
  await settle();
  assert.deepEqual([find('red'), find('blue'), find('green')], [[], [], ['a']]);
  assert.throws(() => informer.byIndex('nonsense', 'x'), RangeError);
  await stop();
});

test('informer: a transform decides what is kept', async () => {
  const { server, informer, stop } = start({ transform: dropManagedFields });
  await put(server, 'a', '1');
  await settle();
  assert.ok(server.peek(configMaps, { namespace, name: 'a' })?.metadata.managedFields !== undefined);
  assert.equal(informer.get('default/a')?.metadata.managedFields, undefined);
  await stop();
});

test('informer: its scope selects by namespace and label, and an object that leaves the selection is gone', async () => {
  const { server, informer, stop } = start({ scope: { namespace, labelSelector: 'watch=yes' } });
  await put(server, 'a', '1', { watch: 'yes' });
  await put(server, 'b', '1', { watch: 'no' });
  await server.create(configMaps, { metadata: { name: 'a', namespace: 'other', labels: { watch: 'yes' } } });
  await settle();
  assert.deepEqual(informer.keys(), ['default/a']);
  await put(server, 'a', '1', { watch: 'no' });
  await put(server, 'b', '2', { watch: 'yes' });
  await settle();
  assert.deepEqual(informer.keys(), ['default/b']);
  await stop();
});

type Action =
  | { type: 'put'; name: string; value: number }
  | { type: 'remove' | 'recreate'; name: string }
  | { type: 'compact' | 'end' | 'break' | 'bookmark' | 'failWatch' | 'failList' | 'breakSoon' }
  | { type: 'advance'; ms: number };

const name = fc.constantFrom('a', 'b', 'c', 'd');
const action: fc.Arbitrary<Action> = fc.oneof(
  { weight: 4, arbitrary: fc.record({ type: fc.constant('put' as const), name, value: fc.nat({ max: 3 }) }) },
  { weight: 3, arbitrary: fc.record({ type: fc.constantFrom('remove' as const, 'recreate' as const), name }) },
  {
    weight: 4,
    arbitrary: fc.record({
      type: fc.constantFrom('compact', 'end', 'break', 'bookmark', 'failWatch', 'failList', 'breakSoon'),
    }),
  },
  { weight: 2, arbitrary: fc.record({ type: fc.constant('advance' as const), ms: fc.nat({ max: 3_000 }) }) },
);

async function act(
  rig: { server: FakeClient; clock: FakeClock },
  next: Action,
  inject: (type: string) => void,
): Promise<void> {
  const { server, clock } = rig;
  if (next.type === 'put') await put(server, next.name, String(next.value));
  else if (next.type === 'remove') await server.remove(configMaps, { namespace, name: next.name });
  else if (next.type === 'recreate') {
    await server.remove(configMaps, { namespace, name: next.name });
    await put(server, next.name, 'again');
  } else if (next.type === 'advance') await clock.advance(next.ms);
  else if (next.type === 'compact') server.compact();
  else if (next.type === 'end') server.endWatches();
  else if (next.type === 'break') server.breakWatches();
  else if (next.type === 'bookmark') server.bookmark();
  else inject(next.type);
}

test('informer: after any history of changes, compactions and broken watches, cache and handlers end at the server state', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(action, { maxLength: 50 }), fc.infiniteStream(fc.boolean()), async (actions, waits) => {
      const server = new FakeClient();
      const clock = new FakeClock();
      const client = withFaults(server, clock);
      const { informer, stop } = start(
        { client, clock, indexes: { value: (object) => [object.data?.['value'] ?? ''] } },
        server,
      );
      const told = new Map<string, ConfigMap>();
      informer.onChange((key, previous, next) => {
        assert.equal(told.get(key), previous, 'each change starts where the last one ended');
        assert.ok(previous === undefined || next === undefined || previous.metadata.uid === next.metadata.uid);
        if (next === undefined) told.delete(key);
        else told.set(key, next);
      });
      const down = new Error('down');
      const inject = (type: string): void => {
        if (type === 'breakSoon') client.add({ verb: 'watch', action: { break: down, events: 1 } });
        else client.add({ verb: type === 'failList' ? 'list' : 'watch', times: 2, action: { fail: down } });
      };
      for (const next of actions) {
        await act({ server, clock }, next, inject);
        if (waits.next().value === true) await settle();
      }
      await clock.advance(200_000);
      const expected = server.peekAll(configMaps);
      assert.deepEqual(new Set(informer.list()), new Set(expected));
      assert.deepEqual(told, new Map(informer.list().map((object) => [keyOf(object.metadata), object])));
      for (const object of expected) {
        const found = informer.byIndex('value', object.data?.['value'] ?? '').map((item) => item.metadata.name);
        assert.ok(found.includes(object.metadata.name));
      }
      await stop();
      assert.equal(clock.pending, 0);
    }),
    { numRuns: 150 },
  );
});
