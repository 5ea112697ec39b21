import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Pod } from '../../runtime/client.ts';
import { containerStatus, makeInstance, makePod, runningStatus } from '../../testing/objects.ts';
import { matchedMessage, viewPod } from './observe.ts';
import type { PodView } from './observe.ts';

const waiting = (reason: string, more: Record<string, unknown> = {}): Pod['status'] => ({
  phase: 'Pending',
  containerStatuses: [containerStatus({ state: { waiting: { reason, message: `about ${reason}` } }, ...more })],
});

const cases: Record<string, { status: Pod['status']; expected: Partial<PodView> }> = {
  'no status yet is pending': { status: undefined, expected: { phase: 'pending', isReady: false } },
  'unschedulable is pending, with the sentence of the scheduler': {
    status: {
      phase: 'Pending',
      conditions: [{ type: 'PodScheduled', status: 'False', message: '0/1 nodes are available' }],
    },
    expected: { phase: 'pending', cause: 'Unschedulable', message: '0/1 nodes are available' },
  },
  'ContainerCreating is pending': { status: waiting('ContainerCreating'), expected: { phase: 'pending' } },
  'an image that cannot be pulled blocks': {
    status: waiting('ImagePullBackOff'),
    expected: { phase: 'blocked', cause: 'ImageUnavailable' },
  },
  'a missing ConfigMap blocks': {
    status: waiting('CreateContainerConfigError'),
    expected: { phase: 'blocked', cause: 'ContainerRejected' },
  },
  'running and ready': { status: runningStatus, expected: { phase: 'running', isReady: true, podIp: '10.0.0.7' } },
  'running and not ready': {
    status: {
      ...runningStatus,
      conditions: [{ type: 'Ready', status: 'False', message: 'containers with unready status' }],
    },
    expected: { phase: 'running', isReady: false, cause: 'PodNotReady' },
  },
  'a node that does not report any more': {
    status: {
      ...runningStatus,
      conditions: [
        { type: 'Ready', status: 'False' },
        { type: 'ContainersReady', status: 'True' },
      ],
    },
    expected: { phase: 'running', isReady: false, cause: 'NodeLost' },
  },
  'a readiness gate that is not met is no lost node': {
    status: {
      ...runningStatus,
      conditions: [
        { type: 'Ready', status: 'False', reason: 'ReadinessGatesNotReady' },
        { type: 'ContainersReady', status: 'True' },
      ],
    },
    expected: { phase: 'running', isReady: false, cause: 'PodNotReady' },
  },
  'ended, about to be started again': {
    status: {
      phase: 'Running',
      containerStatuses: [containerStatus({ restartCount: 1, state: { terminated: { exitCode: 137, signal: 9 } } })],
    },
    expected: { phase: 'restarting', message: 'The program was ended by signal 9.', restarts: 1 },
  },
  'a crash loop says how the program ended': {
    status: {
      phase: 'Running',
      containerStatuses: [
        containerStatus({
          restartCount: 4,
          state: { waiting: { reason: 'CrashLoopBackOff' } },
          lastState: { terminated: { exitCode: 3 } },
        }),
      ],
    },
    expected: {
      phase: 'crash-loop',
      message: 'The program ended with exit code 3. It is tried again after a pause.',
      restarts: 4,
    },
  },
  'out of memory is said in words': {
    status: {
      phase: 'Failed',
      containerStatuses: [containerStatus({ state: { terminated: { exitCode: 137, reason: 'OOMKilled' } } })],
    },
    expected: {
      phase: 'failed',
      message: 'The program was ended because it used more memory than its limit (exit code 137).',
    },
  },
  succeeded: { status: { phase: 'Succeeded' }, expected: { phase: 'succeeded' } },
  'an evicted pod is lost, not failed': {
    status: { phase: 'Failed', reason: 'Evicted', message: 'The node was low on memory' },
    expected: { phase: 'lost', message: 'The pod was taken away: Evicted. The node was low on memory' },
  },
  'a disrupted pod is lost': {
    status: { phase: 'Failed', conditions: [{ type: 'DisruptionTarget', status: 'True' }] },
    expected: { phase: 'lost' },
  },
};

for (const [name, { status, expected }] of Object.entries(cases)) {
  test(`viewPod: ${name}`, () => {
    const view = viewPod(makePod(makeInstance(), status === undefined ? {} : { status }));
    assert.deepEqual({ ...view, ...expected }, view);
  });
}

test('viewPod: a second, shorter delete does not make a pod overdue that is still stopping by its command', () => {
  const instance = makeInstance();
  const pod = makePod(instance, {
    status: runningStatus,
    metadata: {
      deletionTimestamp: '2026-01-01T00:00:01Z',
      annotations: { 'ringmaster.dev/stop-command-sent': '2026-01-01T00:00:00Z' },
    },
  });
  // Thirty seconds of grace, from the command on.
  assert.equal(viewPod(pod).deletionDueMs, Date.parse('2026-01-01T00:00:30Z'));
});

