/**
 * The narrow port through which everything here talks to Kubernetes.
 *
 * `connect()` in http.ts makes the real one; `operator/testing/` has a fake and a wrapper that injects faults. The port knows no kinds: a
 * `Resource<T>` names the REST path and carries the type. Reads that find nothing give `undefined`; every other failure is an `ApiError`
 * (the server answered) or a plain network error (it did not). Nothing here retries: that is the caller's loop.
 */
import type { EventsV1Event, V1Lease, V1Namespace, V1Pod, V1Service } from '@kubernetes/client-node';

/** Metadata as the server returns it. Times are RFC 3339 strings, as on the wire (never `Date`). */
export interface ObjectMeta {
  name: string;
  namespace?: string;
  uid?: string;
  resourceVersion?: string;
  generation?: number;
  creationTimestamp?: string;
  deletionTimestamp?: string;
  deletionGracePeriodSeconds?: number;
  labels?: Record<string, string>;
  annotations?: Record<string, string>;
  finalizers?: string[];
  ownerReferences?: OwnerReference[];
  managedFields?: unknown[];
}

export interface OwnerReference {
  apiVersion: string;
  kind: string;
  name: string;
  uid: string;
  controller?: boolean;
  blockOwnerDeletion?: boolean;
}

export interface KubernetesObject {
  apiVersion?: string;
  kind?: string;
  metadata: ObjectMeta;
}

/** `Date` fields of the library's models as they really are in JSON: strings. */
export type Wire<T> = T extends Date
  ? string
  : T extends (infer E)[]
    ? Wire<E>[]
    : T extends object
      ? { [K in keyof T]: Wire<T[K]> }
      : T;

/** A library model as an object on the wire: its own fields, our metadata. */
export type WireObject<T> = Wire<Omit<T, 'metadata'>> & { metadata: ObjectMeta };

export type Pod = WireObject<V1Pod>;
export type Service = WireObject<V1Service>;
export type Lease = WireObject<V1Lease>;
export type Event = WireObject<EventsV1Event>;
export type Namespace = WireObject<V1Namespace>;

/** Where a kind lives in the REST API. The type parameter ties results to it. */
export interface Resource<T extends KubernetesObject> {
  readonly apiVersion: string;
  readonly kind: string;
  readonly plural: string;
  readonly namespaced: boolean;
  /** Never set: it only carries the type. */
  readonly object?: T;
}

export const pods: Resource<Pod> = { apiVersion: 'v1', kind: 'Pod', plural: 'pods', namespaced: true };
export const services: Resource<Service> = { apiVersion: 'v1', kind: 'Service', plural: 'services', namespaced: true };
export const leases: Resource<Lease> = {
  apiVersion: 'coordination.k8s.io/v1',
  kind: 'Lease',
  plural: 'leases',
  namespaced: true,
};
export const events: Resource<Event> = {
  apiVersion: 'events.k8s.io/v1',
  kind: 'Event',
  plural: 'events',
  namespaced: true,
};

export interface ObjectRef {
  namespace?: string;
  name: string;
}

export interface List<T> {
  metadata: { resourceVersion: string; continue?: string };
  items: T[];
}

export interface ListOptions {
  /** Absent: all namespaces. */
  namespace?: string;
  labelSelector?: string;
  fieldSelector?: string;
  /** Page size; the caller follows `metadata.continue`. */
  limit?: number;
  continue?: string;
  /** `"0"` allows an answer from the server's watch cache. */
  resourceVersion?: string;
  signal?: AbortSignal;
}

export interface WatchOptions extends Pick<ListOptions, 'namespace' | 'labelSelector' | 'fieldSelector'> {
  resourceVersion: string;
  /** The server ends the watch after this time. */
  timeoutSeconds: number;
  /** The client gives a watch up that has been silent for so long (half-open connection). */
  idleTimeoutMs: number;
  /** The server has taken the watch; the first event may be minutes away. */
  onOpen?: () => void;
  signal: AbortSignal;
}

export type WatchEvent<T> =
  | { type: 'ADDED' | 'MODIFIED' | 'DELETED'; object: T }
  | { type: 'BOOKMARK'; object: { metadata: { resourceVersion: string } } }
  | { type: 'ERROR'; object: Status };

/** The API server's own error body. */
export interface Status {
  code: number;
  reason: string;
  message: string;
  details?: { retryAfterSeconds?: number; causes?: { field?: string; message?: string; reason?: string }[] };
}

/** The server answered, with an error. `reason` is Kubernetes' own (`NotFound`, `Conflict`, `Expired`, `Invalid`, …). */
export class ApiError extends Error {
  readonly code: number;
  readonly reason: string;
  /** From `Retry-After` or the Status; absent where the server named none. */
  readonly retryAfterMs: number | undefined;
  readonly status: Status;

