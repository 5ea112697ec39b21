/** A Master on a free loopback port with a fake hub, a directory and keys that tests set, and a raw connection to talk to it byte by byte. */
import { once } from 'node:events';
import { connect } from 'node:net';
import type { Socket } from 'node:net';
import type { InstanceConfiguration } from '../api/v1alpha1/instanceconfiguration.ts';
import { createSilentLogger } from '../log.ts';
import { fingerprintOf } from '../master/auth.ts';
import type { CertificateSource } from '../master/certificate.ts';
import type { Dispatcher } from '../master/dispatch.ts';
import type { KeySpec, KeyTable } from '../master/keys.ts';
import { createKeyTable } from '../master/keys.ts';
import type { Node } from '../runtime/nodes.ts';
import type { Cached, Timers, InstanceDirectory, InstanceInfo, Limits, LogTail } from '../master/ports.ts';
import { systemTimers } from '../master/ports.ts';
import type { Reviews } from '../master/reviews.ts';
import type { TemplateMap } from '../master/templates.ts';
import type { Typist } from '../master/typist.ts';
import type { MasterServer } from '../master/server.ts';
import { createServer } from '../master/server.ts';
import type { Metrics } from '../metrics.ts';
import { createMetrics } from '../metrics.ts';
import type { FakeHub } from './hub.ts';
import { createFakeHub } from './hub.ts';
import type { FakeTimers } from './timers.ts';

export const testToken = 'all-token';
export const publicToken = 'public-token';
/** The instance that every test Master knows. */
export const testId = 'a1b2c3';
/** The release namespace of every test Master. */
export const testNamespace = 'ringmaster-system';
export const testUid = 'uid-a1b2c3';

export interface TestMaster extends AsyncDisposable {
  readonly server: MasterServer;
  readonly hub: FakeHub;
  readonly keys: KeyTable;
  readonly metrics: Metrics;
  readonly port: number;
  /** What `start` was given. */
  readonly stop: AbortController;
  readonly instances: Map<string, InstanceInfo>;
  /** Adds one, as the watch would. */
  add(info: InstanceInfo): void;
  readinessFault: string | undefined;
  livenessFault: string | undefined;
}

export interface TestMasterOptions {
  readonly limits?: Partial<Limits>;
  /** Time that the test moves; else it passes by itself. */
  readonly timers?: FakeTimers;
  readonly tails?: LogTail;
  readonly typist?: Typist;
  /** Every command succeeds without output if absent. */
  readonly dispatcher?: Dispatcher;
  readonly reviews?: Reviews;
  readonly configurations?: Cached<InstanceConfiguration>;
  readonly templates?: Cached<TemplateMap>;
  readonly nodes?: Cached<Node>;
  /** Plain HTTP if absent. */
  readonly certificate?: CertificateSource;
}

export async function startMaster(options: TestMasterOptions = {}): Promise<TestMaster> {
  const clock: Timers = options.timers ?? systemTimers;
  const graceMs = options.limits?.drainGraceMs ?? 200;
  const hub = createFakeHub();
  const keys = createKeyTable(clock);
  keys.set('all', keySpec(testToken));
  keys.set('public', keySpec(publicToken, { permission: 'PUBLIC' }));
  const metrics = createMetrics();
  const instances = new Map([[testId, instanceInfo(testId)]]);
  const listeners = new Set<() => void>();
  const { configurations, templates, nodes } = options;
  const server = createServer({
    port: 0,
    host: '127.0.0.1',
    hub,
    directory: directoryOver(instances, listeners),
    tails: options.tails ?? { tail: () => Promise.resolve({ lines: [], nextCursor: 'start' }) },
    dispatcher: options.dispatcher ?? { run: () => Promise.resolve({ exitCode: 0, isTruncated: false }) },
    typist: options.typist ?? { type: () => Promise.resolve() },
    keys,
    reviews: options.reviews,
    metrics,
    log: createSilentLogger(),
    clusterName: 'test',
    nodeId: 'master-0',
    releaseNamespace: testNamespace,
    ...{ configurations, templates, nodes },
    readinessFault: () => master.readinessFault,
    livenessFault: () => master.livenessFault,
    clock,
    limits: { drainGraceMs: graceMs, ...options.limits },
    ...(options.certificate === undefined ? {} : { certificate: options.certificate }),
  });
  const master: TestMaster = {
    server,
    hub,
    keys,
    metrics,
    port: 0,
    stop: new AbortController(),
    instances,
    add(info) {
      instances.set(info.id, info);
      for (const listener of listeners) listener();
    },
    readinessFault: undefined,
    livenessFault: undefined,
    async [Symbol.asyncDispose]() {
      const drained = server.drain();
      // Under a clock that stands still the graces would never be over, and a failed test would hang instead of ending.
      while (options.timers !== undefined && server.address !== undefined) {
        options.timers.advance(graceMs);
        await new Promise((resolve) => setImmediate(resolve));
      }
      await drained;
      hub.close();
      keys.close();
    },
  };
  await server.start(master.stop.signal);
  return Object.defineProperty(master, 'port', { value: server.address?.port });
}

