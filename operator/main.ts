/**
 * The operator process: watches Instances, their configurations, ApiKeys, pods and Services, and reconciles them while it leads.
 *
 * Every replica keeps its caches filled, so that a new leader starts at once; only the leader has queues and workers. Commands are the exception: each
 * costs whoever watches it two events, with all that it printed, and what waits for a new leader is listed in a moment. When a leadership ends
 * the process ends, and is started again as a candidate: nothing that a deposed leader knew lives on.
 */
import { randomBytes, randomUUID } from 'node:crypto';
import { AnswerSender } from './answers/sender.ts';
import type { ApiKey } from './api/v1alpha1/apikey.ts';
import { apiKeys } from './api/v1alpha1/apikey.ts';
import type { Instance } from './api/v1alpha1/instance.ts';
import { instances } from './api/v1alpha1/instance.ts';
import type { InstanceConfiguration } from './api/v1alpha1/instanceconfiguration.ts';
import { instanceConfigurations } from './api/v1alpha1/instanceconfiguration.ts';
import { createConsoleCaches, runConsole } from './console.ts';
import { ApiKeyReconciler } from './controllers/apikey/reconcile.ts';
import { configurationKey } from './controllers/configuration/gather.ts';
import { ConfigurationReconciler } from './controllers/configuration/reconcile.ts';
import type { EventSink } from './controllers/instance/act.ts';
import { indexedId } from './controllers/instance/gather.ts';
import { LogPatternGates } from './controllers/instance/logpattern.ts';
import { PatternMatcher } from './controllers/instance/matcher.ts';
import { ownerName } from './controllers/instance/owner.ts';
import { InstanceReconciler } from './controllers/instance/reconcile.ts';
import { SidecarKeys } from './controllers/instance/sidecarkeys.ts';
import type { SidecarSettings } from './controllers/instance/sidecarpod.ts';
import { Stopper } from './controllers/instance/stopper.ts';
import { operatorEnvironment, readEnvironment } from './environment.ts';
import { serveHealth } from './health.ts';
import type { CacheState } from './health.ts';
import { stripAnsi } from './master/ansi.ts';
import { group, managedBy, managedByLabel } from './names.ts';
import { observeController, observeQueue } from './observers.ts';
import { cacheOptions, startProcess } from './process.ts';
import { createProgramIo } from './programio.ts';
import { pods, services } from './runtime/client.ts';
import type { Client, KubernetesObject, Pod, Service } from './runtime/client.ts';
import { systemClock } from './runtime/clock.ts';
import { Controller } from './runtime/controller.ts';
import type { ControllerOptions, Reconcile } from './runtime/controller.ts';
import { EventRecorder } from './runtime/events.ts';
import { fence } from './runtime/fence.ts';
import { keyOf } from './runtime/informer.ts';
import { InformerSet } from './runtime/informerset.ts';
import { LeaderElector } from './runtime/leader.ts';
import type { Leadership } from './runtime/leader.ts';
import { WorkQueue } from './runtime/workqueue.ts';

/** A pass that takes longer is cut and tried again; the longest honest one is a stop command by a slow attach (10 s). */
const reconcileTimeoutMs = 60_000;

const settings = readEnvironment(operatorEnvironment, process.env);
const parts = startProcess({
  name: 'ringmaster-operator',
  logLevel: settings.RINGMASTER_LOG_LEVEL,
  context: settings.RINGMASTER_CONTEXT,
});
const { log, metrics, client, stop } = parts;
const caches = createCaches();
const consoleCaches = createConsoleCaches(parts, {
  namespaces: settings.RINGMASTER_WATCH_NAMESPACES,
  releaseNamespace: settings.RINGMASTER_NAMESPACE,
});
const identity = `${settings.POD_NAME}_${randomUUID()}`;
const all = [caches.instances, caches.configurations, caches.keys, caches.pods, caches.services];
/** Grows with the leadership. */
const watched: CacheState[] = [...all];
/** Commands can do without: where the right to read them is missing, those that need it say so, and all others work. */
const optional = [consoleCaches.templates, consoleCaches.nodes].filter((cache) => cache !== undefined);
const watching = new AbortController();
const running = [...all, ...optional].map((informer) => informer.run(watching.signal));
await serveHealth({ port: settings.RINGMASTER_HEALTH_PORT, metrics, caches: watched }, watching.signal);

