/** Which log source an instance has: its runtime decides. */
import { OperatorError } from '../errors.ts';
import type { Logger } from '../log.ts';
import { createKubernetesLogSource } from '../logs/sources/kubernetes.ts';
import type { SourceObserver } from '../logs/sources/kubernetes.ts';
import { createSidecarLogSource } from '../logs/sources/sidecar.ts';
import type { LogSource } from '../logs/source.ts';
import type { TargetWatch } from '../logs/target.ts';
import type { Client } from '../runtime/client.ts';
import type { Clock } from '../runtime/clock.ts';
import type { SidecarClient } from '../sidecar/client.ts';

export interface SourcesOptions {
  readonly client: Client;
  /** Undefined: this Master has no key for sidecars, and serves the runtime `kubernetes` alone. */
  readonly sidecars: SidecarClient | undefined;
  readonly directory: { watchTarget(uid: string): TargetWatch; runtimeOf(uid: string): string | undefined };
  readonly clock: Clock;
  /** In [0, 1). */
  readonly random: () => number;
  readonly log: Logger;
  readonly observerFor: (runtime: string) => SourceObserver;
}

/** The result throws `LOG_SOURCE_UNAVAILABLE` for an instance that needs the key where there is none. */
export function createSources(options: SourcesOptions): (instanceUid: string) => LogSource {
  const { sidecars, directory, client, observerFor, ...others } = options;
  return (instanceUid) => {
    const target = directory.watchTarget(instanceUid);
    const runtime = directory.runtimeOf(instanceUid) ?? 'kubernetes';
    const shared = { ...others, observer: observerFor(runtime) };
    if (runtime === 'kubernetes') {
      return createKubernetesLogSource({ ...shared, client, target, instanceUid });
    }
    if (sidecars === undefined) {
      const cause = `this Master serves no instance of the runtime "${runtime}"`;
      throw new OperatorError('LOG_SOURCE_UNAVAILABLE', `Cannot read the log: ${cause}`);
    }
    return createSidecarLogSource({ ...shared, client: sidecars, pods: client, target, instanceUid });
  };
}
