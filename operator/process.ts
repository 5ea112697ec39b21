/** What the operator and the Master share as processes: logger, metrics, the end by signal, the connection, and how caches are filled. */
import type { Logger } from './log.ts';
import { createLogger } from './log.ts';
import type { Metrics } from './metrics.ts';
import { createMetrics } from './metrics.ts';
import { observeReflector, observeRequests } from './observers.ts';
import type { Client, KubernetesObject, Resource } from './runtime/client.ts';
import { systemClock } from './runtime/clock.ts';
import { connect } from './runtime/http.ts';
import { dropManagedFields } from './runtime/informer.ts';
import type { InformerOptions } from './runtime/informer.ts';

export interface ProcessParts {
  readonly log: Logger;
  readonly metrics: Metrics;
  readonly client: Client;
  /** Aborts on SIGTERM and SIGINT; a second one ends the process at once, as it would without us. */
  readonly stop: AbortSignal;
}

/** Opens no connection yet. Throws when there is no Kubernetes configuration. */
export function startProcess(options: { name: string; logLevel: string; context: string | undefined }): ProcessParts {
  const { name, logLevel, context } = options;
  const log = createLogger({ name, level: logLevel });
  const metrics = createMetrics();
  const stop = new AbortController();
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    process.once(signal, () => {
      log.info({ signal }, 'Stopping');
      stop.abort(new Error(`Stopped by ${signal}`));
    });
  }
  const observer = observeRequests(metrics);
  const { client } = connect({ log, observer, ...(context === undefined ? {} : { context }) });
  return { log, metrics, client, stop: stop.signal };
}

/** Options of an informer over `resource`. */
export function cacheOptions<T extends KubernetesObject>(
  { client, log, metrics }: ProcessParts,
  resource: Resource<T>,
): Omit<InformerOptions<T>, 'scope'> {
  return {
    client,
    resource,
    clock: systemClock,
    random: Math.random,
    log,
    observer: observeReflector(metrics),
    transform: dropManagedFields,
  };
}