  constructor(status: Status, retryAfterMs?: number) {
    super(status.message);
    this.name = 'ApiError';
    this.code = status.code;
    this.reason = status.reason;
    this.status = status;
    this.retryAfterMs =
      retryAfterMs ??
      (status.details?.retryAfterSeconds === undefined ? undefined : status.details.retryAfterSeconds * 1000);
  }
}

/** Whether `error` is the server's answer with that reason. */
export function isReason(error: unknown, ...reasons: string[]): error is ApiError {
  return error instanceof ApiError && reasons.includes(error.reason);
}

export interface ApplyOptions {
  fieldManager: string;
  /** Take over fields that another manager owns; only for fields that are ours by design. */
  force?: boolean;
  /** `"All"` lets the server check without storing. */
  dryRun?: 'All';
  signal?: AbortSignal;
}

export interface RemoveOptions {
  gracePeriodSeconds?: number;
  /** Only this incarnation: a newer object under the same name stays. */
  uid?: string;
  /** Only this version: an object that was changed since stays, and the call fails with `Conflict`. */
  resourceVersion?: string;
  signal?: AbortSignal;
}

export interface LogOptions {
  container: string;
  follow: boolean;
  previous?: boolean;
  /** Each line starts with its RFC 3339 time stamp (nanoseconds) and one space. */
  timestamps: boolean;
  /** Lines from the end; 0 is honoured (unlike in the library). */
  tailLines?: number;
  /** RFC 3339; the server looks at whole seconds. */
  sinceTime?: string;
  limitBytes?: number;
  /** Ends the stream; nothing is thrown out of band. */
  signal: AbortSignal;
}

export interface Client {
  get<T extends KubernetesObject>(resource: Resource<T>, ref: ObjectRef, signal?: AbortSignal): Promise<T | undefined>;
  list<T extends KubernetesObject>(resource: Resource<T>, options: ListOptions): Promise<List<T>>;
  /** Ends when the server ends it; throws on a broken or silent connection. Asks for bookmarks. */
  watch<T extends KubernetesObject>(resource: Resource<T>, options: WatchOptions): AsyncIterable<WatchEvent<T>>;
  create<T extends KubernetesObject>(resource: Resource<T>, object: T, signal?: AbortSignal): Promise<T>;
  /** PUT: fails with `Conflict` when `resourceVersion` is no longer the newest. */
  update<T extends KubernetesObject>(resource: Resource<T>, object: T, signal?: AbortSignal): Promise<T>;
  /** The same of the `status` subresource; what else the object holds is not stored. The cheapest way for the server to replace a whole status. */
  updateStatus<T extends KubernetesObject>(resource: Resource<T>, object: T, signal?: AbortSignal): Promise<T>;
  /** Server-side apply. `object` holds exactly the fields that `fieldManager` owns from now on. */
  apply<T extends KubernetesObject>(
    resource: Resource<T>,
    object: Partial<T> & KubernetesObject,
    options: ApplyOptions,
  ): Promise<T>;
  /** Server-side apply to the `status` subresource. */
  applyStatus<T extends KubernetesObject>(
    resource: Resource<T>,
    object: KubernetesObject,
    options: ApplyOptions,
  ): Promise<T>;
  /** JSON merge patch (RFC 7386); with `metadata.resourceVersion` in it, a compare-and-swap. */
  mergePatch<T extends KubernetesObject>(
    resource: Resource<T>,
    ref: ObjectRef,
    patch: object,
    signal?: AbortSignal,
  ): Promise<T>;
  /** The same of the `status` subresource: cheaper for the server than an apply, which has to work out who owns each field. */
  mergePatchStatus<T extends KubernetesObject>(
    resource: Resource<T>,
    ref: ObjectRef,
    patch: object,
    signal?: AbortSignal,
  ): Promise<T>;
  /** Not found is success. */
  remove(resource: Resource<KubernetesObject>, ref: ObjectRef, options?: RemoveOptions): Promise<void>;
  /** Writes `bytes` to the container's stdin by attach, in order, and detaches; resolves once they were sent. */
  attachStdin(ref: Required<ObjectRef>, container: string, bytes: Uint8Array, signal?: AbortSignal): Promise<void>;
  /**
   * The raw log bytes as they arrive. Resolves once the server has answered `200`; an error answer is an `ApiError` with the server's text.
   * The iterable ends on a clean EOF and throws when the connection breaks. Reading slowly slows the server (back-pressure).
   */
  log(ref: Required<ObjectRef>, options: LogOptions): Promise<AsyncIterable<Uint8Array>>;
}
