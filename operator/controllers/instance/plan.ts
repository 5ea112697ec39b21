/**
 * Decides what to do for one Instance. Pure: what is seen comes in, what to do comes out, and the same twice gives the same.
 *
 * One pod at a time: a new one is made only when the old one is gone, over, or overdue on a node that no longer answers. Pods have a
 * sequence number in their name, so making "the next one" twice (from an old cache, or by two leaders for a moment) makes one.
 */
import type { Instance } from '../../api/v1alpha1/instance.ts';
import { restartedAtAnnotation } from '../../names.ts';
import type { Reason } from '../../names.ts';
import { planCleanup } from './dockercleanup.ts';
import type { CleanupAction, CleanupPlan } from './dockercleanup.ts';
import type { CleanupPod } from './enginecontainer.ts';
import { isOver, judgeDoubt, startingMessage } from './observe.ts';
import type { PodView } from './observe.ts';
import { overlayFaults } from './overlay.ts';
import { podHash } from './pod.ts';
import { hasTemplates } from './sidecarpod.ts';

export interface Observed {
  readonly instance: Instance;
  /** All pods of this Instance, in any order. */
  readonly pods: readonly PodView[];
  readonly hasService: boolean;
  readonly wantsService: boolean;
  readonly nowMs: number;
  /** Pods that remove what pods of this Instance left on a Docker Engine. */
  readonly cleanups?: readonly CleanupPod[];
  /** Whether the runtime docker is on here. */
  readonly isDockerEnabled?: boolean;
  /** Image that a sidecar gets now. */
  readonly sidecarImage?: string | undefined;
  /** Why its runtime cannot be had here at all. */
  readonly runtimeFault?: { readonly reason: Reason; readonly message: string } | undefined;
}

export type Action =
  | {
      readonly type: 'create-pod';
      readonly sequence: number;
      readonly because: 'first' | 'replaced' | 'lost' | 'started';
    }
  /** Graceful: the stop command first, where there is one. */
  | { readonly type: 'stop-pod'; readonly pod: PodView; readonly because: 'stopped' | 'replaced' | 'deleted' }
  /** A pod that is over and no longer needed. */
  | { readonly type: 'remove-pod'; readonly pod: PodView }
  | { readonly type: 'apply-service' }
  | { readonly type: 'remove-service' }
  | { readonly type: 'remove-finalizer' }
  | CleanupAction;

/** What the Instance is at, for the status. */
export type Situation =
  | { readonly at: 'stopping' | 'stopped' | 'deleted' }
  | { readonly at: 'invalid'; readonly reason: Reason; readonly message: string }
  | { readonly at: 'starting'; readonly message: string }
  /** Its pod is overdue on a node that does not answer. */
  | { readonly at: 'lost'; readonly message: string }
  | { readonly at: 'pod' };

export interface Plan {
  readonly actions: readonly Action[];
  readonly situation: Situation;
  /** The pod that the status speaks of. */
  readonly pod: PodView | undefined;
  /** The newest pod that exists; the status may already speak of the one that follows it. */
  readonly newest: PodView | undefined;
  readonly requeueAfterMs?: number;
}

type Decision = Omit<Plan, 'newest'>;

/** After a pod's deletion is due, this long is left for its node to say so before another pod is made elsewhere. */
export const overdueMs = 10_000;
/** The same while nothing but the delay says that the node is silent: a slow kubelet on a live node must not lead to two pods at once. */
export const overdueUnprovenMs = 300_000;
/** A pod that was lost within this time of its making is not made again earlier: a node that refuses each pod must not be stormed. */
const lostPauseMs = 10_000;

export function plan(seen: Observed): Plan {
  const pods = seen.pods.map((pod) => judgeDoubt(pod, seen.nowMs));
  const observed = { ...seen, pods };
  const { instance } = observed;
  const newest = newestPod(pods);
  const isInstanceDeleted = instance.metadata.deletionTimestamp !== undefined;
  const cleanup = planCleanup({
    pods,
    cleanups: seen.cleanups ?? [],
    nowMs: seen.nowMs,
    isDockerEnabled: seen.isDockerEnabled === true,
    isInstanceDeleted,
    isOverdue: (pod) => isOverdue(observed, pod),
  });
  if (isInstanceDeleted) return { ...planDeleted(observed, newest, cleanup), newest };
  const service = planService(observed);
  const rest = instance.spec.desiredState === 'Stopped' ? planStopped(pods, newest) : planRunning(observed, newest);
  const decided = afterCleanup(rest, cleanup);
  return { ...decided, actions: [...service, ...decided.actions], newest };
}

