/** `instance`: what can be seen and asked of one. What changes it is in lifecycle.ts. */
import type { Instance } from '../../../api/v1alpha1/instance.ts';
import { configurationLabel } from '../../../names.ts';
import { keyOf } from '../../../runtime/informer.ts';
import { indexedId } from '../../instance/gather.ts';
import { CommandFault } from '../fault.ts';
import { findInstance } from '../find.ts';
import { misuse } from '../registry.ts';
import type { Command } from '../registry.ts';

const logLinesDefault = 25;
const logLinesMax = 1000;

const list: Command = {
  group: 'instance',
  verb: 'list',
  usage: '',
  summary: 'Lists the Instances: id, configuration, state, node, port.',
  changes: false,
  arguments: [0, 0],
  run({ world, print }) {
    const rows = world.instances
      .list()
      .map(describe)
      .sort((a, b) => (a.order < b.order ? -1 : 1));
    print(`Instances (${rows.length}):`);
    for (const { id, label, state, node, port } of rows) print(`${id} ${label} ${state} ${node} ${port}`);
  },
};

const info: Command = {
  group: 'instance',
  verb: 'info',
  usage: '<id>',
  summary: 'Shows an Instance: where it runs, how it is, and why.',
  changes: false,
  arguments: [1, 1],
  run({ world, arguments: [word = ''], print, setResult }) {
    const instance = findInstance(world, word);
    const { metadata, spec, status } = instance;
    const ready = status?.conditions?.find(({ type }) => type === 'Ready');
    const reason = ready ?? status?.conditions?.[0];
    const { id, state, node, port } = describe(instance);
    const facts: Record<string, string> = {
      id,
      name: metadata.name,
      namespace: metadata.namespace ?? '-',
      configuration: metadata.labels?.[configurationLabel] ?? '-',
      state,
      desiredState: spec.desiredState,
      runtime: spec.runtime,
      image: spec.image,
      node,
      address: status?.hostAddress ?? '-',
      port,
      pod: status?.podName ?? '-',
      restarts: String(status?.restarts ?? 0),
      reason: reason === undefined ? '-' : `${reason.reason}: ${reason.message}`,
    };
    for (const [name, value] of Object.entries(facts)) print(`${name}: ${value}`);
    setResult(facts);
  },
};

const logs: Command = {
  group: 'instance',
  verb: 'logs',
  usage: '<id> [lines]',
  summary: `Prints the last lines of the log: ${logLinesDefault}, or as many as asked for, up to ${logLinesMax}.`,
  changes: false,
  arguments: [1, 2],
  async run({ world, arguments: [word = '', count = String(logLinesDefault)], print, signal }) {
    const lines = /^\d{1,5}$/.test(count) ? Number(count) : 0;
    if (lines < 1 || lines > logLinesMax) throw misuse(logs, `lines is a whole number from 1 to ${logLinesMax}`);
    const instance = findInstance(world, word);
    for (const line of await world.io.tail(uidOf(instance), lines, signal)) print(line);
  },
};

const execute: Command = {
  group: 'instance',
  verb: 'execute',
  usage: '<id> <line…>',
  summary: 'Types the rest of the line into the program, exactly as it is written.',
  changes: true,
  arguments: [2, 2],
  isRaw: true,
  async run({ world, arguments: [word = '', line = ''], print, setResult, noteChange, signal }) {
    const fault = world.io.lineFault(line);
    if (fault !== undefined) throw new CommandFault(`The line cannot be typed: ${fault}`, 400);
    const instance = findInstance(world, word);
    await world.io.type(uidOf(instance), line, signal);
    // Never what was typed: people type passwords.
    noteChange(instance, 'instance execute');
    print(`Command sent to ${idOf(instance)}`);
    setResult({ id: idOf(instance) });
  },
};

export const instanceCommands: readonly Command[] = [list, info, logs, execute];

/** The id, or the key of one that has none yet. */
export function idOf(instance: Instance): string {
  return indexedId(instance) ?? keyOf(instance.metadata);
}

function uidOf(instance: Instance): string {
  return instance.metadata.uid ?? '';
}

function describe(instance: Instance): Record<'id' | 'label' | 'state' | 'node' | 'port' | 'order', string> {
  const { metadata, status } = instance;
  const id = indexedId(instance) ?? '-';
  return {
    id,
    label: metadata.labels?.[configurationLabel] ?? metadata.name,
    state: status?.state ?? 'CREATING',
    node: status?.nodeName ?? '-',
    port: String(status?.port ?? '-'),
    order: `${id} ${keyOf(metadata)}`,
  };
}