const templates = (parts: Record<string, unknown>): ReturnType<typeof containerStatus> =>
  containerStatus({ name: 'ringmaster-templates', ...parts });
const said = { exitCode: 1, message: 'The ConfigMap "a" has no file "b", which replaceIn names.\n' };
const atTemplates = (parts: Record<string, unknown>, phase = 'Pending'): Pod['status'] => ({
  phase,
  initContainerStatuses: [templates(parts)],
  containerStatuses: [containerStatus({ state: { waiting: { reason: 'PodInitializing' } } })],
});
const templateFault = { cause: 'TemplateFailed', message: 'The ConfigMap "a" has no file "b", which replaceIn names.' };

const templateCases: Record<string, { status: Pod['status']; expected: Partial<PodView> }> = {
  'that could not be put into place are said in the words of the init container': {
    status: atTemplates({ state: { terminated: said } }),
    expected: { phase: 'blocked', hasStarted: false, ...templateFault },
  },
  'stay what was found while the kubelet waits': {
    status: atTemplates({ state: { waiting: { reason: 'CrashLoopBackOff' } }, lastState: { terminated: said } }),
    expected: { phase: 'blocked', ...templateFault },
  },
  'and while it tries again': {
    status: atTemplates({ state: { running: {} }, lastState: { terminated: said } }),
    expected: { phase: 'blocked', ...templateFault },
  },
  'are forgotten once they are in place': {
    status: atTemplates({ state: { terminated: { exitCode: 0 } }, lastState: { terminated: said } }),
    expected: { phase: 'pending', cause: 'PodPending' },
  },
  'that nobody tries again end the pod': {
    status: atTemplates({ state: { terminated: said } }, 'Failed'),
    expected: { phase: 'failed', hasStarted: false, ...templateFault },
  },
  'whose init container was killed have no words of their own': {
    status: atTemplates({ state: { terminated: { exitCode: 137 } } }),
    expected: {
      cause: 'TemplateFailed',
      message:
        'The files of templates could not be put into place (exit code 137). The log of container "ringmaster-templates" of the pod may say why.',
    },
  },
};

for (const [name, { status, expected }] of Object.entries(templateCases)) {
  test(`viewPod: templates ${name}`, () => {
    const spec = { workingDir: '/data', templates: [{ name: 'a' }] };
    const view = viewPod(makePod(makeInstance({ spec }), status === undefined ? {} : { status }));
    assert.deepEqual({ ...view, ...expected, sidecarImage: 'example.com/sidecar:1' }, view);
  });
}

const throughSidecar = makeInstance({ spec: { runtime: 'screen', command: ['a'] } });
const sidecar = (parts: Record<string, unknown>): ReturnType<typeof containerStatus> =>
  containerStatus({ name: 'ringmaster-sidecar', ready: true, started: true, state: { running: {} }, ...parts });
const missing = { exitCode: 78, message: 'Cannot start the runtime "screen": the image has no "screen" in its PATH\n' };

const sidecarCases: Record<string, { status: Pod['status']; expected: Partial<PodView> }> = {
  'its restarts are not those of the program': {
    status: { ...runningStatus, initContainerStatuses: [sidecar({ restartCount: 7 })] },
    expected: { phase: 'running', isReady: true, restarts: 0 },
  },
  'an image that cannot be pulled is said': {
    status: {
      phase: 'Pending',
      initContainerStatuses: [
        sidecar({ started: false, state: { waiting: { reason: 'ErrImagePull', message: 'no' } } }),
      ],
      containerStatuses: [containerStatus({ state: { waiting: { reason: 'PodInitializing' } } })],
    },
    expected: { phase: 'blocked', cause: 'ImageUnavailable', message: 'Init container "ringmaster-sidecar": no' },
  },
  'a sidecar that keeps ending before the program could start is said': {
    status: {
      phase: 'Pending',
      initContainerStatuses: [
        sidecar({
          started: false,
          restartCount: 3,
          state: { waiting: { reason: 'CrashLoopBackOff' } },
          lastState: { terminated: { exitCode: 1 } },
        }),
      ],
      containerStatuses: [containerStatus({ state: { waiting: { reason: 'PodInitializing' } } })],
    },
    expected: {
      phase: 'blocked',
      cause: 'SidecarFailed',
      message:
        'The sidecar cannot be kept running. It ended with exit code 1. Its log says why: container "ringmaster-sidecar" of the pod.',
    },
  },
  'and one that does so later too': {
    status: {
      ...runningStatus,
      conditions: [{ type: 'Ready', status: 'False' }],
      initContainerStatuses: [sidecar({ restartCount: 2, state: { waiting: { reason: 'CrashLoopBackOff' } } })],
    },
    expected: { phase: 'running', isReady: false, cause: 'SidecarFailed' },
  },
  'a runtime that the image lacks is said in the words of the launcher': {
    status: {
      phase: 'Running',
      initContainerStatuses: [sidecar({})],
      containerStatuses: [
        containerStatus({ state: { waiting: { reason: 'CrashLoopBackOff' } }, lastState: { terminated: missing } }),
      ],
    },
    expected: {
      phase: 'blocked',
      cause: 'RuntimeMissing',
      message: 'Cannot start the runtime "screen": the image has no "screen" in its PATH.',
    },
  },
  'before it is tried again, too': {
    status: {
      phase: 'Running',
      initContainerStatuses: [sidecar({})],
      containerStatuses: [containerStatus({ state: { terminated: { exitCode: 78 } } })],
    },
    expected: { phase: 'blocked', cause: 'RuntimeMissing' },
  },
  'and where it is not to be tried again': {
    status: {
      phase: 'Failed',
      initContainerStatuses: [sidecar({ state: { terminated: { exitCode: 0 } } })],
      containerStatuses: [containerStatus({ state: { terminated: missing } })],
    },
    expected: { phase: 'failed', cause: 'RuntimeMissing' },
  },
};

