/**
 * Who applies an object again and again, as GitOps tools do, and so may undo what a command did to it. The server notes who applies which fields in
 * `metadata.managedFields`, which the caches leave out: these functions take objects as a request answers them. Pure.
 */
import { isDeepStrictEqual } from 'node:util';
import { consoleFieldManager, consoleRestartFieldManager, operatorFieldManager } from '../../names.ts';
import type { KubernetesObject } from '../../runtime/client.ts';
import { covers } from '../instance/act.ts';

/** What kubectl, Argo CD and others leave on what they applied from a file without server-side apply. */
const lastApplied = 'kubectl.kubernetes.io/last-applied-configuration';
const theFile = 'the manifest that it was applied from';

/** The part of a manifest that matters here. */
export interface Manifest {
  readonly spec?: { readonly desiredState?: unknown } & object;
  readonly metadata?: { readonly annotations?: Readonly<Record<string, unknown>> | null };
}

/** One entry of `metadata.managedFields`. */
interface Entry {
  readonly manager?: string;
  readonly operation?: string;
  readonly subresource?: string;
  readonly fieldsV1?: object;
}

/** Whether `manager` is Ringmaster itself, whose commands and loops contend with nobody. */
export function isOurs(manager: string): boolean {
  return [consoleFieldManager, consoleRestartFieldManager, operatorFieldManager].includes(manager);
}

/** Those that will make the object again when it is gone. */
export function appliersOf(object: KubernetesObject): readonly string[] {
  return withFile([...applied(object).keys()], readManifest(object) !== undefined);
}

/**
 * Those that had applied what an update without apply changed, and will set it back: the server takes each changed field away from whom had applied
 * it, so what they own became less.
 */
export function appliersOfChange<T extends KubernetesObject & { spec: object }>(
  before: T,
  after: T,
): readonly string[] {
  if (isDeepStrictEqual(before.spec, after.spec)) return [];
  const left = applied(after);
  const losers = [...applied(before)].filter(([name, fields]) => !isDeepStrictEqual(fields, left.get(name)));
  return withFile(
    losers.map(([name]) => name),
    !covers(after.spec, readManifest(before)?.spec ?? {}),
  );
}

/** `others`, or else the file, if it is in there. */
export function withFile(others: readonly string[], isInFile: boolean): readonly string[] {
  return others.length === 0 && isInFile ? [theFile] : others;
}

/** Undefined where it was applied from none. */
export function readManifest({ metadata }: KubernetesObject): Manifest | undefined {
  const text = metadata.annotations?.[lastApplied];
  if (text === undefined) return undefined;
  try {
    return (JSON.parse(text) as Manifest | null) ?? {};
  } catch {
    // Not ours to judge: whatever wrote it wrote no JSON.
    return {};
  }
}

/** By manager, what it applies; whoever once wrote a field without apply will not do so again. */
function applied({ metadata }: KubernetesObject): Map<string, object | undefined> {
  const entries = (metadata.managedFields ?? []) as readonly Entry[];
  return new Map(
    entries.flatMap(({ manager = '', operation, subresource, fieldsV1 }) =>
      operation !== 'Apply' || subresource !== undefined || isOurs(manager) ? [] : [[manager, fieldsV1] as const],
    ),
  );
}
