/**
 * Lays `spec.podTemplate` over the pod that we make. Pure.
 *
 * Objects merge key by key; `null` removes a key. Lists of named things (containers, volumes, variables, ports) merge item by item under
 * `name`, mounts under `mountPath`, tolerations under key and effect; every other list is replaced.
 */

import { defaultDirectory } from '../../../sidecar/protocol.ts';
import type { Runtime } from '../../api/v1alpha1/instance.ts';
import { sidecarContainer, templatesContainer, workloadContainer } from '../../names.ts';
import { needsSidecar } from './sidecarpod.ts';

type Json = Record<string, unknown>;

/** Fields of the pod that have a field of their own in the Instance, or that would break what we promise. */
const reserved: readonly { path: readonly string[]; instead: string }[] = [
  { path: ['restartPolicy'], instead: 'set spec.restartPolicy instead' },
  { path: ['terminationGracePeriodSeconds'], instead: 'set spec.stop.gracePeriodSeconds instead' },
];

/** What `podTemplate.spec` may not set under this runtime, or beside templates, as sentences for the person who wrote it. */
export function overlayFaults(overlay: Json, runtime: Runtime = 'kubernetes', hasTemplates = false): string[] {
  const faults = reserved
    .filter(({ path }) => valueAt(overlay, path) !== undefined)
    .map(({ path, instead }) => `podTemplate.spec.${path.join('.')} cannot be set: ${instead}`);
  const containers = listAt(overlay, 'containers');
  if (containers.some((container) => !isObject(container) || typeof container.name !== 'string')) {
    faults.push(
      'podTemplate.spec.containers: each container needs a name; the program runs in the one named "instance"',
    );
  }
  return [
    ...faults,
    ...(needsSidecar(runtime) || hasTemplates ? ownPartFaults(overlay, hasTemplates) : []),
    ...(needsSidecar(runtime) ? programFaults(programIn(overlay)) : []),
    ...(hasTemplates ? workingDirFaults(programIn(overlay)) : []),
  ];
}

function programIn(overlay: Json): Json {
  const containers = [...listAt(overlay, 'containers'), ...listAt(overlay, 'initContainers')].filter(isObject);
  return containers.find(({ name }) => name === workloadContainer) ?? {};
}

function workingDirFaults(program: Json): string[] {
  const where = `podTemplate.spec.containers "${workloadContainer}"`;
  return program.workingDir === undefined
    ? []
    : [`${where}: workingDir cannot be set beside templates: set spec.workingDir instead`];
}

/** What would take our containers and volumes away. */
function ownPartFaults(overlay: Json, hasTemplates: boolean): string[] {
  const isNamed = (item: unknown): boolean => isObject(item) && typeof item.name === 'string';
  const lists = ['containers', 'initContainers', 'volumes'].filter(
    (field) => overlay[field] === null || (field !== 'containers' && !listAt(overlay, field).every(isNamed)),
  );
  const replaced = lists.map(
    (field) => `podTemplate.spec.${field} must be a list in which each item has a name: here some are ours`,
  );
  const containers = [...listAt(overlay, 'containers'), ...listAt(overlay, 'initContainers')].filter(isObject);
  const taken = [sidecarContainer, ...(hasTemplates ? [templatesContainer] : [])]
    .filter((own) => containers.some(({ name }) => name === own))
    .map((own) => `podTemplate.spec: the container "${own}" is ours and cannot be changed`);
  const volumes = listAt(overlay, 'volumes')
    .filter(isObject)
    .filter(({ name }) => isString(name) && name.startsWith(defaultDirectory.slice(1)))
    .map(({ name }) => `podTemplate.spec.volumes: the name "${String(name)}" is taken here: choose another`);
  return [...replaced, ...taken, ...volumes];
}

function programFaults(program: Json): string[] {
  const where = `podTemplate.spec.containers "${workloadContainer}"`;
  const fields = [
    'command',
    'args',
    'stdin',
    'tty',
    'lifecycle',
    'image',
    'terminationMessagePath',
    'terminationMessagePolicy',
  ]
    .filter((field) => program[field] !== undefined)
    .map((field) => `${where}: ${field} cannot be set under this runtime, where Ringmaster starts the program`);
  const emptied = ['env', 'volumeMounts']
    .filter((field) => program[field] === null)
    .map((field) => `${where}: ${field} must be a list`);
  const mounts = listAt(program, 'volumeMounts')
    .map((mount) => (isObject(mount) ? mount.mountPath : undefined))
    .filter((path) => isString(path) && (path === defaultDirectory || path.startsWith(`${defaultDirectory}/`)))
    .map((path) => `${where}: mountPath "${String(path)}" is taken under this runtime: choose another`);
  const variables = listAt(program, 'env')
    .map((variable) => (isObject(variable) ? variable.name : undefined))
    .filter((name) => isString(name) && name.startsWith('RINGMASTER_'))
    .map((name) => `${where}: the variable "${String(name)}" is taken under this runtime: choose another name`);
  return [...fields, ...emptied, ...mounts, ...variables];
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

function listAt(object: Json, field: string): unknown[] {
  const value = object[field];
  return Array.isArray(value) ? value : [];
}

function isString(value: unknown): value is string {
  return typeof value === 'string';
}

function isObject(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
