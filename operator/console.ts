/** Wires the operator's side of the console: the caches that commands answer from, and the two loops that run and delete ConsoleCommands. */
import type { AnswerSender } from './answers/sender.ts';
import type { ConsoleCommand } from './api/v1alpha1/consolecommand.ts';
import { consoleCommands } from './api/v1alpha1/consolecommand.ts';
import { CommandCleaner } from './controllers/consolecommand/clean.ts';
import { createRegistry } from './controllers/consolecommand/commands/all.ts';
import { CommandReconciler } from './controllers/consolecommand/reconcile.ts';
import { hasEnded } from './controllers/consolecommand/status.ts';
import { configMaps } from './controllers/consolecommand/world.ts';
import type { ConfigMap, World } from './controllers/consolecommand/world.ts';
import type { EventSink } from './controllers/instance/act.ts';
import type { Logger } from './log.ts';
import { answerToAnnotation, templateLabel } from './names.ts';
import { cacheOptions } from './process.ts';
import type { ProcessParts } from './process.ts';
import type { Controller, Reconcile } from './runtime/controller.ts';
import { InformerSet } from './runtime/informerset.ts';
import type { Node } from './runtime/nodes.ts';
import { keepNode, nodes } from './runtime/nodes.ts';
import type { WorkQueue } from './runtime/workqueue.ts';

/** Deleting is not urgent: two at a time are 200 a second and more. */
const cleaners = 2;

export interface ConsoleCaches {
  readonly commands: InformerSet<ConsoleCommand>;
  readonly templates: InformerSet<ConfigMap>;
  /** Undefined: limited to namespaces, and nodes belong to none. */
  readonly nodes: InformerSet<Node> | undefined;
}

/** `namespaces` empty: all. */
export function createConsoleCaches(
  parts: ProcessParts,
  { namespaces, releaseNamespace }: { namespaces: readonly string[]; releaseNamespace: string },
): ConsoleCaches {
  const isEverywhere = namespaces.length === 0;
  const templates = { ...cacheOptions(parts, configMaps), scope: { labelSelector: templateLabel } };
  return {
    // As with keys: where we may look everywhere, a command in a foreign namespace is told that it does not count.
    commands: new InformerSet(
      { ...cacheOptions(parts, consoleCommands), transform: keepCommand },
      isEverywhere ? [] : [releaseNamespace],
    ),
    // The right to read them cannot be limited by a label, so it is for our own namespace alone.
    templates: new InformerSet(templates, [releaseNamespace]),
    nodes: isEverywhere ? new InformerSet({ ...cacheOptions(parts, nodes), transform: keepNode }, []) : undefined,
  };
}

export interface ConsoleOptions {
  readonly world: World;
  readonly commands: InformerSet<ConsoleCommand>;
  readonly events: EventSink;
  readonly log: Logger;
  /** Absent: Masters read the records. */
  readonly answers?: AnswerSender;
  /** Commands that run at the same time. */
  readonly workers: number;
  readonly createLoop: (
    name: string,
    reconcile: Reconcile,
    workers: number,
  ) => { readonly queue: WorkQueue; readonly controller: Controller };
}

/** Runs until `signal` aborts, and what runs then has ended. Never rejects. */
export async function runConsole(options: ConsoleOptions, signal: AbortSignal): Promise<void> {
  const { world, commands, createLoop } = options;
  const reconciler = new CommandReconciler({ ...options, registry: createRegistry() });
  const cleaner = new CommandCleaner({ ...world, commands });
  const loop = createLoop('consolecommand', (key, limit) => reconciler.reconcile(key, limit), options.workers);
  const cleaning = createLoop('consolecommand-ttl', (key, limit) => cleaner.reconcile(key, limit), cleaners);
  const unsubscribe = commands.onChange((key, _, next) => {
    const leftMs = next === undefined ? undefined : cleaner.leftMs(next);
    if (leftMs !== undefined) cleaning.queue.addAfter(key, leftMs);
    // Also when it has ended or is gone: what is remembered of it can go.
    loop.queue.add(key);
  });
  await Promise.all([loop.controller.run(signal), cleaning.controller.run(signal)]);
  unsubscribe();
}

/** Without what it printed, and, once it has ended, without the line and where to answer: there may be tens of thousands of them. */
export function keepCommand(command: ConsoleCommand): ConsoleCommand {
  const { metadata, spec, status } = command;
  const { name, namespace, uid, resourceVersion, generation, creationTimestamp, deletionTimestamp } = metadata;
  const ended = hasEnded(command);
  const answerTo = ended ? undefined : metadata.annotations?.[answerToAnnotation];
  const annotations = answerTo === undefined ? undefined : { [answerToAnnotation]: answerTo };
  const kept = { name, namespace, uid, resourceVersion, generation, creationTimestamp, deletionTimestamp, annotations };
  const rest = { ...status };
  delete rest.output;
  delete rest.result;
  return {
    metadata: withoutAbsent(kept),
    spec: ended ? { line: '', ttlSecondsAfterFinished: spec.ttlSecondsAfterFinished } : spec,
    ...(status === undefined ? {} : { status: ended ? { phase: rest.phase, finishedAt: rest.finishedAt } : rest }),
  };
}

type Present<T> = { [K in keyof T]: Exclude<T[K], undefined> };

function withoutAbsent<T extends object>(object: T): Present<T> {
  return Object.fromEntries(Object.entries(object).filter(([, value]) => value !== undefined)) as Present<T>;
}
