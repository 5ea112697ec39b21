/** Server-side apply and ownership of fields, for the fake. */
import { isDeepStrictEqual } from 'node:util';
import type { ApplyOptions, KubernetesObject } from '../runtime/client.ts';
import { deleteFields, fieldsOf, setField } from './fieldset.ts';
import type { Fields, Json } from './fieldset.ts';
import { apiError } from './store.ts';
import type { Stored } from './store.ts';

/** Owner of fields that are written without apply. */
const updateManager = 'update';

type Managers = Stored['managers'];

/** What managers can own: everything but what identifies the object and what the server sets. */
export function ownableFields(object: object): Fields {
  const { metadata, ...rest } = object as Json & { metadata?: Json };
  const body: Json = { ...rest };
  delete body['apiVersion'];
  delete body['kind'];
  const given = Object.fromEntries(
    ['labels', 'annotations', 'finalizers', 'ownerReferences']
      .filter((name) => metadata?.[name] !== undefined)
      .map((name) => [name, metadata?.[name]]),
  );
  return fieldsOf(Object.keys(given).length === 0 ? body : { ...body, metadata: given });
}

/** `base` with exactly `config` owned by the manager. Throws `Conflict` for a field that another has set otherwise, unless forced. */
export function applyFields(
  base: { object: KubernetesObject; managers: Managers },
  config: object,
  options: Pick<ApplyOptions, 'fieldManager' | 'force'>,
): { next: KubernetesObject; managers: Managers } {
  const next = structuredClone(base.object);
  const wanted = ownableFields(config);
  const managers = new Map([...base.managers].map(([name, fields]) => [name, new Set(fields)]));
  if (options.force === true) takeOver(base, wanted, { managers, manager: options.fieldManager });
  else refuseConflicts(base, wanted, options.fieldManager);
  const before = base.managers.get(options.fieldManager) ?? new Set<string>();
  managers.delete(options.fieldManager);
  const present = ownableFields(base.object);
  const dropped = [...before].flatMap((field) => {
    const isKept = wanted.has(field) || [...managers.values()].some((fields) => fields.has(field));
    const path = present.get(field)?.path;
    return isKept || path === undefined ? [] : [path];
  });
  deleteFields(next as unknown as Json, dropped);
  for (const { path, value } of wanted.values()) setField(next as unknown as Json, path, structuredClone(value));
  if (wanted.size > 0) managers.set(options.fieldManager, new Set(wanted.keys()));
  return { next, managers };
}

/** Owners after a write without apply: what changed now belongs to the writer alone. */
export function reassign(stored: Stored, next: object): Managers {
  const before = ownableFields(stored.object);
  const after = ownableFields(next);
  const managers = new Map<string, Set<string>>();
  const changed = [...after].filter(([field, { value }]) => !isDeepStrictEqual(before.get(field)?.value, value));
  const taken = new Set(changed.map(([field]) => field));
  for (const [name, fields] of stored.managers) {
    managers.set(name, new Set([...fields].filter((field) => after.has(field) && !taken.has(field))));
  }
  managers.set(updateManager, new Set([...(managers.get(updateManager) ?? []), ...taken]));
  return new Map([...managers].filter(([, fields]) => fields.size > 0));
}

/** Owners of a new object that was made without apply. */
export function createdBy(object: object): Managers {
  return new Map([[updateManager, new Set(ownableFields(object).keys())]]);
}

/** Enough of `metadata.managedFields` to see who owns what, and when that changes; the server nests the fields. */
export function describeManagers(managers: Managers): unknown[] {
  return [...managers].map(([name, fields]) => {
    const [manager, subresource] = name.split('/status');
    const operation = name === updateManager ? 'Update' : 'Apply';
    const fieldsV1 = Object.fromEntries([...fields].sort().map((field) => [field, {}]));
    return { manager, operation, fieldsV1, ...(subresource === undefined ? {} : { subresource: 'status' }) };
  });
}

function conflicts(base: { object: KubernetesObject; managers: Managers }, wanted: Fields, manager: string): string[] {
  const present = ownableFields(base.object);
  return [...base.managers].flatMap(([other, fields]) =>
    other === manager
      ? []
      : [...wanted]
          .filter(([field, { value }]) => fields.has(field) && !isDeepStrictEqual(present.get(field)?.value, value))
          .map(([field]) => `conflict with "${other}"${other === updateManager ? ' using v1' : ''}: ${field}`),
  );
}

function refuseConflicts(
  base: { object: KubernetesObject; managers: Managers },
  wanted: Fields,
  manager: string,
): void {
  const found = conflicts(base, wanted, manager);
  if (found.length === 0) return;
  const causes = found.map((message) => ({ reason: 'FieldManagerConflict', message }));
  throw apiError(409, 'Conflict', `Apply failed with ${found.length} conflicts: ${found.join(', ')}`, { causes });
}

function takeOver(
  base: { object: KubernetesObject; managers: Managers },
  wanted: Fields,
  into: { managers: Map<string, Set<string>>; manager: string },
): void {
  const present = ownableFields(base.object);
  for (const [name, fields] of into.managers) {
    if (name === into.manager) continue;
    for (const [field, { value }] of wanted) {
      if (!isDeepStrictEqual(present.get(field)?.value, value)) fields.delete(field);
    }
  }
}
