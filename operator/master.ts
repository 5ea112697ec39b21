/** The Master process: watches Instances and ApiKeys, follows logs, and serves clients. Any replica serves any client; all that it writes is ConsoleCommands. */
import { AnswerListener } from './answers/listener.ts';
import type { Answer } from './answers/protocol.ts';
import type { ApiKey } from './api/v1alpha1/apikey.ts';
import { apiKeys } from './api/v1alpha1/apikey.ts';
import type { Instance } from './api/v1alpha1/instance.ts';
import { instances, runtimes } from './api/v1alpha1/instance.ts';
import { instanceConfigurations } from './api/v1alpha1/instanceconfiguration.ts';
import { masterEnvironment, readEnvironment } from './environment.ts';
import { livenessFault, readinessFault } from './health.ts';
import { createHub } from './logs/hub.ts';
import { openCertificate } from './master/certificate.ts';
import type { CertificateStore } from './master/certificate.ts';
import { Directory } from './master/directory.ts';
import { ClusterDispatcher } from './master/dispatcher.ts';
import { createKeyTable } from './master/keys.ts';
import { systemTimers } from './master/ports.ts';
import type { Limits, TailResult } from './master/ports.ts';
import type { Reviews } from './master/reviews.ts';
import { createReviews } from './master/reviews.ts';
import { createServer } from './master/server.ts';
import { createSources } from './master/sources.ts';
import { createStdinWriter } from './master/stdin.ts';
import { templateMaps, templateSelector, trimTemplate } from './master/templates.ts';
import { createTypist } from './master/typist.ts';
import { beginUpstreams, observeHub, observeReflector, observeSource } from './observers.ts';
import { cacheOptions, startProcess } from './process.ts';
import { systemClock } from './runtime/clock.ts';
import { InformerSet } from './runtime/informerset.ts';
import { keepNode, nodes } from './runtime/nodes.ts';
import { createSidecarClient } from './sidecar/client.ts';
import { createMasterKey } from './sidecar/masterkey.ts';
import type { MasterKey } from './sidecar/masterkey.ts';

/** For the withdrawal of commands whose clients had to go. */
const withdrawalGraceMs = 3_000;

const settings = readEnvironment(masterEnvironment, process.env);
const parts = startProcess({
  name: 'ringmaster-master',
  logLevel: settings.RINGMASTER_LOG_LEVEL,
  context: settings.RINGMASTER_CONTEXT,
});
const { log, metrics, client, stop } = parts;
const directory = new Directory();
const keys = createKeyTable(systemTimers);
const instanceCache = new InformerSet(cacheOptions(parts, instances), settings.RINGMASTER_WATCH_NAMESPACES);
// Keys count in the release namespace alone: whoever may make one elsewhere must not become able to do everything.
const keyCache = new InformerSet(cacheOptions(parts, apiKeys), [settings.RINGMASTER_NAMESPACE]);
const configurationCache = new InformerSet(
  cacheOptions(parts, instanceConfigurations),
  settings.RINGMASTER_WATCH_NAMESPACES,
);
const templateCache = new InformerSet(
  {
    ...cacheOptions(parts, templateMaps),
    scope: { labelSelector: templateSelector },
    transform: trimTemplate,
  },
  [settings.RINGMASTER_NAMESPACE],
);
const nodeCache = settings.RINGMASTER_NODES_ENABLED
  ? new InformerSet({ ...cacheOptions(parts, nodes), transform: keepNode }, [])
  : undefined;
const caches = [
  instanceCache,
  keyCache,
  configurationCache,
  templateCache,
  ...(nodeCache === undefined ? [] : [nodeCache]),
];
instanceCache.onChange((_, previous, next) => {
  noteInstance(previous, next);
});
keyCache.onChange((_, previous, next) => {
  noteKey(previous, next);
});

for (const runtime of runtimes) beginUpstreams(metrics, runtime);
const masterKey = await openMasterKey(settings.RINGMASTER_MASTER_KEY_FILE);
const sidecars = masterKey === undefined ? undefined : createSidecarClient({ masterKey });
const sourceFor = createSources({
  ...{ client, sidecars, directory, log },
  clock: systemClock,
  random: Math.random,
  observerFor: (runtime) => observeSource(metrics, runtime),
});
const hub = createHub({
  sourceFor,
  clock: systemClock,
  observerFor: (uid) => observeHub(metrics, directory.runtimeOf(uid) ?? 'kubernetes'),
});
const dispatcher = new ClusterDispatcher({
  ...{ client, log, metrics },
  answerTo: masterKey === undefined ? undefined : settings.POD_IP,
  namespace: settings.RINGMASTER_NAMESPACE,
  master: settings.POD_NAME,
  clock: systemClock,
  random: Math.random,
  observer: observeReflector(metrics),
});
const answers = await listenForAnswers();
const certificate = await openTls(settings);
const server = createServer({
  port: settings.RINGMASTER_PORT,
  hub,
  directory,
  tails: { tail: (uid, lines, signal) => readTail(uid, lines, signal) },
  dispatcher,
  typist: createTypist(createStdinWriter({ client, sidecars, directory, log })),
  keys,
  reviews: createReviewsFor(settings.RINGMASTER_TOKEN_AUDIENCE),
  metrics,
  log,
  clusterName: settings.RINGMASTER_CLUSTER_NAME,
  nodeId: settings.NODE_NAME === '' ? settings.POD_NAME : settings.NODE_NAME,
  releaseNamespace: settings.RINGMASTER_NAMESPACE,
  configurations: configurationCache,
  templates: templateCache,
  nodes: nodeCache,
  // The others are not waited for: without a right that only some calls need, the logs are still served.
  readinessFault: () => readinessFault([instanceCache, keyCache]),
  livenessFault: () => livenessFault(caches),
  limits: limitsOf(settings),
  ...(certificate === undefined ? {} : { certificate }),
});

