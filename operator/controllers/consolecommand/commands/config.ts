/** `config`: the configurations that Instances are made from. */
import { runtimes } from '../../../api/v1alpha1/instance.ts';
import { instanceConfigurations } from '../../../api/v1alpha1/instanceconfiguration.ts';
import type { InstanceConfiguration, InstanceConfigurationSpec } from '../../../api/v1alpha1/instanceconfiguration.ts';
import { configurationLabel } from '../../../names.ts';
import { isReason } from '../../../runtime/client.ts';
import { keyOf } from '../../../runtime/informer.ts';
import { CommandFault } from '../fault.ts';
import { byKey, findConfiguration, placeOf } from '../find.ts';
import { splitWords } from '../line.ts';
import { inResult, note, removeNoted } from '../note.ts';
import { appliersOfChange } from '../owners.ts';
import { misuse } from '../registry.ts';
import type { Command, Context } from '../registry.ts';
import type { World } from '../world.ts';

/** Another writer comes between at most so often; then it is theirs to settle. */
const attemptsMax = 4;

const list: Command = {
  group: 'config',
  verb: 'list',
  usage: '',
  summary: 'Lists the configurations: name, runtime, number of Instances, least number of them.',
  changes: false,
  arguments: [0, 0],
  run({ world, print, setResult }) {
    const configurations = [...world.configurations.list()].sort(byKey);
    const counts = countInstances(world);
    print(`Configurations (${configurations.length}):`);
    const rows = configurations.map(({ metadata, spec }) => {
      const { runtime } = spec.template.spec;
      const count = counts.get(keyOf(metadata)) ?? 0;
      print(`${metadata.name} ${runtime} ${count} ${spec.minimumServiceCount}`);
      return { name: metadata.name, namespace: metadata.namespace, runtime, instances: count };
    });
    setResult({ configurations: rows });
  },
};

const show: Command = {
  group: 'config',
  verb: 'show',
  usage: '<name>',
  summary: 'Shows the spec of a configuration as JSON, as config apply takes it.',
  changes: false,
  arguments: [1, 1],
  run({ world, arguments: [word = ''], print, setResult }) {
    const { metadata, spec } = findConfiguration(world, word);
    print(`Configuration ${keyOf(metadata)}:`);
    print(JSON.stringify(spec, undefined, 2));
    setResult({ name: metadata.name, namespace: metadata.namespace, spec });
  },
};

const create: Command = {
  group: 'config',
  verb: 'create',
  usage: '[--image=<image>] <name> <runtime> <command…>',
  summary: 'Makes a configuration that runs a command in an image. Quotes hold words together; no shell is involved.',
  changes: true,
  arguments: [3, Infinity],
  options: ['image'],
  async run(context) {
    const { world, options, signal } = context;
    const [word = '', runtime = '', ...command] = context.arguments;
    const known = runtimes.find((name) => name === runtime);
    if (known === undefined) throw misuse(create, `the runtime is one of ${runtimes.join(', ')}`);
    const image = options.get('image') ?? world.defaultImage;
    if (image === undefined) {
      throw new CommandFault(
        'No image is known to run it in: write --image=<image>, or set operator.defaultImage',
        400,
      );
    }
    const spec = { template: { spec: { runtime: known, image, command } } } as unknown as InstanceConfigurationSpec;
    const made = await world.client.create(instanceConfigurations, { metadata: placeOf(world, word), spec }, signal);
    say(context, made, { verb: 'create', text: 'Created' });
  },
};

const apply: Command = {
  group: 'config',
  verb: 'apply',
  usage: '<name> <json>',
  summary: 'Makes a configuration, or replaces the spec of one, from JSON.',
  changes: true,
  arguments: [2, 2],
  isRaw: true,
  async run(context) {
    const { world } = context;
    const [word = '', text = ''] = context.arguments;
    const spec = readSpec(text);
    const place = placeOf(world, word);
    for (let attempt = 1; ; attempt += 1) {
      // Not from the cache, which may be behind and does not keep who applies what.
      const present = await world.client.get(instanceConfigurations, place, context.signal);
      try {
        const made = await write(context, { metadata: place, spec }, present);
        const appliers = present === undefined ? [] : appliersOfChange(present, made);
        const notes = note(context, appliers, { what: 'the spec', risk: 'which may set it back' });
        say(context, made, { verb: 'apply', text: present === undefined ? 'Created' : 'Changed', notes });
        return;
      } catch (error) {
        if (!isReason(error, 'Conflict', 'AlreadyExists', 'NotFound') || attempt === attemptsMax) throw error;
      }
    }
  },
};

const remove: Command = {
  group: 'config',
  verb: 'delete',
  usage: '<name>',
  summary: 'Deletes a configuration, and the Instances that were made for its least number.',
  changes: true,
  arguments: [1, 1],
  async run(context) {
    const configuration = findConfiguration(context.world, context.arguments[0] ?? '');
    const what = `configuration ${configuration.metadata.name}`;
    const notes = await removeNoted(context, instanceConfigurations, { object: configuration, what });
    say(context, configuration, { verb: 'delete', text: 'Deleted', notes });
  },
};

export const configCommands: readonly Command[] = [list, show, create, apply, remove];

async function write(
  { world, signal }: Context,
  wanted: InstanceConfiguration,
  present: InstanceConfiguration | undefined,
): Promise<InstanceConfiguration> {
  if (present === undefined) return await world.client.create(instanceConfigurations, wanted, signal);
  return await world.client.update(instanceConfigurations, { ...present, spec: wanted.spec }, signal);
}

function say(
  context: Context,
  configuration: InstanceConfiguration,
  { verb, text, notes = [] }: { verb: string; text: string; notes?: readonly string[] },
): void {
  const { name, namespace, uid, generation } = configuration.metadata;
  context.noteChange(configuration, `config ${verb} ${name}`);
  context.print(`${text} configuration ${name}`);
  const made = { name, namespace, uid, ...(generation === undefined ? {} : { generation }) };
  context.setResult({ ...made, ...inResult(notes) });
}

/** As it stands, or as one quoted word. */
function readSpec(text: string): InstanceConfigurationSpec {
  const trimmed = text.trim();
  const spec = parseJson(trimmed.startsWith('{') ? trimmed : unquote(trimmed));
  if (typeof spec === 'object' && spec !== null && !Array.isArray(spec)) return spec as InstanceConfigurationSpec;
  throw misuse(apply, 'the spec is a JSON object, such as {"template":{"spec":{"image":"example.com/server:1"}}}');
}

function unquote(text: string): string {
  try {
    const words = splitWords(text);
    return words.length === 1 ? (words[0] ?? '') : '';
  } catch {
    // A quote is missing: it is no JSON, and the caller says so.
    return '';
  }
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    // Undefined is no object, and the caller says so.
    return undefined;
  }
}

/** By the key of the configuration. */
function countInstances({ instances }: World): Map<string, number> {
  const counts = new Map<string, number>();
  for (const { metadata } of instances.list()) {
    const name = metadata.labels?.[configurationLabel];
    if (name === undefined) continue;
    const key = keyOf({ ...metadata, name });
    counts.set(key, (counts.get(key) ?? 0) + 1);
  }
  return counts;
}
