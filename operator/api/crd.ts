/**
 * From a zod schema to the CustomResourceDefinition that the API server enforces.
 *
 * zod gives JSON Schema; Kubernetes wants its structural subset of it (OpenAPI v3): no `additionalProperties: false` beside properties, no
 * `anyOf` except for int-or-string, no `$schema`. Limits, defaults, descriptions and `x-kubernetes-…` pass through. A pattern that has a
 * sentence (`matching()` in meta.ts) becomes a CEL rule, because the API server shows a rule's sentence and only the source of a pattern.
 */
import { z } from 'zod';
import { group, version } from '../names.ts';
import { apiKeySpec, apiKeyStatus } from './v1alpha1/apikey.ts';
import { consoleCommandSpec, consoleCommandStatus } from './v1alpha1/consolecommand.ts';
import { instanceSpec, instanceStatus } from './v1alpha1/instance.ts';
import { instanceConfigurationSpec, instanceConfigurationStatus, nameRule } from './v1alpha1/instanceconfiguration.ts';
import type { Rule } from './v1alpha1/meta.ts';

export interface JsonSchema {
  type?: string;
  description?: string;
  properties?: Record<string, JsonSchema>;
  required?: string[];
  items?: JsonSchema;
  additionalProperties?: boolean | JsonSchema;
  enum?: unknown[];
  default?: unknown;
  pattern?: string;
  format?: string;
  minimum?: number;
  maximum?: number;
  [extension: string]: unknown;
}

interface PrinterColumn {
  name: string;
  type: 'string' | 'integer' | 'date';
  jsonPath: string;
  description?: string;
  priority?: number;
}

/** All that a CRD says besides its schema. */
export interface Kind {
  readonly kind: string;
  readonly plural: string;
  readonly shortNames: readonly string[];
  readonly description: string;
  readonly spec: z.ZodType;
  readonly status: z.ZodType;
  /** Rules over the whole object, metadata.name included. */
  readonly rules: readonly Rule[];
  readonly columns: readonly PrinterColumn[];
  /** Paths of the `scale` subresource, where there is one. */
  readonly scale?: {
    readonly specReplicasPath: string;
    readonly statusReplicasPath: string;
    readonly labelSelectorPath: string;
  };
}

const age: PrinterColumn = { name: 'Age', type: 'date', jsonPath: '.metadata.creationTimestamp' };

const reason: PrinterColumn = {
  name: 'Reason',
  type: 'string',
  jsonPath: '.status.conditions[?(@.type=="Ready")].reason',
  priority: 1,
};

export const kinds: readonly Kind[] = [
  {
    kind: 'Instance',
    plural: 'instances',
    shortNames: ['inst'],
    description:
      'A long-running interactive program, such as a game server, a bot or a build worker. Ringmaster makes it run and keeps it running; its log streams from the Master API.',
    spec: instanceSpec,
    status: instanceStatus,
    rules: [
      {
        rule: "self.metadata.name.matches('^[a-z]([-a-z0-9]{0,46}[a-z0-9])?$')",
        message:
          'metadata.name must begin with a letter, hold only lower-case letters, digits and hyphens, and have at most 48 characters: pods and a Service are named after it',
      },
    ],
    columns: [
      { name: 'ID', type: 'string', jsonPath: '.status.id', description: 'Id in the Master API.' },
      { name: 'Runtime', type: 'string', jsonPath: '.spec.runtime' },
      { name: 'State', type: 'string', jsonPath: '.status.state' },
      { name: 'Node', type: 'string', jsonPath: '.status.nodeName' },
      { name: 'Ready', type: 'string', jsonPath: '.status.conditions[?(@.type=="Ready")].status' },
      { name: 'Restarts', type: 'integer', jsonPath: '.status.restarts' },
      age,
      { name: 'Address', type: 'string', jsonPath: '.status.hostAddress', priority: 1 },
      reason,
      { name: 'Image', type: 'string', jsonPath: '.spec.image', priority: 1 },
      // The last one: it is empty, but for few.
      {
        name: 'Sidecar',
        type: 'string',
        jsonPath: '.status.conditions[?(@.type=="SidecarUnsupported")].reason',
        description: 'Why its log cannot be read, where its sidecar and this release have no protocol in common.',
        priority: 1,
      },
    ],
  },
  {
    kind: 'ApiKey',
    plural: 'apikeys',
    shortNames: ['ak'],
    description:
      'A bearer token of the Master API, known by its SHA-256 alone. It counts only in the namespace that Ringmaster is installed in.',
    spec: apiKeySpec,
    status: apiKeyStatus,
    rules: [],
    columns: [
      { name: 'Permission', type: 'string', jsonPath: '.spec.permission' },
      { name: 'Expires', type: 'string', jsonPath: '.spec.expiresAt' },
      { name: 'Ready', type: 'string', jsonPath: '.status.conditions[?(@.type=="Ready")].status' },
      age,
      reason,
    ],
  },
  {
    kind: 'InstanceConfiguration',
    plural: 'instanceconfigurations',
    shortNames: ['instcfg'],
    description: 'A template of Instances, of which a number is kept running.',
    spec: instanceConfigurationSpec,
    status: instanceConfigurationStatus,
    rules: [nameRule],
    columns: [
      { name: 'Runtime', type: 'string', jsonPath: '.spec.template.spec.runtime' },
      { name: 'Minimum', type: 'integer', jsonPath: '.spec.minimumServiceCount' },
      { name: 'Instances', type: 'integer', jsonPath: '.status.instances' },
      { name: 'Ready', type: 'integer', jsonPath: '.status.readyInstances' },
      { name: 'Updated', type: 'integer', jsonPath: '.status.updatedInstances' },
      age,
      reason,
    ],
    scale: {
      specReplicasPath: '.spec.minimumServiceCount',
      statusReplicasPath: '.status.instances',
      labelSelectorPath: '.status.selector',
    },
  },
  {
    kind: 'ConsoleCommand',
    plural: 'consolecommands',
    shortNames: ['cc'],
    description:
      'One line of the console, run once by the operator. It counts only in the namespace that Ringmaster is installed in, and is the record of who did what until it is deleted.',
    spec: consoleCommandSpec,
    status: consoleCommandStatus,
    rules: [],
    columns: [
      { name: 'By', type: 'string', jsonPath: '.spec.issuedBy.name' },
      { name: 'Line', type: 'string', jsonPath: '.spec.line' },
      { name: 'Phase', type: 'string', jsonPath: '.status.phase' },
      { name: 'Exit', type: 'integer', jsonPath: '.status.exitCode' },
      age,
      reason,
    ],
  },
];