// The caches outlive the drain: keys are revoked and instances end while sockets are still open.
const watching = new AbortController();
const running = caches.map((cache) => cache.run(watching.signal));
running.push(dispatcher.follow(watching.signal));
certificate?.follow(watching.signal);
await server.start(stop);
log.info({ port: settings.RINGMASTER_PORT, tls: certificate !== undefined }, 'Serving');
await untilAborted(stop);
await server.drain();
// What clients that had to go left behind is withdrawn, if no operator has it yet.
await dispatcher.idle(withdrawalGraceMs);
answers?.close();
hub.close();
sidecars?.close();
keys.close();
watching.abort();
await Promise.all(running);
log.info('Ended');

/** Undefined without a key. A key that is there but cannot be used ends the start. */
async function openMasterKey(keyPath: string | undefined): Promise<MasterKey | undefined> {
  if (keyPath === undefined) {
    log.warn('RINGMASTER_MASTER_KEY_FILE is not set: only Instances of the runtime kubernetes are served');
    return undefined;
  }
  const opened = createMasterKey(keyPath, log);
  await opened.read();
  return opened;
}

/** Undefined where no operator can send any. */
async function listenForAnswers(): Promise<AnswerListener | undefined> {
  if (masterKey === undefined || settings.POD_IP === undefined) return undefined;
  const onAnswer = (answer: Answer): void => {
    dispatcher.answer(answer);
  };
  const listener = new AnswerListener({ masterKey, log, onAnswer });
  await listener.listen();
  return listener;
}

function createReviewsFor(audience: string | undefined): Reviews | undefined {
  return audience === undefined ? undefined : createReviews(client, audience);
}

/** Undefined: plain HTTP. A certificate that is named but cannot be used ends the start. */
async function openTls(environment: typeof settings): Promise<CertificateStore | undefined> {
  const { RINGMASTER_TLS_CERT_FILE: certFile, RINGMASTER_TLS_KEY_FILE: keyFile } = environment;
  if (certFile === undefined && keyFile === undefined) return undefined;
  if (certFile === undefined || keyFile === undefined) {
    throw new TypeError('Cannot start: set both RINGMASTER_TLS_CERT_FILE and RINGMASTER_TLS_KEY_FILE, or neither');
  }
  return openCertificate({ certFile, keyFile, log, metrics, clock: systemTimers });
}

async function readTail(instanceUid: string, count: number, signal: AbortSignal): Promise<TailResult> {
  const { lines, cursor } = await sourceFor(instanceUid).tail(count, signal);
  // What is not UTF-8 becomes U+FFFD, as in the frames.
  return { lines: lines.map((line) => line.toString('utf8')), nextCursor: cursor };
}

function noteInstance(previous: Instance | undefined, next: Instance | undefined): void {
  if (next !== undefined) directory.set(next);
  else if (previous !== undefined) directory.remove(previous);
}

function noteKey(previous: ApiKey | undefined, next: ApiKey | undefined): void {
  if (next === undefined) {
    if (previous !== undefined) keys.remove(previous.metadata.name);
    return;
  }
  const { metadata, spec } = next;
  const { permission, tokenSHA256, expiresAt } = spec;
  // A key that is being deleted counts no longer, whatever its finalizers say.
  if (metadata.deletionTimestamp !== undefined) keys.remove(metadata.name);
  else keys.set(metadata.name, { uid: metadata.uid ?? '', permission, tokenSHA256, expiresAt });
}

function limitsOf(environment: typeof settings): Partial<Limits> {
  const entries: [keyof Limits, number | undefined][] = [
    ['socketsMax', environment.RINGMASTER_SOCKETS_MAX],
    // Calls, and upgrades that are refused, need connections as well.
    ['connectionsMax', environment.RINGMASTER_SOCKETS_MAX && 2 * environment.RINGMASTER_SOCKETS_MAX],
    ['socketsPerKeyMax', environment.RINGMASTER_SOCKETS_PER_KEY_MAX],
    ['socketsPerInstanceMax', environment.RINGMASTER_SOCKETS_PER_INSTANCE_MAX],
    [
      'drainGraceMs',
      environment.RINGMASTER_DRAIN_SECONDS === undefined ? undefined : environment.RINGMASTER_DRAIN_SECONDS * 1000,
    ],
  ];
  return Object.fromEntries(entries.filter(([, value]) => value !== undefined));
}

async function untilAborted(signal: AbortSignal): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<undefined>();
  signal.addEventListener('abort', () => {
    resolve(undefined);
  });
  if (signal.aborted) resolve(undefined);
  await promise;
}