function directoryOver(instances: ReadonlyMap<string, InstanceInfo>, listeners: Set<() => void>): InstanceDirectory {
  return {
    list: () => [...instances.values()],
    byId(id) {
      const info = instances.get(id);
      return info === undefined ? undefined : { info, uid: `uid-${id}` };
    },
    byUid: (uid) => instances.get(uid.replace(/^uid-/, '')),
    onChange(listener) {
      listeners.add(listener);
      return () => {
        listeners.delete(listener);
      };
    },
  };
}

export function keySpec(token: string, changes: Partial<KeySpec> = {}): KeySpec {
  return { uid: `uid-of-${token}`, tokenSHA256: fingerprintOf(token), permission: 'ALL', ...changes };
}

export function instanceInfo(id: string): InstanceInfo {
  return {
    id,
    name: `lobby-${id}`,
    namespace: 'games',
    configurationName: null,
    wrapperNodeId: 'node-1',
    hostAddress: '10.0.0.1',
    allocatedPort: 25565,
    state: 'ONLINE',
    lastHeartbeat: 1_700_000_000_000,
    processPid: null,
    allocatedRamMB: 512,
    allocatedCpu: 100,
    runtime: 'kubernetes',
    restarts: 0,
  };
}

/** A connection on which bytes are sent as they are, and everything that came is kept. */
export interface RawConnection extends Disposable {
  readonly socket: Socket;
  send(bytes: string | Buffer): void;
  /** All bytes received so far, as latin1. */
  readonly received: string;
  /** Everything that was received until the server ended the connection, or reset it. */
  ended(): Promise<string>;
  /** Resolves when what was received contains the text. */
  contains(text: string): Promise<void>;
}

export async function openRaw(port: number): Promise<RawConnection> {
  const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: false });
  let received = '';
  const closed = new Promise<void>((resolve) => {
    socket.once('close', () => {
      resolve();
    });
  });
  socket.on('error', () => undefined);
  socket.on('data', (data: Buffer) => {
    received += data.toString('latin1');
  });
  await once(socket, 'connect');
  return {
    socket,
    send: (bytes) => {
      socket.write(bytes);
    },
    get received() {
      return received;
    },
    async ended() {
      await closed;
      return received;
    },
    async contains(text) {
      while (!received.includes(text)) await Promise.race([once(socket, 'data'), closed]);
    },
    [Symbol.dispose]() {
      socket.destroy();
    },
  };
}

/** The header of a correct upgrade; `changes` replaces headers, undefined leaves one out. */
export function upgradeRequest(
  path: string,
  changes: Readonly<Record<string, string | undefined>> = {},
  method = 'GET',
): string {
  const headers: Record<string, string | undefined> = {
    Host: 'master',
    Connection: 'Upgrade',
    Upgrade: 'websocket',
    'Sec-WebSocket-Key': 'dGhlIHNhbXBsZSBub25jZQ==',
    'Sec-WebSocket-Version': '13',
    Authorization: `Bearer ${testToken}`,
    ...changes,
  };
  const lines = Object.entries(headers).filter(([, value]) => value !== undefined);
  return `${method} ${path} HTTP/1.1\r\n${lines.map(([name, value]) => `${name}: ${value ?? ''}\r\n`).join('')}\r\n`;
}

export interface RawResponse {
  readonly statusLine: string;
  readonly status: number;
  readonly headers: ReadonlyMap<string, string>;
  readonly body: string;
}

/** Takes one HTTP response apart. */
export function parseResponse(text: string): RawResponse {
  const end = text.indexOf('\r\n\r\n');
  const [statusLine = '', ...headerLines] = text.slice(0, end).split('\r\n');
  const headers = new Map(
    headerLines.map((line) => {
      const colon = line.indexOf(':');
      return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()];
    }),
  );
  return { statusLine, status: Number(statusLine.split(' ')[1]), headers, body: text.slice(end + 4) };
}
