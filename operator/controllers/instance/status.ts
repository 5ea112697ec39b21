/**
 * The status of an Instance, from what was seen and decided. Pure.
 *
 * The conditions follow kstatus, so that `kubectl wait`, Argo CD and Flux understand them: `Ready` sums up; `Reconciling` is True while
 * something is under way, `Stalled` while nothing will move until somebody acts. An Instance that is stopped as desired has no `Ready`
 * condition: it is neither ready nor on its way there, and kstatus then counts it as current. `SidecarUnsupported` says nothing of the program.
 */
import { versionFault, versionWords } from '../../../sidecar/protocol.ts';
import type { Instance, InstanceStatus, State } from '../../api/v1alpha1/instance.ts';
import { makeCondition } from '../../api/v1alpha1/meta.ts';
import type { Condition } from '../../api/v1alpha1/meta.ts';
import { restartedAtAnnotation } from '../../names.ts';
import type { ConditionType, Reason } from '../../names.ts';
import { isOver } from './observe.ts';
import type { PodView } from './observe.ts';
import type { Plan } from './plan.ts';

/** What went wrong on the way, for which nothing but a change of the manifest helps. */
export interface Stall {
  readonly reason: Reason;
  readonly message: string;
}

export interface StatusInput {
  readonly instance: Instance;
  readonly id: string;
  readonly plan: Plan;
  /** The pod that was just made, if one was. */
  readonly created: { readonly name: string; readonly sequence: number } | undefined;
  readonly stall: Stall | undefined;
  readonly nowMs: number;
}

interface Verdict {
  readonly state: State;
  /** undefined: no Ready condition. */
  readonly ready: boolean | undefined;
  readonly isReconciling: boolean;
  readonly isStalled: boolean;
  readonly reason: Reason;
  readonly message: string;
}

export function buildStatus(input: StatusInput): InstanceStatus {
  const { instance, id, plan, created } = input;
  const verdict = judge(input);
  const pod = created === undefined ? plan.pod : undefined;
  const podName = created?.name ?? pod?.name ?? instance.status?.podName;
  return {
    id,
    state: verdict.state,
    podSequence: created?.sequence ?? Math.max(pod?.sequence ?? 0, instance.status?.podSequence ?? 0),
    ...lastOf(instance, plan),
    restarts: pod?.restarts ?? 0,
    ...(podName === undefined ? {} : { podName }),
    ...handledRestart(instance, { pod, isNew: created !== undefined }),
    // Said with the first news of the container, not before: one write less for each start.
    ...(pod?.nodeName === undefined || pod.phase === 'pending' ? {} : { nodeName: pod.nodeName }),
    ...podAddress(pod),
    ...address(instance, pod),
    ...(instance.metadata.generation === undefined ? {} : { observedGeneration: instance.metadata.generation }),
    conditions: buildConditions(input, verdict, pod),
  };
}

/**
 * What readers of the log must know of a pod that goes, after it has gone: whether its program could still be started, and whether it ever
 * ran. A kubelet starts nothing in a pod that is being deleted; one that started just before says so before the pod is gone, and is believed.
 */
function lastOf(
  { status }: Instance,
  { newest, actions }: Plan,
): Pick<InstanceStatus, 'endingPodSequence' | 'unstartedPodSequence'> {
  const before = { ending: status?.endingPodSequence ?? 0, unstarted: status?.unstartedPodSequence ?? 0 };
  const isStopping = actions.some((action) => action.type === 'stop-pod' && action.pod === newest);
  const isEnding = newest !== undefined && (isStopping || newest.deletionDueMs !== undefined || isOver(newest));
  const ending = isEnding ? Math.max(before.ending, newest.sequence) : before.ending;
  const isRefuted = newest?.hasStarted === true && newest.sequence === before.unstarted;
  const unstarted = isEnding && !newest.hasStarted ? newest.sequence : isRefuted ? 0 : before.unstarted;
  return {
    ...(ending === 0 ? {} : { endingPodSequence: ending }),
    ...(unstarted === 0 ? {} : { unstartedPodSequence: unstarted }),
  };
}

/** Which request to restart has been followed: that of the pod, or, where there is none any more, the last one's. */
function handledRestart(
  instance: Instance,
  { pod, isNew }: { pod: PodView | undefined; isNew: boolean },
): Pick<InstanceStatus, 'restartedAt'> {
  const asked = instance.metadata.annotations?.[restartedAtAnnotation];
  const last = pod === undefined ? instance.status?.restartedAt : pod.restartedAt;
  const handled = isNew ? asked : last;
  return handled === undefined ? {} : { restartedAt: handled };
}

function judge(input: StatusInput): Verdict {
  const { plan, stall, instance } = input;
  const before = instance.status?.state ?? 'CREATING';
  if (stall !== undefined) return stalled(before === 'ONLINE' || before === 'STOPPED' ? before : 'CREATING', stall);
  const { situation } = plan;
  switch (situation.at) {
    case 'stopped':
    case 'deleted':
      return atRest('STOPPED', 'Stopped', 'Stopped, as desired.');
    case 'stopping':
      return underWay(before === 'STOPPED' ? 'OFFLINE' : before, 'Stopping', 'The program is being stopped.');
    case 'invalid':
      return stalled(plan.pod?.isReady === true ? 'ONLINE' : 'CREATING', {
        reason: situation.reason,
        message: situation.message,
      });
    case 'starting':
      return underWay('CREATING', 'PodPending', situation.message);
    case 'lost':
      return underWay('OFFLINE', 'PodLost', situation.message);
    case 'pod':
      return plan.pod === undefined ? remembered(instance) : judgePod(instance, plan.pod);
  }
}

