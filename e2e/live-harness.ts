/**
 * What the tests of the Master share: the cluster that the environment names, programs to run in it, and sockets that note everything.
 *
 * A test acts as a user would, by kubectl, HTTP and WebSockets. It waits for what it can see (frames, closes, states), never for time to pass.
 */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { connect } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import WebSocket from 'ws';
import { attachCluster } from './cluster/cluster.ts';
import type { Cluster } from './cluster/cluster.ts';
import { CommandError } from './cluster/command.ts';
import { isClusterName } from './cluster/settings.ts';
import { waitUntil } from './cluster/wait.ts';
import { restrictedPod } from './harness.ts';
import { apiKeyManifest, createToken, releaseNamespace } from './release.ts';

const actionTimeoutMs = 30_000;

/** The installed Ringmaster, and a namespace of the test file's own. */
export interface World {
  readonly cluster: Cluster;
  /** Of the Service; any replica answers. */
  readonly url: string;
  readonly token: string;
  readonly publicToken: string;
  /** An image with Node. */
  readonly nodeImage: string;
  readonly namespace: string;
  /** In the test's namespace. */
  kubectl(args: readonly string[], input?: string): Promise<string>;
  /** Called by `leave`, the last one first. */
  readonly cleanups: (() => unknown)[];
  /** Removes what the test file has made. */
  leave(): Promise<void>;
}

/**
 * Makes the namespace, under Pod Security `restricted`: what Ringmaster adds to a pod, and what these tests run, must keep to it. The runtime docker cannot:
 * it mounts the Engine's socket.
 */
export async function enterWorld(podSecurity: 'restricted' | 'privileged' = 'restricted'): Promise<World> {
  const name = needed('RINGMASTER_TEST_CLUSTER');
  const cluster = isClusterName(name) ? await attachCluster(name) : undefined;
  assert.ok(cluster !== undefined, `cluster "${name}" is not up`);
  const namespace = `live-${randomBytes(3).toString('hex')}`;
  await cluster.kubectl(['create', 'namespace', namespace]);
  await cluster.kubectl(['label', 'namespace', namespace, `pod-security.kubernetes.io/enforce=${podSecurity}`]);
  const cleanups: World['cleanups'] = [() => cluster.kubectl(['delete', 'namespace', namespace, '--wait=false'])];
  return {
    cluster,
    cleanups,
    leave: async () => {
      const failures: unknown[] = [];
      for (const cleanUp of cleanups.reverse()) {
        try {
          await cleanUp();
        } catch (error) {
          failures.push(error);
        }
      }
      if (failures.length > 0) throw new AggregateError(failures, 'Cannot clean up');
    },
    namespace,
    url: needed('RINGMASTER_URL'),
    token: needed('RINGMASTER_TOKEN'),
    publicToken: needed('RINGMASTER_PUBLIC_TOKEN'),
    nodeImage: needed('RINGMASTER_IMAGE'),
    kubectl: (args, input) =>
      cluster.kubectl(['--namespace', namespace, ...args], input === undefined ? {} : { input }),
  };
}

function needed(name: string): string {
  const value = process.env[name];
  assert.ok(value !== undefined && value !== '', `${name} is not set: run these tests by e2e/test.ts`);
  return value;
}

export type Spec = Record<string, unknown>;

/** A shell script in the small image. */
export function shellProgram(script: string): Spec {
  return { image: 'ringmaster.local/busybox:1', command: ['sh', '-c'], args: [script] };
}

/** A script for Node, which is fast enough to write thousands of lines a second. */
export function nodeProgram(world: World, script: string): Spec {
  return { image: world.nodeImage, command: ['node', '-e'], args: [script] };
}

/**
 * Writes `N TIME PADDING` for N from 1 at a steady rate (TIME: milliseconds since 1970, when it was written), then stays silent. At SIGTERM it
 * ends at once.
 */