/** The CustomResourceDefinition of `kind`, ready to be written as YAML. */
export function crd(kind: Kind): object {
  return {
    apiVersion: 'apiextensions.k8s.io/v1',
    kind: 'CustomResourceDefinition',
    metadata: { name: `${kind.plural}.${group}`, labels: { 'app.kubernetes.io/part-of': 'ringmaster' } },
    spec: {
      group,
      scope: 'Namespaced',
      names: {
        kind: kind.kind,
        listKind: `${kind.kind}List`,
        plural: kind.plural,
        singular: kind.kind.toLowerCase(),
        shortNames: kind.shortNames,
        categories: ['ringmaster'],
      },
      versions: [
        {
          name: version,
          served: true,
          storage: true,
          subresources: { status: {}, ...(kind.scale && { scale: kind.scale }) },
          additionalPrinterColumns: kind.columns,
          schema: { openAPIV3Schema: objectSchema(kind) },
        },
      ],
    },
  };
}

/** The structural schema of one part of an object. */
export function structural(schema: z.ZodType): JsonSchema {
  return convert(z.toJSONSchema(schema, { io: 'input', reused: 'inline' }) as JsonSchema);
}

function objectSchema(kind: Kind): JsonSchema {
  return {
    description: kind.description,
    type: 'object',
    required: ['spec'],
    properties: {
      apiVersion: { type: 'string', description: `${group}/${version}` },
      kind: { type: 'string', description: kind.kind },
      metadata: { type: 'object' },
      spec: structural(kind.spec),
      // Before the operator's first word, GitOps tools must see an object that is not up to date, not one that has nothing to say.
      status: { ...structural(kind.status), default: { observedGeneration: -1 } },
    },
    ...(kind.rules.length === 0 ? {} : { 'x-kubernetes-validations': kind.rules }),
  };
}

/** Keys that Kubernetes does not take, or that are handled one by one. */
const dropped = new Set([
  '$schema',
  'propertyNames',
  'pattern',
  'x-pattern-message',
  'properties',
  'items',
  'additionalProperties',
  'anyOf',
]);

function convert(schema: JsonSchema): JsonSchema {
  const result: JsonSchema = {};
  for (const [key, value] of Object.entries(schema)) {
    if (!dropped.has(key) && !isNoLimit(key, value)) result[key] = value;
  }
  if (schema.properties !== undefined) {
    result.properties = Object.fromEntries(
      Object.entries(schema.properties).map(([name, property]) => [name, convert(property)]),
    );
    // An absent object with defaults inside stays absent; one that is given gets them.
  }
  if (schema.items !== undefined) result.items = convert(schema.items);
  if (typeof schema.additionalProperties === 'object') convertMap(schema, result, schema.additionalProperties);
  convertPattern(schema, result);
  return result;
}

function convertMap(schema: JsonSchema, result: JsonSchema, values: JsonSchema): void {
  if (schema['x-kubernetes-preserve-unknown-fields'] === true) return;
  result.additionalProperties = convert(values);
}

function convertPattern(schema: JsonSchema, result: JsonSchema): void {
  const message = schema['x-pattern-message'];
  if (schema.pattern === undefined || schema.format === 'date-time') return;
  if (typeof message !== 'string') {
    result.pattern = schema.pattern;
    return;
  }
  const rules = (result['x-kubernetes-validations'] ?? []) as Rule[];
  result['x-kubernetes-validations'] = [...rules, { rule: `self.matches(${celString(schema.pattern)})`, message }];
}

/** zod writes the range of a safe integer as limits; that says nothing. */
function isNoLimit(key: string, value: unknown): boolean {
  return (
    (key === 'maximum' && value === Number.MAX_SAFE_INTEGER) || (key === 'minimum' && value === Number.MIN_SAFE_INTEGER)
  );
}

function celString(text: string): string {
  return `'${text.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`;
}
