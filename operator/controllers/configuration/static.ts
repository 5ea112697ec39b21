/** A static configuration: one Instance, under the configuration's own name, which is never made twice and keeps its volume. Pure. */
import type { InstanceConfiguration } from '../../api/v1alpha1/instanceconfiguration.ts';
import { templateHash } from './instance.ts';
import type { InstanceView } from './observe.ts';
import { countOf } from './observe.ts';
import type { Action, Observed, Plan } from './plan.ts';

type Step = Pick<Plan, 'fault' | 'resting'> & { readonly actions: readonly Action[] };

export function planStatic(observed: Observed): Plan {
  const { configuration, views } = observed;
  const hash = templateHash(configuration.spec);
  const only = views.find(({ name }) => name === configuration.metadata.name);
  // From before it was static.
  const others = views.filter((view) => view !== only && view.isFloor && view.phase !== 'going');
  const step = only === undefined ? planAbsent(observed) : planPresent(observed, only, hash);
  const { actions, ...rest } = step;
  return {
    ...rest,
    actions: [...others.map((view) => ({ type: 'remove', view, because: 'surplus' }) as const), ...actions],
    counts: countOf(only?.phase === 'active' ? [only] : [], hash),
    stalled: only?.stall !== undefined && only.hash === hash && only.phase !== 'stopped' ? only : undefined,
  };
}

function planAbsent({ configuration }: Observed): Step {
  const { minimumServiceCount, storage } = configuration.spec;
  if (minimumServiceCount === 0) return { actions: [] };
  const create = { type: 'create', name: configuration.metadata.name } as const;
  return { actions: storage === undefined ? [create] : [{ type: 'ensure-claim' }, create] };
}

function planPresent({ configuration }: Observed, only: InstanceView, hash: string): Step {
  const { minimumServiceCount, storage, template } = configuration.spec;
  if (only.phase === 'going') return { actions: [] };
  if (minimumServiceCount === 0 && only.isFloor) {
    return { actions: [{ type: 'remove', view: only, because: 'surplus' }] };
  }
  const claim: Action[] = storage === undefined ? [] : [{ type: 'ensure-claim' }];
  const isOutdated = only.hash !== undefined && only.hash !== hash;
  if (isOutdated && only.runtime !== template.spec.runtime) return planOtherRuntime(only, template.spec.runtime);
  if (isOutdated) return { actions: [...claim, { type: 'update', view: only }], ...restingOf(only) };
  const mayLackClaim = only.phase === 'active' && !only.isAvailable;
  return { actions: mayLackClaim || isClaimDue(configuration) ? claim : [], ...restingOf(only) };
}

/** The storage may have grown in a change that was not looked at yet, or was refused. */
function isClaimDue({ metadata, status }: InstanceConfiguration): boolean {
  const isRefused = status?.conditions?.some((condition) => condition.reason === 'StorageRejected') === true;
  return isRefused || status?.observedGeneration !== metadata.generation;
}

/** Its name is taken until it is gone: what made it has to make it again, and one made by hand nobody would. */
function planOtherRuntime(only: InstanceView, runtime: string): Step {
  if (only.phase === 'stopped') return { actions: [], resting: 'Stopped' };
  if (only.isFloor) return { actions: [{ type: 'remove', view: only, because: 'replaced' }] };
  const message = `Instance "${only.name}" was made by hand and has the runtime ${only.runtime}: delete it, and create it again with ${runtime}.`;
  return { actions: [], fault: { reason: 'InstanceConflict', message } };
}

function restingOf({ phase, stall }: InstanceView): Pick<Plan, 'resting'> {
  if (phase === 'stopped') return { resting: 'Stopped' };
  return phase === 'finished' && stall === undefined ? { resting: 'Completed' } : {};
}
