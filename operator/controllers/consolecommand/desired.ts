/** Sets whether an Instance should run, as a manager of its own, and says who else has set it and may set it back. */
import type { Instance, InstanceSpec } from '../../api/v1alpha1/instance.ts';
import { instances } from '../../api/v1alpha1/instance.ts';
import { consoleFieldManager } from '../../names.ts';
import { isReason } from '../../runtime/client.ts';
import type { ApiError, Client } from '../../runtime/client.ts';
import { CommandFault } from './fault.ts';

type DesiredState = InstanceSpec['desiredState'];

/** What kubectl, Argo CD and others leave on what they applied from a file. */
const lastApplied = 'kubectl.kubernetes.io/last-applied-configuration';

/** Resolves with the names of those that may set it back. Throws a `CommandFault` when the Instance is gone. */
export async function setDesiredState(
  client: Client,
  instance: Instance,
  { desiredState, signal }: { desiredState: DesiredState; signal: AbortSignal },
): Promise<readonly string[]> {
  const { name, namespace = '', uid } = instance.metadata;
  if (instance.metadata.deletionTimestamp !== undefined) {
    throw new CommandFault(`Instance ${name} is being deleted`, 409);
  }
  // With the uid a missing Instance is a conflict, and is not made.
  const patch = { metadata: { name, namespace, ...(uid === undefined ? {} : { uid }) }, spec: { desiredState } };
  const options = { fieldManager: consoleFieldManager, signal };
  const file = appliedFrom(instance, desiredState);
  try {
    await client.apply(instances, patch as Partial<Instance> & Instance, options);
    return file;
  } catch (error) {
    if (!isReason(error, 'Conflict')) throw error;
    const others = managersIn(error);
    if (others === undefined) throw new CommandFault(`Instance ${name} is gone, or was made again meanwhile`, 409);
    await client.apply(instances, patch as Partial<Instance> & Instance, { ...options, force: true });
    return others.length === 0 ? file : others;
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
  return [...new Set(names.filter((name) => name !== undefined))];
}

function appliedFrom({ metadata }: Instance, desiredState: DesiredState): string[] {
  try {
    const file = JSON.parse(metadata.annotations?.[lastApplied] ?? '{}') as {
      spec?: { desiredState?: unknown };
    } | null;
    const named = file?.spec?.desiredState;
    return named === undefined || named === desiredState ? [] : ['the manifest that it was applied from'];
  } catch {
    // Not ours to judge: whatever wrote it wrote no JSON.
    return [];
  }
}
