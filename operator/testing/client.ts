/**
 * An API server in memory, behind the `Client` port. What controllers rely on is as in the real one: versions, uids, generations, watches with
 * bookmarks and 410 after compaction, server-side apply with conflicts, the status subresource, finalizers, and no write without a change.
 * There is no garbage collector, no kubelet, no validation and no defaulting: a test plays those.
 */
import { isDeepStrictEqual } from 'node:util';
import type {
  ApplyOptions,
  Client,
  KubernetesObject,
  List,
  ListOptions,
  LogOptions,
  ObjectRef,
  RemoveOptions,
  Resource,
  WatchEvent,
  WatchOptions,
} from '../runtime/client.ts';
import { pods } from '../runtime/client.ts';
import { systemClock } from '../runtime/clock.ts';
import type { Clock } from '../runtime/clock.ts';
import { keyOf } from '../runtime/informer.ts';
import { applyFields, createdBy, describeManagers, reassign } from './apply.ts';
import { compileSelection } from './selectors.ts';
import { Store, apiError } from './store.ts';
import type { Stored } from './store.ts';

const defaultGraceSeconds = 30;

export type LogSource = (options: LogOptions) => AsyncIterable<Uint8Array>;

export interface Write {
  readonly verb:
    'create' | 'update' | 'updateStatus' | 'apply' | 'applyStatus' | 'mergePatch' | 'mergePatchStatus' | 'remove';
  readonly kind: string;
  readonly key: string;
}

interface Edit {
  readonly resource: Resource<KubernetesObject>;
  readonly stored: Stored;
  readonly next: KubernetesObject;
  readonly managers: Stored['managers'];
  readonly dryRun?: boolean;
}

export class FakeClient implements Client {
  readonly #store = new Store();
  readonly #clock: Clock;
  readonly #logs = new Map<string, LogSource>();
  readonly #pages = new Map<string, { version: number; items: KubernetesObject[] }>();
  #uids = 0;
  /** Every write request that was accepted, changes or not. */
  readonly writes: Write[] = [];
  /** What was written to standard inputs, in order. */
  readonly stdin: { readonly pod: string; readonly container: string; readonly text: string }[] = [];

  constructor(clock: Clock = systemClock) {
    this.#clock = clock;
  }

  // What a test does to the server.

  /** Forgets the history: watches and pages of older versions get 410. */
  compact(): void {
    this.#store.compact();
    this.#pages.clear();
  }

  /** Ends every open watch as a server does whose time is up. */
  endWatches(): void {
    this.#store.signal({ type: 'end' });
  }

  /** Breaks every open watch. */
  breakWatches(error: Error = new Error('connection reset')): void {
    this.#store.signal({ type: 'break', error });
  }

  /** Sends a bookmark on every open watch. */
  bookmark(): void {
    this.#store.signal({ type: 'bookmark' });
  }

  /** Watches that are open now. */
  get watchers(): number {
    return this.#store.watchers;
  }

  /** What `log` gives for this container; default: nothing, and EOF. */
  setLog(ref: Required<ObjectRef>, container: string, source: LogSource): void {
    this.#logs.set(`${keyOf(ref)}/${container}`, source);
  }

  /** Replaces the status, as the kubelet or another controller would. */
  setStatus(resource: Resource<KubernetesObject>, ref: ObjectRef, status: object): void {
    const stored = this.#existing(resource, ref);
    this.#commit({ resource, stored, next: { ...stored.object, ...{ status } }, managers: stored.managers });
  }

  /** The object as stored, for assertions. */
  peek<T extends KubernetesObject>(resource: Resource<T>, ref: ObjectRef): T | undefined {
    const stored = this.#store.read(resource, keyOf(ref));
    return stored === undefined ? undefined : (structuredClone(stored.object) as T);
  }