const elector = new LeaderElector({
  client,
  namespace: settings.RINGMASTER_NAMESPACE,
  name: settings.RINGMASTER_LEASE_NAME,
  identity,
  clock: systemClock,
  random: Math.random,
  log,
  onLeading: (isLeading) => {
    metrics.leaderIsLeading.set(isLeading ? 1 : 0);
  },
});
const ended = await elector.run(stop, lead);
watching.abort();
await Promise.all(running);
log.info({ ended }, 'Ended');
process.exitCode = ended === 'stopped' ? 0 : 1;

interface Caches {
  readonly instances: InformerSet<Instance>;
  readonly configurations: InformerSet<InstanceConfiguration>;
  readonly keys: InformerSet<ApiKey>;
  readonly pods: InformerSet<Pod>;
  readonly services: InformerSet<Service>;
}

function createCaches(): Caches {
  const namespaces = settings.RINGMASTER_WATCH_NAMESPACES;
  const ours = { labelSelector: `${managedByLabel}=${managedBy}` };
  const byOwner = {
    owner: (object: KubernetesObject): string[] => {
      const name = ownerName(object);
      return name === undefined ? [] : [keyOf({ ...object.metadata, name })];
    },
  };
  const indexes = {
    id: (instance: Instance): string[] => [indexedId(instance) ?? ''].filter((id) => id !== ''),
    configuration: (instance: Instance): string[] => [configurationKey(instance) ?? ''].filter((key) => key !== ''),
  };
  // With a list of namespaces there may be no right to read keys elsewhere; without one, keys in foreign namespaces are told that they do not count.
  const keyNamespaces = namespaces.length === 0 ? [] : [settings.RINGMASTER_NAMESPACE];
  return {
    instances: new InformerSet({ ...cacheOptions(parts, instances), indexes }, namespaces),
    configurations: new InformerSet(cacheOptions(parts, instanceConfigurations), namespaces),
    keys: new InformerSet(cacheOptions(parts, apiKeys), keyNamespaces),
    pods: new InformerSet({ ...cacheOptions(parts, pods), scope: ours, indexes: byOwner }, namespaces),
    services: new InformerSet({ ...cacheOptions(parts, services), scope: ours }, namespaces),
  };
}

/** Everything that writes. Returns when it has stopped writing. */
async function lead(leadership: Leadership): Promise<void> {
  const writer = fence(client, leadership);
  const events = new EventRecorder({
    client: writer,
    clock: systemClock,
    log,
    reportingController: `${group}/operator`,
    reportingInstance: settings.POD_NAME,
  });
  const sink = createSink(events);
  const stopper = new Stopper({ client: writer, clock: systemClock, log, signal: leadership.signal });
  const shared = { client: writer, clock: systemClock, log };
  const keys = new SidecarKeys({
    ...shared,
    namespace: settings.RINGMASTER_NAMESPACE,
    secretName: settings.RINGMASTER_MASTER_KEY_SECRET,
    randomBytes,
  });
  const sidecar = sidecarSettings();
  const patterns = new PatternMatcher({ clock: systemClock, signal: leadership.signal });
  const gates = new LogPatternGates({ ...shared, matcher: patterns, stripAnsi, signal: leadership.signal });
  const instanceReconciler = new InstanceReconciler({
    client: writer,
    caches,
    stopper,
    events: sink,
    clock: systemClock,
    sidecars: sidecar === undefined ? undefined : { settings: sidecar, keys },
    patterns,
    gates,
  });
  const keysDone = keys.run(leadership.stopping);
  const keyReconciler = new ApiKeyReconciler({
    client: writer,
    keys: caches.keys,
    releaseNamespace: settings.RINGMASTER_NAMESPACE,
    clock: systemClock,
  });
  const configurationReconciler = new ConfigurationReconciler({
    client: writer,
    caches,
    events: sink,
    clock: systemClock,
  });
  const instanceLoop = createLoop('instance', (key, signal) => instanceReconciler.reconcile(key, signal));
  const keyLoop = createLoop('apikey', (key, signal) => keyReconciler.reconcile(key, signal));
  const configurationLoop = createLoop('configuration', (key, signal) =>
    configurationReconciler.reconcile(key, signal),
  );
  const unsubscribe = subscribe({
    instances: instanceLoop.queue,
    configurations: configurationLoop.queue,
    keys: keyLoop.queue,
  });
  const consoleDone = leadConsole(leadership, { writer, sink, keys: sidecar === undefined ? undefined : keys });
  // Ends after the loops: what they say last is still written, while the lease is held.
  const eventsStop = new AbortController();
  const eventsDone = events.run(eventsStop.signal);
  const loops = [instanceLoop, configurationLoop, keyLoop];
  await Promise.all(loops.map(({ controller }) => controller.run(leadership.stopping)));
  await consoleDone;
  for (const undo of unsubscribe) undo();
  await Promise.all([keysDone, patterns.stop()]);
  eventsStop.abort();
  await eventsDone;
}

