/** `instance create`: Instances from a configuration. */
import { randomUUID } from 'node:crypto';
import type { Instance } from '../../../api/v1alpha1/instance.ts';
import { instances } from '../../../api/v1alpha1/instance.ts';
import type { InstanceConfiguration } from '../../../api/v1alpha1/instanceconfiguration.ts';
import { idLabel } from '../../../names.ts';
import { isReason } from '../../../runtime/client.ts';
import { keyOf } from '../../../runtime/informer.ts';
import { buildInstance } from '../../configuration/instance.ts';
import { allocateId } from '../../instance/id.ts';
import { CommandFault } from '../fault.ts';
import { findConfiguration } from '../find.ts';
import { misuse } from '../registry.ts';
import type { Command, Context } from '../registry.ts';
import { idOf } from './instance.ts';

const amountMax = 1000;
/** Made at the same time. */
const batch = 8;
const drawsMax = 5;
/** As Kubernetes' own endings of names: no vowels, so that no words appear. */
const alphabet = 'bcdfghjklmnpqrstvwxz2456789';
/** Names of Instances become names of Services. */
const prefixCharsMax = 57;

export const create: Command = {
  group: 'instance',
  verb: 'create',
  usage: '<config> [amount]',
  summary: `Makes Instances from a configuration: one, or as many as asked for, up to ${amountMax}.`,
  changes: true,
  arguments: [1, 2],
  async run(context) {
    const [word = '', count = '1'] = context.arguments;
    const amount = /^\d{1,4}$/.test(count) ? Number(count) : 0;
    if (amount < 1 || amount > amountMax) {
      throw misuse(create, `the amount is a whole number from 1 to ${amountMax}`);
    }
    const configuration = findConfiguration(context.world, word);
    if (configuration.spec.static && amount > 1) {
      throw new CommandFault(`Configuration ${configuration.metadata.name} is static: it has one Instance`, 409);
    }
    const made: Instance[] = [];
    try {
      while (made.length < amount) await createBatch(context, configuration, { amount, made });
    } finally {
      context.setResult({ instances: made.map(summarize) });
      if (made.length > 0) context.noteChange(configuration, `instance create ${word} ${made.length}`);
    }
  },
};

/** Adds those that were made; then throws the first fault, if there was one. */
async function createBatch(
  context: Context,
  configuration: InstanceConfiguration,
  { amount, made }: { amount: number; made: Instance[] },
): Promise<void> {
  const taken = new Set<string>();
  const outcomes = await Promise.allSettled(
    Array.from({ length: Math.min(amount - made.length, batch) }, () => createOne(context, configuration, taken)),
  );
  for (const outcome of outcomes) {
    if (outcome.status === 'rejected') continue;
    made.push(outcome.value);
    context.print(`Created ${idOf(outcome.value)} ${keyOf(outcome.value.metadata)}`);
  }
  const failed = outcomes.find((outcome) => outcome.status === 'rejected');
  if (failed !== undefined) throw failed.reason as Error;
}

async function createOne(
  { world, signal }: Context,
  configuration: InstanceConfiguration,
  taken: Set<string>,
): Promise<Instance> {
  // The loop keeps an id that stands in the label if nobody has it: so it can be said at once.
  const isTaken = (id: string): boolean => taken.has(id) || world.instances.byIndex('id', id).length > 0;
  const id = allocateId(randomUUID(), isTaken);
  taken.add(id);
  for (let draw = 1; ; draw += 1) {
    const name = configuration.spec.static ? configuration.metadata.name : drawName(configuration, world.random);
    const instance = buildInstance(configuration, { name, isFloor: false });
    const labels = { ...instance.metadata.labels, [idLabel]: id };
    try {
      return await world.client.create(instances, { ...instance, metadata: { ...instance.metadata, labels } }, signal);
    } catch (error) {
      const isNameTaken = isReason(error, 'AlreadyExists') && !configuration.spec.static;
      if (!isNameTaken || draw === drawsMax) throw error;
    }
  }
}

function drawName({ metadata }: InstanceConfiguration, random: () => number): string {
  const ending = Array.from({ length: 5 }, () => alphabet.charAt(Math.floor(random() * alphabet.length))).join('');
  return `${metadata.name.slice(0, prefixCharsMax)}-${ending}`;
}

function summarize(instance: Instance): Record<string, unknown> {
  const { name, namespace, uid } = instance.metadata;
  return { id: instance.metadata.labels?.[idLabel], name, namespace, uid };
}