/** A pod whose node does not answer holds the deletion up only until it is overdue: then the garbage collector is left with it. */
function planDeleted(
  observed: Observed,
  newest: PodView | undefined,
  { actions, held, ...wait }: CleanupPlan,
): Decision {
  const { instance, pods, nowMs } = observed;
  const left = pods.filter((pod) => pod.deletionDueMs === undefined || !isOverdue(observed, pod));
  if (left.length === 0 && held.length === 0)
    return { actions: [...actions, { type: 'remove-finalizer' }], situation: { at: 'deleted' }, pod: undefined };
  const leftMs = left.map((pod) => overdueAtMs(instance, pod, nowMs) - nowMs);
  return {
    actions: [...stopAll(left, 'deleted'), ...actions],
    situation: { at: 'stopping' },
    pod: newest,
    ...(left.length === 0 ? {} : { requeueAfterMs: Math.max(...leftMs) }),
    ...wait,
  };
}

/** While a program may still run on the Engine though its pod is over, no other is started, and none counts as stopped. */
function afterCleanup(rest: Decision, cleanup: CleanupPlan): Decision {
  const waits = [rest.requeueAfterMs, cleanup.requeueAfterMs].filter((waitMs) => waitMs !== undefined);
  const requeue = waits.length === 0 ? {} : { requeueAfterMs: Math.min(...waits) };
  const [held] = cleanup.held;
  const creates = rest.actions.some(({ type }) => type === 'create-pod');
  if (held === undefined || (!creates && rest.situation.at !== 'stopped'))
    return { ...rest, actions: [...cleanup.actions, ...rest.actions], ...requeue };
  const message = `What pod "${held.name}" left on the Docker Engine of node "${held.nodeName ?? ''}" is being removed.`;
  const { at } = rest.situation;
  return {
    actions: [...cleanup.actions, ...rest.actions.filter(({ type }) => type !== 'create-pod')],
    situation: at === 'stopped' ? { at: 'stopping' } : { at: at === 'lost' ? 'lost' : 'starting', message },
    pod: held,
    ...requeue,
  };
}

function isOverdue({ instance, nowMs }: Observed, pod: PodView): boolean {
  return pod.deletionDueMs !== undefined && overdueAtMs(instance, pod, nowMs) <= nowMs;
}

function planStopped(pods: readonly PodView[], newest: PodView | undefined): Decision {
  if (pods.every(isOver)) return { actions: [], situation: { at: 'stopped' }, pod: newest };
  return {
    actions: stopAll(
      pods.filter((pod) => !isOver(pod)),
      'stopped',
    ),
    situation: { at: 'stopping' },
    pod: newest,
  };
}

function planRunning(observed: Observed, newest: PodView | undefined): Decision {
  const fault = findFault(observed);
  if (fault !== undefined) return { actions: [], situation: { at: 'invalid', ...fault }, pod: newest };
  if (newest === undefined) return planFirst(observed);
  if (newest.deletionDueMs !== undefined) return planTerminating(observed, newest);
  if (isOutdated(observed.instance, newest) || isStuck(observed, newest)) return planReplacement(observed, newest);
  if (newest.phase === 'lost') return planLost(observed, newest);
  const leftovers =
    newest.phase === 'running' ? observed.pods.filter((pod) => pod !== newest && pod.deletionDueMs === undefined) : [];
  return {
    actions: leftovers.map((pod) => ({ type: 'remove-pod', pod })),
    situation: { at: 'pod' },
    pod: newest,
    ...(newest.doubt === undefined ? {} : { requeueAfterMs: newest.doubt.untilMs - observed.nowMs }),
  };
}

/** Why no pod can be made of it. What runs already goes on. */
function findFault({ instance, runtimeFault }: Observed): { reason: Reason; message: string } | undefined {
  if (runtimeFault !== undefined) return runtimeFault;
  const { spec } = instance;
  const faults = overlayFaults(spec.podTemplate?.spec ?? {}, spec.runtime, hasTemplates(spec));
  return faults.length === 0 ? undefined : { reason: 'InvalidSpec', message: `${faults.join('. ')}.` };
}

function planFirst(observed: Observed): Decision {
  const { instance } = observed;
  if (isFinished(instance)) return { actions: [], situation: { at: 'pod' }, pod: undefined };
  const made = instance.status?.podSequence ?? 0;
  const wasStopped = instance.status?.state === 'STOPPED';
  const because = made === 0 ? 'first' : wasStopped ? 'started' : 'replaced';
  return create(
    made + 1,
    because,
    // The words of a pod that is on its way: until it is up, nothing new is to be said.
    made === 0 || wasStopped ? startingMessage : 'The pod is gone and is being made again.',
  );
}

