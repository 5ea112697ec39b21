/** The settings of both processes, from their environment (the chart sets them). A wrong one is named, with what to write instead. */
import { z } from 'zod';

const port = z.coerce.number().int().min(1).max(65535);
const count = z.coerce.number().int().min(1).max(1_000_000);
const list = z.string().transform((text) =>
  text
    .split(',')
    .map((part) => part.trim())
    .filter((part) => part !== ''),
);

const flag = z.enum(['true', 'false']).transform((text) => text === 'true');
/** Requests and limits as JSON, such as `{"limits":{"memory":"128Mi"}}`. */
const resources = z.string().transform((text, context) => {
  try {
    const parsed = z.record(z.string(), z.unknown()).safeParse(JSON.parse(text));
    if (parsed.success) return parsed.data;
  } catch {
    // Said below, with what is an object of the wrong form.
  }
  context.addIssue({ code: 'custom', message: 'write an object in JSON, such as {"limits":{"memory":"128Mi"}}' });
  return z.NEVER;
});

const shared = {
  /** The namespace that Ringmaster is installed in: API keys, the lease. */
  RINGMASTER_NAMESPACE: z.string().min(1),
  /** Empty: all namespaces. */
  RINGMASTER_WATCH_NAMESPACES: list.default([]),
  RINGMASTER_LOG_LEVEL: z.enum(['trace', 'debug', 'info', 'warn', 'error', 'fatal']).default('info'),
  /** A kubeconfig context, for running outside of a cluster. */
  RINGMASTER_CONTEXT: z.string().optional(),
  /** This replica's name. */
  POD_NAME: z.string().min(1),
};

export const operatorEnvironment = z.object({
  ...shared,
  RINGMASTER_LEASE_NAME: z.string().min(1).default('ringmaster-operator'),
  RINGMASTER_HEALTH_PORT: port.default(8080),
  /** Instances worked on at the same time. */
  RINGMASTER_WORKERS: z.coerce.number().int().min(1).max(64).default(8),
  /** Console commands worked on at the same time. */
  RINGMASTER_COMMAND_WORKERS: z.coerce.number().int().min(1).max(64).default(16),
  /** Image of configurations that `config create` makes without naming one. */
  RINGMASTER_DEFAULT_IMAGE: z.string().min(1).max(512).optional(),
  /** Absent: Instances can only have the runtime kubernetes. */
  RINGMASTER_SIDECAR_IMAGE: z.string().min(1).optional(),
  RINGMASTER_SIDECAR_PULL_POLICY: z.enum(['Always', 'IfNotPresent', 'Never']).default('IfNotPresent'),
  RINGMASTER_SIDECAR_RESOURCES: resources.default({
    requests: { cpu: '10m', memory: '64Mi' },
    limits: { memory: '128Mi' },
  }),
  /** The Secret in the namespace above whose key "key" is the master key of all sidecars; made if it does not exist. */
  RINGMASTER_MASTER_KEY_SECRET: z.string().min(1).max(253).default('ringmaster-master-key'),
  RINGMASTER_DOCKER_ENABLED: flag.default(false),
  /** The Docker Engine's socket on every node. */
  RINGMASTER_DOCKER_SOCKET: z.string().startsWith('/').default('/var/run/docker.sock'),
  RINGMASTER_DOCKER_NETWORK: z.enum(['bridge', 'host', 'none']).default('bridge'),
  /** The group that may use the socket; absent: the launcher runs as root. */
  RINGMASTER_DOCKER_GROUP: z.coerce.number().int().min(0).max(4_294_967_294).optional(),
});

export const masterEnvironment = z.object({
  ...shared,
  NODE_NAME: z.string().default(''),
  RINGMASTER_PORT: port.default(7000),
  RINGMASTER_CLUSTER_NAME: z.string().min(1).max(253).default('ringmaster'),
  /** File of the master key, 32 bytes. Absent: only Instances of the runtime kubernetes are served. */
  RINGMASTER_MASTER_KEY_FILE: z.string().min(1).optional(),
  /** This pod's address, where the operator may send answers. Absent, or without a master key: they are read from the records. */
  POD_IP: z.union([z.ipv4(), z.ipv6()]).optional(),
  /** The audience that Kubernetes tokens must be for. Absent: only ApiKeys count. */
  RINGMASTER_TOKEN_AUDIENCE: z.string().min(1).max(253).optional(),
  /** Whether there is the right to list and watch Nodes; without it the calls about nodes are refused. */
  RINGMASTER_NODES_ENABLED: flag.default(false),
  /** Certificate with its chain, and its key, as PEM. With both the port speaks TLS, and only TLS; read again when they change. */
  RINGMASTER_TLS_CERT_FILE: z.string().min(1).optional(),
  RINGMASTER_TLS_KEY_FILE: z.string().min(1).optional(),
  RINGMASTER_SOCKETS_MAX: count.optional(),
  RINGMASTER_SOCKETS_PER_KEY_MAX: count.optional(),
  RINGMASTER_SOCKETS_PER_INSTANCE_MAX: count.optional(),
  RINGMASTER_DRAIN_SECONDS: z.coerce.number().int().min(0).max(3600).optional(),
});

/** Throws a `TypeError` that lists every variable that is wrong. An empty variable counts as absent. */
export function readEnvironment<T extends z.ZodType>(schema: T, variables: NodeJS.ProcessEnv): z.infer<T> {
  const given = Object.fromEntries(
    Object.entries(variables).filter(([, value]) => value !== undefined && value !== ''),
  );
  const result = schema.safeParse(given);
  if (result.success) return result.data;
  const faults = result.error.issues.map((issue) => `${issue.path.join('.')}: ${issue.message}`);
  throw new TypeError(`Cannot start: the environment is wrong: ${faults.join('; ')}`);
}