export function numberWriter(
  world: World,
  options: { lines: number; perSecond: number; bytes?: number; everyMs?: number },
): Spec {
  const { lines, perSecond, bytes = 0, everyMs = 10 } = options;
  return nodeProgram(
    world,
    `const { writeSync } = require('node:fs');
    const write = (text) => { for (let rest = Buffer.from(text); rest.length > 0;) rest = rest.subarray(writeSync(1, rest)); };
    let written = 0;
    const startedAt = performance.now();
    const timer = setInterval(() => {
      const due = Math.min(${lines}, Math.floor((performance.now() - startedAt) * ${perSecond} / 1000));
      let text = '';
      while (written < due) text += (++written + ' ' + Date.now() + ' ').padEnd(${bytes}, 'x') + '\\n';
      if (text !== '') write(text);
      if (written === ${lines}) clearInterval(timer);
    }, ${everyMs});
    process.on('SIGTERM', () => process.exit(0));
    setInterval(() => undefined, 1e9);`,
  );
}

/** For a spec: the node that rotates logs soon is `node1`, the one that does not is `node2`. */
export function onNode(name: 'node1' | 'node2'): Spec {
  return { podTemplate: { spec: { nodeSelector: { 'kubernetes.io/hostname': name } } } };
}

/** Applies Instances by name and waits until both replicas know them. */
export async function applyInstances<Name extends string>(
  world: World,
  specs: Readonly<Record<Name, Spec>>,
): Promise<Record<Name, string>> {
  const manifests = Object.entries<Spec>(specs).map(([name, spec]) => instanceManifest(name, spec));
  await world.kubectl(['apply', '-f', '-'], manifests.join('\n---\n'));
  const names = Object.keys(specs) as Name[];
  const ids = {} as Record<Name, string>;
  for (const name of names) ids[name] = await idOf(world, name);
  for (const { url } of await masters(world)) {
    for (const name of names) await waitForId(world, url, ids[name]);
  }
  return ids;
}

/** One of them. */
export async function applyInstance(world: World, name: string, spec: Spec): Promise<string> {
  const ids = await applyInstances(world, { [name]: spec });
  return ids[name] ?? '';
}

function instanceManifest(name: string, spec: Spec): string {
  const { podTemplate } = spec as { podTemplate?: { spec?: Spec } };
  return JSON.stringify({
    apiVersion: 'ringmaster.dev/v1alpha1',
    kind: 'Instance',
    metadata: { name },
    spec: {
      stop: { gracePeriodSeconds: 2 },
      ...spec,
      ...(spec.runtime === 'docker' ? {} : { podTemplate: { ...podTemplate, ...restrictedPod(podTemplate?.spec) } }),
    },
  });
}

async function idOf(world: World, name: string): Promise<string> {
  await world.kubectl(['wait', '--for=jsonpath={.status.id}', `instance/${name}`, '--timeout=20s']);
  return world.kubectl(['get', 'instance', name, '-o', 'jsonpath={.status.id}']);
}

async function waitForId(world: World, url: string, id: string): Promise<void> {
  await eventually(`${url} to know instance ${id}`, async () => {
    const { status } = await call(url, `/api/instances/${id}`, { token: world.token });
    return status === 200;
  });
}

/** Changes the spec of an Instance. */
export async function patchSpec(world: World, name: string, spec: Spec): Promise<void> {
  await world.kubectl(['patch', 'instance', name, '--type=merge', '-p', JSON.stringify({ spec })]);
}

/** The pod that runs an Instance now. */
export async function podOf(world: World, name: string): Promise<string> {
  return world.kubectl(['get', 'instance', name, '-o', 'jsonpath={.status.podName}']);
}

export interface MasterPod {
  readonly name: string;
  readonly uid: string;
  /** Of this replica alone. */
  readonly url: string;
}

interface PodList {
  items: {
    metadata: { name: string; uid: string; deletionTimestamp?: string };
    status: { podIP?: string; conditions?: { type: string; status: string }[] };
  }[];
}

/** The two replicas that are ready, once there are two. */
export async function masters(world: World): Promise<[MasterPod, MasterPod]> {
  let ready: MasterPod[] = [];
  await eventually('two Masters to be ready', async () => {
    ready = await readyMasters(world);
    return ready.length === 2;
  });
  const [one, other] = ready;
  assert.ok(one !== undefined && other !== undefined);
  return [one, other];
}

