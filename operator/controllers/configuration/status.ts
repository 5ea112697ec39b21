/** The status of a configuration, from what was seen and planned. Pure. */
import type { InstanceConfiguration, InstanceConfigurationStatus } from '../../api/v1alpha1/instanceconfiguration.ts';
import type { Condition } from '../../api/v1alpha1/meta.ts';
import { makeCondition } from '../../api/v1alpha1/meta.ts';
import type { ConditionType, Reason } from '../../names.ts';
import type { Refusal } from './act.ts';
import { selectorOf } from './instance.ts';
import type { Plan } from './plan.ts';

export interface StatusInput {
  readonly configuration: InstanceConfiguration;
  readonly plan: Plan;
  readonly refusal: Refusal | undefined;
  readonly nowMs: number;
}

interface Verdict {
  readonly is: 'ready' | 'resting' | 'reconciling' | 'stalled';
  readonly reason: Reason;
  readonly message: string;
}

export function buildConfigurationStatus(input: StatusInput): InstanceConfigurationStatus {
  const { generation, name } = input.configuration.metadata;
  const { instances, ready, updated } = input.plan.counts;
  return {
    instances,
    readyInstances: ready,
    updatedInstances: updated,
    selector: selectorOf(name),
    ...(generation === undefined ? {} : { observedGeneration: generation }),
    conditions: buildConditions(input, judge(input)),
  };
}

function judge({ configuration, plan, refusal }: StatusInput): Verdict {
  const { minimumServiceCount: floor } = configuration.spec;
  const { instances, ready, outdated } = plan.counts;
  const fault = refusal ?? plan.fault;
  if (fault !== undefined) return { is: 'stalled', ...fault };
  if (plan.resting === 'Stopped') return { is: 'resting', reason: 'Stopped', message: 'Its Instance is stopped.' };
  if (plan.resting === 'Completed') {
    return { is: 'resting', reason: 'Completed', message: 'The program of its Instance has ended.' };
  }
  const isUnderWay = outdated > 0 || ready < floor;
  if (isUnderWay && plan.stalled !== undefined) return stalledBy(plan);
  if (outdated > 0) {
    const message = `${instances - outdated} of ${instances} Instances have the present template.`;
    return { is: 'reconciling', reason: 'RollingOut', message };
  }
  if (ready < floor) {
    return { is: 'reconciling', reason: 'MinimumNotReached', message: `${ready} of at least ${floor} are ONLINE.` };
  }
  return { is: 'ready', reason: 'Ready', message: `${ready} of ${instances} are ONLINE, and at least ${floor}.` };
}

function stalledBy({ stalled, counts }: Plan): Verdict {
  const { instances, outdated } = counts;
  const progress =
    outdated === 0 ? '' : ` The roll-out has stopped: ${outdated} of ${instances} Instances keep the old template.`;
  const why = `${stalled?.stall?.reason ?? ''}: ${stalled?.stall?.message ?? ''}`;
  const message = `Instance "${stalled?.name ?? ''}" has the present template and does not run: ${why}${progress}`;
  return { is: 'stalled', reason: 'InstanceStalled', message };
}

function buildConditions({ configuration, nowMs }: StatusInput, { is, reason, message }: Verdict): Condition[] {
  const { metadata, status } = configuration;
  const context = { before: status?.conditions, generation: metadata.generation, nowMs };
  const wanted: [ConditionType, boolean][] = [
    ...(is === 'resting' ? [] : [['Ready', is === 'ready'] as [ConditionType, boolean]]),
    ['Reconciling', is === 'reconciling'],
    ['Stalled', is === 'stalled'],
  ];
  return wanted.map(([type, holds]) => makeCondition({ type, reason, message, holds }, context));
}
