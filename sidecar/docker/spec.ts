/**
 * What the launcher is told, and what it asks of the Engine. Pure: environment in, settings and a create request out.
 */
import type { ContainerCreateOptions } from 'dockerode';
import { z } from 'zod';
import { defaultDirectory } from '../protocol.ts';

const port = z.int().min(1).max(65_535);
const specSchema = z.strictObject({
  image: z.string().min(1),
  command: z.array(z.string()).optional(),
  args: z.array(z.string()).optional(),
  workingDir: z.string().optional(),
  ports: z.array(z.strictObject({ port, protocol: z.enum(['TCP', 'UDP']), hostPort: port.optional() })).optional(),
  memoryBytes: z.int().positive().optional(),
  nanoCpus: z.int().positive().optional(),
  network: z.enum(['bridge', 'host', 'none']),
  pull: z.enum(['Always', 'IfNotPresent', 'Never']),
});

/** The part of an Instance that becomes a container of the Engine: `RINGMASTER_DOCKER_SPEC`, as JSON. */
export type DockerSpec = z.infer<typeof specSchema>;

export interface Settings {
  readonly directory: string;
  readonly id: string;
  readonly instanceUid: string;
  readonly podUid: string;
  readonly socketPath: string;
  readonly isMirrored: boolean;
  /** Typed into standard input before the first signal; without a line end. */
  readonly stopCommand: string | undefined;
  readonly stopGraceSeconds: number;
  /** How long the Engine may be away before the first container is there. */
  readonly engineTimeoutMs: number;
  /** Where the kubelet reads the last words of the launcher. */
  readonly lastWordsFile: string;
  readonly spec: DockerSpec;
  /** `KEY=value`, for the container. */
  readonly environment: readonly string[];
}

export const labels = {
  instanceUid: 'ringmaster.dev/instance-uid',
  podUid: 'ringmaster.dev/pod-uid',
  instanceId: 'ringmaster.dev/instance-id',
} as const;

/**
 * The Engine never rotates the container's log: Docker 20.10 loses lines when it does, without a word, for whoever follows. The Engine's
 * copy lives as long as the container.
 */
const logOptions = { 'max-size': '1024g', 'max-file': '1', compress: 'false' } as const;
const podUidCharacters = 8;
/** The operator mounts the folder of the socket there. */
const socketPathDefault = '/run/ringmaster-docker/docker.sock';
const engineTimeoutMsDefault = 60_000;
/** Variables of the launcher's own container, which mean nothing in another. */
const ownVariables =
  /^(RINGMASTER_(?!INSTANCE_(ID|NAME)$).*|KUBERNETES_.*|NODE_.*|PATH|HOSTNAME|HOME|MALLOC_ARENA_MAX|UV_THREADPOOL_SIZE)$/;

/** Reads the settings. Throws with the name of the variable that is missing or wrong. */
export function readSettings(env: NodeJS.ProcessEnv): Settings {
  const stopCommand = env['RINGMASTER_STOP_COMMAND'] ?? '';
  return {
    directory: env['RINGMASTER_DIR'] ?? defaultDirectory,
    id: required(env, 'RINGMASTER_ID'),
    instanceUid: required(env, 'RINGMASTER_INSTANCE_UID'),
    podUid: required(env, 'RINGMASTER_POD_UID'),
    socketPath: env['RINGMASTER_DOCKER_SOCKET'] ?? socketPathDefault,
    isMirrored: env['RINGMASTER_MIRROR'] === 'true',
    stopCommand: stopCommand === '' ? undefined : stopCommand,
    stopGraceSeconds: readNumber(env, 'RINGMASTER_STOP_GRACE_SECONDS', 30),
    engineTimeoutMs: readNumber(env, 'RINGMASTER_DOCKER_TIMEOUT_MS', engineTimeoutMsDefault),
    lastWordsFile: env['RINGMASTER_LAST_WORDS_FILE'] ?? '/dev/termination-log',
    spec: parseSpec(required(env, 'RINGMASTER_DOCKER_SPEC')),
    environment: Object.entries(env)
      .filter(([key]) => !ownVariables.test(key))
      .map(([key, value]) => `${key}=${value ?? ''}`),
  };
}

/** What the cleanup is told: whose container is to go, and where. Throws with the name of the variable that is missing. */
export function readCleanup(env: NodeJS.ProcessEnv): Pick<Settings, 'podUid' | 'socketPath'> {
  return {
    podUid: required(env, 'RINGMASTER_POD_UID'),
    socketPath: env['RINGMASTER_DOCKER_SOCKET'] ?? socketPathDefault,
  };
}