/** Those that are ready now, and do not go. */
export async function readyMasters({ cluster }: World): Promise<MasterPod[]> {
  const selector = 'app.kubernetes.io/component=master';
  const out = await cluster.kubectl(['get', 'pods', '-n', releaseNamespace, '-l', selector, '-o', 'json']);
  return (JSON.parse(out) as PodList).items
    .filter(({ metadata, status }) => metadata.deletionTimestamp === undefined && isReady(status))
    .map(({ metadata, status }) => ({
      name: metadata.name,
      uid: metadata.uid,
      url: `http://${status.podIP ?? ''}:7000`,
    }));
}

function isReady(status: PodList['items'][number]['status']): boolean {
  return status.conditions?.some(({ type, status: value }) => type === 'Ready' && value === 'True') === true;
}

/** Kills the API server and brings it back. */
export async function restartApiServer({ cluster }: World): Promise<void> {
  await cluster.kill('kube-apiserver');
  const { hostname, port } = new URL(cluster.apiUrl);
  // A killed process is seen as ended before the kernel has closed all that it had.
  await eventually('the port of the API server to be free', async () => {
    const { promise, resolve } = Promise.withResolvers<boolean>();
    const socket = connect(Number(port), hostname, () => {
      resolve(false);
    });
    socket.on('error', () => {
      resolve(true);
    });
    return promise.finally(() => socket.destroy());
  });
  await cluster.start('kube-apiserver');
}

/** Asks until the answer is yes; for what gives no event to wait for. */
export async function eventually(what: string, check: () => Promise<boolean>): Promise<void> {
  await waitUntil({ what, timeoutMs: actionTimeoutMs, check });
}

export interface Answer {
  readonly status: number;
  readonly headers: Headers;
  readonly text: string;
  /** The body; undefined if it is not JSON. */
  readonly json: unknown;
}

/** One plain HTTP call. */
export async function call(
  url: string,
  path: string,
  options: { token?: string; method?: string } = {},
): Promise<Answer> {
  const { token, method = 'GET' } = options;
  const response = await fetch(url + path, {
    method,
    headers: token === undefined ? {} : { authorization: `Bearer ${token}` },
    signal: AbortSignal.timeout(actionTimeoutMs),
  });
  const text = await response.text();
  const isJson = response.headers.get('content-type')?.startsWith('application/json') === true && text !== '';
  return {
    status: response.status,
    headers: response.headers,
    text,
    json: isJson ? (JSON.parse(text) as unknown) : undefined,
  };
}

/** The value of one of a replica's metrics, summed over its labels. */
export async function metricOf(url: string, name: string): Promise<number> {
  const { text } = await call(url, '/api/metrics');
  const values = text
    .split('\n')
    .filter((line) => line.startsWith(`${name} `) || line.startsWith(`${name}{`))
    .map((line) => Number(line.slice(line.lastIndexOf(' ') + 1)));
  assert.ok(values.length > 0, `${url} has no metric ${name}`);
  return values.reduce((sum, value) => sum + value, 0);
}

/** Writes bytes to a new connection and gives all that comes back until the server ends it. */
export async function exchange(url: string, text: string): Promise<string> {
  const { hostname, port } = new URL(url);
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  const socket = connect(Number(port), hostname, () => {
    socket.write(text);
  });
  const received: Buffer[] = [];
  socket.setTimeout(actionTimeoutMs, () => {
    socket.destroy(new Error(`Connection not ended; received: ${Buffer.concat(received).toString('latin1')}`));
  });
  socket.on('data', (data) => received.push(data));
  socket.on('error', reject);
  socket.on('close', () => {
    resolve(Buffer.concat(received).toString('latin1'));
  });
  return promise;
}

export interface RawAnswer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
}

