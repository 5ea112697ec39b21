/**
 * The launcher of the runtime `docker`, a container of the pod that runs the program in a container of the node's Docker Engine; and the pod that
 * clears away what a launcher left there. Pure.
 */
import { basename, dirname } from 'node:path';
import { defaultHealthPort, paths } from '../../../sidecar/protocol.ts';
import { protocolDefault } from '../../api/v1alpha1/instance.ts';
import type { Instance, InstanceSpec } from '../../api/v1alpha1/instance.ts';
import { parseQuantity } from '../../api/v1alpha1/quantity.ts';
import { cleanupAnnotation, managedBy, managedByLabel } from '../../names.ts';
import type { Pod } from '../../runtime/client.ts';
import type { Json, SidecarContext, SidecarSettings } from './sidecarpod.ts';
import { literal, restricted, sharedMount } from './sidecarpod.ts';

const socketVolume = 'ringmaster-docker';
/** Where the launcher finds the folder of the Engine's socket. */
const socketFolder = '/run/ringmaster-docker';
/** After the program's own time is up, the launcher has so long to read the last lines from the Engine and to remove the container. */
export const drainSeconds = 10;

/**
 * The launcher runs before its program does. It counts as started with the program, which the sidecar knows. Never given up: the image may take
 * the Engine long to pull. Once it has succeeded the kubelet does not ask again.
 */
const startedWithProgram = {
  httpGet: { path: paths.started, port: defaultHealthPort },
  periodSeconds: 1,
  timeoutSeconds: 2,
  failureThreshold: 2 ** 31 - 1,
} as const;

export interface DockerLauncher {
  readonly container: Json;
  readonly volume: Json;
  /** For the pod, besides what it has. */
  readonly securityContext: Json;
}

/** `program` is the container as it would be under `kubernetes`; `variables` are those of every launcher. */
export function dockerLauncher(
  program: Json,
  options: { readonly instance: Instance; readonly context: SidecarContext; readonly variables: readonly Json[] },
): DockerLauncher {
  const { instance, context, variables } = options;
  const { settings } = context;
  const socket = socketAccess(settings.docker);
  return {
    container: {
      name: program['name'],
      ...(program['envFrom'] === undefined ? {} : { envFrom: program['envFrom'] }),
      image: settings.image,
      imagePullPolicy: settings.pullPolicy,
      command: ['node', '/app/sidecar/docker/main.js'],
      env: [
        ...(program['env'] as Json[]),
        ...variables,
        { name: 'RINGMASTER_INSTANCE_UID', value: instance.metadata.uid ?? '' },
        { name: 'RINGMASTER_POD_UID', valueFrom: { fieldRef: { fieldPath: 'metadata.uid' } } },
        socket.variable,
        {
          name: 'RINGMASTER_DOCKER_SPEC',
          value: literal(JSON.stringify(engineSpec(instance.spec, settings.docker.network))),
        },
      ],
      resources: { requests: setAside(instance.spec) },
      startupProbe: startedWithProgram,
      securityContext: socket.containerSecurity,
      volumeMounts: [sharedMount, socket.mount],
    },
    volume: socket.volume,
    securityContext: socket.podSecurity,
  };
}

/** What a container needs to reach the Engine. */
function socketAccess({ socketPath, groupId }: SidecarSettings['docker']): {
  variable: Json;
  mount: Json;
  volume: Json;
  containerSecurity: Json;
  podSecurity: Json;
} {
  return {
    variable: { name: 'RINGMASTER_DOCKER_SOCKET', value: `${socketFolder}/${basename(socketPath)}` },
    mount: { name: socketVolume, mountPath: socketFolder },
    // The folder and not the file: an Engine that is started again makes a new socket, and a mount of the old one would lead nowhere.
    volume: { name: socketVolume, hostPath: { path: dirname(socketPath), type: 'Directory' } },
    containerSecurity:
      groupId === undefined ? { ...restricted, runAsNonRoot: false, runAsUser: 0, runAsGroup: 0 } : restricted,
    podSecurity: groupId === undefined ? {} : { supplementalGroups: [groupId] },
  };
}

