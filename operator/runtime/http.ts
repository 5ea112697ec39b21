/**
 * The connection to a real API server. client-node reads the kubeconfig and knows the ways to log in; every request but attach goes through
 * an undici Agent of our own, because the library's streams end the process on a reset and time out on a quiet log.
 */
import { createHash } from 'node:crypto';
import type { ConnectionOptions } from 'node:tls';
import { KubeConfig } from '@kubernetes/client-node';
import { Agent, ProxyAgent } from 'undici';
import type { Dispatcher } from 'undici';
import { openChannels } from './channel.ts';
import type { Logger } from '../log.ts';
import type { Client } from './client.ts';
import { RestClient } from './rest.ts';
import type { RequestObserver } from './rest.ts';
import type { ChannelSocket, HttpRequest, HttpResponse, Transport } from './transport.ts';

const connectTimeoutMs = 10_000;
const headersTimeoutMs = 30_000;
/** Between two chunks of an answer that is no stream. */
const bodyTimeoutMs = 30_000;
const keepAliveTimeoutMs = 30_000;
const tcpKeepAliveMs = 30_000;
/** Tokens and certificates are looked at again after this time (a token that is mounted into a pod rotates) and after a `401`. */
const credentialsMaxAgeMs = 10_000;

export interface ConnectOptions {
  /** Default: the current context. */
  readonly context?: string;
  /** Default: `KUBECONFIG`, then `~/.kube/config`, then the pod's service account. */
  readonly kubeconfigPath?: string;
  readonly log: Logger;
  readonly observer?: RequestObserver;
}

export interface Connection {
  readonly client: Client;
  /** The namespace of the context or of the pod. */
  readonly namespace?: string;
  readonly server: string;
}

/** Reads the configuration; opens no connection yet. Throws when there is none, or no such context. */
export function connect(options: ConnectOptions): Connection {
  const config = loadConfig(options);
  const server = config.getCurrentCluster()?.server;
  if (server === undefined) throw new Error('Cannot connect: the kubeconfig names no cluster');
  const credentials = new Credentials(config, () => loadConfig(options));
  const client = new RestClient(new HttpTransport(server, credentials, options.log), options.observer);
  const namespace = config.getContextObject(config.getCurrentContext())?.namespace?.trim();
  return { client, server, ...(namespace === undefined || namespace === '' ? {} : { namespace }) };
}

function loadConfig(options: ConnectOptions): KubeConfig {
  const config = new KubeConfig();
  if (options.kubeconfigPath === undefined) config.loadFromDefault();
  else config.loadFromFile(options.kubeconfigPath);
  if (options.context !== undefined) {
    if (config.getContextObject(options.context) === null) {
      throw new Error(`Cannot connect: the kubeconfig has no context "${options.context}"`);
    }
    config.setCurrentContext(options.context);
  }
  // What the library falls back to when it finds nothing at all; nobody means it.
  if (config.getCurrentContext() === 'loaded-context') {
    throw new Error('Cannot connect: there is no kubeconfig, and this is no pod with a service account');
  }
  return config;
}

interface Credential {
  readonly headers: Record<string, string>;
  readonly dispatcher: Dispatcher;
}

type Tls = Pick<ConnectionOptions, 'ca' | 'cert' | 'key' | 'rejectUnauthorized' | 'servername'>;

interface HttpsOptions extends Tls {
  headers?: Record<string, string>;
  auth?: string;
}

/** The present token and connection pool; a new pool replaces the old one when certificates change. */
class Credentials {
  #config: KubeConfig;
  readonly #reload: () => KubeConfig;
  #current: Promise<Credential> | undefined;
  #readAtMs = 0;
  #pool: { fingerprint: string; dispatcher: Dispatcher } | undefined;

  constructor(config: KubeConfig, reload: () => KubeConfig) {
    this.#config = config;
    this.#reload = reload;
  }

  get config(): KubeConfig {
    return this.#config;
  }