/** The parts of a whole HTTP answer; fails if there is anything besides that one answer. */
export function parseAnswer(text: string): RawAnswer {
  const match = /^HTTP\/1\.1 (\d{3}) [^\r\n]*\r\n((?:[^\r\n]+\r\n)*)\r\n(.*)$/s.exec(text);
  assert.ok(match !== null, `no HTTP answer: ${JSON.stringify(text.slice(0, 200))}`);
  const [, status = '', head = '', body = ''] = match;
  const headers = Object.fromEntries(
    head
      .trimEnd()
      .split('\r\n')
      .map((line) => [line.slice(0, line.indexOf(':')).toLowerCase(), line.slice(line.indexOf(':') + 1).trim()]),
  );
  assert.equal(headers['content-length'], String(Buffer.byteLength(body, 'latin1')), 'Content-Length is exact');
  return { status: Number(status), headers, body };
}

/** Runs a command that ends the program. It may be killed with the container that it ends, before it can say how it went. */
export async function crash(world: World, name: string, command: readonly string[]): Promise<void> {
  try {
    await world.kubectl(['exec', await podOf(world, name), '--', ...command]);
  } catch (error) {
    if (!(error instanceof CommandError) || error.exitCode !== 137) throw error;
  }
}

/** An ApiKey made by kubectl; removed at the end. */
export async function createKey(
  world: World,
  name: string,
  options: { permission?: 'ALL' | 'PUBLIC'; expiresAt?: string; namespace?: string } = {},
): Promise<string> {
  const token = createToken();
  await applyKey(world, name, { token, permission: 'ALL', ...options });
  const namespace = options.namespace ?? releaseNamespace;
  world.cleanups.push(() =>
    world.cluster.kubectl(['delete', 'apikey', name, '-n', namespace, '--ignore-not-found', '--wait=false']),
  );
  return token;
}

/** Makes or changes an ApiKey. */
export async function applyKey(
  world: World,
  name: string,
  options: { token: string; permission: 'ALL' | 'PUBLIC'; expiresAt?: string; namespace?: string },
): Promise<void> {
  const manifest = JSON.parse(apiKeyManifest(name, options)) as { metadata: Record<string, string> };
  const metadata = { ...manifest.metadata, namespace: options.namespace ?? releaseNamespace };
  await world.cluster.kubectl(['apply', '-f', '-'], { input: JSON.stringify({ ...manifest, metadata }) });
}

export interface Close {
  readonly code: number;
  readonly reason: string;
  readonly atMs: number;
}

export interface SocketOptions {
  readonly id: string;
  /** The Service's if absent. */
  readonly url?: string;
  /** An ALL one if absent. */
  readonly token?: string;
  /** Like `?tail=10`. */
  readonly query?: string;
  readonly protocols?: string[];
  /** For the handshake; 3 s if absent. */
  readonly timeoutMs?: number;
  /** Gets each frame in place of `frames`. */
  readonly onFrame?: (text: string) => void;
  /** Called as soon as it is open, before any frame. */
  readonly onOpen?: (socket: LiveSocket) => void;
}

/** An open live log. Frames are kept in `frames`, unless somebody takes them. */
export class LiveSocket {
  readonly frames: string[] = [];
  readonly ws: WebSocket;
  /** How it ended; undefined while it is open. */
  close: Close | undefined;
  #waiters: (() => void)[] = [];

  constructor(ws: WebSocket, onFrame?: (text: string) => void) {
    this.ws = ws;
    const take = onFrame ?? ((text: string) => this.frames.push(text));
    ws.on('message', (data: Buffer, isBinary) => {
      assert.equal(isBinary, false, 'all frames are text');
      take(data.toString('utf8'));
      this.#wake();
    });
    ws.on('close', (code, reason) => {
      this.close = { code, reason: reason.toString('utf8'), atMs: performance.now() };
      this.#wake();
    });
  }

  /** Resolves when `check` holds, which is looked at after each frame; rejects if the socket closes or time passes before. */
  async until(what: string, check: () => boolean, timeoutMs: number = actionTimeoutMs): Promise<void> {
    await this.#wait(what, { check, isCloseFine: false, timeoutMs });
  }

  /** Resolves when there are so many frames. */
  async untilFrames(count: number): Promise<void> {
    await this.until(`${count} frames`, () => this.frames.length >= count);
  }

