import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createSilentLogger } from '../log.ts';
import { FakeClient } from '../testing/client.ts';
import { FakeClock, settle } from '../testing/clock.ts';
import { withFaults } from '../testing/faults.ts';
import type { Fault, FaultyClient } from '../testing/faults.ts';
import { apiError } from '../testing/store.ts';
import { events } from './client.ts';
import type { Event, KubernetesObject } from './client.ts';
import { EventRecorder } from './events.ts';

const pod: KubernetesObject = {
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: { name: 'lobby-1', namespace: 'games', uid: 'uid-1', resourceVersion: '7' },
};
const text = { type: 'Normal', reason: 'PodCreated', action: 'CreatePod', note: 'Created pod "lobby-1"' } as const;

interface Rig {
  server: FakeClient;
  client: FaultyClient;
  clock: FakeClock;
  recorder: EventRecorder;
  drops: string[];
  stop: () => Promise<void>;
}

function start(faults: readonly Fault[] = []): Rig {
  const server = new FakeClient();
  const clock = new FakeClock();
  const client = withFaults(server, clock, faults);
  const drops: string[] = [];
  const recorder = new EventRecorder({
    client,
    clock,
    log: createSilentLogger(),
    reportingController: 'ringmaster.dev/operator',
    reportingInstance: 'operator-0',
    observer: { onDropped: (cause) => drops.push(cause) },
  });
  const stopping = new AbortController();
  const running = recorder.run(stopping.signal);
  const stop = async (): Promise<void> => {
    stopping.abort();
    await settle();
    await clock.advance(2_000);
    await running;
    assert.equal(clock.pending, 0);
  };
  return { server, client, clock, recorder, drops, stop };
}

test('events: an Event has every field that events.k8s.io/v1 asks for', async () => {
  const rig = start();
  rig.recorder.record(pod, text);
  await settle();
  const [event] = rig.server.peekAll(events);
  assert.ok(event !== undefined);
  const { metadata, apiVersion, kind, ...body } = event;
  assert.equal(`${apiVersion ?? ''} ${kind ?? ''}`, 'events.k8s.io/v1 Event');
  assert.equal(metadata.namespace, 'games');
  assert.match(metadata.name, /^lobby-1\.[0-9a-f]{16}$/);
  assert.deepEqual(body, {
    ...text,
    eventTime: '2026-01-01T00:00:00.000000Z',
    reportingController: 'ringmaster.dev/operator',
    reportingInstance: 'operator-0',
    regarding: {
      apiVersion: 'v1',
      kind: 'Pod',
      name: 'lobby-1',
      namespace: 'games',
      uid: 'uid-1',
      resourceVersion: '7',
    },
  } satisfies Partial<Event>);
  await rig.stop();
});

test('events: what repeats is one Event with a series, updated at most each 10 s; after a long pause it is a new one', async () => {
  const rig = start();
  for (let times = 0; times < 300; times += 1) {
    rig.recorder.record(pod, text);
    await rig.clock.advance(100);
  }
  await rig.clock.advance(10_000);
  const [event, ...others] = rig.server.peekAll(events);
  assert.equal(others.length, 0);
  assert.equal(event?.series?.count, 300);
  assert.equal(event.series.lastObservedTime, '2026-01-01T00:00:29.900000Z');
  const patches = rig.client.calls.filter((call) => call.verb === 'mergePatch').length;
  assert.ok(patches >= 3 && patches <= 4, `${patches} patches`);
  await rig.clock.advance(360_000);
  rig.recorder.record(pod, text);
  await settle();
  assert.equal(rig.server.peekAll(events).length, 2);
  assert.deepEqual(rig.drops, []);
  await rig.stop();
});

test('events: a series whose Event is gone gets a new one', async () => {
  const rig = start();
  rig.recorder.record(pod, text);
  await settle();
  const [event] = rig.server.peekAll(events);
  await rig.server.remove(events, event?.metadata ?? { name: '' });
  rig.recorder.record(pod, text);
  await rig.clock.advance(10_000);
  assert.equal(rig.server.peekAll(events)[0]?.series?.count, 2);
  await rig.stop();
});

