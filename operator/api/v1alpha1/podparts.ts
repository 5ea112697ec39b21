/** The pieces of a pod that an Instance has under the names that Kubernetes gives them: variables, resources, volumes. */
import { z } from 'zod';
import { dnsLabel, int32, matching, quantity, withRules } from './meta.ts';

const keyRef = (
  what: string,
): z.ZodObject<{ name: z.ZodString; key: z.ZodString; optional: z.ZodOptional<z.ZodBoolean> }> =>
  z.object({
    name: z.string().min(1).max(253).describe(`Name of the ${what}.`),
    key: z.string().min(1).max(253).describe(`Key in the ${what}.`),
    optional: z.boolean().optional().describe(`Whether the program may start when the ${what} or its key is missing.`),
  });

const nameRef = (what: string): z.ZodObject<{ name: z.ZodString; optional: z.ZodOptional<z.ZodBoolean> }> =>
  z.object({
    name: z.string().min(1).max(253).describe(`Name of the ${what}.`),
    optional: z.boolean().optional().describe(`Whether the program may start when the ${what} is missing.`),
  });

const valueFrom = withRules(
  z.object({
    secretKeyRef: keyRef('Secret').optional().describe('A key of a Secret in the same namespace.'),
    configMapKeyRef: keyRef('ConfigMap').optional().describe('A key of a ConfigMap in the same namespace.'),
    fieldRef: z
      .object({
        fieldPath: z.string().min(1).max(253).describe('A field of the pod, such as status.podIP or metadata.name.'),
        apiVersion: z.string().max(64).optional().describe('API version of the field path; v1 if absent.'),
      })
      .optional()
      .describe('A field of the pod.'),
  }),
  {
    rule: '[has(self.secretKeyRef), has(self.configMapKeyRef), has(self.fieldRef)].filter(x, x).size() == 1',
    message: 'valueFrom needs exactly one of secretKeyRef, configMapKeyRef and fieldRef',
  },
);

export const envVar = withRules(
  z
    .object({
      name: matching(
        /^[-._a-zA-Z][-._a-zA-Z0-9]*$/,
        'use letters, digits, hyphens, dots and underscores, and no digit first',
      )
        .min(1)
        .max(253)
        .describe('Name of the environment variable.'),
      value: z
        .string()
        .max(32768)
        .optional()
        .describe('Its value. $(NAME) refers to a variable above; $$(NAME) writes it literally.'),
      valueFrom: valueFrom.optional().describe('Where its value comes from instead.'),
    })
    .describe('An environment variable.'),
  { rule: '!(has(self.value) && has(self.valueFrom))', message: 'give value or valueFrom, not both' },
);

export const envFrom = withRules(
  z
    .object({
      prefix: z.string().max(253).optional().describe('Put before each key.'),
      configMapRef: nameRef('ConfigMap').optional().describe('Every key of this ConfigMap becomes a variable.'),
      secretRef: nameRef('Secret').optional().describe('Every key of this Secret becomes a variable.'),
    })
    .describe('A source of many environment variables.'),
  {
    rule: 'has(self.configMapRef) != has(self.secretRef)',
    message: 'envFrom needs exactly one of configMapRef and secretRef',
  },
);

export const resources = withRules(
  z
    .object({
      requests: z
        .record(z.string().max(253), quantity)
        .meta({ maxProperties: 16 })
        .optional()
        .describe('What the scheduler sets aside: cpu, memory, and so on.'),
      limits: z
        .record(z.string().max(253), quantity)
        .meta({ maxProperties: 16 })
        .optional()
        .describe('What the program may use at most.'),
    })
    .describe('CPU and memory of the program.'),
  {
    rule: '!has(self.requests) || !has(self.limits) || self.requests.all(k, !(k in self.limits) || quantity(string(self.requests[k])).compareTo(quantity(string(self.limits[k]))) <= 0)',
    message: 'a request may not be larger than the limit of the same resource',
  },
);

export const volume = withRules(
  z
    .object({
      name: dnsLabel.describe('Name of the volume, for volumeMounts.'),
      emptyDir: z
        .object({
          medium: z.enum(['', 'Memory']).optional().describe('Memory: keep it in RAM.'),
          sizeLimit: quantity.optional().describe('How much it may hold; the pod is evicted above it.'),
        })
        .optional()
        .describe('An empty folder that lives as long as the pod.'),
      persistentVolumeClaim: z
        .object({
          claimName: z.string().min(1).max(253).describe('Name of the claim, in the same namespace.'),
          readOnly: z.boolean().optional().describe('Mount it read-only.'),
        })
        .optional()
        .describe('A volume that outlives the pod.'),
      configMap: z
        .object({
          name: z.string().min(1).max(253).describe('Name of the ConfigMap.'),
          optional: z.boolean().optional().describe('Whether it may be missing.'),
          defaultMode: int32
            .min(0)
            .max(511)
            .optional()
            .describe('Mode of the files, as a decimal number (420 is 0644).'),
        })
        .optional()
        .describe('The keys of a ConfigMap as files.'),
      secret: z
        .object({
          secretName: z.string().min(1).max(253).describe('Name of the Secret.'),
          optional: z.boolean().optional().describe('Whether it may be missing.'),
          defaultMode: int32
            .min(0)
            .max(511)
            .optional()
            .describe('Mode of the files, as a decimal number (256 is 0400).'),
        })
        .optional()
        .describe('The keys of a Secret as files.'),
    })
    .describe('A volume. Kinds that are not listed here go into podTemplate.spec.volumes.'),
  {
    rule: '[has(self.emptyDir), has(self.persistentVolumeClaim), has(self.configMap), has(self.secret)].filter(x, x).size() == 1',
    message:
      'a volume needs exactly one of emptyDir, persistentVolumeClaim, configMap and secret; other kinds go into podTemplate.spec.volumes',
  },
);

export const volumeMount = z
  .object({
    name: dnsLabel.describe('Name of the volume.'),
    mountPath: matching(/^\/[^:]*$/, 'write an absolute path without a colon, such as /data')
      .min(1)
      .max(1024)
      .describe('Where it appears; an absolute path.'),
    subPath: z.string().max(1024).optional().describe('Mount this path inside the volume instead of its root.'),
    readOnly: z.boolean().optional().describe('Mount it read-only.'),
  })
  .describe('Where a volume appears in the file system of the program.');
