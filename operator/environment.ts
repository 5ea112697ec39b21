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
});

export const masterEnvironment = z.object({
  ...shared,
  NODE_NAME: z.string().default(''),
  RINGMASTER_PORT: port.default(7000),
  RINGMASTER_CLUSTER_NAME: z.string().min(1).max(253).default('ringmaster'),
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
