import assert from 'node:assert/strict';
import { test } from 'node:test';
import { protocolVersions } from '../../../sidecar/protocol.ts';
import type { InstanceSpec } from '../../api/v1alpha1/instance.ts';
import { makeInstance, makePod } from '../../testing/objects.ts';
import { buildPod, podHash, podName } from './pod.ts';
import { buildService } from './service.ts';

test('buildPod: stdin stays open, no API token, restricted seccomp, our labels win over the template', () => {
  const instance = makeInstance({
    spec: { podTemplate: { metadata: { labels: { 'ringmaster.dev/id': 'forged', mine: 'yes' } } } },
  });
  const pod = buildPod(instance, { id: 'a1b2c3', sequence: 1 });
  assert.equal(pod.metadata.labels?.['ringmaster.dev/id'], 'a1b2c3');
  assert.equal(pod.metadata.labels.mine, 'yes');
  assert.equal(pod.spec?.containers[0]?.stdin, true);
  assert.equal(pod.spec.automountServiceAccountToken, false);
  assert.equal(pod.spec.securityContext?.seccompProfile?.type, 'RuntimeDefault');
  assert.deepEqual(pod.metadata.ownerReferences?.[0]?.uid, 'uid-lobby');
});

test('buildPod: with a stop command SIGTERM is held back for one grace period and the whole lasts two', () => {
  const spec = buildPod(makeInstance({ spec: { stop: { command: 'stop', gracePeriodSeconds: 20 } } }), {
    id: 'a1b2c3',
    sequence: 1,
  }).spec;
  assert.equal(spec?.terminationGracePeriodSeconds, 40);
  assert.equal(spec.containers[0]?.lifecycle?.preStop?.sleep?.seconds, 20);
});

test('buildPod: without a stop command SIGTERM comes at once', () => {
  const spec = buildPod(makeInstance({ spec: { stop: { gracePeriodSeconds: 20 } } }), {
    id: 'a1b2c3',
    sequence: 1,
  }).spec;
  assert.equal(spec?.terminationGracePeriodSeconds, 20);
  assert.equal(spec.containers[0]?.lifecycle, undefined);
});

test('buildPod: ports, readiness and variables arrive; a variable of the user wins over ours', () => {
  const pod = buildPod(
    makeInstance({
      spec: {
        ports: [{ name: 'game', port: 25565, protocol: 'TCP', hostPort: 30000 }],
        env: [{ name: 'RINGMASTER_INSTANCE_ID', value: 'mine' }],
        readiness: { tcpSocket: { port: 'game' }, periodSeconds: 5, timeoutSeconds: 1, failureThreshold: 3 },
      },
    }),
    { id: 'a1b2c3', sequence: 1 },
  );
  const container = pod.spec?.containers[0];
  assert.deepEqual(container?.ports, [{ name: 'game', containerPort: 25565, protocol: 'TCP', hostPort: 30000 }]);
  assert.deepEqual(container.env, [
    { name: 'RINGMASTER_INSTANCE_ID', value: 'mine' },
    { name: 'RINGMASTER_INSTANCE_NAME', value: 'lobby' },
  ]);
  assert.deepEqual(container.readinessProbe?.tcpSocket, { port: 'game' });
});

test('podHash: changes with what the pod is made of, and with nothing else', () => {
  const hash = podHash(makeInstance().spec);
  assert.notEqual(podHash(makeInstance({ spec: { image: 'other' } }).spec), hash);
  assert.notEqual(podHash(makeInstance({ spec: { env: [{ name: 'A', value: '1' }] } }).spec), hash);
  assert.equal(podHash(makeInstance({ spec: { desiredState: 'Stopped' } }).spec), hash);
  assert.equal(podHash(makeInstance({ spec: { service: { type: 'NodePort' }, restartPolicy: 'Always' } }).spec), hash);
});

