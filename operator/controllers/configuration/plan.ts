/**
 * Decides what to do for one configuration. Pure: what is seen comes in, what to do comes out.
 *
 * The floor: Instances that are active count, whoever made them; where they are too few, more are made. Only those that the loop made are removed,
 * when there are more of them than the floor says. One that somebody stops is given up by the floor and is from then on as one made by hand.
 * What a change of the template means is in rollout.ts; a static configuration, with its one Instance, is in static.ts.
 */
import type { InstanceConfiguration } from '../../api/v1alpha1/instanceconfiguration.ts';
import { successorName, templateHash } from './instance.ts';
import type { Counts, InstanceView } from './observe.ts';
import { countOf } from './observe.ts';
import { planRollout } from './rollout.ts';
import { planStatic } from './static.ts';
import type { Reason } from '../../names.ts';

export interface Observed {
  readonly configuration: InstanceConfiguration;
  /** All Instances with its label, in any order. */
  readonly views: readonly InstanceView[];
  readonly nowMs: number;
}

export type Action =
  | { readonly type: 'ensure-claim' }
  /** `name` undefined: a random one. */
  | { readonly type: 'create'; readonly name: string | undefined }
  | { readonly type: 'update'; readonly view: InstanceView }
  /** Another one with the present template is made under `successor`, then this one is removed. */
  | { readonly type: 'replace'; readonly view: InstanceView; readonly successor: string }
  | { readonly type: 'remove'; readonly view: InstanceView; readonly because: 'surplus' | 'finished' | 'replaced' }
  /** The floor lets it go, and it stays. */
  | { readonly type: 'release'; readonly view: InstanceView };

export interface Plan {
  readonly actions: readonly Action[];
  readonly counts: Counts;
  /** An active Instance with the present template that does not come up. */
  readonly stalled: InstanceView | undefined;
  /** What keeps the configuration from being followed at all. */
  readonly fault?: { readonly reason: Reason; readonly message: string };
  /** The one Instance of a static configuration that does not run, and should not. */
  readonly resting?: 'Stopped' | 'Completed' | undefined;
  readonly requeueAfterMs?: number | undefined;
}

/** A program that ends at once is not followed by the next one earlier than this after it was made. */
export const finishedPauseMs = 30_000;

export function plan(observed: Observed): Plan {
  return observed.configuration.spec.static ? planStatic(observed) : planMany(observed);
}

function planMany({ configuration, views, nowMs }: Observed): Plan {
  const { minimumServiceCount: floor } = configuration.spec;
  const hash = templateHash(configuration.spec);
  const { replaced, present } = withoutReplaced(configuration, views);
  const active = present.filter(({ phase }) => phase === 'active');
  const made = active.filter(({ isFloor }) => isFloor);
  const surplus = leastUseful(made).slice(0, Math.max(0, made.length - floor));
  const staying = active.filter((view) => !surplus.includes(view));
  const finished = planFinished(present, floor, nowMs);
  const missing = Math.max(0, floor - staying.length - finished.holding);
  const stopped = present.filter(({ phase }) => phase === 'stopped');
  const rollout = planRollout({ configuration, hash, active: staying, stopped, missing });
  return {
    actions: [
      ...removals(replaced, 'replaced'),
      ...removals(surplus, 'surplus'),
      ...finished.actions,
      ...stopped.filter(({ isFloor }) => isFloor).map((view) => ({ type: 'release', view }) as const),
      ...Array.from({ length: missing }, () => ({ type: 'create', name: undefined }) as const),
      ...rollout.actions,
    ],
    counts: countOf(active, hash),
    stalled: rollout.stalled,
    requeueAfterMs: finished.requeueAfterMs,
  };
}

/** Between making a successor and removing its predecessor there may be a crash: the pair counts as one. */
function withoutReplaced(
  { metadata }: InstanceConfiguration,
  views: readonly InstanceView[],
): { replaced: InstanceView[]; present: InstanceView[] } {
  const present = views.filter(({ phase }) => phase !== 'going');
  const names = new Set(present.map(({ name }) => name));
  const isReplaced = ({ uid }: InstanceView): boolean => names.has(successorName(metadata.name, uid));
  return { replaced: present.filter(isReplaced), present: present.filter((view) => !isReplaced(view)) };
}

/**
 * Those of the floor whose program has ended: others take their places, and as many as the floor has stay for their logs. One that ended soon
 * holds its place for a while, so that a program that cannot live is not started without end.
 */
function planFinished(
  present: readonly InstanceView[],
  floor: number,
  nowMs: number,
): { actions: Action[]; holding: number; requeueAfterMs: number | undefined } {
  const finished = present.filter(({ phase, isFloor }) => phase === 'finished' && isFloor).sort(byNewest);
  const kept = finished.slice(0, floor);
  const waitsMs = kept.map(({ createdMs }) => createdMs + finishedPauseMs - nowMs).filter((waitMs) => waitMs > 0);
  return {
    actions: removals(finished.slice(floor), 'finished'),
    holding: waitsMs.length,
    requeueAfterMs: waitsMs.length === 0 ? undefined : Math.min(...waitsMs),
  };
}

function leastUseful(views: readonly InstanceView[]): InstanceView[] {
  return views.toSorted((a, b) => Number(a.isAvailable) - Number(b.isAvailable) || byNewest(a, b));
}

function byNewest(a: InstanceView, b: InstanceView): number {
  return b.createdMs - a.createdMs || (a.name < b.name ? 1 : -1);
}

function removals(views: readonly InstanceView[], because: 'surplus' | 'finished' | 'replaced'): Action[] {
  return views.map((view) => ({ type: 'remove', view, because }));
}
