/** `InstanceConfiguration`: a template of Instances, and how many of them there are at least. */
import { z } from 'zod';
import { apiVersion, configurationLabel, group } from '../../names.ts';
import { instanceSpec, runtimes } from './instance.ts';
import type { Metadata, Rule } from './meta.ts';
import { conditions, int32, int64, intOrString, matching, quantity, stringMap, withRules } from './meta.ts';

/** The largest floor, and with it the most Instances that the loop makes by itself for one configuration. */
export const minimumServiceCountMax = 1000;
export const maxUnavailableDefault = 1;
export const accessModeDefault = 'ReadWriteOnce';
/** Name of the volume, in the pod of a static configuration, that `storage` is. */
export const storageVolume = 'storage';

/** Over the whole object: the name of an Instance is the configuration's, a hyphen and five characters. */
export const nameRule: Rule = {
  rule: "self.metadata.name.matches('^[a-z]([-a-z0-9]{0,40}[a-z0-9])?$')",
  message:
    'metadata.name must begin with a letter, hold only lower-case letters, digits and hyphens, and have at most 42 characters: Instances are named after it',
};

/** An Instance keeps its runtime; a template may change it, and its Instances are then made anew. */
const templateSpec = withRules(
  instanceSpec.extend({ runtime: z.enum(runtimes).default('kubernetes').describe(describedRuntime()) }),
  ...rulesOf(instanceSpec),
  {
    rule: "self.desiredState == 'Running'",
    message: 'a template is of Instances that run: set minimumServiceCount to 0, or desiredState of single Instances',
    fieldPath: '.desiredState',
  },
);

const maxUnavailable = withRules(intOrString, {
  rule: "type(self) == int ? self >= 1 : self.matches('^([1-9][0-9]?|100)%$')",
  message: 'write a number from 1, or a percentage from 1% to 100%',
});

const storage = withRules(
  z
    .object({
      size: quantity.describe('How much it holds, such as 10Gi. It can grow where the storage class allows it.'),
      storageClassName: z
        .string()
        .max(253)
        .optional()
        .describe('The storage class; absent: the default one of the cluster. Empty: a volume that was made by hand.'),
      accessModes: z
        .array(z.enum(['ReadWriteOnce', 'ReadWriteOncePod', 'ReadWriteMany']))
        .min(1)
        .max(3)
        .default([accessModeDefault])
        .describe('How nodes may mount it; as in a PersistentVolumeClaim.'),
      mountPath: matching(/^\/[^:]*$/, 'write an absolute path without a colon, such as /data')
        .min(1)
        .max(1024)
        .optional()
        .describe('Where it appears; absent: in the workingDir of the template.'),
    })
    .describe(
      'A volume for the one Instance of a static configuration: a PersistentVolumeClaim with the name of the configuration. It is kept over restarts and replacements, and stays when the configuration is deleted.',
    ),
  {
    rule: '!isQuantity(string(self.size)) || !isQuantity(string(oldSelf.size)) || quantity(string(self.size)).compareTo(quantity(string(oldSelf.size))) >= 0',
    message: 'a volume cannot shrink',
    fieldPath: '.size',
  },
);

const labels = withRules(stringMap, {
  rule: `self.all(name, !name.startsWith('${group}/'))`,
  message: `labels that begin with ${group}/ are set by Ringmaster: choose other names`,
});

const template = z
  .object({
    metadata: z
      .object({
        labels: labels.optional().describe('Labels that the Instances get besides ours.'),
        annotations: stringMap
          .optional()
          .describe(
            `Annotations that the Instances get besides ours. A new value of ${group}/restarted-at restarts all of them, a few at a time.`,
          ),
      })
      .optional()
      .describe('Labels and annotations of the Instances.'),
    spec: templateSpec.describe('The spec of the Instances.'),
  })
  .describe('What the Instances look like.');

export const instanceConfigurationSpec = withRules(
  z
    .object({
      minimumServiceCount: int32
        .min(0)
        .max(minimumServiceCountMax)
        .default(0)
        .describe(
          'How many Instances run at least. Missing ones are made. Those made for this floor go when it is lowered; those that somebody else made are counted and never removed.',
        ),
      static: z
        .boolean()
        .default(false)
        .describe('One Instance, which has the name of the configuration and keeps its volume over restarts.'),
      storage: storage.optional(),
      updateStrategy: z
        .object({
          maxUnavailable: maxUnavailable
            .default(maxUnavailableDefault)
            .describe(
              'How many Instances may be away at a time while a change is rolled out: a number from 1, or a percentage such as 25%, rounded down to at least one.',
            ),
        })
        .optional()
        .describe('How a change of the template reaches Instances that exist.'),
      template,
    })
    .describe('The template, and how many.'),
  {
    rule: '!self.static || self.minimumServiceCount <= 1',
    message: 'a static configuration has one Instance: set minimumServiceCount to 0 or 1',
    fieldPath: '.minimumServiceCount',
  },
  {
    rule: '!has(self.storage) || self.static',
    message: 'storage belongs to one Instance: set static to true, or use volumes in the template',
    fieldPath: '.storage',
  },
  {
    rule: '!has(self.storage) || has(self.storage.mountPath) || has(self.template.spec.workingDir)',
    message: 'storage needs mountPath, or workingDir in the template',
    fieldPath: '.storage',
  },
  {
    rule: "!has(self.storage) || self.template.spec.runtime != 'docker'",
    message: 'the runtime docker has no volumes: remove storage, or choose another runtime',
    fieldPath: '.storage',
  },
  {
    rule: `!has(self.storage) || !has(self.template.spec.volumes) || self.template.spec.volumes.all(v, v.name != '${storageVolume}')`,
    message: `with storage, no volume of the template may be named ${storageVolume}`,
    fieldPath: '.template.spec.volumes',
  },
);
export type InstanceConfigurationSpec = z.infer<typeof instanceConfigurationSpec>;

export const instanceConfigurationStatus = z
  .object({
    instances: int32
      .min(0)
      .optional()
      .describe('How many Instances of it run or are about to; those that were stopped or have finished do not count.'),
    readyInstances: int32.min(0).optional().describe('How many of them are ONLINE with their present spec.'),
    updatedInstances: int32.min(0).optional().describe('How many of them have the present template.'),
    selector: z
      .string()
      .max(512)
      .optional()
      .describe(`Selects the Instances and their pods, by the label ${configurationLabel}; for autoscalers.`),
    observedGeneration: int64.optional().describe('The generation of the spec that this status speaks of.'),
    conditions: conditions.optional(),
  })
  .describe('How its Instances are.');
export type InstanceConfigurationStatus = z.infer<typeof instanceConfigurationStatus>;

export interface InstanceConfiguration {
  apiVersion?: string;
  kind?: string;
  metadata: Metadata;
  spec: InstanceConfigurationSpec;
  status?: InstanceConfigurationStatus;
}

export const instanceConfigurations: {
  apiVersion: string;
  kind: string;
  plural: string;
  namespaced: boolean;
  object?: InstanceConfiguration;
} = { apiVersion, kind: 'InstanceConfiguration', plural: 'instanceconfigurations', namespaced: true };

function rulesOf(schema: z.ZodType): readonly Rule[] {
  return (schema.meta()?.['x-kubernetes-validations'] ?? []) as readonly Rule[];
}

function describedRuntime(): string {
  return instanceSpec.shape.runtime.description ?? '';
}
