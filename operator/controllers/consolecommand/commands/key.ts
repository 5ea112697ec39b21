/** `key`: the tokens of the Master API, by their hashes. */
import { apiKeys, permissions } from '../../../api/v1alpha1/apikey.ts';
import type { ApiKey } from '../../../api/v1alpha1/apikey.ts';
import { CommandFault } from '../fault.ts';
import { byKey, findKey } from '../find.ts';
import { inResult, removeNoted } from '../note.ts';
import { misuse } from '../registry.ts';
import type { Command } from '../registry.ts';

const list: Command = {
  group: 'key',
  verb: 'list',
  usage: '',
  summary: 'Lists the API keys: name, permission, when it expires.',
  changes: false,
  arguments: [0, 0],
  run({ world, print, setResult }) {
    const keys = world.keys
      .list()
      .filter(({ metadata }) => metadata.namespace === world.releaseNamespace)
      .sort(byKey);
    print(`Keys (${keys.length}):`);
    for (const { metadata, spec } of keys) print(`${metadata.name} ${spec.permission} ${spec.expiresAt ?? '-'}`);
    setResult({ keys: keys.map(({ metadata, spec }) => ({ name: metadata.name, permission: spec.permission })) });
  },
};

const create: Command = {
  group: 'key',
  verb: 'create',
  usage: '<keyId> <ALL|PUBLIC>',
  summary: 'Makes an API key. Its token is shown once, to this session.',
  changes: true,
  arguments: [2, 2],
  options: ['token-sha256'],
  async run(context) {
    const { world, options, print, setResult, noteChange, signal } = context;
    const [name = '', word = ''] = context.arguments;
    const permission = permissions.find((known) => known === word);
    if (permission === undefined) throw misuse(create, `the permission is ${permissions.join(' or ')}`);
    const tokenSHA256 = options.get('token-sha256');
    if (tokenSHA256 === undefined || !/^[0-9a-f]{64}$/.test(tokenSHA256)) {
      throw misuse(
        create,
        'give it to a console of the Master, which makes the token; without one, add --token-sha256=<SHA-256 of your token, 64 lower-case hexadecimal digits>',
      );
    }
    const key: ApiKey = {
      metadata: { name, namespace: world.releaseNamespace },
      spec: { permission, tokenSHA256 },
    };
    const made = await world.client.create(apiKeys, key, signal);
    noteChange(made, `key create ${name} ${permission}`);
    print(`Created key ${name} ${permission}`);
    setResult({ name, permission, uid: made.metadata.uid });
  },
};

const remove: Command = {
  group: 'key',
  verb: 'delete',
  usage: '<keyId>',
  summary: 'Deletes an API key; what uses it is disconnected.',
  changes: true,
  arguments: [1, 1],
  async run(context) {
    const { world, print, setResult, noteChange } = context;
    const key = findKey(world, context.arguments[0] ?? '');
    const { name, uid, deletionTimestamp } = key.metadata;
    if (deletionTimestamp !== undefined) throw new CommandFault(`Key ${name} is being deleted already`, 409);
    const notes = await removeNoted(context, apiKeys, { object: key, what: `key ${name}` });
    noteChange(key, `key delete ${name}`);
    print(`Deleted key ${name}`);
    setResult({ name, uid, ...inResult(notes) });
  },
};

export const keyCommands: readonly Command[] = [list, create, remove];
