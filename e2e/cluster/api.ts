import { readFile } from 'node:fs/promises';
import { Agent, request } from 'node:https';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';

const requestTimeoutMs = 10_000;

/** A Kubernetes object as far as these files look at it. */
export interface KubernetesObject {
  apiVersion: string;
  kind: string;
  metadata: { name: string; namespace?: string; labels?: Record<string, string> };
  [field: string]: unknown;
}

export interface ApiResponse {
  status: number;
  body: string;
}

/** The few requests that bringing up a cluster needs, as its administrator. */
export class Api {
  readonly url: string;
  readonly #agent: Agent;

  constructor(url: string, credentials: { ca: Buffer; cert: Buffer; key: Buffer }) {
    this.url = url;
    this.#agent = new Agent({ ...credentials, keepAlive: false });
  }

  /** Reads a path; any status is an answer, and only the lack of one is an error. */
  async get(path: string): Promise<ApiResponse> {
    return this.#send('GET', path);
  }

  /** Whether the API server says that it is ready; false also while it cannot be reached. */
  async isReady(): Promise<boolean> {
    try {
      return (await this.get('/readyz')).status === 200;
    } catch {
      // Not listening yet.
      return false;
    }
  }

  /** Creates or updates an object by server-side apply; `path` is that of the object. */
  async apply(path: string, object: KubernetesObject): Promise<void> {
    const query = '?fieldManager=ringmaster-cluster&force=true';
    const response = await this.#send('PATCH', `${path}${query}`, JSON.stringify(object));
    if (response.status >= 300) throw new Error(`Cannot apply "${path}": ${response.body}`);
  }

  /** Deletes an object; that there is none is fine. */
  async remove(path: string): Promise<void> {
    const response = await this.#send('DELETE', path);
    if (response.status >= 300 && response.status !== 404) throw new Error(`Cannot delete "${path}": ${response.body}`);
  }

  async #send(method: string, path: string, body?: string): Promise<ApiResponse> {
    const { promise, resolve, reject } = Promise.withResolvers<ApiResponse>();
    const headers = body === undefined ? {} : { 'content-type': 'application/apply-patch+yaml' };
    const signal = AbortSignal.timeout(requestTimeoutMs);
    const outgoing = request(`${this.url}${path}`, { method, headers, agent: this.#agent, signal }, (incoming) => {
      text(incoming).then((answer) => {
        resolve({ status: incoming.statusCode ?? 0, body: answer });
      }, reject);
    });
    outgoing.on('error', reject);
    outgoing.end(body);
    return promise;
  }
}

/** The API as the administrator whose certificate is in a folder. */
export async function adminApi(url: string, pki: string): Promise<Api> {
  const [ca, cert, key] = await Promise.all(
    ['ca.crt', 'admin.crt', 'admin.key'].map((name) => readFile(join(pki, name))),
  );
  if (ca === undefined || cert === undefined || key === undefined)
    throw new RangeError('three files give three contents');
  return new Api(url, { ca, cert, key });
}
