/**
 * Who owns which field, for server-side apply in the fake. A field is a path; lists that Kubernetes merges by key have the key in the path,
 * all other lists are one field. The keys are known by the name of the list, which is near enough for the objects handled here.
 */
export type Json = Record<string, unknown>;
type Segment = string | Readonly<Record<string, unknown>>;
export type FieldPath = readonly Segment[];

/** From the path as text to the path and its value. */
export type Fields = Map<string, { path: FieldPath; value: unknown }>;

const listKeys: Readonly<Record<string, readonly string[]>> = {
  conditions: ['type'],
  containers: ['name'],
  initContainers: ['name'],
  env: ['name'],
  volumes: ['name'],
  volumeMounts: ['mountPath'],
  ownerReferences: ['uid'],
  imagePullSecrets: ['name'],
  ports: ['containerPort', 'port', 'protocol'],
};
const setLists = new Set(['finalizers']);

/** The leaves of `value`. */
export function fieldsOf(value: unknown, path: FieldPath = [], into: Fields = new Map()): Fields {
  const name = path.at(-1);
  if (Array.isArray(value) && typeof name === 'string' && isKeyed(name, value)) {
    for (const item of value) fieldsOf(item, [...path, segmentOf(name, item)], into);
  } else if (isObject(value) && Object.keys(value).length > 0) {
    for (const [key, child] of Object.entries(value)) {
      if (child !== undefined) fieldsOf(child, [...path, key], into);
    }
  } else into.set(JSON.stringify(path), { path, value });
  return into;
}

/** Writes one leaf, making what is missing on the way. */
export function setField(root: Json, path: FieldPath, value: unknown): void {
  const found = walk(root, path, true);
  if (found === undefined) return;
  const { parent, last } = found;
  if (typeof last === 'string') (parent as Json)[last] = value;
  // Only members of a set come here: the segment is the member.
  else if (Array.isArray(parent) && findItem(parent, last) === -1) parent.push(value);
}

/** Takes leaves away, and the containers that this leaves empty. An item of a keyed list goes when only its keys are left. */
export function deleteFields(root: Json, paths: readonly FieldPath[]): void {
  for (const path of paths) if (!isKeyLeaf(path)) deleteField(root, path);
  for (const path of paths) if (isKeyLeaf(path)) deleteBareItem(root, path);
}

function isKeyLeaf(path: FieldPath): boolean {
  const [item, last] = path.slice(-2);
  return typeof item === 'object' && typeof last === 'string' && last in item;
}

function deleteBareItem(root: Json, path: FieldPath): void {
  const item = path.at(-2);
  const parent = walk(root, path, false)?.parent;
  if (parent === undefined || typeof item !== 'object') return;
  if (Object.keys(parent).every((key) => key in item)) deleteField(root, path.slice(0, -1));
}

function deleteField(root: Json, path: FieldPath): void {
  const found = walk(root, path, false);
  if (found === undefined) return;
  const { parent, last } = found;
  if (typeof last === 'string') Reflect.deleteProperty(parent, last);
  else if (Array.isArray(parent) && findItem(parent, last) !== -1) parent.splice(findItem(parent, last), 1);
  if (path.length > 1 && Object.keys(parent).length === 0) deleteField(root, path.slice(0, -1));
}

function isKeyed(name: string, list: readonly unknown[]): boolean {
  if (list.length === 0) return false;
  return setLists.has(name) || (listKeys[name] !== undefined && list.every(isObject));
}

function segmentOf(name: string, item: unknown): Segment {
  if (!isObject(item)) return { '': item };
  const keys = (listKeys[name] ?? []).filter((key) => item[key] !== undefined);
  return Object.fromEntries(keys.map((key) => [key, item[key]]));
}

function walk(root: Json, path: FieldPath, create: boolean): { parent: Json | unknown[]; last: Segment } | undefined {
  let node: unknown = root;
  for (const [index, segment] of path.slice(0, -1).entries()) {
    const next = childOf(node, segment);
    if (next === undefined && !create) return undefined;
    node = next ?? addChild(node, segment, path[index + 1]);
  }
  const last = path.at(-1);
  if (last === undefined || typeof node !== 'object' || node === null) return undefined;
  return { parent: node as Json, last };
}

function childOf(node: unknown, segment: Segment): unknown {
  if (Array.isArray(node)) return node[findItem(node, segment)];
  if (!isObject(node) || typeof segment !== 'string') return undefined;
  const child = node[segment];
  return typeof child === 'object' && child !== null ? child : undefined;
}

function addChild(node: unknown, segment: Segment, next: Segment | undefined): unknown {
  const child: unknown = typeof next === 'string' || next === undefined ? {} : [];
  if (typeof segment === 'string') {
    (node as Json)[segment] = child;
    return child;
  }
  const item = { ...segment };
  (node as unknown[]).push(item);
  return item;
}

function findItem(list: readonly unknown[], segment: Segment): number {
  if (typeof segment === 'string') return -1;
  return list.findIndex((item) =>
    Object.entries(segment).every(([key, value]) => (isObject(item) ? item[key] === value : item === value)),
  );
}

function isObject(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
