import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { InstanceStatus } from '../../api/v1alpha1/instance.ts';
import type { Pod } from '../../runtime/client.ts';
import { containerStatus, makeInstance, makePod, runningStatus } from '../../testing/objects.ts';
import { viewPod } from './observe.ts';
import { plan } from './plan.ts';
import type { Stall } from './status.ts';
import { buildStatus } from './status.ts';

const nowMs = Date.parse('2026-01-01T01:00:00Z');

function statusOf(options: {
  instance?: ReturnType<typeof makeInstance>;
  pod?: Pod['status'];
  stall?: Stall;
}): InstanceStatus {
  const instance = options.instance ?? makeInstance();
  const pods = options.pod === undefined ? [] : [viewPod(makePod(instance, { status: options.pod }))];
  const decided = plan({ instance, pods, hasService: false, wantsService: false, nowMs });
  return buildStatus({ instance, id: 'a1b2c3', plan: decided, created: undefined, stall: options.stall, nowMs });
}

const summary = (status: InstanceStatus): string =>
  [
    status.state,
    ...(status.conditions ?? []).map(({ type, status: value, reason }) => `${type}=${value}/${reason}`),
  ].join(' ');

const crashed = {
  phase: 'Running',
  containerStatuses: [containerStatus({ restartCount: 3, state: { waiting: { reason: 'CrashLoopBackOff' } } })],
};

const cases: Record<string, { status: InstanceStatus; expected: string }> = {
  new: {
    status: statusOf({}),
    expected: 'CREATING Ready=False/PodPending Reconciling=True/PodPending Stalled=False/PodPending',
  },
  ready: {
    status: statusOf({ pod: runningStatus }),
    expected: 'ONLINE Ready=True/Ready Reconciling=False/Ready Stalled=False/Ready',
  },
  crashing: {
    status: statusOf({ pod: crashed }),
    expected: 'OFFLINE Ready=False/CrashLoop Reconciling=False/CrashLoop Stalled=True/CrashLoop',
  },
  'stopped as desired has no Ready condition': {
    status: statusOf({ instance: makeInstance({ spec: { desiredState: 'Stopped' } }) }),
    expected: 'STOPPED Reconciling=False/Stopped Stalled=False/Stopped',
  },
  completed: {
    status: statusOf({ pod: { phase: 'Succeeded' } }),
    expected: 'STOPPED Reconciling=False/Completed Stalled=False/Completed',
  },
  'failed for good': {
    status: statusOf({ pod: { phase: 'Failed' } }),
    expected: 'STOPPED Ready=False/Failed Reconciling=False/Failed Stalled=True/Failed',
  },
  'refused by the API server': {
    status: statusOf({ stall: { reason: 'PodRejected', message: 'no' } }),
    expected: 'CREATING Ready=False/PodRejected Reconciling=False/PodRejected Stalled=True/PodRejected',
  },
};

for (const [name, { status, expected }] of Object.entries(cases)) {
  test(`buildStatus: ${name}`, () => {
    assert.equal(summary(status), expected);
    for (const condition of status.conditions ?? []) assert.equal(condition.observedGeneration, 1);
  });
}

test('buildStatus: once ready, not ready is OFFLINE; before, it is CREATING', () => {
  const notReady: Pod['status'] = { ...runningStatus, conditions: [{ type: 'Ready', status: 'False' }] };
  assert.equal(statusOf({ pod: notReady }).state, 'CREATING');
  const online = statusOf({ pod: runningStatus });
  assert.equal(statusOf({ pod: notReady, instance: makeInstance({ status: online }) }).state, 'OFFLINE');
});

test('buildStatus: nothing changed gives the very same status, so nothing is written', () => {
  const first = statusOf({ pod: runningStatus });
  assert.deepEqual(statusOf({ pod: runningStatus, instance: makeInstance({ status: first }) }), first);
});

test('buildStatus: a transition time moves only with its status', () => {
  const before = statusOf({ pod: runningStatus });
  const old = (before.conditions ?? []).map((condition) => ({
    ...condition,
    lastTransitionTime: '2020-01-01T00:00:00.000Z',
  }));
  const after = statusOf({ pod: crashed, instance: makeInstance({ status: { ...before, conditions: old } }) });
  const times = Object.fromEntries(
    (after.conditions ?? []).map(({ type, lastTransitionTime }) => [type, lastTransitionTime]),
  );
  assert.deepEqual(times, {
    Ready: '2026-01-01T01:00:00.000Z',
    Reconciling: '2020-01-01T00:00:00.000Z',
    Stalled: '2026-01-01T01:00:00.000Z',
  });
});

test('buildStatus: the address is the pod, or the node where hostPort is set', () => {
  const port = { name: 'game', port: 25565, protocol: 'TCP' as const };
  const pod = statusOf({ pod: runningStatus, instance: makeInstance({ spec: { ports: [port] } }) });
  assert.deepEqual([pod.hostAddress, pod.port], ['10.0.0.7', 25565]);
  const host = statusOf({
    pod: runningStatus,
    instance: makeInstance({ spec: { ports: [{ ...port, hostPort: 30000 }] } }),
  });
  assert.deepEqual([host.hostAddress, host.port], ['10.1.0.1', 30000]);
});

