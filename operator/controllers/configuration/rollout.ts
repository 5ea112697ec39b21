/**
 * How a change of the template reaches Instances that exist. Pure.
 *
 * An Instance follows the template if it was made from it; one whose spec somebody wrote does not. One that is not ONLINE anyway is changed at once.
 * Of those that are ONLINE, only as many as may be away are changed, and none while one with the present template is stalled.
 */
import type { InstanceConfiguration } from '../../api/v1alpha1/instanceconfiguration.ts';
import { maxUnavailableDefault } from '../../api/v1alpha1/instanceconfiguration.ts';
import { successorName } from './instance.ts';
import type { InstanceView } from './observe.ts';
import type { Action } from './plan.ts';

export interface RolloutInput {
  readonly configuration: InstanceConfiguration;
  /** Of the present template. */
  readonly hash: string;
  /** Those that stay. */
  readonly active: readonly InstanceView[];
  readonly stopped: readonly InstanceView[];
  /** How many are being made besides. */
  readonly missing: number;
}

export function planRollout(input: RolloutInput): { actions: Action[]; stalled: InstanceView | undefined } {
  const { configuration, hash, active, stopped, missing } = input;
  const isOutdated = (view: InstanceView): boolean => view.hash !== undefined && view.hash !== hash;
  const followers = active.filter((view) => view.hash !== undefined);
  const stalled = followers.find((view) => !isOutdated(view) && view.stall !== undefined);
  const outdated = followers.filter(isOutdated).sort(byAge);
  const away = missing + followers.filter(({ isAvailable }) => !isAvailable).length;
  const budget = stalled === undefined ? allowedAway(configuration, followers.length + missing) - away : 0;
  const chosen = [
    ...outdated.filter(({ isAvailable }) => !isAvailable),
    ...outdated.filter(({ isAvailable }) => isAvailable).slice(0, Math.max(0, budget)),
  ];
  // One that is stopped keeps its runtime: made anew, it would run.
  const idle = stopped.filter((view) => isOutdated(view) && view.runtime === runtimeOf(configuration));
  return {
    stalled,
    actions: [
      ...idle.map((view) => ({ type: 'update', view }) as const),
      ...chosen.map((view) => change(view, configuration)),
    ],
  };
}

/** How many of so many may be away; at least one, or nothing would ever change. */
export function allowedAway({ spec }: InstanceConfiguration, count: number): number {
  const allowed = spec.updateStrategy?.maxUnavailable ?? maxUnavailableDefault;
  const number = typeof allowed === 'number' ? allowed : Math.floor((count * Number.parseInt(allowed, 10)) / 100);
  return Math.max(1, number);
}

function change(view: InstanceView, configuration: InstanceConfiguration): Action {
  if (view.runtime === runtimeOf(configuration)) return { type: 'update', view };
  return { type: 'replace', view, successor: successorName(configuration.metadata.name, view.uid) };
}

function runtimeOf({ spec }: InstanceConfiguration): string {
  return spec.template.spec.runtime;
}

function byAge(a: InstanceView, b: InstanceView): number {
  return a.createdMs - b.createdMs || (a.name < b.name ? -1 : 1);
}
