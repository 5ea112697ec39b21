/** The `Client` as REST calls over a `Transport`: paths, bodies, errors. Knows no library and keeps no state. */
import type { Readable } from 'node:stream';
import { writeStdin } from './attach.ts';
import { ApiError, isReason } from './client.ts';
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
} from './client.ts';
import { readApiError, toStatus } from './status.ts';
import { splitLines, untilAborted, withIdleTimeout } from './stream.ts';
import type { HttpRequest, HttpResponse, Transport } from './transport.ts';

export type Verb = 'get' | 'list' | 'watch' | 'create' | 'update' | 'patch' | 'delete' | 'log' | 'attach';

/** Told of each answer; status 0 is no answer. */
export interface RequestObserver {
  onAnswer(verb: Verb, status: number): void;
}

type Query = Record<string, string | number | boolean | undefined>;

export class RestClient implements Client {
  readonly #transport: Transport;
  readonly #observer: RequestObserver | undefined;

  constructor(transport: Transport, observer?: RequestObserver) {
    this.#transport = transport;
    this.#observer = observer;
  }

  async get<T extends KubernetesObject>(
    resource: Resource<T>,
    ref: ObjectRef,
    signal?: AbortSignal,
  ): Promise<T | undefined> {
    try {
      return await this.#json<T>('get', { method: 'GET', path: objectPath(resource, ref), signal });
    } catch (error) {
      if (isReason(error, 'NotFound')) return undefined;
      throw error;
    }
  }

  async list<T extends KubernetesObject>(resource: Resource<T>, options: ListOptions): Promise<List<T>> {
    const { namespace, signal, ...query } = options;
    const path = collectionPath(resource, namespace) + queryOf(query);
    const list = await this.#json<List<T>>('list', { method: 'GET', path, signal });
    // The server leaves these out of the items of built-in kinds; whoever gets an object can rely on them.
    const named = { apiVersion: resource.apiVersion, kind: resource.kind };
    return { metadata: list.metadata, items: list.items.map((item) => ({ ...named, ...item })) };
  }

  watch<T extends KubernetesObject>(resource: Resource<T>, options: WatchOptions): AsyncIterable<WatchEvent<T>> {
    return untilAborted(this.#watch(resource, options), options.signal);
  }

  async create<T extends KubernetesObject>(resource: Resource<T>, object: T, signal?: AbortSignal): Promise<T> {
    const path = collectionPath(resource, object.metadata.namespace);
    return await this.#json('create', { method: 'POST', path, ...jsonBody(resource, object), signal });
  }

  async update<T extends KubernetesObject>(resource: Resource<T>, object: T, signal?: AbortSignal): Promise<T> {
    const path = objectPath(resource, object.metadata);
    return await this.#json('update', { method: 'PUT', path, ...jsonBody(resource, object), signal });
  }

  async updateStatus<T extends KubernetesObject>(resource: Resource<T>, object: T, signal?: AbortSignal): Promise<T> {
    const path = `${objectPath(resource, object.metadata)}/status`;
    return await this.#json('update', { method: 'PUT', path, ...jsonBody(resource, object), signal });
  }

  async apply<T extends KubernetesObject>(
    resource: Resource<T>,
    object: Partial<T> & KubernetesObject,
    options: ApplyOptions,
  ): Promise<T> {
    return await this.#apply(resource, object, { ...options, suffix: '' });
  }

  async applyStatus<T extends KubernetesObject>(
    resource: Resource<T>,
    object: KubernetesObject,
    options: ApplyOptions,
  ): Promise<T> {
    return await this.#apply(resource, object, { ...options, suffix: '/status' });
  }

  async mergePatch<T extends KubernetesObject>(
    resource: Resource<T>,
    ref: ObjectRef,
    patch: object,
    signal?: AbortSignal,
  ): Promise<T> {
    return await this.#mergePatch(objectPath(resource, ref), patch, signal);
  }

  async mergePatchStatus<T extends KubernetesObject>(
    resource: Resource<T>,
    ref: ObjectRef,
    patch: object,
    signal?: AbortSignal,
  ): Promise<T> {
    return await this.#mergePatch(`${objectPath(resource, ref)}/status`, patch, signal);
  }

  async #mergePatch<T extends KubernetesObject>(path: string, patch: object, signal?: AbortSignal): Promise<T> {
    const body = { contentType: 'application/merge-patch+json', body: JSON.stringify(patch) };
    return await this.#json('patch', { method: 'PATCH', path, ...body, signal });
  }

  async remove(resource: Resource<KubernetesObject>, ref: ObjectRef, options: RemoveOptions = {}): Promise<void> {
    const { gracePeriodSeconds, uid, resourceVersion, signal } = options;
    const preconditions = {
      ...(uid === undefined ? {} : { uid }),
      ...(resourceVersion === undefined ? {} : { resourceVersion }),
    };
    const body = JSON.stringify({
      apiVersion: 'v1',
      kind: 'DeleteOptions',
      propagationPolicy: 'Background',
      ...(gracePeriodSeconds === undefined ? {} : { gracePeriodSeconds }),
      ...(Object.keys(preconditions).length === 0 ? {} : { preconditions }),
    });
    const path = objectPath(resource, ref);
    try {
      await this.#json('delete', { method: 'DELETE', path, contentType: 'application/json', body, signal });
    } catch (error) {
      if (!isReason(error, 'NotFound')) throw error;
    }
  }

