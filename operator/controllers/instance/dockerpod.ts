/** The launcher of the runtime `docker`: a container of the pod that runs the program in a container of the node's Docker Engine. Pure. */
import { basename, dirname } from 'node:path';
import { defaultHealthPort, paths } from '../../../sidecar/protocol.ts';
import { protocolDefault } from '../../api/v1alpha1/instance.ts';
import type { Instance, InstanceSpec } from '../../api/v1alpha1/instance.ts';
import { parseQuantity } from '../../api/v1alpha1/quantity.ts';
import type { Json, SidecarContext } from './sidecarpod.ts';
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
  const { groupId } = settings.docker;
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
        { name: 'RINGMASTER_DOCKER_SOCKET', value: `${socketFolder}/${basename(settings.docker.socketPath)}` },
        {
          name: 'RINGMASTER_DOCKER_SPEC',
          value: literal(JSON.stringify(engineSpec(instance.spec, settings.docker.network))),
        },
      ],
      resources: { requests: setAside(instance.spec) },
      startupProbe: startedWithProgram,
      securityContext:
        groupId === undefined ? { ...restricted, runAsNonRoot: false, runAsUser: 0, runAsGroup: 0 } : restricted,
      volumeMounts: [sharedMount, { name: socketVolume, mountPath: socketFolder }],
    },
    // The folder and not the file: an Engine that is started again makes a new socket, and a mount of the old one would lead nowhere.
    volume: { name: socketVolume, hostPath: { path: dirname(settings.docker.socketPath), type: 'Directory' } },
    securityContext: groupId === undefined ? {} : { supplementalGroups: [groupId] },
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
