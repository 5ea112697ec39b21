/** The pod of an Instance. Pure: the same Instance gives the same pod. */
import { createHash } from 'node:crypto';
import { isDeepStrictEqual } from 'node:util';
import { protocolVersions } from '../../../sidecar/protocol.ts';
import type { Instance, InstanceSpec } from '../../api/v1alpha1/instance.ts';
import { instanceSpec, protocolDefault } from '../../api/v1alpha1/instance.ts';
import {
  configurationLabel,
  dockerFinalizer,
  idLabel,
  instanceLabel,
  logPatternGate,
  managedBy,
  managedByLabel,
  podHashAnnotation,
  podSequenceAnnotation,
  restartedAtAnnotation,
  sidecarProtocolLabel,
  workloadContainer,
} from '../../names.ts';
import type { Pod } from '../../runtime/client.ts';
import { drainSeconds } from './dockerpod.ts';
import { mergeOverlay } from './overlay.ts';
import { ownerReference } from './owner.ts';
import { throughSidecar } from './runtimepod.ts';
import type { PodContext } from './sidecarpod.ts';
import { hasTemplates, logSettings, needsSidecar } from './sidecarpod.ts';
import { withTemplates } from './templates.ts';

/** Fields that change how a running pod is treated, but not the pod. */
const notInPod = ['desiredState', 'service'] as const;

/** How long a pod stays on a node that is not ready or not reachable before Kubernetes takes it off. */
const nodeLostTolerationSeconds = 30;

/** Names sort as they were made; the id keeps two Instances of one name, one after the other, apart. At most 63 characters. */
export function podName(instance: Instance, id: string, sequence: number): string {
  return `${instance.metadata.name}-${id}-${sequence}`;
}

/**
 * Fingerprint of all that a user can say about the pod. It is taken over the Instance and not over the pod, and leaves defaults out, so that a
 * new version of the operator, which may build pods differently or know more fields, does not restart every program.
 */
export function podHash(spec: InstanceSpec): string {
  const relevant = Object.fromEntries(
    Object.entries({ ...spec, logs: relevantLogs(spec), ...relevantTemplates(spec) }).filter(
      ([key]) => !(notInPod as readonly string[]).includes(key),
    ),
  );
  return createHash('sha256')
    .update(canonical(withoutDefaults(relevant)))
    .digest('hex')
    .slice(0, 16);
}

/** Under `kubernetes` nothing of it counts; elsewhere, saying what is the default anyway changes nothing. */
function relevantLogs(spec: InstanceSpec): object | undefined {
  if (!needsSidecar(spec.runtime)) return undefined;
  const settings = logSettings(spec);
  return isDeepStrictEqual(settings, logSettings({ ...spec, logs: undefined })) ? undefined : settings;
}

/** Properties are for the files of templates: without these they say nothing. */
function relevantTemplates(spec: InstanceSpec): Pick<InstanceSpec, 'templates' | 'properties'> {
  return hasTemplates(spec) ? {} : { templates: undefined, properties: undefined };
}

/** `context` is needed by every runtime but `kubernetes`, with its key, and for templates; without it they throw a TypeError. */
export function buildPod(instance: Instance, identity: { id: string; sequence: number }, context?: PodContext): Pod {
  const { spec } = instance;
  const template = spec.podTemplate;
  const restartedAt = instance.metadata.annotations?.[restartedAtAnnotation];
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: {
      name: podName(instance, identity.id, identity.sequence),
      ...(instance.metadata.namespace === undefined ? {} : { namespace: instance.metadata.namespace }),
      labels: {
        ...template?.metadata?.labels,
        ...podLabels(instance, identity.id),
        ...(needsSidecar(spec.runtime) ? { [sidecarProtocolLabel]: String(protocolVersions.current) } : {}),
      },
      annotations: {
        ...template?.metadata?.annotations,
        [podHashAnnotation]: podHash(spec),
        [podSequenceAnnotation]: String(identity.sequence),
        ...(restartedAt === undefined ? {} : { [restartedAtAnnotation]: restartedAt }),
      },
      ownerReferences: [ownerReference(instance)],
      ...(spec.runtime === 'docker' ? { finalizers: [dockerFinalizer] } : {}),
    },
    spec: withTemplates(mergeOverlay(podSpec(instance, identity.id, context), template?.spec ?? {}), {
      instance,
      id: identity.id,
      settings: context?.settings,
    }) as unknown as NonNullable<Pod['spec']>,
  };
}

export function podLabels(instance: Instance, id: string): Record<string, string> {
  const configuration = instance.metadata.labels?.[configurationLabel];
  return {
    [managedByLabel]: managedBy,
    [instanceLabel]: instance.metadata.name,
    [idLabel]: id,
    ...(configuration === undefined ? {} : { [configurationLabel]: configuration }),
  };
}