for (const [name, { status, expected }] of Object.entries(sidecarCases)) {
  test(`viewPod, with a sidecar: ${name}`, () => {
    const view = viewPod(makePod(throughSidecar, status === undefined ? {} : { status }));
    assert.deepEqual({ ...view, ...expected }, view);
  });
}

test('viewPod: under docker the launcher runs before the program does, and that is said until it has started', () => {
  const viewOf = (spec: Parameters<typeof makeInstance>[0], started: boolean): PodView => {
    const state = { running: { startedAt: '2026-01-01T00:00:01Z' } };
    const status = {
      ...runningStatus,
      conditions: [{ type: 'Ready', status: started ? 'True' : 'False', message: 'containers with unready status' }],
      initContainerStatuses: [sidecar({ ready: started })],
      containerStatuses: [containerStatus({ ready: started, started, state })],
    };
    return viewPod(makePod(makeInstance(spec), { status }));
  };
  const sentence = 'The program has not started yet: the Docker Engine of the node is preparing its container.';
  const readiness = { logPattern: 'Done', periodSeconds: 5, timeoutSeconds: 1, failureThreshold: 3 };
  for (const more of [{}, { readiness }]) {
    const view = viewOf({ spec: { runtime: 'docker', ...more } }, false);
    const expected = { phase: 'running', isReady: false, cause: 'PodNotReady', message: sentence };
    assert.deepEqual({ ...view, ...expected }, view);
  }
  assert.equal(viewOf({ spec: { runtime: 'docker' } }, true).isReady, true);
  // A startup probe that somebody else made says nothing of a launcher.
  const podTemplate = { spec: { containers: [{ name: 'instance', startupProbe: { exec: { command: ['a'] } } }] } };
  assert.notEqual(viewOf({ spec: { runtime: 'kubernetes', podTemplate } }, false).message, sentence);
});

test('viewPod: exit code 78 is the own business of a program without a launcher', () => {
  const status = { phase: 'Failed', containerStatuses: [containerStatus({ state: { terminated: { exitCode: 78 } } })] };
  assert.equal(viewPod(makePod(makeInstance(), { status })).cause, 'Failed');
});

test('viewPod: a line that matched in an earlier container makes the present one not ready, whatever the pod says', () => {
  const readiness = { logPattern: 'Done', periodSeconds: 5, timeoutSeconds: 1, failureThreshold: 3 };
  const instance = makeInstance({ spec: { readiness } });
  const viewOf = (containerID: string): PodView => {
    const state = { running: { startedAt: '2026-01-01T00:00:01Z' } };
    const condition = { type: 'ringmaster.dev/log-pattern', status: 'True', message: matchedMessage('containerd://1') };
    const conditions = [{ type: 'Ready', status: 'True' }, condition];
    const containerStatuses = [containerStatus({ containerID, ready: true, state })];
    return viewPod(makePod(instance, { status: { phase: 'Running', conditions, containerStatuses } }));
  };
  assert.equal(viewOf('containerd://1').isReady, true);
  const second = viewOf('containerd://2');
  assert.equal(second.isReady, false);
  assert.deepEqual(second.logPattern, { isTrue: true, isMatched: false });
  assert.equal(second.message, 'The program runs, and no line of its log matches readiness.logPattern yet.');
});

test('viewPod: which protocol its sidecar speaks; the first release said nothing of it, and without a sidecar there is none', () => {
  const versionWith = (label: string | undefined, instance = throughSidecar): number | undefined => {
    const labels = label === undefined ? {} : { 'ringmaster.dev/sidecar-protocol': label };
    return viewPod(makePod(instance, { metadata: { labels } })).sidecarProtocol;
  };
  assert.deepEqual(
    ['7', undefined, 'seven'].map((label) => versionWith(label)),
    [7, 1, NaN],
  );
  assert.equal(versionWith('7', makeInstance()), undefined);
});
