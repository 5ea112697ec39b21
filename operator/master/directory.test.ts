import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { InstanceStatus } from '../api/v1alpha1/instance.ts';
import { makeInstance } from '../testing/objects.ts';
import { Directory } from './directory.ts';

const online: InstanceStatus = {
  id: 'a1b2c3',
  state: 'ONLINE',
  podName: 'lobby-a1b2c3-1',
  podSequence: 1,
  nodeName: 'node-1',
  hostAddress: '10.0.0.7',
  port: 25565,
  restarts: 2,
  observedGeneration: 1,
  conditions: [
    { type: 'Ready', status: 'True', reason: 'Ready', message: '', lastTransitionTime: '2026-01-01T00:00:00.000Z' },
  ],
};

test('Directory: an instance is listed once it has an id, with the names that clients know', () => {
  const directory = new Directory();
  directory.set(makeInstance());
  assert.deepEqual(directory.list(), []);
  directory.set(makeInstance({ status: online, spec: { resources: { limits: { memory: '512Mi', cpu: '1500m' } } } }));
  assert.deepEqual(directory.list(), [
    {
      id: 'a1b2c3',
      name: 'lobby',
      namespace: 'games',
      configurationName: null,
      wrapperNodeId: 'node-1',
      hostAddress: '10.0.0.7',
      allocatedPort: 25565,
      state: 'ONLINE',
      lastHeartbeat: Date.parse('2026-01-01T00:00:00Z'),
      processPid: null,
      allocatedRamMB: 512,
      allocatedCpu: 150,
      runtime: 'kubernetes',
      restarts: 2,
    },
  ]);
  assert.equal(directory.byId('a1b2c3')?.uid, 'uid-lobby');
  assert.equal(directory.byId('zzzzzz'), undefined);
});

test('Directory: a watch on a target hears of a new pod and of the end, and of nothing else', async () => {
  const directory = new Directory();
  directory.set(makeInstance({ status: online }));
  const watch = directory.watchTarget('uid-lobby');
  const { signal } = new AbortController();
  const changed = watch.changed(watch.current(), signal);
  directory.set(makeInstance({ status: { ...online, state: 'OFFLINE' } }));
  directory.set(makeInstance({ status: { ...online, podName: 'lobby-a1b2c3-2', podSequence: 2 } }));
  assert.equal((await changed).podSequence, 2);
  const ended = watch.changed(watch.current(), signal);
  directory.remove(makeInstance({ status: online }));
  assert.equal((await ended).isFinished, true);
  assert.equal(watch.current().podName, 'lobby-a1b2c3-2', 'the last lines can still be read');
  assert.equal(directory.byId('a1b2c3'), undefined);
});

test('Directory: stopped counts as finished only when the status speaks of the present spec', () => {
  const directory = new Directory();
  directory.set(makeInstance({ status: { ...online, state: 'STOPPED' } }));
  assert.equal(directory.watchTarget('uid-lobby').current().isFinished, true);
  directory.set(makeInstance({ status: { ...online, state: 'STOPPED' }, metadata: { generation: 2 } }));
  assert.equal(directory.watchTarget('uid-lobby').current().isFinished, false);
});

test('Directory: a wait ends with its signal and leaves nothing behind', async () => {
  const directory = new Directory();
  directory.set(makeInstance({ status: online }));
  const watch = directory.watchTarget('uid-lobby');
  const controller = new AbortController();
  const waiting = watch.changed(watch.current(), controller.signal);
  controller.abort(new Error('enough'));
  await assert.rejects(waiting, /enough/);
});

test('Directory: an Instance made again under its id is not forgotten when the old one goes', () => {
  const directory = new Directory();
  directory.set(makeInstance({ status: online }));
  directory.set(makeInstance({ status: online, metadata: { uid: 'uid-again' } }));
  directory.remove(makeInstance({ status: online }));
  assert.equal(directory.byId('a1b2c3')?.uid, 'uid-again');
});

test('Directory: a target has the address of its pod and says whether it is starting; the runtime is known until it is forgotten', async () => {
  const directory = new Directory();
  directory.set(makeInstance({ status: { ...online, state: 'CREATING' } }));
  const watch = directory.watchTarget('uid-lobby');
  assert.equal(watch.current().podIP, undefined);
  assert.equal(watch.current().isStarting, true);
  const changed = watch.changed(watch.current(), new AbortController().signal);
  directory.set(makeInstance({ status: { ...online, state: 'CREATING', podIP: '10.0.0.7' } }));
  assert.equal((await changed).podIP, '10.0.0.7');
  directory.set(makeInstance({ status: { ...online, podIP: '10.0.0.7' } }));
  assert.equal(watch.current().isStarting, false);
  assert.equal(directory.runtimeOf('uid-lobby'), 'kubernetes');
  directory.remove(makeInstance({ status: online }));
  assert.equal(directory.runtimeOf('uid-lobby'), undefined);
});

test('Directory: an instance is found by its uid once it has an id, listeners are told, and its configuration is named', () => {
  const directory = new Directory();
  const seen: (string | undefined)[] = [];
  const stop = directory.onChange(() => seen.push(directory.byUid('uid-lobby')?.id));
  directory.set(makeInstance());
  assert.deepEqual([seen, directory.byUid('uid-lobby')], [[], undefined]);
  const instance = makeInstance({ status: online });
  instance.metadata.labels = { ...instance.metadata.labels, 'ringmaster.dev/configuration': 'hub' };
  directory.set(instance);
  assert.deepEqual(seen, ['a1b2c3']);
  assert.equal(directory.byUid('uid-lobby')?.configurationName, 'hub');
  stop();
  directory.set(instance);
  assert.equal(seen.length, 1);
  directory.remove(instance);
  assert.equal(directory.byUid('uid-lobby'), undefined);
});

test('Directory: the last heartbeat is the newest of what the operator saw and what was reported; rubbish is no heartbeat', () => {
  const directory = new Directory();
  const lastTransitionTime = '2026-01-01T00:00:00Z';
  const conditions = [{ type: 'Ready', status: 'True', reason: 'Ready', message: '', lastTransitionTime } as const];
  const heartbeatOf = (reported: string): number | null | undefined => {
    const annotations = { 'ringmaster.dev/last-heartbeat': reported };
    directory.set(makeInstance({ status: { ...online, conditions }, metadata: { annotations } }));
    return directory.byId('a1b2c3')?.info.lastHeartbeat;
  };
  assert.equal(heartbeatOf('4102444800000'), 4_102_444_800_000);
  for (const useless of ['1', 'soon', '1e99', '']) {
    assert.equal(heartbeatOf(useless), Date.parse(lastTransitionTime), useless);
  }
});