/** Seconds from SIGTERM (or from the stop command to SIGTERM). */
export function gracePeriodSeconds(spec: InstanceSpec): number {
  return spec.stop?.gracePeriodSeconds ?? 30;
}

function podSpec(instance: Instance, id: string, context: PodContext | undefined): Record<string, unknown> {
  const plain = plainSpec(instance, id);
  if (!needsSidecar(instance.spec.runtime)) return plain;
  const keySecret = context?.keySecret;
  if (context === undefined || keySecret === undefined) {
    throw new TypeError(
      `Cannot build a pod: the runtime "${instance.spec.runtime}" needs a sidecar, and none was given`,
    );
  }
  return throughSidecar(plain, {
    instance,
    id,
    graceSeconds: gracePeriodSeconds(instance.spec),
    context: { ...context, keySecret },
  });
}

/** With a stop command, once for it and once for SIGTERM: Kubernetes counts from the deletion, its preStop hook included. */
function terminationSeconds(spec: InstanceSpec): number {
  const grace = gracePeriodSeconds(spec);
  return (spec.stop?.command === undefined ? grace : 2 * grace) + (spec.runtime === 'docker' ? drainSeconds : 0);
}

function plainSpec(
  instance: Instance,
  id: string,
): Record<string, unknown> & { containers: Record<string, unknown>[] } {
  const { spec } = instance;
  const isGated = spec.runtime === 'kubernetes' && spec.readiness?.logPattern !== undefined;
  return {
    restartPolicy: spec.restartPolicy,
    terminationGracePeriodSeconds: terminationSeconds(spec),
    automountServiceAccountToken: false,
    enableServiceLinks: false,
    securityContext: { seccompProfile: { type: 'RuntimeDefault' } },
    tolerations: ['not-ready', 'unreachable'].map((condition) => ({
      key: `node.kubernetes.io/${condition}`,
      operator: 'Exists',
      effect: 'NoExecute',
      tolerationSeconds: nodeLostTolerationSeconds,
    })),
    ...present({
      imagePullSecrets: spec.imagePullSecrets,
      volumes: spec.volumes,
      readinessGates: isGated ? [{ conditionType: logPatternGate }] : undefined,
    }),
    containers: [container(instance, id)],
  };
}

function container(instance: Instance, id: string): Record<string, unknown> {
  const { spec } = instance;
  return {
    name: workloadContainer,
    image: spec.image,
    // Commands reach the program on its standard input, now and after every reconnect.
    stdin: true,
    ...present({
      imagePullPolicy: spec.imagePullPolicy,
      command: spec.command,
      args: spec.args,
      workingDir: spec.workingDir,
      envFrom: spec.envFrom,
      resources: spec.resources,
      volumeMounts: spec.volumeMounts,
      readinessProbe: spec.readiness?.logPattern === undefined ? spec.readiness : undefined,
      ports: spec.ports?.map(({ port, protocol = protocolDefault, ...rest }) => ({
        ...rest,
        protocol,
        containerPort: port,
      })),
    }),
    env: [
      ...(spec.env ?? []),
      ...instanceVariables(instance, id).filter(
        ({ name }) => !(spec.env ?? []).some((variable) => variable.name === name),
      ),
    ],
    securityContext: { allowPrivilegeEscalation: false },
    // Deleting a pod sends SIGTERM at once; this holds it back while the stop command works (stopper.ts ends the wait when the program has).
    ...(spec.stop?.command === undefined
      ? {}
      : { lifecycle: { preStop: { sleep: { seconds: gracePeriodSeconds(spec) } } } }),
  };
}

function instanceVariables(instance: Instance, id: string): { name: string; value: string }[] {
  return [
    { name: 'RINGMASTER_INSTANCE_ID', value: id },
    { name: 'RINGMASTER_INSTANCE_NAME', value: instance.metadata.name },
  ];
}

/** The keys that have a value. */
function present(fields: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined));
}

/**
 * The top-level fields that say something: a new version may know more fields and must not take them for a change. Ports have their protocol, said
 * or not: it was a default of the schema once, and stands in Instances from then.
 */
export function withoutDefaults({ ports, ...rest }: Partial<InstanceSpec>): Record<string, unknown> {
  // Parsing the least that is valid fills in every default: what equals it says nothing.
  const defaults: Record<string, unknown> = instanceSpec.parse({ image: '-' });
  const relevant = { ...rest, ports: ports?.map((port) => ({ protocol: protocolDefault, ...port })) };
  const entries = Object.entries(relevant).filter(
    ([key, value]) => key === 'image' || canonical(value) !== canonical(defaults[key]),
  );
  return Object.fromEntries(entries);
}

/** JSON with sorted keys. */
export function canonical(value: unknown): string {
  return JSON.stringify(value, (_, inner: unknown) =>
    typeof inner === 'object' && inner !== null && !Array.isArray(inner)
      ? Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1)))
      : inner,
  );
}
