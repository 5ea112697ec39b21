/** What every custom resource here shares: metadata, conditions, and the few schema pieces that need Kubernetes' extensions. */
import { z } from 'zod';

/** One CEL rule: the sentence is what the person who wrote the manifest reads, so it says what to write instead. */
export interface Rule {
  rule: string;
  message: string;
  /** Where in the manifest the error points (default: the field with the rule). */
  fieldPath?: string;
}

/** Adds CEL rules to a schema; the API server checks them on every write. */
export function withRules<T extends z.ZodType>(schema: T, ...rules: Rule[]): T {
  return schema.meta({ ...schema.meta(), 'x-kubernetes-validations': rules });
}

/** A string that must match; the API server answers a wrong one with the sentence, not with the pattern. */
export function matching(pattern: RegExp, message: string): z.ZodString {
  return z.string().regex(pattern).meta({ 'x-pattern-message': message });
}

/** A list whose items are told apart by `keys`: server-side apply merges it item by item, and duplicates are refused. */
export function listMap<T extends z.ZodType>(item: T, keys: string[], itemsMax: number): z.ZodArray<T> {
  return z.array(item).max(itemsMax).meta({ 'x-kubernetes-list-type': 'map', 'x-kubernetes-list-map-keys': keys });
}

/** A quantity as Kubernetes writes it (`500m`, `2`, `1Gi`). */
export const quantity = z.union([z.int(), z.string()]).meta({
  'x-kubernetes-int-or-string': true,
  maxLength: 32,
  'x-kubernetes-validations': [
    { rule: 'type(self) == int ? self >= 0 : isQuantity(self)', message: 'write a quantity, such as 500m, 2 or 1Gi' },
  ],
});

/** A port name or number. */
export const intOrString = z.union([z.int(), z.string()]).meta({ 'x-kubernetes-int-or-string': true, maxLength: 63 });

/** Whatever the API server accepts there; checked by it when the object is made. */
export const anyObject = z.record(z.string(), z.unknown()).meta({ 'x-kubernetes-preserve-unknown-fields': true });

export const int32 = z.int32().meta({ format: 'int32' });
export const int64 = z.int().meta({ format: 'int64' });

/** A DNS label, the form of most names inside a pod. */
export const dnsLabel = matching(
  /^[a-z0-9]([-a-z0-9]*[a-z0-9])?$/,
  'use lower-case letters, digits and hyphens, beginning and ending with a letter or digit',
)
  .min(1)
  .max(63);

export const stringMap = z.record(z.string().max(317), z.string().max(4096)).meta({ maxProperties: 64 });

export const condition = z
  .object({
    type: z
      .string()
      .max(316)
      .describe(
        'What this condition is about: Ready, Reconciling or Stalled; of an Instance SidecarUnsupported too, while it is True.',
      ),
    status: z.enum(['True', 'False', 'Unknown']).describe('Whether it holds.'),
    reason: z.string().min(1).max(64).describe('The cause, in one word.'),
    message: z.string().max(32768).describe('The cause, in a sentence.'),
    lastTransitionTime: z.iso.datetime().describe('When the status last changed.'),
    observedGeneration: int64.optional().describe('The generation of the resource that this was said of.'),
  })
  .describe('One aspect of the present state.');
export type Condition = z.infer<typeof condition>;

export const conditions = listMap(condition, ['type'], 16).describe(
  'What is the case now, in the form that kubectl wait and GitOps tools read.',
);

/** What is said of one aspect, before it has its time. */
export type Aspect = Pick<Condition, 'type' | 'reason' | 'message'> & { readonly holds: boolean };

/** The condition that says it; its transition time moves only when the status differs from the one in `before`. Pure. */
export function makeCondition(
  { type, reason, message, holds }: Aspect,
  context: { before: readonly Condition[] | undefined; generation: number | undefined; nowMs: number },
): Condition {
  const status = holds ? 'True' : 'False';
  const last = context.before?.find((condition) => condition.type === type);
  const lastTransitionTime = last?.status === status ? last.lastTransitionTime : new Date(context.nowMs).toISOString();
  const observed = context.generation === undefined ? {} : { observedGeneration: context.generation };
  return { type, status, reason, message, lastTransitionTime, ...observed };
}

/** Metadata as the API server gives it. */
export interface Metadata {
  name: string;
  namespace?: string;
  uid?: string;
  resourceVersion?: string;
  generation?: number;
  creationTimestamp?: string;
  deletionTimestamp?: string;
  labels?: Record<string, string>;
  annotations?: Record<string, string>;
  finalizers?: string[];
}