  /** Every object of the resource, for assertions. */
  peekAll<T extends KubernetesObject>(resource: Resource<T>): T[] {
    return structuredClone(this.#store.all(resource)) as T[];
  }

  // The port. All of it is asynchronous, as over a network.

  async get<T extends KubernetesObject>(
    resource: Resource<T>,
    ref: ObjectRef,
    signal?: AbortSignal,
  ): Promise<T | undefined> {
    await arrive(signal);
    return this.peek(resource, ref);
  }

  async list<T extends KubernetesObject>(resource: Resource<T>, options: ListOptions): Promise<List<T>> {
    await arrive(options.signal);
    const { version, items } = this.#page(resource, options);
    const limit = options.limit ?? Infinity;
    const metadata = { resourceVersion: String(version) };
    if (items.length <= limit) return { metadata, items: structuredClone(items) as T[] };
    const token = `${version}-${this.#pages.size}`;
    this.#pages.set(token, { version, items: items.slice(limit) });
    return { metadata: { ...metadata, continue: token }, items: structuredClone(items.slice(0, limit)) as T[] };
  }

  async *watch<T extends KubernetesObject>(
    resource: Resource<T>,
    options: WatchOptions,
  ): AsyncGenerator<WatchEvent<T>> {
    if (options.signal.aborted) return;
    await Promise.resolve();
    options.onOpen?.();
    const matches = compileSelection(options);
    const isFromNow = options.resourceVersion === '' || options.resourceVersion === '0';
    const version = isFromNow ? this.#store.version : Number(options.resourceVersion);
    for (const object of isFromNow ? this.#store.all(resource).filter(matches) : []) {
      yield { type: 'ADDED', object: structuredClone(object) as T };
    }
    const watch = { version, matches, signal: options.signal };
    yield* this.#store.watch(resource, watch) as AsyncGenerator<WatchEvent<T>>;
  }

  async create<T extends KubernetesObject>(resource: Resource<T>, object: T, signal?: AbortSignal): Promise<T> {
    await arrive(signal);
    const key = keyOf(object.metadata);
    if (this.#store.read(resource, key) !== undefined) {
      throw apiError(409, 'AlreadyExists', `${resource.plural} "${object.metadata.name}" already exists`);
    }
    const next = withoutStatus(structuredClone<KubernetesObject>(object));
    this.writes.push({ verb: 'create', kind: resource.kind, key });
    return this.#insert(resource, next, createdBy(next)) as T;
  }

  async update<T extends KubernetesObject>(resource: Resource<T>, object: T, signal?: AbortSignal): Promise<T> {
    await arrive(signal);
    const stored = this.#existing(resource, object.metadata);
    checkPreconditions(stored.object, object.metadata);
    const next = withStatusOf(structuredClone<KubernetesObject>(object), stored.object);
    return this.#edit('update', resource, { stored, next }) as T;
  }

  async updateStatus<T extends KubernetesObject>(resource: Resource<T>, object: T, signal?: AbortSignal): Promise<T> {
    await arrive(signal);
    const stored = this.#existing(resource, object.metadata);
    checkPreconditions(stored.object, object.metadata);
    const next = withStatusOf(stored.object, structuredClone<KubernetesObject>(object));
    return this.#edit('updateStatus', resource, { stored, next }) as T;
  }

  async mergePatch<T extends KubernetesObject>(
    resource: Resource<T>,
    ref: ObjectRef,
    patch: object,
    signal?: AbortSignal,
  ): Promise<T> {
    await arrive(signal);
    const { stored, merged } = this.#merge(resource, ref, patch);
    return this.#edit('mergePatch', resource, { stored, next: withStatusOf(merged, stored.object) }) as T;
  }

  async mergePatchStatus<T extends KubernetesObject>(
    resource: Resource<T>,
    ref: ObjectRef,
    patch: object,
    signal?: AbortSignal,
  ): Promise<T> {
    await arrive(signal);
    const { stored, merged } = this.#merge(resource, ref, patch);
    return this.#edit('mergePatchStatus', resource, { stored, next: withStatusOf(stored.object, merged) }) as T;
  }

  async apply<T extends KubernetesObject>(
    resource: Resource<T>,
    object: Partial<T> & KubernetesObject,
    options: ApplyOptions,
  ): Promise<T> {
    await arrive(options.signal);
    const key = keyOf(object.metadata);
    const stored = this.#store.read(resource, key);
    if (stored === undefined && object.metadata.uid !== undefined) {
      throw apiError(409, 'Conflict', `${resource.plural} "${object.metadata.name}": uid mismatch: no existing object`);
    }
    if (options.dryRun === undefined) this.writes.push({ verb: 'apply', kind: resource.kind, key });
    if (stored !== undefined) checkPreconditions(stored.object, object.metadata);
    const { name, namespace } = object.metadata;
    const metadata = namespace === undefined ? { name } : { name, namespace };
    const base = stored ?? { object: { metadata }, managers: new Map<string, ReadonlySet<string>>() };
    const { next, managers } = applyFields(base, withoutStatus(object), options);
    if (stored !== undefined) return this.#commit({ resource, stored, next, managers, dryRun: isDryRun(options) }) as T;
    return (isDryRun(options) ? next : this.#insert(resource, next, managers)) as T;
  }

  async applyStatus<T extends KubernetesObject>(
    resource: Resource<T>,
    object: KubernetesObject,
    options: ApplyOptions,
  ): Promise<T> {
    await arrive(options.signal);
    const stored = this.#existing(resource, object.metadata);
    checkPreconditions(stored.object, object.metadata);
    if (!isDryRun(options)) this.writes.push({ verb: 'applyStatus', kind: resource.kind, key: keyOf(object.metadata) });
    const { status } = object as { status?: unknown };
    const manager = { ...options, fieldManager: `${options.fieldManager}/status` };
    const { next, managers } = applyFields(stored, status === undefined ? {} : { status }, manager);
    return this.#commit({ resource, stored, next, managers, dryRun: isDryRun(options) }) as T;
  }

  async remove(resource: Resource<KubernetesObject>, ref: ObjectRef, options: RemoveOptions = {}): Promise<void> {
    await arrive(options.signal);
    const stored = this.#store.read(resource, keyOf(ref));
    if (stored === undefined) return;
    const { uid, resourceVersion } = options;
    checkPreconditions(stored.object, {
      ...(uid === undefined ? {} : { uid }),
      ...(resourceVersion === undefined ? {} : { resourceVersion }),
    });
    this.writes.push({ verb: 'remove', kind: resource.kind, key: keyOf(ref) });
    const graceSeconds = graceOf(resource, stored.object, options.gracePeriodSeconds);
    if (graceSeconds === 0 && (stored.object.metadata.finalizers ?? []).length === 0) {
      this.#store.erase(resource, keyOf(ref));
      return;
    }
    const metadata = { ...stored.object.metadata, deletionGracePeriodSeconds: graceSeconds };
    metadata.deletionTimestamp ??= this.#timeStamp(graceSeconds * 1000);
    this.#commit({ resource, stored, next: { ...stored.object, metadata }, managers: stored.managers });
  }

  async attachStdin(
    ref: Required<ObjectRef>,
    container: string,
    bytes: Uint8Array,
    signal?: AbortSignal,
  ): Promise<void> {
    await arrive(signal);
    this.#existing(pods, ref);
    this.stdin.push({ pod: keyOf(ref), container, text: Buffer.from(bytes).toString('utf8') });
  }

  async log(ref: Required<ObjectRef>, options: LogOptions): Promise<AsyncIterable<Uint8Array>> {
    await arrive(options.signal);
    this.#existing(pods, ref);
    return this.#logs.get(`${keyOf(ref)}/${options.container}`)?.(options) ?? noBytes();
  }

  #page(resource: Resource<KubernetesObject>, options: ListOptions): { version: number; items: KubernetesObject[] } {
    if (options.continue === undefined) {
      return { version: this.#store.version, items: this.#store.all(resource).filter(compileSelection(options)) };
    }
    const page = this.#pages.get(options.continue);
    if (page === undefined) throw apiError(410, 'Expired', 'The provided continue parameter is too old');
    return page;
  }

  #existing(resource: Resource<KubernetesObject>, ref: ObjectRef): Stored {
    const stored = this.#store.read(resource, keyOf(ref));
    if (stored === undefined) throw apiError(404, 'NotFound', `${resource.plural} "${ref.name}" not found`);
    return stored;
  }

  #insert(
    resource: Resource<KubernetesObject>,
    object: KubernetesObject,
    managers: Stored['managers'],
  ): KubernetesObject {
    this.#uids += 1;
    const given = { ...object.metadata };
    delete given.resourceVersion;
    delete given.deletionTimestamp;
    const metadata = {
      ...given,
      uid: `00000000-0000-4000-8000-${String(this.#uids).padStart(12, '0')}`,
      creationTimestamp: this.#timeStamp(0),
      ...('spec' in object ? { generation: 1 } : {}),
      managedFields: describeManagers(managers),
    };
    const next = { ...object, apiVersion: resource.apiVersion, kind: resource.kind, metadata };
    return structuredClone(this.#store.write(resource, { object: next, managers }));
  }

  /** At once, as the server does: nothing comes between the look at what is stored and the edit. */
  #merge(
    resource: Resource<KubernetesObject>,
    ref: ObjectRef,
    patch: object,
  ): { stored: Stored; merged: KubernetesObject } {
    const stored = this.#existing(resource, ref);
    checkPreconditions(stored.object, (patch as { metadata?: object }).metadata ?? {});
    const merged = mergeJson(structuredClone(stored.object), structuredClone(patch)) as KubernetesObject;
    return { stored, merged };
  }

