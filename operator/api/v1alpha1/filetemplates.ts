/** Files from ConfigMaps that are put into the working directory, and the values that are put into them. */
import { z } from 'zod';
import type { Rule } from './meta.ts';
import { listMap, matching, withRules } from './meta.ts';

/** Keys that have a value of their own for each Instance. */
export const builtInProperties = ['INSTANCE_ID', 'INSTANCE_NAME', 'PORT', 'NODE'] as const;

const template = z
  .object({
    name: matching(
      /^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$/,
      'write the name of a ConfigMap: lower-case letters, digits, hyphens and dots',
    )
      .min(1)
      .max(253)
      .describe('Name of the ConfigMap, in the namespace of the Instance. Each of its keys becomes a file.'),
    path: matching(
      /^(\.|\.?[^./\x00-\x1f][^/\x00-\x1f]*(\/\.?[^./\x00-\x1f][^/\x00-\x1f]*)*)$/,
      'write a folder below the working directory, such as plugins/config, without . and .. as parts of it',
    )
      .max(512)
      .optional()
      .describe('Folder for its files, below the working directory; made where it is missing. Absent: workingDir.'),
    replaceIn: z
      .array(
        matching(/^[-._a-zA-Z0-9]+$/, 'write the name of a file, which is a key of the ConfigMap')
          .min(1)
          .max(253),
      )
      .max(32)
      .meta({ 'x-kubernetes-list-type': 'set' })
      .optional()
      .describe(
        'Names of its files in which %INSTANCE_ID%, %INSTANCE_NAME%, %PORT%, %NODE% and each %KEY% of properties are replaced. All other files stay as they are.',
      ),
  })
  .describe('A ConfigMap whose files are put into the working directory.');

/** Each time a pod starts, before the program does. */
export const templates = listMap(template, ['name'], 16).describe(
  'ConfigMaps whose files are put into the working directory each time a pod starts. A file that is there already is replaced; others stay. Of two with the same file the later one counts.',
);

export const properties = withRules(
  z
    .record(
      z.string().max(63),
      // What the kubelet hands over cannot have a zero byte in it.
      matching(/^[^\x00]*$/, 'a value cannot contain a zero byte').max(4096),
    )
    .meta({ maxProperties: 64 }),
  {
    rule: "self.all(key, key.matches('^[A-Z][A-Z0-9_]{0,62}$'))",
    message:
      'write each key in capital letters, digits and underscores, beginning with a letter, such as MAX_PLAYERS; at most 63 characters',
  },
  {
    rule: `self.all(key, !(key in ${JSON.stringify(builtInProperties).replaceAll('"', "'")}))`,
    message: `${builtInProperties.join(', ')} have values of their own: choose another key`,
  },
).describe('What replaces %KEY% in the files that templates list in replaceIn, by KEY.');

const hasTemplates = 'has(self.templates) && size(self.templates) > 0';

/** Rules over the whole `spec`. */
export const templateRules: readonly Rule[] = [
  {
    rule: `!(${hasTemplates}) || self.runtime == 'docker' || (has(self.workingDir) && self.workingDir.matches('^(/[.]?[^./:][^/:]*)+/?$'))`,
    message:
      'templates need workingDir, an absolute path such as /data that is not /, without colons and without . and .. as parts of it: their files go there',
    fieldPath: '.templates',
  },
  {
    rule: `!(${hasTemplates}) || self.runtime != 'docker'`,
    message:
      'the runtime docker has no templates, because its container does not belong to the pod: remove templates, or choose another runtime',
    fieldPath: '.templates',
  },
  {
    rule: `!(${hasTemplates}) || !has(self.workingDir) || self.runtime == 'kubernetes' || (self.workingDir != '/ringmaster' && !self.workingDir.startsWith('/ringmaster/'))`,
    message: 'the folder /ringmaster is taken under this runtime: choose another workingDir for the templates',
    fieldPath: '.templates',
  },
  {
    rule: `!(${hasTemplates}) || !has(self.workingDir) || !has(self.volumeMounts) || self.volumeMounts.all(m, m.mountPath != self.workingDir || !has(m.readOnly) || !m.readOnly)`,
    message:
      'templates cannot be put into a volume that is mounted read-only: remove readOnly from the mount at workingDir',
    fieldPath: '.volumeMounts',
  },
  {
    rule: `!(${hasTemplates}) || !has(self.volumes) || self.volumes.all(v, !v.name.startsWith('ringmaster'))`,
    message: 'names of volumes that begin with ringmaster are taken where there are templates: choose another name',
    fieldPath: '.volumes',
  },
];