  async closed(timeoutMs: number = actionTimeoutMs): Promise<Close> {
    await this.#wait('the close', { check: () => this.close !== undefined, isCloseFine: true, timeoutMs });
    assert.ok(this.close !== undefined);
    return this.close;
  }

  /** Fails unless the log ended as it should. */
  async ended(timeoutMs?: number): Promise<void> {
    const { code, reason } = await this.closed(timeoutMs);
    assert.deepEqual({ code, reason }, { code: 1000, reason: 'instance stopped' });
  }

  terminate(): void {
    this.ws.terminate();
  }

  async #wait(
    what: string,
    { check, isCloseFine, timeoutMs }: { check: () => boolean; isCloseFine: boolean; timeoutMs: number },
  ): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<undefined>();
    const look = (): void => {
      if (check()) resolve(undefined);
      else if (this.close !== undefined && !isCloseFine) {
        reject(new Error(`Closed with ${this.close.code} "${this.close.reason}" before ${what}; ${this.#state()}`));
      } else this.#waiters.push(look);
    };
    const timer = setTimeout(() => {
      reject(new Error(`Gave up waiting for ${what} after ${timeoutMs} ms; ${this.#state()}`));
    }, timeoutMs);
    look();
    await promise.finally(() => {
      clearTimeout(timer);
    });
  }

  #state(): string {
    const last = this.frames.slice(-3).map((text) => text.slice(0, 120));
    return `${this.frames.length} frames kept, the last: ${JSON.stringify(last)}`;
  }

  #wake(): void {
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const look of waiters) look();
  }
}

export const jsonProtocol = 'ringmaster.live-log.v1+json';

/** Opens a live log. A refusal rejects with `HTTP STATUS BODY`. It ends with the test file at the latest. */
export async function openSocket(world: World, options: SocketOptions): Promise<LiveSocket> {
  const { url = world.url, token = world.token, id, query = '', protocols = [] } = options;
  const { onFrame, onOpen, timeoutMs = 3_000 } = options;
  const ws = new WebSocket(`${url.replace(/^http/, 'ws')}/api/instances/${id}/live-log${query}`, protocols, {
    headers: { authorization: `Bearer ${token}` },
    handshakeTimeout: timeoutMs,
  });
  world.cleanups.push(() => {
    ws.terminate();
  });
  const { promise, resolve, reject } = Promise.withResolvers<undefined>();
  const socket = new LiveSocket(ws, onFrame);
  ws.on('open', () => {
    onOpen?.(socket);
    resolve(undefined);
  });
  ws.on('error', reject);
  ws.on('unexpected-response', (_, response) => {
    const body: Buffer[] = [];
    response.on('data', (data: Buffer) => body.push(data));
    response.on('end', () => {
      reject(new Error(`HTTP ${response.statusCode ?? 0} ${Buffer.concat(body).toString('utf8')}`));
    });
  });
  await promise;
  return socket;
}

/** A frame of the JSON protocol. */
export interface Message {
  readonly type: string;
  readonly cursor?: string;
  readonly time?: string;
  readonly line?: string;
  readonly cause?: string;
  readonly lines?: number | null;
}

export function parseMessage(frame: string): Message {
  return JSON.parse(frame) as Message;
}

/** What came of a numbered log: what is missing, double or out of order, and the longest time without a line. */
export class Tally {
  first: number | undefined;
  last = 0;
  received = 0;
  lost = 0;
  doubled = 0;
  disordered = 0;
  longestSilenceMs = 0;
  readonly #seen = new Set<number>();
  #lastAt: number | undefined;

