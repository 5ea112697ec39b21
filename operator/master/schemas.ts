/**
 * The bodies of requests and answers, as zod schemas: requests are held to them, and the OpenAPI document is made of them. Names, order and
 * nullability are the protocol's.
 */
import { z } from 'zod';
import { states } from '../api/v1alpha1/instance.ts';
import { instanceConfigurationSpec } from '../api/v1alpha1/instanceconfiguration.ts';
import { brokenEnds } from './dispatch.ts';

/** Bytes of a line for a program's standard input, as UTF-8. */
export const commandBytesMax = 4096;
/** Characters of an object's name. */
const nameMax = 253;
/** C0 but tab, DEL and C1: a terminal would act on them. */
const controlPattern = /(?!\t)\p{Cc}/u;
/** What the command takes: 15 digits, some 30,000 years. */
const heartbeatMsMax = 999_999_999_999_999;
const namePattern = /^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$/;

export function isObjectName(text: string): boolean {
  return text.length <= nameMax && namePattern.test(text);
}

/** The name of a Kubernetes object. */
export const objectName = z
  .string({ error: 'it is a string' })
  .max(nameMax, `it has more than ${nameMax} characters`)
  .regex(namePattern, 'it is lower-case letters, digits, hyphens and dots, with a letter or digit at both ends');

export const instanceId = z.string().regex(/^[0-9a-z]{6}$/);

const nullableText = z.string().nullable();
const state = z.enum(states, { error: `it is one of ${states.join(', ')}` });
const milliseconds = z
  .int({ error: 'it is a whole number of milliseconds since 1970' })
  .max(heartbeatMsMax, `it is at most ${heartbeatMsMax}, in milliseconds since 1970`);

export const instanceInfo = z
  .strictObject({
    id: instanceId,
    name: z.string(),
    namespace: z.string(),
    configurationName: nullableText.describe('null where it was not made from a configuration.'),
    wrapperNodeId: nullableText.describe('The node that it runs on.'),
    hostAddress: nullableText,
    allocatedPort: z.int().nullable(),
    state,
    lastHeartbeat: z.int().nullable().describe('Milliseconds since 1970.'),
    processPid: z.int().nullable().describe('null for containers.'),
    allocatedRamMB: z.number(),
    allocatedCpu: z.number().describe('100 is one core.'),
    runtime: z.string(),
    restarts: z.int(),
  })
  .describe('An Instance. What is not known yet is null.');

export const createInstanceBody = z
  .strictObject({ configurationName: objectName.describe('Name of an InstanceConfiguration.') })
  .describe('What to make an Instance from.');

export const instanceStateBody = z
  .strictObject({
    state: state.describe('How the program says that it is.'),
    lastHeartbeat: milliseconds
      .min(0, 'it is a whole number of milliseconds since 1970')
      .optional()
      .describe('Milliseconds since 1970; now if absent.'),
  })
  .describe('A sign of life from outside.');

export const executeBody = z
  .strictObject({
    command: z
      .string({ error: 'it is a string' })
      .superRefine((command, context) => {
        const fault = commandFault(command);
        if (fault !== undefined) context.addIssue({ code: 'custom', message: fault });
      })
      // Said again in the words of JSON Schema, which has none for bytes.
      .meta({
        minLength: 1,
        maxLength: commandBytesMax,
        pattern: '^[^\\u0000-\\u0008\\u000a-\\u001f\\u007f-\\u009f]+$',
      })
      .describe('One line, without a line break; at most 4096 bytes of UTF-8.'),
  })
  .describe('A line for the standard input of the program.');

export const consoleBody = z
  .strictObject({
    command: z
      .string({ error: 'it is a string' })
      .meta({
        minLength: 1,
        maxLength: 65_536,
        pattern: '^(?!\\s*$)[^\\u0000-\\u0008\\u000a-\\u001f\\u007f-\\u009f]+$',
      })
      .describe('One command line of the console.'),
  })
  .describe('A command of the console.');

