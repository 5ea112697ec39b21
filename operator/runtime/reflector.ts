/**
 * Keeps a sink in step with one collection of the API server: list, then watch from the list's version, for ever.
 *
 * A watch that the server ends is opened again where it stopped. A version that the server no longer has (410, as an answer or as an ERROR
 * event) leads to a new list. Everything else (refused connections, resets, silence, 429, 5xx, garbage) is waited out and tried again from the
 * last version seen; nothing ends the loop but its signal. At rest it costs one bookmark a minute.
 *
 * Lists ask for the newest state (no `resourceVersion`): since Kubernetes 1.31 the server answers that from its watch cache, and older ones
 * read it from etcd, page by page. A cached list could be older than what this process has seen or written already.
 */
import { messageOf } from '../errors.ts';
import type { Logger } from '../log.ts';
import { Backoff } from './backoff.ts';
import { ApiError } from './client.ts';
import type { Client, KubernetesObject, ListOptions, Resource, WatchEvent } from './client.ts';
import type { Clock } from './clock.ts';
import type { Contact } from './contact.ts';

const pageItemsMax = 500;
const backoffMinMs = 100;
const backoffMaxMs = 30_000;
/** Between the starts of two watches or lists, so that a server that ends each at once is not flooded. */
const intervalMinMs = 1_000;
/** The server sends a bookmark each minute, the first one after up to two (measured on 1.37): silence for longer is a dead connection. */
const idleTimeoutMs = 150_000;
const watchSecondsMin = 300;

/** Where the objects go. Calls come one at a time and must not throw. */
export interface ReflectorSink<T> {
  /** The complete state; what is not in it no longer exists. */
  replace(objects: readonly T[]): void;
  upsert(object: T): void;
  remove(object: T): void;
}

/** Counts for metrics; `resource` is the plural. */
export interface ReflectorObserver {
  onList?(resource: string): void;
  onWatchEnd?(resource: string): void;
  onError?(resource: string): void;
}

export type Scope = Pick<ListOptions, 'namespace' | 'labelSelector' | 'fieldSelector'>;

export interface ReflectorOptions<T extends KubernetesObject> {
  readonly client: Client;
  readonly resource: Resource<T>;
  readonly scope?: Scope;
  readonly sink: ReflectorSink<T>;
  readonly clock: Clock;
  readonly random: () => number;
  readonly log: Logger;
  readonly observer?: ReflectorObserver;
  /** Told of every answer and failure. */
  readonly contact?: Contact;
}

export class Reflector<T extends KubernetesObject> {
  readonly #options: ReflectorOptions<T>;
  readonly #backoff: Backoff;
  /** The newest version seen; undefined: list first. */
  #version: string | undefined;
  #startedAtMs = -Infinity;

  constructor(options: ReflectorOptions<T>) {
    this.#options = options;
    this.#backoff = new Backoff({ minMs: backoffMinMs, maxMs: backoffMaxMs, random: options.random });
  }

  /** Resolves when `signal` aborts; never rejects. */
  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      const delayMs = await this.#step(signal).catch((error: unknown) => this.#delayAfter(error, signal));
      if (delayMs > 0) await this.#options.clock.after(delayMs, signal).catch(() => undefined);
    }
  }

  /** One list if need be, and one watch to its end. Returns how long to wait before the next. */
  async #step(signal: AbortSignal): Promise<number> {
    const { clock, observer, resource } = this.#options;
    this.#startedAtMs = clock.elapsed();
    // Only a watch resets the backoff: a server that lists well and refuses each watch with 410 is asked for ever fewer lists.
    this.#version ??= await this.#list(signal);
    await this.#watch(this.#version, signal);
    if (!signal.aborted) observer?.onWatchEnd?.(resource.plural);
    return Math.max(this.#startedAtMs + intervalMinMs - clock.elapsed(), 0);
  }

  async #list(signal: AbortSignal): Promise<string> {
    const { contact, observer, resource, sink } = this.#options;
    const { objects, version } = await this.#listPages(signal);
    signal.throwIfAborted();
    contact?.heard();
    observer?.onList?.(resource.plural);
    sink.replace(objects);
    return version;
  }

  async #listPages(signal: AbortSignal): Promise<{ objects: T[]; version: string }> {
    const { client, resource, scope } = this.#options;
    const objects: T[] = [];
    let next: string | undefined;
    do {
      const position: Pick<ListOptions, 'continue'> = next === undefined ? {} : { continue: next };
      const page = await client
        .list(resource, { ...scope, ...position, limit: pageItemsMax, signal })
        .catch((error: unknown) => {
          // The pages took longer than the server keeps their snapshot: the whole at once cannot expire.
          if (next !== undefined && isExpired(error)) return undefined;
          throw error;
        });
      if (page === undefined) {
        const whole = await client.list(resource, { ...scope, signal });
        return { objects: whole.items, version: whole.metadata.resourceVersion };
      }
      for (const item of page.items) objects.push(item);
      next = page.metadata.continue === '' ? undefined : page.metadata.continue;
      if (next === undefined) return { objects, version: page.metadata.resourceVersion };
    } while (true);
  }

  async #watch(resourceVersion: string, signal: AbortSignal): Promise<void> {
    const { client, contact, resource, scope, random } = this.#options;
    // Spread out, so that the watches of a process that just started do not all end in the same second for ever.
    const timeoutSeconds = Math.floor(watchSecondsMin * (1 + random()));
    const onOpen = (): void => contact?.heard();
    const options = { ...scope, resourceVersion, timeoutSeconds, idleTimeoutMs, onOpen, signal };
    for await (const event of client.watch(resource, options)) {
      if (signal.aborted) return;
      contact?.heard();
      this.#handle(event);
      this.#backoff.reset();
    }
    this.#backoff.reset();
  }

  #handle(event: WatchEvent<T>): void {
    if (event.type === 'ERROR') throw new ApiError(event.object);
    if (event.type === 'DELETED') this.#options.sink.remove(event.object);
    else if (event.type !== 'BOOKMARK') this.#options.sink.upsert(event.object);
    const version = event.object.metadata.resourceVersion;
    if (version === undefined) throw new Error('Cannot use watch event: it has no resourceVersion');
    this.#version = version;
  }

  #delayAfter(error: unknown, signal: AbortSignal): number {
    if (signal.aborted) return 0;
    const { clock, contact, log, observer, resource } = this.#options;
    contact?.failed();
    if (isExpired(error)) {
      this.#version = undefined;
      if (clock.elapsed() - this.#startedAtMs >= intervalMinMs) return 0;
    }
    observer?.onError?.(resource.plural);
    const backoffMs = this.#backoff.next();
    const delayMs = error instanceof ApiError ? Math.max(backoffMs, error.retryAfterMs ?? 0) : backoffMs;
    log.warn({ resource: resource.plural, error: messageOf(error), delayMs: Math.round(delayMs) }, 'Watch failed');
    return delayMs;
  }
}

/** The version asked for is gone, or (after etcd was restored from a backup) was never there. */
function isExpired(error: unknown): boolean {
  if (!(error instanceof ApiError)) return false;
  if (error.code === 410 || error.reason === 'Expired' || error.reason === 'Gone') return true;
  return error.status.details?.causes?.some((cause) => cause.reason === 'ResourceVersionTooLarge') ?? false;
}