  async attachStdin(
    ref: Required<ObjectRef>,
    container: string,
    bytes: Uint8Array,
    signal?: AbortSignal,
  ): Promise<void> {
    const query = queryOf({ container, stdin: true, stdout: false, stderr: false, tty: false });
    const path = `${podPath(ref)}/attach${query}`;
    try {
      await writeStdin((attachSignal) => this.#transport.attach(path, attachSignal), bytes, signal);
      this.#observer?.onAnswer('attach', 101);
    } catch (error) {
      this.#observer?.onAnswer('attach', error instanceof ApiError ? error.code : 0);
      throw error;
    }
  }

  async log(ref: Required<ObjectRef>, options: LogOptions): Promise<AsyncIterable<Uint8Array>> {
    const { signal, ...query } = options;
    const path = `${podPath(ref)}/log${queryOf(query)}`;
    const response = await this.#send('log', { method: 'GET', path, isStream: true, signal });
    return untilAborted(response.body as AsyncIterable<Buffer>, signal);
  }

  async *#watch<T extends KubernetesObject>(
    resource: Resource<T>,
    options: WatchOptions,
  ): AsyncGenerator<WatchEvent<T>> {
    const { namespace, signal, idleTimeoutMs, onOpen, ...query } = options;
    const path = collectionPath(resource, namespace) + queryOf({ watch: true, allowWatchBookmarks: true, ...query });
    const response = await this.#send('watch', { method: 'GET', path, isStream: true, signal });
    onOpen?.();
    for await (const line of splitLines(withIdleTimeout(response.body, idleTimeoutMs))) {
      const event = parseJson(line) as WatchEvent<T>;
      yield event.type === 'ERROR' ? { ...event, object: toStatus(500, event.object) } : event;
    }
  }

  async #apply<T extends KubernetesObject>(
    resource: Resource<T>,
    object: KubernetesObject,
    options: ApplyOptions & { suffix: string },
  ): Promise<T> {
    const { suffix, signal, ...query } = options;
    const path = objectPath(resource, object.metadata) + suffix + queryOf(query);
    const body = { ...jsonBody(resource, object), contentType: 'application/apply-patch+yaml' };
    return await this.#json('patch', { method: 'PATCH', path, ...body, signal });
  }

  async #json<R>(verb: Verb, request: HttpRequest): Promise<R> {
    const response = await this.#send(verb, request);
    return parseJson(await readAll(response.body)) as R;
  }

  async #send(verb: Verb, request: HttpRequest): Promise<HttpResponse> {
    const response = await this.#transport.send(request).catch((error: unknown) => {
      if (request.signal?.aborted !== true) this.#observer?.onAnswer(verb, 0);
      throw error;
    });
    this.#observer?.onAnswer(verb, response.status);
    if (response.status >= 300) throw await readApiError(response);
    return response;
  }
}

function collectionPath(resource: Resource<KubernetesObject>, namespace: string | undefined): string {
  const root = resource.apiVersion.includes('/') ? '/apis' : '/api';
  const scope = resource.namespaced && namespace !== undefined ? `/namespaces/${encodeURIComponent(namespace)}` : '';
  return `${root}/${resource.apiVersion}${scope}/${resource.plural}`;
}

function objectPath(resource: Resource<KubernetesObject>, ref: ObjectRef): string {
  if (ref.name === '') throw new TypeError(`Cannot address ${resource.kind}: name is empty`);
  if (resource.namespaced && (ref.namespace ?? '') === '') {
    throw new TypeError(`Cannot address ${resource.kind} "${ref.name}": namespace is missing`);
  }
  return `${collectionPath(resource, ref.namespace)}/${encodeURIComponent(ref.name)}`;
}

function podPath(ref: Required<ObjectRef>): string {
  return `/api/v1/namespaces/${encodeURIComponent(ref.namespace)}/pods/${encodeURIComponent(ref.name)}`;
}

function queryOf(values: Query): string {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) {
    if (value !== undefined) query.set(name, String(value));
  }
  return query.size === 0 ? '' : `?${query.toString()}`;
}

function jsonBody(
  resource: Resource<KubernetesObject>,
  object: KubernetesObject,
): { contentType: string; body: string } {
  const body = JSON.stringify({ ...object, apiVersion: resource.apiVersion, kind: resource.kind });
  return { contentType: 'application/json', body };
}

function parseJson(bytes: Buffer): unknown {
  try {
    return JSON.parse(bytes.toString('utf8'));
  } catch (error) {
    const start = bytes.toString('utf8', 0, 80);
    throw new Error(`Cannot read answer of the API server: not JSON: ${JSON.stringify(start)}`, { cause: error });
  }
}

async function readAll(body: Readable): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of body as AsyncIterable<Buffer>) chunks.push(chunk);
  return Buffer.concat(chunks);
}
