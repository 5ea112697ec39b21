/** The sidecar of a pod, and the volumes that it needs. Pure. */
import { defaultDirectory, defaultHealthPort, defaultPort, paths } from '../../../sidecar/protocol.ts';
import type { Instance, InstanceSpec, Runtime } from '../../api/v1alpha1/instance.ts';
import { parseQuantity } from '../../api/v1alpha1/quantity.ts';
import type { Reason } from '../../names.ts';
import { sidecarContainer } from '../../names.ts';

export type Json = Record<string, unknown>;

/** How the operator was set up for sidecars. */
export interface SidecarSettings {
  readonly image: string;
  readonly pullPolicy: 'Always' | 'IfNotPresent' | 'Never';
  readonly resources: Json;
  readonly docker: {
    readonly isEnabled: boolean;
    /** On the node. */
    readonly socketPath: string;
    readonly network: 'bridge' | 'host' | 'none';
    /** The group that may use the socket; undefined: the launcher is root. */
    readonly groupId: number | undefined;
  };
}

/** What a pod with containers of ours is made of besides the Instance. */
export interface PodContext {
  readonly settings: SidecarSettings;
  /** The Secret with the Instance's key, beside the pod; only a sidecar needs it. */
  readonly keySecret?: string | undefined;
}

/** What a pod through a sidecar is made of. */
export interface SidecarContext extends PodContext {
  readonly keySecret: string;
}

export const volumeNames = {
  shared: 'ringmaster',
  state: 'ringmaster-state',
  key: 'ringmaster-key',
} as const;

const stateDirectory = '/ringmaster-state';
const keyDirectory = '/ringmaster-key';
/** Nobody in particular; what both images and Pod Security `restricted` expect. */
export const userId = 65532;
const mebibyte = 1024 * 1024;
const retainDefault = '64Mi';

/** `spec.logs` with its defaults. */
export function logSettings(spec: InstanceSpec): { retainBytes: number; mirrorToStdout: boolean } {
  const { retainBytes = retainDefault, mirrorToStdout = true } = spec.logs ?? {};
  return { retainBytes: Math.ceil(parseQuantity(retainBytes)), mirrorToStdout };
}

export function needsSidecar(runtime: Runtime): boolean {
  return runtime !== 'kubernetes';
}

/** Whether files are put into the working directory before the program starts. */
export function hasTemplates(spec: InstanceSpec): boolean {
  return spec.templates !== undefined && spec.templates.length > 0;
}

/** Why an Instance cannot run here at all, for its condition. */
export function runtimeFault(
  spec: InstanceSpec,
  settings: SidecarSettings | undefined,
): { reason: Reason; message: string } | undefined {
  const { runtime } = spec;
  if (!needsSidecar(runtime) && !hasTemplates(spec)) return undefined;
  if (settings === undefined) {
    const user = needsSidecar(runtime)
      ? `sidecar of the runtime ${runtime}`
      : 'sidecar, which puts templates into place';
    const message = `The operator has no image for the ${user}: set the chart value sidecar.image.repository.`;
    return { reason: 'RuntimeDisabled', message };
  }
  if (runtime !== 'docker' || settings.docker.isEnabled) return undefined;
  return {
    reason: 'RuntimeDisabled',
    message:
      'The runtime docker is off in this installation: set the chart value runtimes.docker.enabled to true, or delete the Instance and create it again with another runtime.',
  };
}

/** In the sidecar and in the container of the program. */
export const sharedMount = { name: volumeNames.shared, mountPath: defaultDirectory };

/** The native sidecar, first among the init containers. */
export function sidecar(instance: Instance, { settings }: SidecarContext): Json {
  const { spec, metadata } = instance;
  const pattern = spec.readiness?.logPattern;
  const health = (path: string): Json => ({ httpGet: { path, port: defaultHealthPort } });
  return {
    name: sidecarContainer,
    image: settings.image,
    imagePullPolicy: settings.pullPolicy,
    restartPolicy: 'Always',
    env: [
      { name: 'RINGMASTER_RUNTIME', value: spec.runtime },
      { name: 'RINGMASTER_INSTANCE_UID', value: metadata.uid ?? '' },
      { name: 'RINGMASTER_KEY_FILE', value: `${keyDirectory}/key` },
      { name: 'RINGMASTER_DIR', value: defaultDirectory },
      { name: 'RINGMASTER_STATE_DIR', value: stateDirectory },
      { name: 'RINGMASTER_RETAIN_BYTES', value: String(logSettings(spec).retainBytes) },
      ...(pattern === undefined ? [] : [{ name: 'RINGMASTER_READY_PATTERN', value: literal(pattern) }]),
    ],
    ports: [
      { name: 'sidecar', containerPort: defaultPort, protocol: 'TCP' },
      { name: 'sidecar-health', containerPort: defaultHealthPort, protocol: 'TCP' },
    ],
    // The program starts when this has succeeded once. A minute: a busy node may take long to start Node.
    startupProbe: { ...health(paths.health), periodSeconds: 1, failureThreshold: 60 },
    ...(pattern === undefined
      ? {}
      : { readinessProbe: { ...health('/readyz'), periodSeconds: 1, timeoutSeconds: 2, failureThreshold: 1 } }),
    resources: settings.resources,
    securityContext: restricted,
    volumeMounts: [
      sharedMount,
      { name: volumeNames.state, mountPath: stateDirectory },
      { name: volumeNames.key, mountPath: keyDirectory, readOnly: true },
    ],
  };
}

/** Pod Security `restricted`, and a root file system that cannot be written. */
export const restricted = {
  runAsNonRoot: true,
  runAsUser: userId,
  runAsGroup: userId,
  allowPrivilegeEscalation: false,
  readOnlyRootFilesystem: true,
  capabilities: { drop: ['ALL'] },
  seccompProfile: { type: 'RuntimeDefault' },
} as const;

export function sidecarVolumes(spec: InstanceSpec, { keySecret }: SidecarContext): Json[] {
  return [
    { name: volumeNames.shared, emptyDir: sharedLimit(spec) },
    { name: volumeNames.state, emptyDir: { sizeLimit: String(64 * mebibyte) } },
    // Only the sidecar mounts it, and its user is not the owner of the file.
    {
      name: volumeNames.key,
      secret: { secretName: keySecret, defaultMode: 0o444, items: [{ key: 'key', path: 'key' }] },
    },
  ];
}

/**
 * The sidecar keeps at most an eighth above `retainBytes`; screen and tmux have what they write in a second file until it is taken over. Twice
 * and 64 MiB is far above both: whoever reaches it has a file system without holes, where everything is kept, and loses the pod and not the node.
 */
function sharedLimit(spec: InstanceSpec): Json {
  const { retainBytes } = logSettings(spec);
  return retainBytes === 0 ? {} : { sizeLimit: String(2 * retainBytes + 64 * mebibyte) };
}

/** A value that the kubelet leaves as it is: it would read `$(NAME)` as a variable. */
export function literal(text: string): string {
  return text.replaceAll('$', '$$$$');
}
