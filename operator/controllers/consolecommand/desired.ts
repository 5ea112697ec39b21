/** Sets fields of an Instance that GitOps tools may set as well, as a manager of its own, and says who has set them and may set them back. */
import type { Instance, InstanceSpec } from '../../api/v1alpha1/instance.ts';
import { instances } from '../../api/v1alpha1/instance.ts';
import { consoleFieldManager, consoleRestartFieldManager, restartedAtAnnotation } from '../../names.ts';
import { isReason } from '../../runtime/client.ts';
import type { ApiError, Client } from '../../runtime/client.ts';
import { CommandFault } from './fault.ts';
import { isOurs, readManifest, withFile } from './owners.ts';

type DesiredState = InstanceSpec['desiredState'];

/** Resolves with the names of those that may set it back. Throws a `CommandFault` when the Instance is gone. */
export async function setDesiredState(
  client: Client,
  instance: Instance,
  { desiredState, signal }: { desiredState: DesiredState; signal: AbortSignal },
): Promise<readonly string[]> {
  const others = await take(client, instance, {
    fields: { spec: { desiredState } },
    manager: consoleFieldManager,
    signal,
  });
  const inFile = readManifest(instance)?.spec?.desiredState;
  return withFile(others, inFile !== undefined && inFile !== desiredState);
}

/** Asks for another pod. Resolves and throws as `setDesiredState` does. */
export async function setRestartedAt(
  client: Client,
  instance: Instance,
  { restartedAt, signal }: { restartedAt: string; signal: AbortSignal },
): Promise<readonly string[]> {
  const fields = { metadata: { annotations: { [restartedAtAnnotation]: restartedAt } } };
  // A manager owns exactly what it applied last: with the one of `desiredState` it would give that up.
  const others = await take(client, instance, { fields, manager: consoleRestartFieldManager, signal });
  return withFile(others, readManifest(instance)?.metadata?.annotations?.[restartedAtAnnotation] !== undefined);
}

async function take(
  client: Client,
  instance: Instance,
  { fields, manager, signal }: { fields: { spec?: object; metadata?: object }; manager: string; signal: AbortSignal },
): Promise<string[]> {
  const { name, namespace = '', uid } = instance.metadata;
  if (instance.metadata.deletionTimestamp !== undefined) {
    throw new CommandFault(`Instance ${name} is being deleted`, 409);
  }
  // With the uid a missing Instance is a conflict, and is not made.
  const metadata = { name, namespace, ...(uid === undefined ? {} : { uid }), ...fields.metadata };
  const patch = { ...fields, metadata } as Partial<Instance> & Instance;
  const options = { fieldManager: manager, signal };
  try {
    await client.apply(instances, patch, options);
    return [];
  } catch (error) {
    if (!isReason(error, 'Conflict')) throw error;
    const others = managersIn(error);
    if (others === undefined) throw new CommandFault(`Instance ${name} is gone, or was made again meanwhile`, 409);
    await client.apply(instances, patch, { ...options, force: true });
    return others;
  }
}

/**
 * PURE: those that apply the field again and again; whoever once wrote it does not. Undefined: it is no conflict of managers. The server names one
 * that applies as `conflict with "argocd"`, any other as `conflict with "kubectl" using v1`.
 */
function managersIn({ status }: ApiError): string[] | undefined {
  const causes = (status.details?.causes ?? []).filter(({ reason }) => reason === 'FieldManagerConflict');
  if (causes.length === 0) return undefined;
  const names = causes.map(({ message = '' }) => /^conflict with "([^"]+)"(?! using)/.exec(message)?.[1]);
  return [...new Set(names.filter((name) => name !== undefined && !isOurs(name)))] as string[];
}
