import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Instance, InstanceStatus } from '../../api/v1alpha1/instance.ts';
import type { Pod } from '../../runtime/client.ts';
import { containerStatus, makeInstance, makePod, runningStatus } from '../../testing/objects.ts';
import { viewPod } from './observe.ts';
import type { Observed } from './plan.ts';
import { overdueMs, overdueUnprovenMs, plan } from './plan.ts';

const nowMs = Date.parse('2026-01-01T01:00:00Z');

function observe(instance: Instance, pods: Pod[] = [], more: Partial<Observed> = {}): Observed {
  return { instance, pods: pods.map(viewPod), hasService: false, wantsService: false, nowMs, ...more };
}

const lobby = makeInstance();
const running = makePod(lobby, { status: runningStatus });
const ended = makePod(lobby, {
  status: { phase: 'Succeeded', containerStatuses: [containerStatus({ state: { terminated: { exitCode: 0 } } })] },
});
const evicted = makePod(lobby, { status: { phase: 'Failed', reason: 'Evicted' } });
const deleting = (dueMs: number): Pod =>
  makePod(lobby, { status: runningStatus, metadata: { deletionTimestamp: new Date(dueMs).toISOString() } });
const stopped = makeInstance({ spec: { desiredState: 'Stopped' } });
const deleted = makeInstance({ metadata: { deletionTimestamp: '2026-01-01T00:59:00Z' } });
/** As the status was left when the node fell silent. */
const silentStatus: InstanceStatus = {
  podName: 'lobby-a1b2c3-1',
  conditions: [
    { type: 'Ready', status: 'False', reason: 'NodeLost', message: '', lastTransitionTime: '2026-01-01T00:00:00Z' },
  ],
};
const silent = makeInstance({ status: silentStatus });
const changed = makeInstance({ spec: { image: 'example.com/server:2' } });

const cases: Record<string, { observed: Observed; actions: string[]; at: string }> = {
  'a new Instance gets its first pod': { observed: observe(lobby), actions: ['create-pod 1'], at: 'starting' },
  'a running pod needs nothing': { observed: observe(lobby, [running]), actions: [], at: 'pod' },
  'a changed Instance stops the old pod first': {
    observed: observe(changed, [running]),
    actions: ['stop-pod'],
    at: 'starting',
  },
  'and makes the next when the old one has ended': {
    observed: observe(changed, [ended]),
    actions: ['create-pod 2'],
    at: 'starting',
  },
  'a pod being deleted is waited for': {
    observed: observe(lobby, [deleting(nowMs + 5000)]),
    actions: ['stop-pod'],
    at: 'starting',
  },
  'a pod overdue on a silent node is made again': {
    observed: observe(silent, [deleting(nowMs - overdueMs)]),
    actions: ['create-pod 2'],
    at: 'lost',
  },
  'one that is overdue on a node that was not said to be silent is waited for': {
    observed: observe(lobby, [deleting(nowMs - overdueMs)]),
    actions: ['stop-pod'],
    at: 'starting',
  },
  'for five minutes': {
    observed: observe(lobby, [deleting(nowMs - overdueUnprovenMs)]),
    actions: ['create-pod 2'],
    at: 'lost',
  },
  'a pod in which nothing runs yet is not waited for so long': {
    observed: observe(lobby, [
      makePod(lobby, { metadata: { deletionTimestamp: new Date(nowMs - overdueMs).toISOString() } }),
    ]),
    actions: ['create-pod 2'],
    at: 'lost',
  },
  'an evicted pod is made again': { observed: observe(lobby, [evicted]), actions: ['create-pod 2'], at: 'lost' },
  'a program that ended by itself under Never stays ended': {
    observed: observe(lobby, [ended]),
    actions: [],
    at: 'pod',
  },
  'a stopped Instance stops its pod': { observed: observe(stopped, [running]), actions: ['stop-pod'], at: 'stopping' },
  'and is stopped when there is none': { observed: observe(stopped), actions: [], at: 'stopped' },
  'a deleted Instance stops its pod and keeps its finalizer': {
    observed: observe(deleted, [running]),
    actions: ['stop-pod'],
    at: 'stopping',
  },
  'and lets go when there is none': { observed: observe(deleted), actions: ['remove-finalizer'], at: 'deleted' },
  'a pod on a silent node does not hold a deletion up for ever': {
    observed: observe(makeInstance({ metadata: deleted.metadata, status: silentStatus }), [
      deleting(nowMs - overdueMs),
    ]),
    actions: ['remove-finalizer'],
    at: 'deleted',
  },
  'ports want a Service': {
    observed: observe(lobby, [running], { wantsService: true }),
    actions: ['apply-service'],
    at: 'pod',
  },
  'no ports want none': {
    observed: observe(lobby, [running], { hasService: true }),
    actions: ['remove-service'],
    at: 'pod',
  },
  'a reserved field in the overlay stalls and leaves the pod alone': {
    observed: observe(makeInstance({ spec: { podTemplate: { spec: { restartPolicy: 'Never' } } } }), [running]),
    actions: [],
    at: 'invalid',
  },
  'what an old pod left behind is removed once the new one runs': {
    observed: observe(lobby, [evicted, makePod(lobby, { sequence: 2, status: runningStatus })]),
    actions: ['remove-pod'],
    at: 'pod',
  },
  'a restart asked for by annotation replaces the pod': {
    observed: observe(makeInstance({ metadata: { annotations: { 'ringmaster.dev/restarted-at': 'now' } } }), [running]),
    actions: ['stop-pod'],
    at: 'starting',
  },
};

