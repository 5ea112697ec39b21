import assert from 'node:assert/strict';
import { test } from 'node:test';
import { nothingLeft } from '../../../sidecar/protocol.ts';
import { cleanupAnnotation, dockerFinalizer } from '../../names.ts';
import type { Metadata } from '../../api/v1alpha1/meta.ts';
import type { Pod } from '../../runtime/client.ts';
import { containerStatus, makeInstance, makePod, runningStatus, sidecarContext } from '../../testing/objects.ts';
import { cleanupTimeoutMs } from './dockercleanup.ts';
import { buildCleanupPod } from './dockerpod.ts';
import { viewCleanupPod } from './enginecontainer.ts';
import { viewPod } from './observe.ts';
import { ownerName } from './owner.ts';
import { overdueMs, overdueUnprovenMs, plan } from './plan.ts';
import type { Observed } from './plan.ts';

const nowMs = Date.parse('2026-01-01T01:00:00Z');
const at = (ms: number): string => new Date(ms).toISOString();
const docker = makeInstance({ spec: { runtime: 'docker' } });
const deleted = makeInstance({ spec: { runtime: 'docker' }, metadata: { deletionTimestamp: at(nowMs) } });
const stopped = makeInstance({ spec: { runtime: 'docker', desiredState: 'Stopped' } });

function podWith(status: Pod['status'], metadata: Partial<Metadata> = {}, nodeName = 'node-1'): Pod {
  const pod = makePod(docker, { status, metadata });
  return { ...pod, spec: { ...pod.spec, ...(nodeName === '' ? {} : { nodeName }) } as NonNullable<Pod['spec']> };
}

/** Its launcher has ended; the pod is over. */
function ended(message?: string, more: Pod['status'] = {}): NonNullable<Pod['status']> {
  const terminated = {
    ...{ exitCode: 137, containerID: 'containerd://1', finishedAt: at(nowMs - 1000) },
    ...(message === undefined ? {} : { message }),
  };
  return { phase: 'Failed', containerStatuses: [containerStatus({ state: { terminated } })], ...more };
}

const killed = podWith(ended());
const clean = podWith(ended(`${nothingLeft}\n`));
const deleting = { deletionTimestamp: at(nowMs + 5000) };

function observe(instance: Observed['instance'], pods: readonly Pod[], more: Partial<Observed> = {}): Observed {
  const seen = { hasService: false, wantsService: false, isDockerEnabled: true };
  return { instance, pods: pods.map(viewPod), ...seen, nowMs, ...more };
}

function cleanupPod(status: NonNullable<Pod['status']> = { phase: 'Running' }, createdMs = nowMs - 5000): Pod {
  const pod = buildCleanupPod(docker, killed, sidecarContext.settings);
  const metadata = { ...pod.metadata, uid: 'uid-cleanup', creationTimestamp: at(createdMs) };
  return { ...pod, metadata, status };
}

function cleanups(...given: Parameters<typeof cleanupPod>): Pick<Observed, 'cleanups'> {
  const view = viewCleanupPod(cleanupPod(...given));
  assert.ok(view !== undefined);
  return { cleanups: [view] };
}

/** What is decided, in words. */
function said(observed: Observed): string[] {
  return plan(observed).actions.map((action) => {
    if (action.type !== 'release-pod') return action.type;
    return typeof action.outcome === 'string'
      ? `release: ${action.outcome}`
      : `release: left: ${action.outcome.leftBecause}`;
  });
}

test('pods of docker alone have the finalizer', () => {
  assert.deepEqual(killed.metadata.finalizers, [dockerFinalizer]);
  assert.equal(makePod(makeInstance({ spec: { runtime: 'process', command: ['a'] } })).metadata.finalizers, undefined);
  assert.equal(viewPod(makePod(makeInstance(), { status: ended() })).engineContainer, undefined);
});

const gcOf = (reason: string): Pod['status'] => ({
  conditions: [{ type: 'DisruptionTarget', status: 'True', reason }],
});
const evicted = { phase: 'Failed', reason: 'Evicted' };

