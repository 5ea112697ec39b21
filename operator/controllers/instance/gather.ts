/** Reads what is known of one Instance from the caches. No requests, no decisions. */
import type { Instance } from '../../api/v1alpha1/instance.ts';
import { idLabel } from '../../names.ts';
import type { Pod, Service } from '../../runtime/client.ts';
import { viewCleanupPod } from './enginecontainer.ts';
import { allocateId, isInstanceId } from './id.ts';
import { viewPod } from './observe.ts';
import { isOwnedBy } from './owner.ts';
import type { Observed } from './plan.ts';
import { buildService } from './service.ts';
import { runtimeFault } from './sidecarpod.ts';
import type { SidecarSettings } from './sidecarpod.ts';

/** The part of an informer that is needed here. */
export interface Lister<T> {
  get(key: string): T | undefined;
  byIndex(index: string, value: string): readonly T[];
}

export interface Caches {
  /** Index `id`: by status.id, or by label where there is no status yet. */
  readonly instances: Lister<Instance>;
  /** Index `owner`: by `namespace/name` of the controlling Instance, or of the one for whose pod a pod cleans up. */
  readonly pods: Lister<Pod>;
  readonly services: Lister<Service>;
}

export interface Gathered {
  readonly observed: Observed;
  readonly id: string;
  readonly pods: readonly Pod[];
  readonly service: Service | undefined;
  readonly desiredService: Service | undefined;
}

/** The value under which the `id` index files an Instance. */
export function indexedId(instance: Instance): string | undefined {
  return instance.status?.id ?? instance.metadata.labels?.[idLabel];
}

/** Undefined if there is no such Instance. `key` is `namespace/name`. */
export function gather(
  caches: Caches,
  key: string,
  options: {
    nowMs: number;
    assignedIds: ReadonlyMap<string, string>;
    /** Undefined: only the runtime kubernetes can be had. */
    sidecar?: SidecarSettings | undefined;
  },
): Gathered | undefined {
  const instance = caches.instances.get(key);
  if (instance === undefined) return undefined;
  const id = chooseId(caches, instance, options.assignedIds);
  const related = caches.pods.byIndex('owner', key);
  const pods = related.filter((pod) => isOwnedBy(pod, instance));
  const cachedService = caches.services.get(key);
  const service = cachedService !== undefined && isOwnedBy(cachedService, instance) ? cachedService : undefined;
  const desiredService = buildService(instance, id);
  const observed: Observed = {
    instance,
    pods: pods.map(viewPod),
    cleanups: related.flatMap((pod) => viewCleanupPod(pod) ?? []),
    isDockerEnabled: options.sidecar?.docker.isEnabled === true,
    hasService: service !== undefined,
    wantsService: desiredService !== undefined,
    nowMs: options.nowMs,
    sidecarImage: options.sidecar?.image,
    runtimeFault: runtimeFault(instance.spec, options.sidecar),
  };
  return { observed, id, pods, service, desiredService };
}

/** Its own; else the one that this process gave it a moment ago; else its label's (a restored backup has no status); else a new one. */
function chooseId(caches: Caches, instance: Instance, assignedIds: ReadonlyMap<string, string>): string {
  const uid = instance.metadata.uid ?? '';
  const own = instance.status?.id ?? assignedIds.get(uid);
  if (own !== undefined) return own;
  const isTaken = (id: string): boolean =>
    caches.instances.byIndex('id', id).some(({ metadata }) => metadata.uid !== uid) ||
    [...assignedIds.values()].includes(id);
  const label = instance.metadata.labels?.[idLabel];
  if (label !== undefined && isInstanceId(label) && !isTaken(label)) return label;
  return allocateId(uid, isTaken);
}
