/**
 * The instances that this replica knows, fed by the watch on Instances: what clients see of them, and what the log sources follow.
 *
 * A target outlives its Instance: when the Instance is deleted its last target says so, and the sources that follow it read to the end.
 */
import type { Instance, InstanceSpec, Runtime } from '../api/v1alpha1/instance.ts';
import { parseQuantity } from '../api/v1alpha1/quantity.ts';
import { noTarget } from '../logs/target.ts';
import type { LogTarget, TargetWatch } from '../logs/target.ts';
import { configurationLabel, lastHeartbeatAnnotation } from '../names.ts';
import type { InstanceDirectory, InstanceInfo } from './ports.ts';

interface Entry {
  target: LogTarget;
  readonly runtime: Runtime;
  /** Called once with the next target, then forgotten. */
  readonly waiters: Set<() => void>;
}

export class Directory implements InstanceDirectory {
  readonly #byId = new Map<string, { info: InstanceInfo; uid: string }>();
  readonly #idByUid = new Map<string, string>();
  readonly #targets = new Map<string, Entry>();
  readonly #listeners = new Set<() => void>();

  /** Adds or replaces. */
  set(instance: Instance): void {
    const { uid = '' } = instance.metadata;
    this.#move(uid, toTarget(instance), instance.spec.runtime);
    const id = instance.status?.id;
    if (id === undefined) return;
    this.#idByUid.set(uid, id);
    this.#byId.set(id, { info: toInfo(instance, id), uid });
    for (const listener of this.#listeners) listener();
  }

  remove(instance: Instance): void {
    const { uid = '' } = instance.metadata;
    const id = this.#idByUid.get(uid);
    this.#idByUid.delete(uid);
    // A restored Instance may have taken the id over before the old one's deletion is seen.
    if (id !== undefined && this.#byId.get(id)?.uid === uid) this.#byId.delete(id);
    this.#move(uid, { ...(this.#targets.get(uid)?.target ?? noTarget), isFinished: true }, instance.spec.runtime);
    if (this.#targets.get(uid)?.waiters.size === 0) this.#targets.delete(uid);
  }

  list(): readonly InstanceInfo[] {
    return [...this.#byId.values()].map(({ info }) => info).sort((a, b) => (a.id < b.id ? -1 : 1));
  }

  byId(id: string): { readonly info: InstanceInfo; readonly uid: string } | undefined {
    return this.#byId.get(id);
  }

  byUid(uid: string): InstanceInfo | undefined {
    const id = this.#idByUid.get(uid);
    const found = id === undefined ? undefined : this.#byId.get(id);
    return found?.uid === uid ? found.info : undefined;
  }

  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => {
      this.#listeners.delete(listener);
    };
  }

  /** What the log source of this Instance follows; of one that is unknown or gone: a finished one without a pod. */
  watchTarget(uid: string): TargetWatch {
    const gone: LogTarget = { ...noTarget, isFinished: true };
    // Kept by the watch: it still answers after the Instance is gone and forgotten here.
    const entry = this.#targets.get(uid) ?? { target: gone, waiters: new Set<() => void>() };
    return {
      current: () => entry.target,
      changed: (seen, signal) => waitForChange(entry, seen, signal),
    };
  }

  /** Undefined for an Instance that is unknown or gone. */
  runtimeOf(uid: string): Runtime | undefined {
    return this.#targets.get(uid)?.runtime;
  }

  #move(uid: string, target: LogTarget, runtime: Runtime): void {
    const entry = this.#targets.get(uid);
    if (entry === undefined) {
      this.#targets.set(uid, { target, runtime, waiters: new Set() });
      return;
    }
    if (isSame(entry.target, target)) return;
    entry.target = target;
    const waiters = [...entry.waiters];
    entry.waiters.clear();
    for (const wake of waiters) wake();
  }
}

async function waitForChange(
  entry: Pick<Entry, 'target' | 'waiters'>,
  seen: LogTarget,
  signal: AbortSignal,
): Promise<LogTarget> {
  signal.throwIfAborted();
  while (isSame(entry.target, seen)) {
    const { promise, resolve, reject } = Promise.withResolvers<undefined>();
    const wake = (): void => {
      resolve(undefined);
    };
    const abort = (): void => {
      reject(signal.reason as Error);
    };
    entry.waiters.add(wake);
    signal.addEventListener('abort', abort, { once: true });
    try {
      await promise;
    } finally {
      entry.waiters.delete(wake);
      signal.removeEventListener('abort', abort);
    }
  }
  return entry.target;
}

function isSame(a: LogTarget, b: LogTarget): boolean {
  return (
    a.podName === b.podName &&
    a.podIP === b.podIP &&
    a.isStarting === b.isStarting &&
    a.podSequence === b.podSequence &&
    a.restarts === b.restarts &&
    a.endingPodSequence === b.endingPodSequence &&
    a.unstartedPodSequence === b.unstartedPodSequence &&
    a.isFinished === b.isFinished &&
    a.namespace === b.namespace
  );
}

function toTarget(instance: Instance): LogTarget {
  const { status, metadata } = instance;
  return {
    namespace: metadata.namespace ?? '',
    podName: status?.podName,
    podIP: status?.podIP,
    podSequence: status?.podSequence ?? 0,
    restarts: status?.restarts ?? 0,
    endingPodSequence: status?.endingPodSequence ?? 0,
    unstartedPodSequence: status?.unstartedPodSequence ?? 0,
    isStarting: status?.state === 'CREATING',
    // A status that speaks of an older spec may be about to start again.
    isFinished: status?.state === 'STOPPED' && status.observedGeneration === metadata.generation,
  };
}

function toInfo(instance: Instance, id: string): InstanceInfo {
  const { metadata, spec, status } = instance;
  return {
    id,
    name: metadata.name,
    namespace: metadata.namespace ?? '',
    configurationName: metadata.labels?.[configurationLabel] ?? null,
    wrapperNodeId: status?.nodeName ?? null,
    hostAddress: status?.hostAddress ?? null,
    allocatedPort: status?.port ?? null,
    state: status?.state ?? 'CREATING',
    lastHeartbeat: lastSignMs(instance),
    processPid: null,
    allocatedRamMB: allocated(spec, 'memory', 1 / (1024 * 1024)),
    allocatedCpu: allocated(spec, 'cpu', 100),
    runtime: spec.runtime,
    restarts: status?.restarts ?? 0,
  };
}

/** When the operator last saw it change, or a heartbeat from outside was reported, whichever is later; null before either. */
function lastSignMs({ metadata, status }: Instance): number | null {
  const times = (status?.conditions ?? []).map(({ lastTransitionTime }) => Date.parse(lastTransitionTime));
  const reportedMs = Number(metadata.annotations?.[lastHeartbeatAnnotation] ?? Number.NaN);
  if (Number.isSafeInteger(reportedMs)) times.push(reportedMs);
  return times.length === 0 ? null : Math.max(...times);
}

/** The limit, else the request, else 0. */
function allocated(spec: InstanceSpec, resource: string, factor: number): number {
  const quantity = spec.resources?.limits?.[resource] ?? spec.resources?.requests?.[resource];
  return quantity === undefined ? 0 : Math.round(parseQuantity(quantity) * factor);
}
