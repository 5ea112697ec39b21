import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createSilentLogger } from '../log.ts';
import { FakeClient } from '../testing/client.ts';
import { FakeClock, settle } from '../testing/clock.ts';
import { withFaults } from '../testing/faults.ts';
import type { Fault, FaultyClient } from '../testing/faults.ts';
import { apiError } from '../testing/store.ts';
import { configMaps } from '../testing/kinds.ts';
import type { ConfigMap } from '../testing/kinds.ts';
import { ApiError } from './client.ts';
import { Reflector } from './reflector.ts';

const namespace = 'default';

class Sink {
  readonly objects = new Map<string, string>();
  readonly calls: string[] = [];

  replace(objects: readonly ConfigMap[]): void {
    this.calls.push('replace');
    this.objects.clear();
    for (const object of objects) this.objects.set(object.metadata.name, object.data?.['value'] ?? '');
  }

  upsert(object: ConfigMap): void {
    this.calls.push(`upsert ${object.metadata.name}`);
    this.objects.set(object.metadata.name, object.data?.['value'] ?? '');
  }

  remove(object: ConfigMap): void {
    this.calls.push(`remove ${object.metadata.name}`);
    this.objects.delete(object.metadata.name);
  }
}

interface Rig {
  server: FakeClient;
  client: FaultyClient;
  clock: FakeClock;
  sink: Sink;
  counts: { list: number; watchEnd: number; error: number };
  stop: () => Promise<void>;
}

function start(faults: readonly Fault[] = [], random = 0.5, server = new FakeClient(new FakeClock())): Rig {
  const clock = new FakeClock();
  const client = withFaults(server, clock, faults);
  const sink = new Sink();
  const counts = { list: 0, watchEnd: 0, error: 0 };
  const stopping = new AbortController();
  const observer = {
    onList: () => (counts.list += 1),
    onWatchEnd: () => (counts.watchEnd += 1),
    onError: () => (counts.error += 1),
  };
  const reflector = new Reflector({
    client,
    resource: configMaps,
    scope: { namespace },
    sink,
    clock,
    random: () => random,
    log: createSilentLogger(),
    observer,
  });
  const running = reflector.run(stopping.signal);
  const stop = async (): Promise<void> => {
    stopping.abort();
    await running;
    assert.equal(clock.pending, 0);
    assert.equal(server.watchers, 0);
  };
  return { server, client, clock, sink, counts, stop };
}

async function put(server: FakeClient, name: string, value: string): Promise<void> {
  const object = { metadata: { name, namespace }, data: { value } };
  await server.apply(configMaps, object, { fieldManager: 'test', force: true });
}

function callsOf(client: FaultyClient, verb: string): number {
  return client.calls.filter((call) => call.verb === verb).length;
}

test('reflector: lists once, then follows by watch', async () => {
  const rig = start();
  await put(rig.server, 'a', '1');
  await settle();
  await put(rig.server, 'b', '1');
  await put(rig.server, 'a', '2');
  await rig.server.remove(configMaps, { namespace, name: 'b' });
  await settle();
  assert.deepEqual([...rig.sink.objects], [['a', '2']]);
  assert.equal(callsOf(rig.client, 'list'), 1);
  assert.equal(callsOf(rig.client, 'watch'), 1);
  await rig.stop();
});

test('reflector: a watch that the server ends is opened again from the last version, without a list, at most once a second', async () => {
  const rig = start();
  await settle();
  await put(rig.server, 'a', '1');
  await settle();
  for (let times = 0; times < 5; times += 1) {
    rig.server.endWatches();
    await put(rig.server, 'a', `again ${times}`);
    await rig.clock.advance(100);
  }
  assert.ok(callsOf(rig.client, 'watch') <= 2);
  await rig.clock.advance(1_000);
  assert.equal(rig.sink.objects.get('a'), 'again 4');
  assert.equal(rig.counts.list, 1);
  await rig.clock.advance(60_000);
  const before = callsOf(rig.client, 'watch');
  rig.server.endWatches();
  await settle();
  await settle();
  assert.equal(callsOf(rig.client, 'watch'), before + 1, 'a watch that lasted is opened again at once');
  await rig.stop();
});

test('reflector: a bookmark moves the version on, so that a compaction of what it covers costs no list', async () => {
  const rig = start();
  await settle();
  await rig.server.create(configMaps, { metadata: { name: 'x', namespace: 'other' } });
  rig.server.bookmark();
  await settle();
  rig.server.compact();
  rig.server.breakWatches();
  await rig.clock.advance(1_000);
  await put(rig.server, 'a', '1');
  await rig.clock.advance(1_000);
  assert.equal(rig.counts.list, 1);
  assert.equal(rig.sink.objects.get('a'), '1');
  await rig.stop();
});

for (const [form, fault] of [
  ['an ERROR event', undefined],
  ['an HTTP answer', { verb: 'watch', from: 2, action: { fail: apiError(410, 'Gone', 'too old') } }],
] as const satisfies [string, Fault | undefined][]) {
  test(`reflector: 410 as ${form} leads to one new list, and what was deleted meanwhile is gone`, async () => {
    const rig = start(fault === undefined ? [] : [fault]);
    await put(rig.server, 'a', '1');
    await put(rig.server, 'b', '1');
    await settle();
    await rig.clock.advance(10_000);
    rig.server.breakWatches();
    await settle();
    await rig.server.remove(configMaps, { namespace, name: 'a' });
    await put(rig.server, 'b', '2');
    rig.server.compact();
    await rig.clock.advance(1_500);
    assert.deepEqual([...rig.sink.objects], [['b', '2']]);
    assert.equal(rig.counts.list, 2);
    await rig.stop();
  });
}

