/**
 * Lays `spec.podTemplate` over the pod that we make. Pure.
 *
 * Objects merge key by key; `null` removes a key. Lists of named things (containers, volumes, variables, ports) merge item by item under
 * `name`, mounts under `mountPath`, tolerations under key and effect; every other list is replaced.
 */

type Json = Record<string, unknown>;

/** Fields of the pod that have a field of their own in the Instance, or that would break what we promise. */
const reserved: readonly { path: readonly string[]; instead: string }[] = [
  { path: ['restartPolicy'], instead: 'set spec.restartPolicy instead' },
  { path: ['terminationGracePeriodSeconds'], instead: 'set spec.stop.gracePeriodSeconds instead' },
];

/** What `podTemplate.spec` may not set, as sentences for the person who wrote it. */
export function overlayFaults(overlay: Json): string[] {
  const faults = reserved
    .filter(({ path }) => valueAt(overlay, path) !== undefined)
    .map(({ path, instead }) => `podTemplate.spec.${path.join('.')} cannot be set: ${instead}`);
  const containers = Array.isArray(overlay.containers) ? overlay.containers : [];
  if (containers.some((container) => !isObject(container) || typeof container.name !== 'string')) {
    faults.push(
      'podTemplate.spec.containers: each container needs a name; the program runs in the one named "instance"',
    );
  }
  return faults;
}

export function mergeOverlay(base: Json, overlay: Json): Json {
  const result: Json = { ...base };
  for (const [key, value] of Object.entries(overlay)) {
    if (value === null) Reflect.deleteProperty(result, key);
    else result[key] = mergeValue(key, result[key], value);
  }
  return result;
}

function mergeValue(key: string, base: unknown, overlay: unknown): unknown {
  if (isObject(base) && isObject(overlay)) return mergeOverlay(base, overlay);
  if (Array.isArray(base) && Array.isArray(overlay)) return mergeList(key, base, overlay);
  return overlay;
}

function mergeList(field: string, base: unknown[], overlay: unknown[]): unknown[] {
  const keyOf = listKey(field);
  const keys = overlay.map(keyOf);
  if (keys.includes(undefined)) return overlay;
  const merged = base.map((item) => {
    const at = keys.indexOf(keyOf(item));
    return at === -1 ? item : mergeValue('', item, overlay[at]);
  });
  const present = base.map(keyOf);
  return [...merged, ...overlay.filter((_, index) => !present.includes(keys[index]))];
}

function listKey(field: string): (item: unknown) => string | undefined {
  const fields = field === 'tolerations' ? ['key', 'effect'] : [field === 'volumeMounts' ? 'mountPath' : 'name'];
  return (item) => {
    if (!isObject(item)) return undefined;
    const values = fields.map((name) => item[name]);
    return values.every((value) => typeof value === 'string') ? values.join('/') : undefined;
  };
}

function valueAt(object: Json, path: readonly string[]): unknown {
  return path.reduce<unknown>((value, key) => (isObject(value) ? value[key] : undefined), object);
}

function isObject(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