test('events: one object gets 25 different Events at once and then one a minute; others are not concerned', async () => {
  const rig = start();
  for (let index = 0; index < 40; index += 1) rig.recorder.record(pod, { ...text, note: `note ${index}` });
  rig.recorder.record({ ...pod, metadata: { ...pod.metadata, uid: 'uid-2' } }, text);
  await settle();
  assert.equal(rig.server.peekAll(events).length, 26);
  assert.equal(rig.drops.filter((cause) => cause === 'rate').length, 15);
  await rig.clock.advance(60_000);
  for (let index = 40; index < 50; index += 1) rig.recorder.record(pod, { ...text, note: `note ${index}` });
  await settle();
  assert.equal(rig.server.peekAll(events).length, 27);
  await rig.stop();
});

test('events: the queue is bounded while the API server hangs', async () => {
  const rig = start([{ verb: 'create', times: Infinity, action: { hang: true } }]);
  for (let index = 0; index < 1_500; index += 1) {
    rig.recorder.record({ ...pod, metadata: { ...pod.metadata, uid: `uid-${index}` } }, text);
  }
  await settle();
  assert.ok(rig.drops.filter((cause) => cause === 'queue').length >= 499);
  await rig.stop();
});

test('events: a note is cut to 1024 bytes at a character boundary, a name to what Kubernetes takes', async () => {
  const rig = start();
  const long = { ...pod, metadata: { ...pod.metadata, name: 'n'.repeat(253) } };
  rig.recorder.record(long, { ...text, note: 'ä'.repeat(1_000) });
  await settle();
  const [event] = rig.server.peekAll(events);
  assert.ok(Buffer.byteLength(event?.note ?? '') <= 1_024);
  assert.match(event?.note ?? '', /^ä+…$/);
  assert.ok((event?.metadata.name.length ?? 999) <= 253);
  await rig.stop();
});

test('events: an object without a namespace has its Events in "default"', async () => {
  const rig = start();
  rig.recorder.record({ apiVersion: 'v1', kind: 'Node', metadata: { name: 'node-1', uid: 'n' } }, text);
  await settle();
  assert.equal(rig.server.peekAll(events)[0]?.metadata.namespace, 'default');
  await rig.stop();
});

for (const [name, action, written] of [
  ['a connection that breaks', { fail: new Error('reset') }, true],
  ['an answer that is lost', { lose: new Error('reset') }, true],
  ['a server that is busy', { fail: apiError(429, 'TooManyRequests', 'slow down') }, true],
  ['a hanging request', { hang: true }, true],
  ['a namespace that is being deleted', { fail: apiError(403, 'Forbidden', 'terminating') }, false],
] as const satisfies [string, Fault['action'], boolean][]) {
  test(`events: ${name} ${written ? 'is tried again' : 'costs the Event, and only that'}`, async () => {
    const rig = start([{ verb: 'create', action }]);
    rig.recorder.record(pod, text);
    await rig.clock.advance(20_000);
    assert.equal(rig.server.peekAll(events).length, written ? 1 : 0);
    rig.recorder.record(pod, { ...text, reason: 'Ready' });
    await settle();
    assert.equal(rig.server.peekAll(events).length, written ? 2 : 1);
    assert.deepEqual(rig.drops, written ? [] : ['refused']);
    await rig.stop();
  });
}

test('events: stopping writes what is queued and counted so far, and is bounded when the server hangs', async () => {
  const rig = start();
  rig.recorder.record(pod, text);
  await settle();
  rig.recorder.record(pod, text);
  rig.recorder.record(pod, { ...text, reason: 'Ready' });
  await rig.stop();
  assert.equal(rig.server.peekAll(events).length, 2);
  assert.ok(rig.server.peekAll(events).some((event) => event.series?.count === 2));
  const hung = start([{ verb: 'create', times: Infinity, action: { hang: true } }]);
  hung.recorder.record(pod, text);
  await hung.stop();
});

test('events: recording never throws, not even for an object that is none', async () => {
  const rig = start();
  assert.doesNotThrow(() => {
    rig.recorder.record({} as KubernetesObject, text);
  });
  await rig.stop();
});