test('reflector: a server that answers every watch with 410 is not flooded with lists', async () => {
  const rig = start([{ verb: 'watch', times: Infinity, action: { fail: apiError(410, 'Expired', 'too old') } }]);
  await rig.clock.advance(60_000);
  assert.ok(rig.counts.list <= 60, `${rig.counts.list} lists in a minute`);
  assert.ok(rig.counts.list >= 2);
  await rig.stop();
});

test('reflector: pages that expire on the way are fetched anew as one list', async () => {
  const server = new FakeClient();
  for (let index = 0; index < 700; index += 1) await put(server, `item-${index}`, '1');
  const expired = apiError(410, 'Expired', 'continue is too old');
  const rig = start([{ verb: 'list', from: 2, action: { fail: expired } }], 0.5, server);
  await rig.clock.advance(2_000);
  assert.equal(rig.sink.objects.size, 700);
  assert.equal(callsOf(rig.client, 'list'), 3);
  assert.equal(rig.sink.calls.filter((call) => call === 'replace').length, 1);
  await rig.stop();
});

test('reflector: long lists are read page by page', async () => {
  const server = new FakeClient();
  for (let index = 0; index < 1_200; index += 1) await put(server, `item-${index}`, '1');
  const rig = start([], 0.5, server);
  await settle();
  assert.equal(callsOf(rig.client, 'list'), 3);
  assert.equal(rig.sink.objects.size, 1_200);
  assert.deepEqual(rig.sink.calls, ['replace']);
  await rig.stop();
});

test('reflector: 429 waits as long as Retry-After says', async () => {
  const tooMany = new ApiError({ code: 429, reason: 'TooManyRequests', message: 'slow down' }, 7_000);
  const rig = start([{ verb: 'watch', action: { fail: tooMany } }]);
  await rig.clock.advance(6_999);
  assert.equal(callsOf(rig.client, 'watch'), 1);
  await rig.clock.advance(1);
  assert.equal(callsOf(rig.client, 'watch'), 2);
  assert.equal(rig.counts.list, 1);
  await rig.stop();
});

const failures: [string, Error][] = [
  ['500', apiError(500, 'InternalError', 'etcd is unhappy')],
  ['401', apiError(401, 'Unauthorized', 'token expired')],
  ['403', apiError(403, 'Forbidden', 'not yet allowed')],
  ['404 (the CRD is not there yet)', apiError(404, 'NotFound', 'no such resource')],
  ['a refused connection', new Error('ECONNREFUSED')],
];

for (const [name, error] of failures) {
  test(`reflector: ${name} on list and watch is waited out with growing delays, and then all is well`, async () => {
    const rig = start([
      { verb: 'list', times: 4, action: { fail: error } },
      { verb: 'watch', times: 4, action: { fail: error } },
    ]);
    await put(rig.server, 'a', '1');
    await rig.clock.advance(60_000);
    await put(rig.server, 'b', '1');
    await settle();
    assert.deepEqual([...rig.sink.objects.keys()], ['a', 'b']);
    assert.equal(rig.counts.list, 1);
    assert.equal(rig.counts.error, 8);
    await rig.stop();
  });
}

test('reflector: the delay grows to 30 s and starts small again after a success', async () => {
  const rig = start([{ verb: 'list', times: 12, action: { fail: new Error('down') } }], 1);
  const times: number[] = [];
  while (callsOf(rig.client, 'list') < 13) {
    const before = callsOf(rig.client, 'list');
    await rig.clock.advance(50);
    if (callsOf(rig.client, 'list') > before) times.push(rig.clock.elapsed());
  }
  const gaps = times.slice(1).map((time, index) => time - (times[index] ?? 0));
  assert.ok(gaps.every((gap) => gap <= 30_050));
  assert.ok((gaps.at(-1) ?? 0) >= 29_950);
  assert.ok((gaps[0] ?? 0) <= 500);
  await put(rig.server, 'a', '1');
  await settle();
  const watches = callsOf(rig.client, 'watch');
  rig.server.breakWatches();
  await rig.clock.advance(300);
  assert.equal(callsOf(rig.client, 'watch'), watches + 1);
  await rig.stop();
});

test('reflector: a watch that breaks after some events goes on after the last of them', async () => {
  const rig = start([{ verb: 'watch', action: { break: new Error('reset'), events: 2 } }]);
  await settle();
  for (const name of ['a', 'b', 'c', 'd']) await put(rig.server, name, '1');
  await rig.clock.advance(1_000);
  assert.deepEqual(rig.sink.calls, ['replace', 'upsert a', 'upsert b', 'upsert c', 'upsert d']);
  assert.equal(rig.counts.list, 1);
  await rig.stop();
});

for (const fault of [
  { verb: 'list', action: { hang: true } },
  { verb: 'watch', action: { hang: true } },
  { verb: 'list', action: { fail: new Error('down') } },
] as const satisfies Fault[]) {
  test(`reflector: stops at once while ${fault.verb} ${'hang' in fault.action ? 'hangs' : 'is in backoff'}`, async () => {
    const rig = start([fault]);
    await settle();
    await rig.stop();
  });
}
