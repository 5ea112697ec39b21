/** `InstanceConfiguration`: a template of Instances, and how many of them there are at least. */
import { z } from 'zod';
import { apiVersion } from '../../names.ts';
import { instanceSpec } from './instance.ts';
import type { Metadata } from './meta.ts';
import { conditions, int32, int64, intOrString, stringMap, withRules } from './meta.ts';

/** The largest floor, and with it the most Instances that the loop makes by itself for one configuration. */
export const minimumServiceCountMax = 1000;

export const instanceConfigurationSpec = withRules(
  z
    .object({
      minimumServiceCount: int32
        .min(0)
        .max(minimumServiceCountMax)
        .default(0)
        .describe(
          'How many Instances there are at least. Missing ones are made. Those made for this floor go when it is lowered; those that somebody else made are counted and never removed.',
        ),
      static: z
        .boolean()
        .default(false)
        .describe('One Instance, which has the name of the configuration and keeps its volume over restarts.'),
      updateStrategy: z
        .object({
          maxUnavailable: intOrString
            .default(1)
            .describe(
              'How many Instances may be away at a time while a change is rolled out: a number, or a percentage such as 25%.',
            ),
        })
        .optional()
        .describe('How a change of the template reaches Instances that exist.'),
      template: z
        .object({
          metadata: z
            .object({
              labels: stringMap.optional().describe('Labels that the Instances get besides ours.'),
              annotations: stringMap.optional().describe('Annotations that the Instances get besides ours.'),
            })
            .optional()
            .describe('Labels and annotations of the Instances.'),
          spec: instanceSpec.describe('The spec of the Instances.'),
        })
        .describe('What the Instances look like.'),
    })
    .describe('The template, and how many.'),
  {
    rule: '!self.static || self.minimumServiceCount <= 1',
    message: 'a static configuration has one Instance: set minimumServiceCount to 0 or 1',
    fieldPath: '.minimumServiceCount',
  },
);
export type InstanceConfigurationSpec = z.infer<typeof instanceConfigurationSpec>;

export const instanceConfigurationStatus = z
  .object({
    instances: int32.min(0).optional().describe('How many Instances of it there are.'),
    readyInstances: int32.min(0).optional().describe('How many of them are ONLINE.'),
    updatedInstances: int32.min(0).optional().describe('How many of them have the present template.'),
    selector: z.string().max(512).optional().describe('Selects the Instances, and their pods, for autoscalers.'),
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