function judgePod(instance: Instance, pod: PodView): Verdict {
  const message = pod.message ?? '';
  switch (pod.phase) {
    case 'running':
      return pod.isReady
        ? { ...atRest('ONLINE', 'Ready', 'The program runs and is ready.'), ready: true }
        : notReady(instance, pod, message);
    case 'restarting':
      return underWay('OFFLINE', 'Restarting', message);
    case 'crash-loop':
      return stalled('OFFLINE', { reason: 'CrashLoop', message });
    case 'blocked':
      return stalled('CREATING', { reason: blockedReason(pod), message });
    case 'pending':
      return underWay('CREATING', pod.cause === 'Unschedulable' ? 'Unschedulable' : 'PodPending', message);
    case 'succeeded':
      return atRest('STOPPED', 'Completed', message);
    case 'failed':
      return stalled('STOPPED', { reason: failedReason(pod), message });
    case 'lost':
      return underWay('OFFLINE', 'PodLost', message);
  }
}

function failedReason({ cause }: PodView): Reason {
  const causes = ['RuntimeMissing', 'TemplateFailed'] as const;
  return causes.find((known) => known === cause) ?? 'Failed';
}

function blockedReason({ cause }: PodView): Reason {
  const causes = ['ImageUnavailable', 'RuntimeMissing', 'TemplateFailed', 'SidecarFailed'] as const;
  return causes.find((known) => known === cause) ?? 'PodRejected';
}

/** Once it was ready in this pod, or had to be started again in it, a program that is not ready is out of reach and no longer on its way. */
function notReady(instance: Instance, pod: PodView, message: string): Verdict {
  const { status } = instance;
  const wasReady = status?.podName === pod.name && (status.state === 'ONLINE' || status.state === 'OFFLINE');
  const state = wasReady || pod.restarts > 0 ? 'OFFLINE' : 'CREATING';
  const causes = ['NodeLost', 'SidecarFailed'] as const;
  return underWay(state, causes.find((known) => known === pod.cause) ?? 'PodNotReady', message);
}

/** The program ran to its end and its pod is gone: what was known stays. */
function remembered(instance: Instance): Verdict {
  const end = instance.status?.conditions?.find(({ type }) => type === 'Reconciling');
  if (end?.reason === 'Failed') return stalled('STOPPED', { reason: 'Failed', message: end.message });
  return atRest('STOPPED', 'Completed', end?.message ?? 'The program ended.');
}

function atRest(state: State, reason: Reason, message: string): Verdict {
  return { state, ready: undefined, isReconciling: false, isStalled: false, reason, message };
}

function underWay(state: State, reason: Reason, message: string): Verdict {
  return { state, ready: false, isReconciling: true, isStalled: false, reason, message };
}

function stalled(state: State, stall: Stall): Verdict {
  return { state, ready: false, isReconciling: false, isStalled: true, ...stall };
}

/** Nobody answers there before the first container has started, nor when the pod is over, and then it may be another pod's. */
function podAddress(pod: PodView | undefined): Pick<InstanceStatus, 'podIP'> {
  if (pod?.podIp === undefined || pod.phase === 'pending' || isOver(pod)) return {};
  return { podIP: pod.podIp };
}

function address(instance: Instance, pod: PodView | undefined): Pick<InstanceStatus, 'hostAddress' | 'port'> {
  const primary = instance.spec.ports?.[0];
  const started = pod?.phase === 'pending' ? undefined : pod;
  const isOnNode = primary?.hostPort !== undefined || instance.spec.runtime === 'docker';
  const host = isOnNode ? started?.hostIp : started?.podIp;
  const port = primary?.hostPort ?? primary?.port;
  return { ...(host === undefined ? {} : { hostAddress: host }), ...(port === undefined ? {} : { port }) };
}

function buildConditions({ instance, nowMs }: StatusInput, verdict: Verdict, pod: PodView | undefined): Condition[] {
  const { reason, message } = verdict;
  const context = { before: instance.status?.conditions, generation: instance.metadata.generation, nowMs };
  const wanted: [ConditionType, boolean | undefined][] = [
    ['Ready', verdict.ready],
    ['Reconciling', verdict.isReconciling],
    ['Stalled', verdict.isStalled],
  ];
  const summary = wanted.flatMap(([type, holds]) =>
    holds === undefined ? [] : [makeCondition({ type, reason, message, holds }, context)],
  );
  const unsupported = sidecarFault(pod);
  if (unsupported === undefined) return summary;
  const type: ConditionType = 'SidecarUnsupported';
  return [...summary, makeCondition({ type, ...unsupported, holds: true }, context)];
}

/** A pod keeps its sidecar over upgrades and rollbacks of Ringmaster; once these have no version of the protocol in common, Masters refuse it. */
function sidecarFault(pod: PodView | undefined): Stall | undefined {
  if (pod?.sidecarProtocol === undefined || isOver(pod)) return undefined;
  const fault = versionFault(pod.sidecarProtocol);
  if (fault === undefined) return undefined;
  return {
    reason: fault === 'too old' ? 'SidecarTooOld' : 'SidecarTooNew',
    message: `The program runs on, but its log cannot be read and nothing can be typed: ${versionWords(pod.sidecarProtocol)}. Restart the Instance.`,
  };
}