  #edit(
    verb: Write['verb'],
    resource: Resource<KubernetesObject>,
    edit: { stored: Stored; next: KubernetesObject },
  ): KubernetesObject {
    this.writes.push({ verb, kind: resource.kind, key: keyOf(edit.stored.object.metadata) });
    return this.#commit({ resource, ...edit, managers: reassign(edit.stored, edit.next) });
  }

  /** Stores an edit: what the server alone decides stays, a change of the spec counts, the last finalizer of a deleted object ends it. */
  #commit(edit: Edit): KubernetesObject {
    const { resource, stored, managers } = edit;
    const next = structuredClone(edit.next);
    const { uid, creationTimestamp, resourceVersion, generation } = stored.object.metadata;
    Object.assign(next, { apiVersion: resource.apiVersion, kind: resource.kind });
    Object.assign(next.metadata, {
      uid,
      creationTimestamp,
      resourceVersion,
      managedFields: describeManagers(managers),
    });
    const isDeleted = stored.object.metadata.deletionTimestamp !== undefined;
    if (isDeleted) next.metadata.deletionTimestamp = stored.object.metadata.deletionTimestamp ?? '';
    if (generation !== undefined) {
      next.metadata.generation = generation + (isDeepStrictEqual(specOf(next), specOf(stored.object)) ? 0 : 1);
    }
    if (isDeepStrictEqual(next, stored.object) || edit.dryRun === true) return next;
    const isFinished = isDeleted && (next.metadata.finalizers ?? []).length === 0 && isGraceOver(resource, next);
    if (!isFinished) return structuredClone(this.#store.write(resource, { object: next, managers }));
    this.#store.erase(resource, keyOf(next.metadata));
    return next;
  }

  #timeStamp(offsetMs: number): string {
    return new Date(this.#clock.now() + offsetMs).toISOString().replace(/\.\d+Z$/, 'Z');
  }
}