/** It ran to its end under this very spec, and its pod was cleaned up since: that is no reason to run it again, unless somebody asked. */
function isFinished(instance: Instance): boolean {
  if (instance.status?.restartedAt !== instance.metadata.annotations?.[restartedAtAnnotation]) return false;
  const reconciling = instance.status?.conditions?.find(({ type }) => type === 'Reconciling');
  const isEnd = reconciling?.reason === 'Completed' || reconciling?.reason === 'Failed';
  return isEnd && reconciling.observedGeneration === instance.metadata.generation;
}

function planTerminating(observed: Observed, newest: PodView): Decision {
  const { instance, nowMs } = observed;
  // The pod of a program that had run to its end is only being cleaned up.
  if (isOver(newest) && isFinished(instance) && !isOutdated(instance, newest))
    return { actions: [], situation: { at: 'pod' }, pod: newest };
  if (isOver(newest))
    return create(newest.sequence + 1, 'replaced', 'The old pod has ended; the next one is being made.');
  const leftMs = overdueAtMs(instance, newest, nowMs) - nowMs;
  const node = newest.nodeName ?? '';
  if (leftMs > 0) {
    const situation: Situation = isNodeSilent(instance, newest)
      ? { at: 'lost', message: `Node "${node}" does not answer: pod "${newest.name}" is being given up.` }
      : { at: 'starting', message: 'The old pod is being stopped.' };
    const action = { type: 'stop-pod', pod: newest, because: 'replaced' } as const;
    return { actions: [action], situation, pod: newest, requeueAfterMs: leftMs };
  }
  const message = `Pod "${newest.name}" should be gone and its node "${node}" does not answer: made again.`;
  return { ...create(newest.sequence + 1, 'lost', ''), situation: { at: 'lost', message } };
}

/** When a pod that is being deleted counts as lost with its node. */
function overdueAtMs(instance: Instance, pod: PodView, nowMs: number): number {
  // What does not run is not started any more in a pod that is being deleted: waiting longer protects nothing.
  const isProven = pod.phase !== 'running' || isNodeSilent(instance, pod);
  return (pod.deletionDueMs ?? nowMs) + (isProven ? overdueMs : overdueUnprovenMs);
}

/** Whether the node was said to be silent: by the pod now, or by the status before. */
function isNodeSilent({ status }: Instance, pod: PodView): boolean {
  if (pod.cause === 'NodeLost') return true;
  const ready = status?.conditions?.find(({ type }) => type === 'Ready');
  return status?.podName === pod.name && (ready?.reason === 'NodeLost' || ready?.reason === 'PodLost');
}

function planReplacement(observed: Observed, newest: PodView): Decision {
  if (isOver(newest)) {
    return create(newest.sequence + 1, 'replaced', 'The Instance was changed: the next pod is being made.');
  }
  const stops = stopAll(
    observed.pods.filter((pod) => !isOver(pod)),
    'replaced',
  );
  return {
    actions: stops,
    situation: { at: 'starting', message: 'The Instance was changed: the old pod is being stopped.' },
    pod: newest,
  };
}

function planLost(observed: Observed, newest: PodView): Decision {
  const message = newest.message ?? 'The pod was taken away.';
  const pauseMs = newest.createdMs + lostPauseMs - observed.nowMs;
  if (pauseMs > 0) return { actions: [], situation: { at: 'lost', message }, pod: newest, requeueAfterMs: pauseMs };
  return { ...create(newest.sequence + 1, 'lost', message), situation: { at: 'lost', message } };
}

function planService(observed: Observed): Action[] {
  if (observed.wantsService) return [{ type: 'apply-service' }];
  return observed.hasService ? [{ type: 'remove-service' }] : [];
}

function create(sequence: number, because: 'first' | 'replaced' | 'lost' | 'started', message: string): Decision {
  return {
    actions: [{ type: 'create-pod', sequence, because }],
    situation: { at: 'starting', message },
    pod: undefined,
  };
}

function stopAll(pods: readonly PodView[], because: 'stopped' | 'replaced' | 'deleted'): Action[] {
  return pods.map((pod) => ({ type: 'stop-pod', pod, because }));
}

function isOutdated(instance: Instance, pod: PodView): boolean {
  const restartedAt = instance.metadata.annotations?.[restartedAtAnnotation];
  return pod.hash !== podHash(instance.spec) || (restartedAt !== undefined && pod.restartedAt !== restartedAt);
}

/** Its program never ran, and the image of its sidecar is no longer the one of this installation: perhaps that was what it waits for. */
function isStuck({ sidecarImage }: Observed, { phase, hasStarted, sidecarImage: own }: PodView): boolean {
  return phase === 'blocked' && !hasStarted && own !== undefined && sidecarImage !== undefined && own !== sidecarImage;
}

function newestPod(pods: readonly PodView[]): PodView | undefined {
  return pods.reduce<PodView | undefined>(
    (newest, pod) => (newest === undefined || pod.sequence > newest.sequence ? pod : newest),
    undefined,
  );
}
