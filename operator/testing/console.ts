/** The operator's side of the console over an API server in memory: the caches are the store itself. */
import type { Answer } from '../answers/protocol.ts';
import { apiKeys } from '../api/v1alpha1/apikey.ts';
import type { ConsoleCommand, ConsoleCommandSpec } from '../api/v1alpha1/consolecommand.ts';
import { consoleCommands, linesOf } from '../api/v1alpha1/consolecommand.ts';
import type { Instance } from '../api/v1alpha1/instance.ts';
import { instances } from '../api/v1alpha1/instance.ts';
import { instanceConfigurationSpec, instanceConfigurations } from '../api/v1alpha1/instanceconfiguration.ts';
import { createRegistry } from '../controllers/consolecommand/commands/all.ts';
import { CommandReconciler } from '../controllers/consolecommand/reconcile.ts';
import { configMaps } from '../controllers/consolecommand/world.ts';
import { nodes } from '../runtime/nodes.ts';
import type { Cache, World } from '../controllers/consolecommand/world.ts';
import { indexedId } from '../controllers/instance/gather.ts';
import { createSilentLogger } from '../log.ts';
import { answerToAnnotation } from '../names.ts';
import type { KubernetesObject, Resource } from '../runtime/client.ts';
import { refOf } from '../runtime/informer.ts';
import { FakeClient } from './client.ts';
import { FakeClock } from './clock.ts';

export const releaseNamespace = 'ringmaster';
const { signal } = new AbortController();

export class ConsoleRig {
  readonly clock = new FakeClock();
  readonly server = new FakeClient(this.clock);
  /** What was noted on which object. */
  readonly events: string[] = [];
  readonly typed: string[] = [];
  /** Sent ahead of the record, with how many writes of commands there were by then. */
  readonly answers: { readonly address: string; readonly answer: Answer; readonly writes: number }[] = [];
  log: string[] = [];
  #commands = 0;
  #draws = 42;

  world(more: Partial<World> = {}): World {
    const byIndex = (_: string, id: string): Instance[] =>
      this.server.peekAll(instances).filter((instance) => indexedId(instance) === id);
    return {
      ...{ client: this.server, clock: this.clock, random: () => this.#draw(), identity: 'operator-1' },
      instances: { ...this.cache(instances), byIndex },
      configurations: this.cache(instanceConfigurations),
      keys: this.cache(apiKeys),
      templates: this.cache(configMaps),
      nodes: this.cache(nodes),
      io: {
        tail: (_, lines) => Promise.resolve(this.log.slice(-lines)),
        type: (uid, line) => {
          this.typed.push(`${uid}:${line}`);
          return Promise.resolve();
        },
        lineFault: (line) => (line.length > 4096 ? 'it is too long' : undefined),
      },
      releaseNamespace,
      defaultImage: undefined,
      ...more,
    };
  }

  /** A process: what it has begun it remembers. */
  operator(
    more: Partial<World> = {},
    commands: { get(key: string): ConsoleCommand | undefined } = this.cache(consoleCommands),
  ): CommandReconciler {
    const events = {
      record: (object: KubernetesObject, { note }: { note: string }) =>
        this.events.push(`${object.metadata.name} ${note}`),
    };
    const answers = {
      send: (address: string, answer: Answer) =>
        this.answers.push({ address, answer, writes: this.writesOf('ConsoleCommand').length }),
    };
    const shared = { commands, events, answers, log: createSilentLogger() };
    return new CommandReconciler({ world: this.world(more), registry: createRegistry(), ...shared });
  }

  /** Makes a command and gives its key. */
  async issue(
    line: string,
    { answerTo, ...spec }: Partial<ConsoleCommandSpec> & { answerTo?: string } = {},
    namespace = releaseNamespace,
  ): Promise<string> {
    this.#commands += 1;
    const name = `c${this.#commands}`;
    const full = { line, ttlSecondsAfterFinished: 300, ...spec };
    const annotations = answerTo === undefined ? {} : { annotations: { [answerToAnnotation]: answerTo } };
    await this.server.create(consoleCommands, { metadata: { name, namespace, ...annotations }, spec: full });
    return `${namespace}/${name}`;
  }

  /** Makes a configuration in the namespace of games. */
  async configure(name: string, namespace = 'games'): Promise<void> {
    const spec = instanceConfigurationSpec.parse({ template: { spec: { image: 'a:1' } } });
    await this.server.create(instanceConfigurations, { metadata: { name, namespace }, spec });
  }

  /** Runs a line to its end. */
  async run(
    line: string,
    more: Partial<World> = {},
  ): Promise<{ output: string[]; exitCode: number | undefined; result: unknown }> {
    const key = await this.issue(line, { issuedBy: { kind: 'ApiKey', name: 'panel' } });
    await this.operator(more).reconcile(key, signal);
    const { output = [], exitCode, result } = this.command(key)?.status ?? {};
    return { output: linesOf(output), exitCode, result };
  }

  /** Another number each time, the same ones in every test. */
  #draw(): number {
    this.#draws = (this.#draws * 16_807) % 2_147_483_647;
    return this.#draws / 2_147_483_647;
  }

  command(key: string): ConsoleCommand | undefined {
    const { name, namespace = '' } = refOf(key);
    return this.server.peek(consoleCommands, { name, namespace });
  }

  cache<T extends KubernetesObject>(resource: Resource<T>): Cache<T> {
    return {
      hasSynced: true,
      get: (key) => this.server.peek(resource, refOf(key)),
      list: () => this.server.peekAll(resource),
    };
  }

  /** Writes of one kind of object, as verbs. */
  writesOf(kind: string): string[] {
    return this.server.writes.filter((write) => write.kind === kind).map(({ verb }) => verb);
  }
}
