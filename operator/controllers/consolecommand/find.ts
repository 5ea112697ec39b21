/** Which object a word of a command line means. Pure. */
import type { ApiKey } from '../../api/v1alpha1/apikey.ts';
import type { Instance } from '../../api/v1alpha1/instance.ts';
import type { InstanceConfiguration } from '../../api/v1alpha1/instanceconfiguration.ts';
import type { KubernetesObject } from '../../runtime/client.ts';
import { keyOf, refOf } from '../../runtime/informer.ts';
import { isInstanceId } from '../instance/id.ts';
import { CommandFault } from './fault.ts';
import type { Node } from '../../runtime/nodes.ts';
import type { Cache, ConfigMap, World } from './world.ts';

/** By id, else by `namespace/name`, else by a name that only one has. Throws a `CommandFault`. */
export function findInstance({ instances }: World, word: string): Instance {
  const [first, ...others] = isInstanceId(word) ? instances.byIndex('id', word) : [];
  if (first !== undefined && others.length === 0) return first;
  return findNamed(instances, word, { what: 'Instance', alternative: 'namespace/name or the id' });
}

/** By `namespace/name`, else by a name: the one in the release's namespace, or the only one. Throws a `CommandFault`. */
export function findConfiguration({ configurations, releaseNamespace }: World, word: string): InstanceConfiguration {
  const own = configurations.get(keyOf({ namespace: releaseNamespace, name: word }));
  return own ?? findNamed(configurations, word, { what: 'Configuration', alternative: 'namespace/name' });
}

export function findTemplate({ templates }: World, word: string): ConfigMap {
  return findNamed(templates, word, { what: 'Template', alternative: 'namespace/name' });
}

/** Keys count in the release's namespace alone. */
export function findKey({ keys, releaseNamespace }: World, name: string): ApiKey {
  const key = keys.get(keyOf({ namespace: releaseNamespace, name }));
  if (key === undefined) throw new CommandFault(`Key not found: ${name}`, 404);
  return key;
}

/** Throws a `CommandFault` where nodes cannot be read. */
export function readNodes({ nodes }: World): readonly Node[] {
  if (nodes === undefined) {
    throw new CommandFault('Nodes cannot be read: the operator is limited to namespaces, and nodes belong to none');
  }
  if (!nodes.hasSynced) {
    throw new CommandFault('Nodes are not known yet: the operator may have no right to list them');
  }
  return [...nodes.list()].sort(byKey);
}

export function findNodes(world: World, name: string | undefined): readonly Node[] {
  const all = readNodes(world);
  const found = name === undefined ? all : all.filter(({ metadata }) => metadata.name === name);
  if (name !== undefined && found.length === 0) throw new CommandFault(`Node not found: ${name}`, 404);
  return found;
}

/** An order for lists. */
export function byKey(a: KubernetesObject, b: KubernetesObject): number {
  return keyOf(a.metadata) < keyOf(b.metadata) ? -1 : 1;
}

/** Where something is made that is named by this word: without a namespace, in the release's own. */
export function placeOf({ releaseNamespace }: World, word: string): { namespace: string; name: string } {
  const { namespace = releaseNamespace, name } = refOf(word);
  return { namespace, name };
}

function findNamed<T extends KubernetesObject>(
  cache: Cache<T>,
  word: string,
  { what, alternative }: { what: string; alternative: string },
): T {
  const found = word.includes('/')
    ? [cache.get(word)].filter((object) => object !== undefined)
    : cache.list().filter(({ metadata }) => metadata.name === word);
  const [first, ...others] = found;
  if (first === undefined) throw new CommandFault(`${what} not found: ${word}`, 404);
  if (others.length === 0) return first;
  const keys = found.map(({ metadata }) => keyOf(metadata)).sort();
  const shown = keys.length > 5 ? [...keys.slice(0, 5), '…'] : keys;
  throw new CommandFault(`"${word}" is ambiguous: ${shown.join(', ')}. Write ${alternative}`, 409);
}