test('podHash, pod and Service: a port without a protocol is one with TCP', () => {
  const said = makeInstance({ spec: { ports: [{ name: 'game', port: 1, protocol: 'TCP' }] } });
  const unsaid = makeInstance({ spec: { ports: [{ name: 'game', port: 1 }] } });
  const udp = makeInstance({ spec: { ports: [{ name: 'game', port: 1, protocol: 'UDP' }] } });
  assert.equal(podHash(unsaid.spec), podHash(said.spec));
  assert.notEqual(podHash(udp.spec), podHash(said.spec));
  const identity = { id: 'a1b2c3', sequence: 1 };
  assert.deepEqual(buildPod(unsaid, identity), buildPod(said, identity));
  assert.deepEqual(buildService(unsaid, 'a1b2c3'), buildService(said, 'a1b2c3'));
});

test('podHash: the order of keys does not count', () => {
  const one = makeInstance({ spec: { resources: { limits: { cpu: '1', memory: '1Gi' } } } }).spec;
  const two = makeInstance({ spec: { resources: { limits: { memory: '1Gi', cpu: '1' } } } }).spec;
  assert.equal(podHash(one), podHash(two));
});

test('podHash: stays what it was, or an upgrade of the operator would restart every program', () => {
  const { spec } = makeInstance({ spec: { image: 'example.com/server:1', args: ['--port', '1'] } });
  assert.equal(podHash(spec), 'c468056b5b07e91b');
});

test('podName: fits into 63 characters with the longest name and a million pods', () => {
  assert.ok(podName(makeInstance({ metadata: { name: 'a'.repeat(48) } }), 'a1b2c3', 1_000_000).length <= 63);
});

test('podHash: logs count where a sidecar keeps them, and their defaults never do', () => {
  const hash = (spec: Partial<InstanceSpec>): string => podHash(makeInstance({ spec }).spec);
  const inSidecar: Partial<InstanceSpec> = { runtime: 'process', command: ['a'] };
  const defaults = { retainBytes: 67_108_864, mirrorToStdout: true };
  assert.equal(hash({ logs: { retainBytes: '1Gi', mirrorToStdout: false } }), hash({}));
  assert.equal(hash({ ...inSidecar, logs: defaults }), hash(inSidecar));
  assert.notEqual(hash({ ...inSidecar, logs: { ...defaults, retainBytes: '1Gi' } }), hash(inSidecar));
});

test('buildPod: readiness.logPattern is a gate of the pod and no probe of the container', () => {
  const readiness = { logPattern: 'Done \\(', periodSeconds: 5, timeoutSeconds: 1, failureThreshold: 3 };
  const { spec } = buildPod(makeInstance({ spec: { readiness } }), { id: 'a1b2c3', sequence: 1 });
  assert.deepEqual(spec?.readinessGates, [{ conditionType: 'ringmaster.dev/log-pattern' }]);
  assert.equal(spec.containers[0]?.readinessProbe, undefined);
});

test('buildPod: a runtime with a sidecar is refused without one', () => {
  const instance = makeInstance({ spec: { runtime: 'process', command: ['a'] } });
  assert.throws(() => buildPod(instance, { id: 'a1b2c3', sequence: 1 }), /needs a sidecar/);
});

test('buildPod: a pod with a sidecar says which protocol that speaks; nobody else may say so', () => {
  const lie = { metadata: { labels: { 'ringmaster.dev/sidecar-protocol': '99' } } };
  const labelOf = (runtime: 'kubernetes' | 'screen', podTemplate = {}): string | undefined =>
    makePod(makeInstance({ spec: { runtime, command: ['a'], podTemplate } })).metadata.labels?.[
      'ringmaster.dev/sidecar-protocol'
    ];
  const spoken = String(protocolVersions.current);
  assert.deepEqual([labelOf('kubernetes'), labelOf('screen'), labelOf('screen', lie)], [undefined, spoken, spoken]);
});