/** A little less than what the operator waits for, so that the pod itself says that its time was up. */
const cleanupSeconds = 90;

/**
 * Removes what `pod` left on the Engine of its node, and nothing else. Image and socket come from the settings and not from `pod`: whoever may write
 * pods must not choose what gets the socket. It is owned by that pod and not by the Instance, whose deletion in the foreground would take it first.
 */
export function buildCleanupPod(instance: Instance, pod: Pod, settings: SidecarSettings): Pod {
  const { name, namespace, uid = '' } = pod.metadata;
  const socket = socketAccess(settings.docker);
  const onItsNode = { key: 'metadata.name', operator: 'In', values: [pod.spec?.nodeName ?? ''] };
  const { imagePullSecrets } = pod.spec ?? {};
  const spec: Json = {
    restartPolicy: 'OnFailure',
    activeDeadlineSeconds: cleanupSeconds,
    terminationGracePeriodSeconds: 1,
    automountServiceAccountToken: false,
    enableServiceLinks: false,
    securityContext: { seccompProfile: { type: 'RuntimeDefault' }, ...socket.podSecurity },
    // As a DaemonSet's: whatever keeps other pods off the node.
    affinity: {
      nodeAffinity: {
        requiredDuringSchedulingIgnoredDuringExecution: { nodeSelectorTerms: [{ matchFields: [onItsNode] }] },
      },
    },
    tolerations: [{ operator: 'Exists' }],
    ...(imagePullSecrets === undefined ? {} : { imagePullSecrets }),
    volumes: [socket.volume],
    containers: [
      {
        name: 'cleanup',
        image: settings.image,
        imagePullPolicy: settings.pullPolicy,
        command: ['node', '/app/sidecar/docker/cleanup.js'],
        env: [{ name: 'RINGMASTER_POD_UID', value: uid }, socket.variable],
        resources: settings.resources,
        securityContext: socket.containerSecurity,
        volumeMounts: [socket.mount],
      },
    ],
  };
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: {
      name: `${name}-cleanup`,
      ...(namespace === undefined ? {} : { namespace }),
      // No label of the Instance: its Service must not find it.
      labels: { [managedByLabel]: managedBy },
      annotations: { [cleanupAnnotation]: instance.metadata.name },
      ownerReferences: [{ apiVersion: 'v1', kind: 'Pod', name, uid, controller: true }],
    },
    spec: spec as unknown as NonNullable<Pod['spec']>,
  };
}

/** What the Engine is to run, as the launcher reads it. */
function engineSpec(spec: InstanceSpec, network: string): Json {
  const { cpu, memory } = spec.resources?.limits ?? {};
  const { image, command, args, workingDir } = spec;
  return {
    image,
    ...(command === undefined ? {} : { command }),
    ...(args === undefined ? {} : { args }),
    ...(workingDir === undefined ? {} : { workingDir }),
    // Nobody reaches the container but through the node: each port is opened there.
    ports: (spec.ports ?? []).map(({ port, protocol = protocolDefault, hostPort = port }) => ({
      port,
      protocol,
      hostPort,
    })),
    ...(memory === undefined ? {} : { memoryBytes: Math.ceil(parseQuantity(memory)) }),
    ...(cpu === undefined ? {} : { nanoCpus: Math.round(parseQuantity(cpu) * 1e9) }),
    network,
    pull: spec.imagePullPolicy ?? (hasMovingTag(image) ? 'Always' : 'IfNotPresent'),
  };
}

/** As Kubernetes chooses: what is called latest, or nothing, may be another image tomorrow. */
function hasMovingTag(image: string): boolean {
  if (image.includes('@')) return false;
  const name = image.slice(image.lastIndexOf('/') + 1);
  return !name.includes(':') || name.endsWith(':latest');
}

/**
 * The scheduler cannot see the Engine's container: the pod asks for its share in its place. The limits hold in the Engine; on the launcher they
 * would only end it.
 */
function setAside(spec: InstanceSpec): Json {
  const { requests = {}, limits = {} } = spec.resources ?? {};
  return Object.fromEntries(
    Object.entries({ ...limits, ...requests }).filter(([name]) => name === 'cpu' || name === 'memory'),
  );
}