/** A request takes at least one turn, and an aborted one does not arrive. */
async function arrive(signal: AbortSignal | undefined): Promise<void> {
  await Promise.resolve();
  signal?.throwIfAborted();
}

function checkPreconditions(stored: KubernetesObject, given: { resourceVersion?: string; uid?: string }): void {
  const { name, resourceVersion, uid } = stored.metadata;
  if (given.uid !== undefined && given.uid !== uid) {
    throw apiError(409, 'Conflict', `Operation cannot be fulfilled on "${name}": uid mismatch`);
  }
  if (given.resourceVersion !== undefined && given.resourceVersion !== resourceVersion) {
    throw apiError(409, 'Conflict', `Operation cannot be fulfilled on "${name}": the object has been modified`);
  }
}

function withoutStatus(object: KubernetesObject): KubernetesObject {
  const rest: KubernetesObject & { status?: unknown } = { ...object };
  delete rest.status;
  return rest;
}

/** The status is only written through its own subresource. */
function withStatusOf(object: KubernetesObject, stored: KubernetesObject): KubernetesObject {
  const { status } = stored as { status?: unknown };
  return { ...withoutStatus(object), ...(status === undefined ? {} : { status }) };
}

function specOf(object: KubernetesObject): unknown {
  return (object as { spec?: unknown }).spec;
}

function isDryRun(options: ApplyOptions): boolean {
  return options.dryRun === 'All';
}

/** A pod on a node stays until its kubelet removes it with a grace of 0; everything else has none. */
function graceOf(resource: Resource<KubernetesObject>, object: KubernetesObject, given: number | undefined): number {
  const spec = specOf(object) as { nodeName?: string; terminationGracePeriodSeconds?: number } | undefined;
  if (resource.kind !== pods.kind || spec?.nodeName === undefined) return 0;
  return given ?? spec.terminationGracePeriodSeconds ?? defaultGraceSeconds;
}

function isGraceOver(resource: Resource<KubernetesObject>, object: KubernetesObject): boolean {
  return resource.kind !== pods.kind || (object.metadata.deletionGracePeriodSeconds ?? 0) === 0;
}

/** RFC 7386. */
function mergeJson(target: unknown, patch: unknown): unknown {
  if (typeof patch !== 'object' || patch === null || Array.isArray(patch)) return patch;
  const isObject = typeof target === 'object' && target !== null && !Array.isArray(target);
  const merged: Record<string, unknown> = isObject ? { ...target } : {};
  for (const [name, value] of Object.entries(patch)) {
    if (value === null) Reflect.deleteProperty(merged, name);
    else merged[name] = mergeJson(merged[name], value);
  }
  return merged;
}

async function* noBytes(): AsyncGenerator<Uint8Array> {
  // Nothing, and EOF.
}