const states: Record<string, [Pod, string]> = {
  'the launcher runs': [podWith(runningStatus), 'unknown'],
  'the launcher has ended and the kubelet may start another': [podWith({ ...ended(), phase: 'Running' }), 'unknown'],
  'its last words say that nothing is left': [clean, 'none'],
  'they say so behind a fault': [podWith(ended(`Cannot use the Docker Engine.\n${nothingLeft}\n`)), 'none'],
  'it was killed': [killed, 'left'],
  'its last words are a fault alone': [podWith(ended('Cannot use the Docker Engine.\n')), 'left'],
  'it never ran, and its pod is over': [
    podWith({
      phase: 'Failed',
      containerStatuses: [containerStatus({ state: { waiting: { reason: 'PodInitializing' } } })],
    }),
    'none',
  ],
  'the pod never was on a node': [podWith({ phase: 'Pending' }, {}, ''), 'none'],
  'the kubelet evicts it and its launcher still runs': [podWith({ ...runningStatus, ...evicted }), 'unknown'],
  'the kubelet evicted it and says nothing of its containers': [podWith(evicted), 'left'],
  'the node was deleted': [podWith({ ...runningStatus, phase: 'Failed', ...gcOf('DeletionByPodGC') }), 'unreachable'],
  'it was taken off the node and killed': [podWith(ended(undefined, gcOf('DeletionByTaintManager'))), 'left'],
  'the node was deleted after its last words': [podWith(ended(nothingLeft, gcOf('DeletionByPodGC'))), 'none'],
};

for (const [name, [pod, state]] of Object.entries(states)) {
  test(`viewEngineContainer: ${name}: ${state}`, () => {
    assert.equal(viewPod(pod).engineContainer?.state, state);
  });
}

const cases: Record<string, [Observed, string[]]> = {
  'a pod that runs keeps its finalizer': [observe(docker, [podWith(runningStatus)]), []],
  'a pod that ended as it should is released, and its successor made': [
    observe(docker, [podWith(clean.status, deleting)]),
    ['release: none', 'create-pod'],
  ],
  'what a killed launcher left is removed before another pod is made': [
    observe(docker, [podWith(killed.status, deleting)]),
    ['create-cleanup'],
  ],
  'and waited for': [observe(docker, [podWith(killed.status, deleting)], cleanups()), []],
  'once it is removed, the pod is released and its successor made': [
    observe(docker, [podWith(killed.status, deleting)], cleanups({ phase: 'Succeeded' })),
    ['release: removed', 'create-pod'],
  ],
  'also where the pod is not being deleted': [
    observe(docker, [killed], cleanups({ phase: 'Succeeded' })),
    ['release: removed'],
  ],
  'a cleanup that has failed is not waited for': [
    observe(docker, [podWith(killed.status, deleting)], cleanups({ phase: 'Failed' })),
    ['release: left: pod "lobby-a1b2c3-1-cleanup" could not remove it', 'create-pod'],
  ],
  'nor one that takes too long': [
    observe(docker, [podWith(killed.status, deleting)], cleanups({ phase: 'Running' }, nowMs - cleanupTimeoutMs)),
    ['release: left: pod "lobby-a1b2c3-1-cleanup" could not remove it', 'create-pod'],
  ],
  'where the runtime is off, no pod gets the socket': [
    observe(docker, [podWith(killed.status, deleting)], { isDockerEnabled: false }),
    ['release: left: the runtime docker is off in this installation', 'create-pod'],
  ],
  'a deleted node is given up': [
    observe(docker, [podWith({ ...runningStatus, phase: 'Failed', ...gcOf('DeletionByPodGC') }, deleting)]),
    ['release: left: the node was given up', 'create-pod'],
  ],
  'an evicted pod whose launcher still runs has no successor yet': [
    observe(docker, [podWith({ ...runningStatus, ...evicted })]),
    [],
  ],
  'a pod that is overdue on a silent node has one, and keeps its finalizer': [
    observe(docker, [podWith(runningStatus, { deletionTimestamp: at(nowMs - overdueUnprovenMs) })]),
    ['create-pod'],
  ],
  'a deleted Instance stays until the container is removed, however late that is': [
    observe(deleted, [podWith(killed.status, { deletionTimestamp: at(nowMs - overdueUnprovenMs) })]),
    ['create-cleanup'],
  ],
  'and goes with it': [
    observe(
      deleted,
      [podWith(killed.status, { deletionTimestamp: at(nowMs - overdueMs) })],
      cleanups({ phase: 'Succeeded' }),
    ),
    ['release: removed', 'remove-finalizer'],
  ],
  'a deleted Instance does not wait for a node that is lost': [
    observe(deleted, [podWith(runningStatus, { deletionTimestamp: at(nowMs - overdueUnprovenMs) })]),
    ['release: left: the node does not answer', 'remove-finalizer'],
  ],
  'but for one that may still answer': [
    observe(deleted, [podWith(runningStatus, { deletionTimestamp: at(nowMs - overdueMs) })]),
    ['stop-pod'],
  ],
  'a cleanup that nobody needs any more is removed': [
    observe(docker, [makePod(docker, { sequence: 2, status: runningStatus })], cleanups({ phase: 'Succeeded' })),
    ['remove-cleanup'],
  ],
};

