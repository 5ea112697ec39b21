/** What matters of an Instance to its configuration. Pure. */
import type { Instance, Runtime } from '../../api/v1alpha1/instance.ts';
import type { InstanceConfiguration } from '../../api/v1alpha1/instanceconfiguration.ts';
import { instanceConfigurations } from '../../api/v1alpha1/instanceconfiguration.ts';
import { floorLabel, restartedAtAnnotation, templateHashAnnotation } from '../../names.ts';
import type { ObjectMeta } from '../../runtime/client.ts';

export interface InstanceView {
  readonly instance: Instance;
  readonly name: string;
  readonly uid: string;
  /** Made for the floor by this very configuration. */
  readonly isFloor: boolean;
  /** Hash of the template that it was made from; undefined: somebody wrote its spec, and it is left alone. */
  readonly hash: string | undefined;
  readonly runtime: Runtime;
  /** `going`: being deleted. `stopped`: on purpose. `finished`: its program ended and is not started again. `active`: it runs, or should. */
  readonly phase: 'going' | 'stopped' | 'finished' | 'active';
  /** ONLINE with its present spec. */
  readonly isAvailable: boolean;
  /** Why nothing moves until somebody acts, with its present spec. */
  readonly stall: { readonly reason: string; readonly message: string } | undefined;
  readonly createdMs: number;
}

export function viewInstance(instance: Instance, configuration: InstanceConfiguration): InstanceView {
  const { metadata, spec, status } = instance;
  const isSettled = isSettledOf(instance);
  const stalled = conditionOf(instance, 'Stalled');
  const isStalled = isSettled && stalled?.status === 'True';
  return {
    instance,
    name: metadata.name,
    uid: metadata.uid ?? '',
    isFloor: metadata.labels?.[floorLabel] === 'true',
    hash: metadata.annotations?.[templateHashAnnotation],
    runtime: spec.runtime,
    phase: phaseOf(instance, configuration),
    isAvailable: isSettled && status?.state === 'ONLINE' && conditionOf(instance, 'Ready')?.status === 'True',
    stall: isStalled ? { reason: stalled.reason, message: stalled.message } : undefined,
    createdMs: Date.parse(metadata.creationTimestamp ?? '') || 0,
  };
}

/** What is the case before anything of this plan is done. */
export interface Counts {
  /** Active ones. */
  readonly instances: number;
  readonly ready: number;
  readonly updated: number;
  /** Followers that have an older template, of all that are active. */
  readonly outdated: number;
}

export function countOf(active: readonly InstanceView[], hash: string): Counts {
  return {
    instances: active.length,
    ready: active.filter(({ isAvailable }) => isAvailable).length,
    updated: active.filter((view) => view.hash === hash).length,
    outdated: active.filter((view) => view.hash !== undefined && view.hash !== hash).length,
  };
}

function phaseOf(instance: Instance, configuration: InstanceConfiguration): InstanceView['phase'] {
  if (instance.metadata.deletionTimestamp !== undefined || isOrphan(instance, configuration)) return 'going';
  if (instance.spec.desiredState === 'Stopped') return 'stopped';
  const reason = conditionOf(instance, 'Reconciling')?.reason;
  const hasEnded = instance.status?.state === 'STOPPED' && (reason === 'Completed' || reason === 'Failed');
  return hasEnded && isSettledOf(instance) ? 'finished' : 'active';
}

/** The configuration that made it was deleted, and this one has only the same name: the garbage collector is about to take it. */
function isOrphan({ metadata }: Instance, configuration: InstanceConfiguration): boolean {
  const owner = (metadata as ObjectMeta).ownerReferences?.find(({ kind }) => kind === instanceConfigurations.kind);
  return owner !== undefined && owner.uid !== configuration.metadata.uid;
}

/** Whether its status speaks of its present spec, and of the restart that was asked for last. */
function isSettledOf({ metadata, status }: Instance): boolean {
  const asked = metadata.annotations?.[restartedAtAnnotation];
  return status?.observedGeneration === metadata.generation && (asked === undefined || status?.restartedAt === asked);
}

function conditionOf(
  { status }: Instance,
  type: string,
): { status: string; reason: string; message: string } | undefined {
  return status?.conditions?.find((condition) => condition.type === type);
}
