/** What the fake API server holds: objects by resource, their owners of fields, and a history that watches read. */
import { ApiError } from '../runtime/client.ts';
import type { KubernetesObject, Resource, Status, WatchEvent } from '../runtime/client.ts';
import { keyOf } from '../runtime/informer.ts';

export interface Stored {
  readonly object: KubernetesObject;
  /** By manager (`name` or `name/status`): the fields that it owns. */
  readonly managers: ReadonlyMap<string, ReadonlySet<string>>;
}

interface Change {
  readonly version: number;
  readonly resource: string;
  readonly previous: KubernetesObject | undefined;
  readonly next: KubernetesObject | undefined;
}

type Signal = { type: 'end' } | { type: 'break'; error: Error } | { type: 'bookmark' };

interface Watcher {
  /** Signals sent to it and not yet seen. */
  readonly signals: Signal[];
  wake: () => void;
}

export function apiError(code: number, reason: string, message: string, details?: Status['details']): ApiError {
  return new ApiError({ code, reason, message, ...(details === undefined ? {} : { details }) });
}

export class Store {
  readonly #objects = new Map<string, Map<string, Stored>>();
  #history: Change[] = [];
  #version = 1;
  #compacted = 0;
  readonly #watchers = new Set<Watcher>();

  get version(): number {
    return this.#version;
  }

  get watchers(): number {
    return this.#watchers.size;
  }

  read(resource: Resource<KubernetesObject>, key: string): Stored | undefined {
    return this.#objects.get(pathOf(resource))?.get(key);
  }

  /** In the order of keys, as etcd has it. */
  all(resource: Resource<KubernetesObject>): KubernetesObject[] {
    const objects = this.#objects.get(pathOf(resource)) ?? new Map<string, Stored>();
    return [...objects.entries()].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, stored]) => stored.object);
  }

  /** Stores the object under a new version and tells the watches. */
  write(resource: Resource<KubernetesObject>, stored: Stored): KubernetesObject {
    const key = keyOf(stored.object.metadata);
    const previous = this.read(resource, key)?.object;
    this.#version += 1;
    const metadata = { ...stored.object.metadata, resourceVersion: String(this.#version) };
    const next = { ...stored.object, metadata };
    const objects = this.#objects.get(pathOf(resource)) ?? new Map<string, Stored>();
    this.#objects.set(pathOf(resource), objects.set(key, { ...stored, object: next }));
    this.#append({ version: this.#version, resource: pathOf(resource), previous, next });
    return next;
  }

  erase(resource: Resource<KubernetesObject>, key: string): void {
    const previous = this.read(resource, key)?.object;
    if (previous === undefined) return;
    this.#version += 1;
    this.#objects.get(pathOf(resource))?.delete(key);
    this.#append({ version: this.#version, resource: pathOf(resource), previous, next: undefined });
  }

  /** Forgets the history: whoever resumes from an older version gets 410. */
  compact(): void {
    this.#compacted = this.#version;
    this.#history = [];
  }

  isCompacted(version: number): boolean {
    return version < this.#compacted;
  }

  /** Sent to every watch that is open now. */
  signal(signal: Signal): void {
    for (const watcher of this.#watchers) {
      watcher.signals.push(signal);
      watcher.wake();
    }
  }

  async *watch(
    resource: Resource<KubernetesObject>,
    options: { version: number; matches: (object: KubernetesObject) => boolean; signal: AbortSignal },
  ): AsyncGenerator<WatchEvent<KubernetesObject>> {
    const watcher: Watcher = { signals: [], wake: () => undefined };
    const signalOnAbort = (): void => {
      watcher.wake();
    };
    let position = options.version;
    this.#watchers.add(watcher);
    options.signal.addEventListener('abort', signalOnAbort);
    try {
      while (!options.signal.aborted) {
        const waiting = new Promise<void>((resolve) => {
          watcher.wake = resolve;
        });
        if (this.isCompacted(position)) {
          yield { type: 'ERROR', object: expiredStatus(position) };
          return;
        }
        const news = this.#history.filter((entry) => entry.version > position);
        position = news.at(-1)?.version ?? position;
        yield* news.flatMap((change) =>
          change.resource === pathOf(resource) ? toEvents(change, options.matches) : [],
        );
        const outcome = this.#takeSignal(watcher);
        if (outcome === 'end') return;
        if (outcome === 'bookmark')
          yield { type: 'BOOKMARK', object: { metadata: { resourceVersion: String(position) } } };
        else if (position >= this.#version) await waiting;
      }
    } finally {
      this.#watchers.delete(watcher);
      options.signal.removeEventListener('abort', signalOnAbort);
    }
  }

  #takeSignal(watcher: Watcher): 'end' | 'bookmark' | undefined {
    const signal = watcher.signals.shift();
    if (signal?.type === 'break') throw signal.error;
    return signal?.type;
  }

  #append(change: Change): void {
    this.#history.push(change);
    for (const watcher of this.#watchers) watcher.wake();
  }
}

function toEvents(change: Change, matches: (object: KubernetesObject) => boolean): WatchEvent<KubernetesObject>[] {
  const was = change.previous !== undefined && matches(change.previous);
  const { next } = change;
  if (next !== undefined && matches(next)) return [{ type: was ? 'MODIFIED' : 'ADDED', object: structuredClone(next) }];
  const last = structuredClone(next ?? change.previous);
  if (!was || last === undefined) return [];
  last.metadata.resourceVersion = String(change.version);
  return [{ type: 'DELETED', object: last }];
}

function expiredStatus(version: number): Status {
  return { code: 410, reason: 'Expired', message: `too old resource version: ${version}` };
}

function pathOf(resource: Resource<KubernetesObject>): string {
  return `${resource.apiVersion}/${resource.plural}`;
}