/** Checked by the API server, with its own sentences; here it is only shown. */
export const configurationBody = instanceConfigurationSpec.describe(
  'The spec of an InstanceConfiguration. It may also have the fields name and namespace, as answers do; they must then be those of the path.',
);

export const configurationInfo = z
  .looseObject({ name: z.string(), namespace: z.string(), template: z.looseObject({}) })
  .describe('name, namespace, and all fields of the spec of an InstanceConfiguration.');

export const templateInfo = z
  .strictObject({
    name: z.string(),
    namespace: z.string(),
    files: z.array(z.string()).describe('Names of its files, in the order of the alphabet.'),
  })
  .describe('A template: the files that Instances find in their working directory.');

export const nodeInfo = z
  .strictObject({
    id: z.string().describe('Name of the node.'),
    name: z.string().describe('The same.'),
    state: z.enum(['ONLINE', 'OFFLINE']).describe('ONLINE: Kubernetes says that it is ready.'),
    schedulable: z.boolean().describe('Whether new pods may be placed there: false where it is cordoned.'),
    allocatableRamMB: z.number().describe('What pods may use in all.'),
    allocatableCpu: z.number().describe('What pods may use in all; 100 is one core.'),
    allocatedRamMB: z
      .number()
      .describe('What its Instances have set aside together, by their limits, else their requests.'),
    allocatedCpu: z.number().describe('The same; 100 is one core.'),
    instances: z.int().describe('Number of its Instances that are not STOPPED.'),
  })
  .describe('A node of the cluster.');

export const pingAnswer = z.strictObject({
  status: z.literal('ok'),
  nodeId: z.string(),
  clusterName: z.string(),
  master: z.literal(true),
});

export const logsAnswer = z.strictObject({
  instanceId,
  lines: z.array(z.string()),
  totalLines: z.int(),
  nextCursor: z.string().describe('For ?cursor= of the live log: nothing lies between.'),
});

export const executeAnswer = z.strictObject({
  message: z.literal('Command dispatched'),
  instanceId,
  command: z.string(),
});

export const consoleAnswer = z.strictObject({
  command: z.string(),
  output: z.string().describe('The lines of output, joined by line feeds.'),
  exitCode: z.int().describe('0: it did what it says. 1: it failed. 2: it was not understood.'),
  reason: z.enum(brokenEnds).optional().describe('There where it came to no end of its own.'),
});

export const stoppedAnswer = z.strictObject({ message: z.literal('Instance stopped'), instanceId });

export const lifecycleTargets = ['start', 'stop', 'restart'] as const;
export type LifecycleTarget = (typeof lifecycleTargets)[number];

export const lifecycleAnswer = z.strictObject({
  message: z.literal('Lifecycle change dispatched'),
  instanceId,
  target: z.enum(lifecycleTargets),
});

export const errorAnswer = z
  .strictObject({ error: z.string().describe('What is wrong, in a sentence.') })
  .describe('Why a call was refused or failed.');

export const rateAnswer = z
  .strictObject({ error: z.string(), retryAfterMs: z.int() })
  .describe('Too many calls with a PUBLIC key.');

/** PURE: what keeps a line from being typed; undefined if nothing does. The console's lines are held to the same. */
export function commandFault(command: string, bytesMax = commandBytesMax): string | undefined {
  const size = Buffer.byteLength(command);
  if (size === 0) return 'it is empty';
  if (size > bytesMax) return `it has ${size} bytes, more than ${bytesMax}`;
  if (!command.isWellFormed()) return 'it is not valid Unicode';
  const control = controlPattern.exec(command)?.[0];
  if (control === undefined) return undefined;
  if (control === '\n' || control === '\r') return 'it has a line break';
  return `it has the control character U+${control.charCodeAt(0).toString(16).toUpperCase().padStart(4, '0')}`;
}
