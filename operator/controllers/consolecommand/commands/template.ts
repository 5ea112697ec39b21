/** `template`: the file templates of configurations, which are ConfigMaps. */
import { keyOf } from '../../../runtime/informer.ts';
import { CommandFault } from '../fault.ts';
import { byKey, findTemplate } from '../find.ts';
import type { Command } from '../registry.ts';
import type { ConfigMap, World } from '../world.ts';

const list: Command = {
  group: 'template',
  verb: 'list',
  usage: '',
  summary: 'Lists the file templates: namespace/name, number of files.',
  changes: false,
  arguments: [0, 0],
  run({ world, print, setResult }) {
    const templates = [...readTemplates(world)].sort(byKey);
    print(`Templates (${templates.length}):`);
    for (const template of templates) print(`${keyOf(template.metadata)} ${filesOf(template).length}`);
    setResult({
      templates: templates.map((template) => ({
        name: template.metadata.name,
        namespace: template.metadata.namespace,
        files: filesOf(template).map(({ name }) => name),
      })),
    });
  },
};

const show: Command = {
  group: 'template',
  verb: 'show',
  usage: '<name> [file]',
  summary: 'Shows the files of a template and their sizes in bytes, or what one of them holds.',
  changes: false,
  arguments: [1, 2],
  run({ world, arguments: given, print, setResult }) {
    readTemplates(world);
    const [name = '', wanted] = given;
    const template = findTemplate(world, name);
    const files = filesOf(template);
    if (wanted === undefined) {
      print(`Template ${keyOf(template.metadata)}, files (${files.length}):`);
      for (const file of files) print(`${file.name} ${file.bytes}`);
    } else {
      const text = template.data?.[wanted];
      if (text === undefined) throw new CommandFault(missing(template, wanted), 404);
      print(text.replace(/\n$/, ''));
    }
    setResult({ name: template.metadata.name, namespace: template.metadata.namespace, files });
  },
};

export const templateCommands: readonly Command[] = [list, show];

function readTemplates({ templates }: World): readonly ConfigMap[] {
  if (templates.hasSynced) return templates.list();
  throw new CommandFault('Templates are not known yet: the operator may have no right to list ConfigMaps');
}

function missing({ metadata, binaryData }: ConfigMap, file: string): string {
  const isBinary = binaryData?.[file] !== undefined;
  return isBinary ? `File ${file} is not text` : `Template ${keyOf(metadata)} has no file ${file}`;
}

function filesOf({ data = {}, binaryData = {} }: ConfigMap): { name: string; bytes: number }[] {
  const texts = Object.entries(data).map(([name, text]) => ({ name, bytes: Buffer.byteLength(text) }));
  const others = Object.entries(binaryData).map(([name, text]) => ({ name, bytes: Buffer.byteLength(text, 'base64') }));
  return [...texts, ...others].sort((a, b) => (a.name < b.name ? -1 : 1));
}