const goingPod = (status: Pod['status']): ReturnType<typeof makePod> => {
  const pod = makePod(makeInstance(), { status });
  return { ...pod, metadata: { ...pod.metadata, deletionTimestamp: '2026-01-01T01:00:30Z' } };
};

function sequencesOf(pod: Pod, before: InstanceStatus = {}): [number | undefined, number | undefined] {
  const instance = makeInstance({ status: before });
  const decided = plan({ instance, pods: [viewPod(pod)], hasService: false, wantsService: false, nowMs });
  const status = buildStatus({ instance, id: 'a1b2c3', plan: decided, created: undefined, stall: undefined, nowMs });
  return [status.endingPodSequence, status.unstartedPodSequence];
}

test('buildStatus: a pod that goes is named as ending, and as unstarted only while nothing says that its program ran', () => {
  const pulling: Pod['status'] = {
    phase: 'Pending',
    containerStatuses: [containerStatus({ state: { waiting: { reason: 'ImagePullBackOff' } } })],
  };
  // Null as Kubernetes writes a time that is not known; the types do not say so.
  const unknownEnd = { exitCode: 137, reason: 'ContainerStatusUnknown', startedAt: null as unknown as string };
  const neverMade = containerStatus({ state: { terminated: unknownEnd } });
  const ran = containerStatus({ state: { terminated: { exitCode: 0, startedAt: '2026-01-01T00:59:00Z' } } });
  assert.deepEqual(sequencesOf(makePod(makeInstance(), { status: pulling })), [undefined, undefined]);
  assert.deepEqual(sequencesOf(goingPod(pulling)), [1, 1]);
  assert.deepEqual(sequencesOf(goingPod({ phase: 'Failed', containerStatuses: [neverMade] })), [1, 1]);
  assert.deepEqual(sequencesOf(goingPod(runningStatus)), [1, undefined]);
  assert.deepEqual(sequencesOf(goingPod({ phase: 'Failed' })), [1, undefined]);
  const late = goingPod({ phase: 'Running', containerStatuses: [ran] });
  assert.deepEqual(sequencesOf(late, { endingPodSequence: 1, unstartedPodSequence: 1 }), [1, undefined]);
});

test('status: the address of the pod is said while somebody may answer there, and not when it may be another pod', () => {
  const over = { ...runningStatus, phase: 'Failed', podIP: '10.0.0.7' };
  assert.equal(statusOf({ pod: runningStatus }).podIP, '10.0.0.7');
  assert.equal(statusOf({ pod: { phase: 'Pending', podIP: '10.0.0.7' } }).podIP, undefined);
  assert.equal(statusOf({ pod: over }).podIP, undefined);
});

test('status: a program of the Docker Engine is reached at the node, under its own number if there is no other', () => {
  const ports = [{ name: 'game', port: 25565, protocol: 'TCP' as const }];
  const instance = makeInstance({ spec: { runtime: 'docker', ports } });
  const { hostAddress, port } = statusOf({ instance, pod: runningStatus });
  assert.deepEqual({ hostAddress, port }, { hostAddress: '10.1.0.1', port: 25565 });
});

test('status: what the image or the installation lacks is a reason of its own', () => {
  const instance = makeInstance({ spec: { runtime: 'screen', command: ['a'] } });
  const sidecar = containerStatus({ name: 'ringmaster-sidecar', started: true, state: { running: {} } });
  const terminated = { exitCode: 78, message: 'Cannot start the runtime "screen": no' };
  const pod = (phase: string, state: object): Pod['status'] => ({
    phase,
    initContainerStatuses: [sidecar],
    containerStatuses: [containerStatus({ state, lastState: { terminated } })],
  });
  const waiting = summary(statusOf({ instance, pod: pod('Running', { waiting: { reason: 'CrashLoopBackOff' } }) }));
  assert.equal(
    waiting,
    'CREATING Ready=False/RuntimeMissing Reconciling=False/RuntimeMissing Stalled=True/RuntimeMissing',
  );
  const ended = summary(statusOf({ instance, pod: pod('Failed', { terminated }) }));
  assert.equal(
    ended,
    'STOPPED Ready=False/RuntimeMissing Reconciling=False/RuntimeMissing Stalled=True/RuntimeMissing',
  );
});

test('status: templates that cannot be put into place are a reason of their own, also where nobody tries again', () => {
  const instance = makeInstance({ spec: { workingDir: '/data', templates: [{ name: 'a' }] } });
  const pod = (phase: string): Pod['status'] => ({
    phase,
    initContainerStatuses: [
      containerStatus({ name: 'ringmaster-templates', state: { terminated: { exitCode: 1, message: 'no' } } }),
    ],
  });
  const all = 'Ready=False/TemplateFailed Reconciling=False/TemplateFailed Stalled=True/TemplateFailed';
  assert.equal(summary(statusOf({ instance, pod: pod('Pending') })), `CREATING ${all}`);
  assert.equal(summary(statusOf({ instance, pod: pod('Failed') })), `STOPPED ${all}`);
});