/** The request that makes the container. `command` takes the place of the image's entry point, `args` of its command, as in a pod. */
export function createOptions(settings: Settings): ContainerCreateOptions & { readonly name: string } {
  const { spec } = settings;
  const ports = spec.network === 'bridge' ? (spec.ports ?? []) : [];
  const expand = expander(settings.environment);
  const keyed = ports.map((each) => ({ key: `${each.port}/${each.protocol.toLowerCase()}`, each }));
  return {
    name: containerName(settings),
    Image: spec.image,
    ...(spec.command === undefined ? {} : { Entrypoint: spec.command.map(expand) }),
    // An entry point of the request's own makes the Engine forget the image's command, as Kubernetes does.
    ...(spec.args === undefined ? {} : { Cmd: spec.args.map(expand) }),
    ...(spec.workingDir === undefined ? {} : { WorkingDir: spec.workingDir }),
    Env: [...settings.environment],
    Labels: {
      [labels.instanceUid]: settings.instanceUid,
      [labels.podUid]: settings.podUid,
      [labels.instanceId]: settings.id,
    },
    Tty: false,
    OpenStdin: true,
    StdinOnce: false,
    AttachStdin: true,
    AttachStdout: false,
    AttachStderr: false,
    ExposedPorts: Object.fromEntries(keyed.map(({ key }) => [key, {}])),
    HostConfig: {
      NetworkMode: spec.network,
      PortBindings: Object.fromEntries(
        keyed.map(({ key, each }) => [key, [{ HostPort: String(each.hostPort ?? each.port) }]]),
      ),
      RestartPolicy: { Name: 'no' },
      AutoRemove: false,
      // As under `process`, the workload is not the first process: signals have their usual effect, and orphans are reaped.
      Init: true,
      LogConfig: { Type: 'local', Config: { ...logOptions } },
      ...(spec.memoryBytes === undefined ? {} : { Memory: spec.memoryBytes }),
      ...(spec.nanoCpus === undefined ? {} : { NanoCpus: spec.nanoCpus }),
    },
  };
}

/** `$(NAME)` as the kubelet reads it: a variable that is not there stays as it is written, and `$$` is `$`. */
function expander(environment: readonly string[]): (text: string) => string {
  const variables = new Map(
    environment.map((entry) => {
      const end = entry.indexOf('=');
      return [entry.slice(0, end), entry.slice(end + 1)] as const;
    }),
  );
  return (text) =>
    text.replaceAll(/\$\$|\$\(([^()]*)\)/g, (match: string, name: string | undefined) =>
      name === undefined ? '$' : (variables.get(name) ?? match),
    );
}

/** `ringmaster-ID-` and the beginning of the pod's uid: one container per pod, also if two launchers should race. */
export function containerName({ id, podUid }: Pick<Settings, 'id' | 'podUid'>): string {
  return `ringmaster-${id}-${podUid.replaceAll('-', '').slice(0, podUidCharacters)}`;
}

/** Splits `name[:tag][@digest]` for a pull, which takes all tags where none is named. */
export function withTag(image: string): string {
  const lastPart = image.slice(image.lastIndexOf('/') + 1);
  return image.includes('@') || lastPart.includes(':') ? image : `${image}:latest`;
}

function parseSpec(text: string): DockerSpec {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new TypeError('Cannot read RINGMASTER_DOCKER_SPEC: it is not JSON', { cause });
  }
  const parsed = specSchema.safeParse(value);
  if (parsed.success) {
    return parsed.data;
  }
  const issue = parsed.error.issues[0];
  throw new TypeError(`Cannot read RINGMASTER_DOCKER_SPEC: ${issue?.path.join('.') ?? ''}: ${issue?.message ?? ''}`);
}

function required(env: NodeJS.ProcessEnv, name: string): string {
  const value = env[name] ?? '';
  if (value === '') {
    throw new TypeError(`Cannot start: ${name} is not set`);
  }
  return value;
}

function readNumber(env: NodeJS.ProcessEnv, name: string, fallback: number): number {
  const text = env[name] ?? '';
  if (text === '') {
    return fallback;
  }
  if (!/^\d{1,9}$/.test(text)) {
    throw new RangeError(`Cannot start: ${name} is "${text}", not a whole number`);
  }
  return Number(text);
}