for (const [name, [observed, actions]] of Object.entries(cases)) {
  test(`planCleanup: ${name}`, () => {
    assert.deepEqual(said(observed), actions);
  });
}

test('planCleanup: nothing counts as stopped while its container may run', () => {
  assert.equal(plan(observe(stopped, [killed])).situation.at, 'stopping');
  assert.equal(plan(observe(stopped, [killed], cleanups())).situation.at, 'stopping');
  assert.equal(plan(observe(stopped, [clean])).situation.at, 'stopped');
  const { situation } = plan(observe(docker, [podWith(killed.status, deleting)], cleanups()));
  assert.deepEqual(situation, {
    at: 'starting',
    message: 'What pod "lobby-a1b2c3-1" left on the Docker Engine of node "node-1" is being removed.',
  });
});

test('planCleanup: looks again when the time of a cleanup is up, and tries a refused one as long', () => {
  assert.equal(plan(observe(docker, [killed], cleanups())).requeueAfterMs, cleanupTimeoutMs - 5000);
  assert.equal(plan(observe(deleted, [killed], cleanups())).requeueAfterMs, cleanupTimeoutMs - 5000);
  for (const [laterMs, isLastTry] of [
    [0, false],
    [cleanupTimeoutMs, true],
  ] as const) {
    const [action] = plan(observe(docker, [killed], { nowMs: nowMs + laterMs })).actions;
    assert.ok(action?.type === 'create-cleanup');
    assert.equal(action.isLastTry, isLastTry);
  }
});

test('buildCleanupPod: our image and socket on the node of the pod, whatever the pod itself says', () => {
  const forged = {
    ...killed,
    spec: { ...killed.spec, imagePullSecrets: [{ name: 'registry' }], containers: [], volumes: [] },
  } as Pod;
  const { metadata, spec } = buildCleanupPod(docker, forged, sidecarContext.settings);
  assert.deepEqual(metadata.ownerReferences, [
    { apiVersion: 'v1', kind: 'Pod', name: 'lobby-a1b2c3-1', uid: 'uid-lobby-a1b2c3-1', controller: true },
  ]);
  assert.equal(metadata.annotations?.[cleanupAnnotation], 'lobby');
  assert.equal(metadata.labels?.['ringmaster.dev/instance'], undefined, "the Instance's Service does not find it");
  assert.equal(ownerName({ metadata }), 'lobby', 'a change of it makes its Instance be looked at');
  assert.ok(spec !== undefined);
  const [container] = spec.containers;
  assert.equal(container?.image, 'example.com/sidecar:1');
  assert.deepEqual(container.command, ['node', '/app/sidecar/docker/cleanup.js']);
  assert.deepEqual(container.env, [
    { name: 'RINGMASTER_POD_UID', value: 'uid-lobby-a1b2c3-1' },
    { name: 'RINGMASTER_DOCKER_SOCKET', value: '/run/ringmaster-docker/docker.sock' },
  ]);
  assert.equal(container.securityContext?.readOnlyRootFilesystem, true);
  assert.deepEqual(
    spec.volumes?.map(({ hostPath }) => hostPath?.path),
    ['/var/run'],
  );
  assert.equal(spec.automountServiceAccountToken, false);
  assert.deepEqual(spec.imagePullSecrets, [{ name: 'registry' }]);
  const terms = spec.affinity?.nodeAffinity?.requiredDuringSchedulingIgnoredDuringExecution?.nodeSelectorTerms;
  assert.deepEqual(terms, [{ matchFields: [{ key: 'metadata.name', operator: 'In', values: ['node-1'] }] }]);
  assert.ok((spec.activeDeadlineSeconds ?? Infinity) * 1000 < cleanupTimeoutMs);
});