/** What change makes which key be looked at. Returns how to end each. */
function subscribe(queues: Readonly<Record<'instances' | 'configurations' | 'keys', WorkQueue>>): (() => void)[] {
  return [
    caches.instances.onChange((key, previous, next) => {
      queues.instances.add(key);
      for (const instance of [previous, next]) enqueueConfiguration(queues.configurations, instance);
    }),
    caches.configurations.onChange((key) => {
      queues.configurations.add(key);
    }),
    caches.keys.onChange((key) => {
      queues.keys.add(key);
    }),
    caches.pods.onChange((_, previous, next) => {
      enqueueOwner(queues.instances, next ?? previous);
    }),
    caches.services.onChange((_, previous, next) => {
      enqueueOwner(queues.instances, next ?? previous);
    }),
  ];
}

/** The commands of the console. */
async function leadConsole(
  leadership: Leadership,
  { writer, sink, keys }: { writer: Client; sink: EventSink; keys: SidecarKeys | undefined },
): Promise<void> {
  const masterKey = keys === undefined ? undefined : { read: () => keys.read(leadership.signal) };
  const io = createProgramIo({ client: writer, instances: caches.instances, metrics, log, masterKey });
  const world = {
    ...{ client: writer, clock: systemClock, random: Math.random, identity, io },
    ...{ ...caches, ...consoleCaches },
    releaseNamespace: settings.RINGMASTER_NAMESPACE,
    defaultImage: settings.RINGMASTER_DEFAULT_IMAGE,
  };
  const { commands } = consoleCaches;
  watched.push(commands);
  const commandsDone = commands.run(leadership.stopping);
  const answers = masterKey === undefined ? undefined : new AnswerSender({ masterKey, clock: systemClock, log });
  await runConsole(
    {
      ...{ world, commands, events: sink, log },
      createLoop: (name, reconcile, workers) => createLoop(name, reconcile, { workers, informers: [...all, commands] }),
      workers: settings.RINGMASTER_COMMAND_WORKERS,
      ...(answers === undefined ? {} : { answers }),
    },
    leadership.stopping,
  );
  await commandsDone;
  answers?.close();
  io.close();
}

/** Events that are logged as well. */
function createSink(events: EventRecorder): EventSink {
  return {
    record(regarding, text) {
      const { type, reason, note } = text;
      log[type === 'Warning' ? 'warn' : 'info']({ instance: keyOf(regarding.metadata), reason }, note);
      events.record(regarding, text);
    },
  };
}

function sidecarSettings(): SidecarSettings | undefined {
  const image = settings.RINGMASTER_SIDECAR_IMAGE;
  if (image === undefined) return undefined;
  return {
    image,
    pullPolicy: settings.RINGMASTER_SIDECAR_PULL_POLICY,
    resources: settings.RINGMASTER_SIDECAR_RESOURCES,
    docker: {
      isEnabled: settings.RINGMASTER_DOCKER_ENABLED,
      socketPath: settings.RINGMASTER_DOCKER_SOCKET,
      network: settings.RINGMASTER_DOCKER_NETWORK,
      groupId: settings.RINGMASTER_DOCKER_GROUP,
    },
  };
}

function createLoop(
  name: string,
  reconcile: Reconcile,
  {
    workers = settings.RINGMASTER_WORKERS,
    informers = all,
  }: Partial<Pick<ControllerOptions, 'workers' | 'informers'>> = {},
): { queue: WorkQueue; controller: Controller } {
  const queue = new WorkQueue({ clock: systemClock, random: Math.random, observer: observeQueue(metrics, name) });
  const controller = new Controller({
    name,
    queue,
    reconcile,
    informers,
    workers,
    reconcileTimeoutMs,
    clock: systemClock,
    log,
    observer: observeController(metrics, name),
  });
  return { queue, controller };
}

function enqueueOwner(queue: WorkQueue, object: KubernetesObject | undefined): void {
  const name = object === undefined ? undefined : ownerName(object);
  if (name !== undefined && object !== undefined) queue.add(keyOf({ ...object.metadata, name }));
}

function enqueueConfiguration(queue: WorkQueue, instance: Instance | undefined): void {
  const key = instance === undefined ? undefined : configurationKey(instance);
  if (key !== undefined) queue.add(key);
}
