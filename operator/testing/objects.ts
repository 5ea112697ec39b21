/** Builders of objects for tests: the least that is valid, with what a test is about laid over it. */
import type { Instance, InstanceSpec, InstanceStatus } from '../api/v1alpha1/instance.ts';
import { instanceSpec } from '../api/v1alpha1/instance.ts';
import type { InstanceConfiguration } from '../api/v1alpha1/instanceconfiguration.ts';
import { instanceConfigurationSpec } from '../api/v1alpha1/instanceconfiguration.ts';
import type { Metadata } from '../api/v1alpha1/meta.ts';
import type { Pod } from '../runtime/client.ts';
import { buildPod } from '../controllers/instance/pod.ts';
import type { SidecarContext } from '../controllers/instance/sidecarpod.ts';

/** An operator that allows every runtime. */
export const sidecarContext: SidecarContext = {
  settings: {
    image: 'example.com/sidecar:1',
    pullPolicy: 'IfNotPresent',
    resources: { limits: { memory: '128Mi' } },
    docker: { isEnabled: true, socketPath: '/var/run/docker.sock', network: 'bridge', groupId: undefined },
  },
  keySecret: 'lobby-a1b2c3-sidecar-01234567',
};

export function makeInstance(
  parts: { metadata?: Partial<Metadata>; spec?: Partial<InstanceSpec>; status?: InstanceStatus } = {},
): Instance {
  return {
    apiVersion: 'ringmaster.dev/v1alpha1',
    kind: 'Instance',
    metadata: { name: 'lobby', namespace: 'games', uid: 'uid-lobby', generation: 1, ...parts.metadata },
    spec: instanceSpec.parse({ image: 'example.com/server:1', ...parts.spec }),
    ...(parts.status === undefined ? {} : { status: parts.status }),
  };
}

/** The pod that the operator would make, with a status as the kubelet would give it. */
export function makePod(
  instance: Instance,
  parts: { sequence?: number; status?: Pod['status']; metadata?: Partial<Metadata> } = {},
): Pod {
  const pod = buildPod(instance, { id: 'a1b2c3', sequence: parts.sequence ?? 1 }, sidecarContext);
  return {
    ...pod,
    metadata: {
      ...pod.metadata,
      uid: `uid-${pod.metadata.name}`,
      creationTimestamp: '2026-01-01T00:00:00Z',
      ...parts.metadata,
    },
    ...(parts.status === undefined ? {} : { status: parts.status }),
  };
}

export function containerStatus(
  parts: Record<string, unknown>,
): NonNullable<NonNullable<Pod['status']>['containerStatuses']>[number] {
  return { name: 'instance', image: '', imageID: '', ready: false, restartCount: 0, ...parts };
}

export const runningStatus: Pod['status'] = {
  phase: 'Running',
  podIP: '10.0.0.7',
  hostIP: '10.1.0.1',
  conditions: [{ type: 'Ready', status: 'True' }],
  containerStatuses: [
    containerStatus({ ready: true, started: true, state: { running: { startedAt: '2026-01-01T00:00:01Z' } } }),
  ],
};

export function makeConfiguration(
  parts: { metadata?: Partial<Metadata>; spec?: object; template?: Partial<InstanceSpec> } = {},
): InstanceConfiguration {
  const template = { spec: { image: 'example.com/server:1', ...parts.template } };
  return {
    apiVersion: 'ringmaster.dev/v1alpha1',
    kind: 'InstanceConfiguration',
    metadata: { name: 'lobby', namespace: 'games', uid: 'uid-configuration', generation: 1, ...parts.metadata },
    spec: instanceConfigurationSpec.parse({ template, ...parts.spec }),
  };
}