for (const [name, { observed, actions, at }] of Object.entries(cases)) {
  test(`plan: ${name}`, () => {
    const decided = plan(observed);
    const said = decided.actions.map((action) =>
      action.type === 'create-pod' ? `create-pod ${action.sequence}` : action.type,
    );
    assert.deepEqual(said, actions);
    assert.equal(decided.situation.at, at);
    assert.deepEqual(plan(observed), decided, 'the same twice gives the same');
  });
}

test('plan: never two pods at once: while one may still run, no other is made', () => {
  for (const pod of [running, deleting(nowMs + 1), deleting(nowMs - overdueUnprovenMs + 1)]) {
    for (const instance of [lobby, changed, stopped, deleted]) {
      assert.ok(!plan(observe(instance, [pod])).actions.some(({ type }) => type === 'create-pod'));
    }
  }
});

test('plan: a program that ran to its end is not run again when its pod is cleaned up, but is when the Instance changes', () => {
  const conditions = [
    {
      type: 'Reconciling',
      status: 'False',
      reason: 'Completed',
      message: '',
      lastTransitionTime: '2026-01-01T00:00:00Z',
      observedGeneration: 1,
    } as const,
  ];
  const status = { state: 'STOPPED' as const, podSequence: 1, conditions };
  assert.deepEqual(plan(observe(makeInstance({ status }))).actions, []);
  const cleaned = makePod(lobby, {
    status: ended.status,
    metadata: { deletionTimestamp: new Date(nowMs).toISOString() },
  });
  assert.deepEqual(plan(observe(makeInstance({ status }), [cleaned])).actions, []);
  const next = plan(observe(makeInstance({ status, metadata: { generation: 2 } }))).actions;
  assert.deepEqual(next, [{ type: 'create-pod', sequence: 2, because: 'started' }]);
  const asked = makeInstance({ status, metadata: { annotations: { 'ringmaster.dev/restarted-at': 'now' } } });
  assert.deepEqual(plan(observe(asked)).actions, next);
});

test('plan: a pod lost right after it was made is not made again at once', () => {
  const young = makePod(lobby, {
    status: { phase: 'Failed', reason: 'UnexpectedAdmissionError' },
    metadata: { creationTimestamp: '2026-01-01T00:59:58Z' },
  });
  const decided = plan(observe(lobby, [young]));
  assert.deepEqual(decided.actions, []);
  assert.equal(decided.requeueAfterMs, 8000);
});

test('plan: while its runtime is off nothing is made, and what runs goes on', () => {
  const runtimeFault = { reason: 'RuntimeDisabled', message: 'off' } as const;
  const docker = makeInstance({ spec: { runtime: 'docker' } });
  for (const pods of [[], [makePod(docker, { status: runningStatus })]]) {
    const { actions, situation } = plan(observe(docker, pods, { runtimeFault }));
    assert.deepEqual(actions, []);
    assert.deepEqual(situation, { at: 'invalid', ...runtimeFault });
  }
});

test('plan: a pod whose program never ran for the image of its sidecar is replaced when that image was changed', () => {
  const instance = makeInstance({ spec: { runtime: 'process', command: ['a'] } });
  const waiting = { reason: 'ImagePullBackOff', message: 'no' };
  const initContainerStatuses = [containerStatus({ name: 'ringmaster-sidecar', state: { waiting } })];
  const blocked = makePod(instance, { status: { phase: 'Pending', initContainerStatuses } });
  const actionsFor = (pod: Pod, sidecarImage: string): string[] =>
    plan(observe(instance, [pod], { sidecarImage })).actions.map(({ type }) => type);
  assert.deepEqual(actionsFor(blocked, 'example.com/sidecar:1'), []);
  assert.deepEqual(actionsFor(blocked, 'example.com/sidecar:2'), ['stop-pod']);
  assert.deepEqual(actionsFor(makePod(instance, { status: runningStatus }), 'example.com/sidecar:2'), []);
});
