/** What a command says beside that it did what it was told: who may undo it. */
import type { KubernetesObject, Resource } from '../../runtime/client.ts';
import { appliersOf } from './owners.ts';
import type { Context } from './registry.ts';

/** For people a line, for programs what to put into the result. `others` are those who also set `what`; without any there is nothing to say. */
export function note(
  { print }: Pick<Context, 'print'>,
  others: readonly string[],
  { what, does = 'set', risk }: { what: string; does?: 'set' | 'applied'; risk: string },
): string[] {
  if (others.length === 0) return [];
  const text = `${what} is ${does === 'set' ? 'also set' : 'applied'} by ${others.join(', ')}, ${risk}`;
  print(`Note: ${text}`);
  return [text];
}

/** Deletes this very object, and not another of its name. Resolves with what there is to say of it; throws as the client does. */
export async function removeNoted(
  context: Context,
  resource: Resource<KubernetesObject>,
  { object, what }: { object: KubernetesObject; what: string },
): Promise<string[]> {
  const { world, signal } = context;
  const { name, namespace = '', uid } = object.metadata;
  // The caches do not keep who applies an object.
  const present = await world.client.get(resource, { name, namespace }, signal);
  await world.client.remove(resource, { name, namespace }, { ...(uid === undefined ? {} : { uid }), signal });
  const appliers = present === undefined ? [] : appliersOf(present);
  return note(context, appliers, { what, does: 'applied', risk: 'which may make it again' });
}

/** The member `notes` of a result, where there are any. */
export function inResult(notes: readonly string[]): { notes?: readonly string[] } {
  return notes.length === 0 ? {} : { notes };
}
