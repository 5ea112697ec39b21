import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Pod } from '../../runtime/client.ts';
import { containerStatus, makeInstance, makePod, runningStatus } from '../../testing/objects.ts';
import { viewPod } from './observe.ts';
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