  async current(): Promise<Credential> {
    if (this.#current === undefined || performance.now() - this.#readAtMs > credentialsMaxAgeMs) {
      this.#readAtMs = performance.now();
      const reading = this.#read();
      this.#current = reading;
      reading.catch(() => {
        if (this.#current === reading) this.#current = undefined;
      });
    }
    return await this.#current;
  }

  /** The server did not take them: everything is read again, past the library's own caches. */
  refuse(refused: Record<string, string>): void {
    void this.#current?.then((credential) => {
      if (credential.headers !== refused) return;
      this.#config = this.#reload();
      this.#current = undefined;
    });
  }

  async #read(): Promise<Credential> {
    const options: HttpsOptions = {};
    await this.#config.applyToHTTPSOptions(options);
    const headers = { ...options.headers };
    if (options.auth !== undefined) headers['Authorization'] = `Basic ${Buffer.from(options.auth).toString('base64')}`;
    if (headers['Authorization'] !== undefined) headers['Authorization'] = headers['Authorization'].trim();
    return { headers, dispatcher: this.#dispatcherFor(options) };
  }

  #dispatcherFor(options: HttpsOptions): Dispatcher {
    const { ca, cert, key, rejectUnauthorized, servername } = options;
    const tls = dropUndefined({ ca, cert, key, rejectUnauthorized, servername });
    const fingerprint = createHash('sha256').update(JSON.stringify(tls)).digest('hex');
    if (this.#pool?.fingerprint === fingerprint) return this.#pool.dispatcher;
    // Streams that are open on it go on to their end; a failure to close has nobody to tell.
    this.#pool?.dispatcher.close().catch(() => undefined);
    const dispatcher = createDispatcher(tls, this.#config.getCurrentCluster()?.proxyUrl);
    this.#pool = { fingerprint, dispatcher };
    return dispatcher;
  }
}

function createDispatcher(tls: Tls, proxyUrl: string | undefined): Dispatcher {
  const shared = {
    // A stream of its own connection each: one reset or one slow reader harms no other.
    allowH2: false,
    pipelining: 1,
    bodyTimeout: 0,
    headersTimeout: headersTimeoutMs,
    keepAliveTimeout: keepAliveTimeoutMs,
  };
  const socket = { timeout: connectTimeoutMs, keepAlive: true, keepAliveInitialDelay: tcpKeepAliveMs };
  if (proxyUrl === undefined || proxyUrl === '') return new Agent({ ...shared, connect: { ...tls, ...socket } });
  if (!/^https?:/.test(proxyUrl)) throw new Error(`Cannot connect: proxy "${proxyUrl}" is neither http nor https`);
  return new ProxyAgent({ ...shared, uri: proxyUrl, requestTls: { ...tls, ...socket }, connect: socket });
}

class HttpTransport implements Transport {
  readonly #origin: string;
  readonly #basePath: string;
  readonly #credentials: Credentials;
  readonly #log: Logger;

  constructor(server: string, credentials: Credentials, log: Logger) {
    const url = new URL(server);
    this.#origin = url.origin;
    this.#basePath = url.pathname.replace(/\/+$/, '');
    this.#credentials = credentials;
    this.#log = log;
  }

  async send(request: HttpRequest): Promise<HttpResponse> {
    request.signal?.throwIfAborted();
    const { headers, dispatcher } = await this.#credentials.current();
    const answer = await dispatcher.request({
      origin: this.#origin,
      path: this.#basePath + request.path,
      method: request.method,
      headers: {
        ...headers,
        accept: 'application/json, */*',
        'user-agent': 'ringmaster',
        ...(request.contentType === undefined ? {} : { 'content-type': request.contentType }),
      },
      body: request.body ?? null,
      bodyTimeout: request.isStream === true ? 0 : bodyTimeoutMs,
      ...(request.signal === undefined ? {} : { signal: request.signal }),
    });
    // Without a listener, an error that comes while nobody reads would end the process. Readers get it all the same.
    answer.body.on('error', (error) => {
      this.#log.trace({ path: request.path, error: error.message }, 'Stream broke');
    });
    if (answer.statusCode === 401) this.#credentials.refuse(headers);
    const retryAfter = answer.headers['retry-after'];
    return {
      status: answer.statusCode,
      retryAfter: Array.isArray(retryAfter) ? retryAfter[0] : retryAfter,
      body: answer.body,
    };
  }

  async attach(path: string, signal: AbortSignal): Promise<ChannelSocket> {
    signal.throwIfAborted();
    const options: HttpsOptions = {};
    await this.#credentials.config.applyToHTTPSOptions(options);
    const origin = this.#origin.replace(/^http/, 'ws');
    return await openChannels(origin + this.#basePath + path, options, signal);
  }
}

function dropUndefined(options: Partial<Record<keyof Tls, unknown>>): Tls {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));
}