  /** Notes the number that a line begins with. A jump over `mayJump` numbers is no loss. */
  note(number: number, mayJump = false): void {
    const now = performance.now();
    if (this.#lastAt !== undefined) this.longestSilenceMs = Math.max(this.longestSilenceMs, now - this.#lastAt);
    this.#lastAt = now;
    this.received += 1;
    if (this.#seen.has(number)) this.doubled += 1;
    else if (this.first !== undefined && number < this.last) this.disordered += 1;
    else if (this.first !== undefined && !mayJump) this.lost += number - this.last - 1;
    this.#seen.add(number);
    this.first ??= number;
    this.last = Math.max(this.last, number);
  }

  /** Fails unless every number from the first to `last` came once and in order. */
  check(who: string, last: number): void {
    const { lost, doubled, disordered } = this;
    const seen = { lost, doubled, disordered, last: this.last };
    assert.deepEqual(seen, { lost: 0, doubled: 0, disordered: 0, last }, who);
  }
}

export interface ResumingOptions {
  readonly world: World;
  readonly id: string;
  /** Tried in turn. */
  readonly urls: readonly string[];
  /** By the plain protocol: each frame is a line, and after a cut it asks for the last 10,000 of them, many of which it has had. */
  readonly isPlain?: boolean;
  readonly onMessage: (message: Message) => void;
  /** A connection that lasts longer is a fault. */
  readonly longestMs?: number;
  /** Refused so often one after the other, it gives up. */
  readonly failuresMax?: number;
  /** Called with each connection before its first message. */
  readonly onOpen?: (socket: LiveSocket) => void;
}

/** A client that follows a log by the JSON protocol and, whenever it is cut, resumes by its cursor at the next address. */
export class ResumingClient {
  readonly closes: Close[] = [];
  /** How often it was connected. */
  connects = 0;
  /** It will not be opened again. */
  isOver = false;
  readonly #options: ResumingOptions;
  #cursor: string | undefined;
  #socket: LiveSocket | undefined;
  #attempt = 0;
  #isStopped = false;
  #isWatched = false;
  #running: Promise<void> | undefined;

  constructor(options: ResumingOptions) {
    this.#options = options;
  }

  start(): void {
    this.#running = this.#run();
    // Told by `done` or `stop`, which is always called: until then nobody listens.
    const end = (): void => {
      this.isOver = true;
    };
    this.#running.then(end, end);
    this.#options.world.cleanups.push(() => this.stop());
  }

  /** Cuts the connection, as a network would. */
  cut(): void {
    this.#socket?.terminate();
  }

  /** Resolves when the log has ended with 1000, or it was stopped. Rejects when it could not be opened any more. */
  async done(): Promise<void> {
    this.#isWatched = true;
    await this.#running;
  }

  /** Rejects as `done()` does, unless that was asked already: a fault is told once. */
  async stop(): Promise<void> {
    this.#isStopped = true;
    this.cut();
    try {
      await this.#running;
    } catch (error) {
      if (!this.#isWatched) throw error;
    }
  }

  async #run(): Promise<void> {
    let failures = 0;
    while (!this.#isStopped) {
      try {
        this.#socket = await this.#open();
      } catch (error) {
        // A replica that is gone refuses or does not answer: the other one is next.
        failures += 1;
        if (failures > (this.#options.failuresMax ?? 20)) throw error;
        await sleep(Math.min(50 * failures, 1000));
        continue;
      }
      failures = 0;
      this.connects += 1;
      const close = await this.#socket.closed(this.#options.longestMs ?? 300_000);
      this.closes.push(close);
      if (close.code === 1000) return;
    }
  }

  async #open(): Promise<LiveSocket> {
    const { world, id, urls, isPlain = false, onMessage, onOpen } = this.#options;
    const url = urls[this.#attempt++ % urls.length] ?? world.url;
    const socket = await openSocket(world, {
      url,
      id,
      protocols: isPlain ? [] : [jsonProtocol],
      query: this.#cursor === undefined ? '?tail=10000' : `?cursor=${encodeURIComponent(this.#cursor)}`,
      ...(onOpen === undefined ? {} : { onOpen }),
      onFrame: (text) => {
        const message = isPlain ? { type: 'line', line: text } : parseMessage(text);
        if (message.cursor !== undefined) this.#cursor = message.cursor;
        onMessage(message);
      },
    });
    // Stopped while it was being opened: nobody else would close it.
    if (this.#isStopped) socket.terminate();
    return socket;
  }
}
