/** A local copy of one collection, kept in step by a reflector, with indexes and with handlers that learn of changed keys. */
import { messageOf } from '../errors.ts';
import { unlessAborted } from './abort.ts';
import type { KubernetesObject, ObjectRef } from './client.ts';
import { Contact } from './contact.ts';
import type { ContactState } from './contact.ts';
import { Reflector } from './reflector.ts';
import type { ReflectorOptions } from './reflector.ts';

/** `previous` is undefined for a new object, `next` for one that is gone; an object made again under its name is first gone, then new. */
export type ChangeHandler<T> = (key: string, previous: T | undefined, next: T | undefined) => void;

/** The values under which an object can be found; none: not in this index. */
export type IndexFunction<T> = (object: T) => readonly string[];

export interface InformerOptions<T extends KubernetesObject> extends Omit<ReflectorOptions<T>, 'sink' | 'contact'> {
  readonly indexes?: Readonly<Record<string, IndexFunction<T>>>;
  /** What is kept of an object; for large parts that nobody reads. */
  readonly transform?: (object: T) => T;
}

interface Change<T> {
  readonly key: string;
  readonly previous: T | undefined;
  readonly next: T | undefined;
}

/** `namespace/name`, or the name alone where there is no namespace. */
export function keyOf(ref: ObjectRef): string {
  return ref.namespace === undefined || ref.namespace === '' ? ref.name : `${ref.namespace}/${ref.name}`;
}

/** The inverse of `keyOf`. */
export function refOf(key: string): ObjectRef {
  const slash = key.indexOf('/');
  return slash === -1 ? { name: key } : { namespace: key.slice(0, slash), name: key.slice(slash + 1) };
}

/** A transform: without `managedFields`, which are often the larger half of an object. */
export function dropManagedFields<T extends KubernetesObject>(object: T): T {
  if (object.metadata.managedFields === undefined) return object;
  const metadata = { ...object.metadata };
  delete metadata.managedFields;
  return { ...object, metadata };
}

/** Objects are shared with every reader: never change one. */
export class Informer<T extends KubernetesObject> {
  readonly #options: InformerOptions<T>;
  readonly #objects = new Map<string, T>();
  /** Index name, then value, then keys. */
  readonly #indexes = new Map<string, Map<string, Set<string>>>();
  readonly #handlers = new Set<ChangeHandler<T>>();
  readonly #synced = Promise.withResolvers<undefined>();
  readonly #contact: Contact;
  #hasSynced = false;

  constructor(options: InformerOptions<T>) {
    this.#options = options;
    this.#contact = new Contact(options.clock);
    for (const name of Object.keys(options.indexes ?? {})) this.#indexes.set(name, new Map());
  }

  /** Lists and watches until `signal` aborts; never rejects. Call it once. */
  async run(signal: AbortSignal): Promise<void> {
    const sink = {
      replace: (objects: readonly T[]) => {
        this.#replace(objects);
      },
      upsert: (object: T) => {
        this.#commit(this.#changesTo(this.#transform(object)));
      },
      remove: (object: T) => {
        this.#commit(this.#changesToNothing(keyOf(object.metadata)));
      },
    };
    await new Reflector({ ...this.#options, sink, contact: this.#contact }).run(signal);
  }

  /** The first complete list is in the cache. */
  get hasSynced(): boolean {
    return this.#hasSynced;
  }

  /** How it stands to the API server. */
  get contact(): ContactState {
    return this.#contact.state;
  }

  /** Resolves once `hasSynced`; rejects with the signal's reason. */
  async whenSynced(signal: AbortSignal): Promise<void> {
    await unlessAborted(this.#synced.promise, signal);
  }

  get size(): number {
    return this.#objects.size;
  }

  /** `key` is `namespace/name`. */
  get(key: string): T | undefined {
    return this.#objects.get(key);
  }

  list(): readonly T[] {
    return [...this.#objects.values()];
  }

  keys(): readonly string[] {
    return [...this.#objects.keys()];
  }

  /** The objects that the index files under `value`. Throws a `RangeError` if there is no such index. */
  byIndex(index: string, value: string): readonly T[] {
    const values = this.#indexes.get(index);
    if (values === undefined) throw new RangeError(`Cannot read index "${index}": the informer has none of that name`);
    const found: T[] = [];
    for (const key of values.get(value) ?? []) {
      const object = this.#objects.get(key);
      if (object !== undefined) found.push(object);
    }
    return found;
  }

  /** Told of every change from now on, and at once of what is there already. Returns how to take it away again. */
  onChange(handler: ChangeHandler<T>): () => void {
    this.#handlers.add(handler);
    for (const [key, object] of this.#objects) this.#call(handler, { key, previous: undefined, next: object });
    return () => {
      this.#handlers.delete(handler);
    };
  }

  #replace(objects: readonly T[]): void {
    const incoming = objects.map((object) => this.#transform(object));
    const present = new Set(incoming.map((object) => keyOf(object.metadata)));
    const gone = this.keys().filter((key) => !present.has(key));
    // The cache is complete before the first handler looks at it.
    this.#commit([
      ...gone.flatMap((key) => this.#changesToNothing(key)),
      ...incoming.flatMap((object) => this.#changesTo(object)),
    ]);
    this.#hasSynced = true;
    this.#synced.resolve(undefined);
  }

  #transform(object: T): T {
    return this.#options.transform?.(object) ?? object;
  }

  #changesTo(next: T): Change<T>[] {
    const key = keyOf(next.metadata);
    const previous = this.#objects.get(key);
    if (previous === undefined) return [{ key, previous, next }];
    if (previous.metadata.uid !== next.metadata.uid) {
      return [
        { key, previous, next: undefined },
        { key, previous: undefined, next },
      ];
    }
    return previous.metadata.resourceVersion === next.metadata.resourceVersion ? [] : [{ key, previous, next }];
  }

  #changesToNothing(key: string): Change<T>[] {
    const previous = this.#objects.get(key);
    return previous === undefined ? [] : [{ key, previous, next: undefined }];
  }

  #commit(changes: readonly Change<T>[]): void {
    for (const { key, previous, next } of changes) {
      if (previous !== undefined) this.#unfile(key, previous);
      if (next === undefined) this.#objects.delete(key);
      else {
        this.#objects.set(key, next);
        this.#file(key, next);
      }
    }
    for (const change of changes) {
      for (const handler of this.#handlers) this.#call(handler, change);
    }
  }

  #call(handler: ChangeHandler<T>, change: Change<T>): void {
    try {
      handler(change.key, change.previous, change.next);
    } catch (error) {
      // A bug in one handler must not cost the others or the watch their events.
      this.#options.log.error({ key: change.key, error: messageOf(error) }, 'Change handler failed');
    }
  }

  #valuesOf(index: string, object: T): readonly string[] {
    try {
      return this.#options.indexes?.[index]?.(object) ?? [];
    } catch (error) {
      this.#options.log.error({ index, key: keyOf(object.metadata), error: messageOf(error) }, 'Index function failed');
      return [];
    }
  }

  #file(key: string, object: T): void {
    for (const [index, values] of this.#indexes) {
      for (const value of this.#valuesOf(index, object)) {
        const keys = values.get(value);
        if (keys === undefined) values.set(value, new Set([key]));
        else keys.add(key);
      }
    }
  }

  #unfile(key: string, object: T): void {
    for (const [index, values] of this.#indexes) {
      for (const value of this.#valuesOf(index, object)) {
        const keys = values.get(value);
        keys?.delete(key);
        if (keys?.size === 0) values.delete(value);
      }
    }
  }
}
