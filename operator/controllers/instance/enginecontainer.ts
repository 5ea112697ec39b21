/** What a pod says of its container on the Docker Engine of its node, and a pod that cleans up there of how far it is. Pure. */
import { nothingLeft } from '../../../sidecar/protocol.ts';
import { cleanupAnnotation, dockerFinalizer } from '../../names.ts';
import type { Pod } from '../../runtime/client.ts';

type ContainerStatus = NonNullable<NonNullable<Pod['status']>['containerStatuses']>[number];

/** What is known of the Engine's container of a pod that has the finalizer. */
export interface EngineContainer {
  readonly state:
    /** There is none, for certain. */
    | 'none'
    /** The launcher has ended, and did not say that it is gone. */
    | 'left'
    /** The kubelet has not said yet that the launcher has ended. */
    | 'unknown'
    /** Kubernetes has given the node up: nobody can look. */
    | 'unreachable';
  /** When the launcher ended, in ms since the epoch; 0 where nobody says. */
  readonly endedMs: number;
}

/** Undefined for a pod without the finalizer. `launcher` is the status of the container that it runs in. */
export function viewEngineContainer(
  pod: Pod,
  { launcher, hasStarted }: { launcher: ContainerStatus | undefined; hasStarted: boolean },
): EngineContainer | undefined {
  if (pod.metadata.finalizers?.includes(dockerFinalizer) !== true) return undefined;
  const { running, terminated } = launcher?.state ?? {};
  const saysNothingLeft = terminated?.message?.includes(nothingLeft) === true;
  const state = isOnNode(pod)
    ? stateOf(pod, { isRunning: running !== undefined, isClean: !hasStarted || saysNothingLeft })
    : 'none';
  return { state, endedMs: Date.parse(terminated?.finishedAt ?? '') || 0 };
}

/** The API server binds no pod to a node any more once it is being deleted. */
function isOnNode({ spec }: Pod): boolean {
  return spec?.nodeName !== undefined;
}

function stateOf({ status }: Pod, launcher: { isRunning: boolean; isClean: boolean }): EngineContainer['state'] {
  // Before the pod has ended, the kubelet may start a launcher once more.
  if (status?.phase !== 'Succeeded' && status?.phase !== 'Failed') return 'unknown';
  if (launcher.isClean) return 'none';
  if (isGivenUp(status)) return 'unreachable';
  // A kubelet that evicts calls the pod failed before it has ended its containers.
  return launcher.isRunning ? 'unknown' : 'left';
}

/** The pod garbage collector ends pods in place of their kubelet: the Node was deleted, or tainted as out of service. */
function isGivenUp({ conditions }: NonNullable<Pod['status']>): boolean {
  return conditions?.some(({ type, reason }) => type === 'DisruptionTarget' && reason === 'DeletionByPodGC') === true;
}

/** A pod that removes what another one left. */
export interface CleanupPod {
  readonly name: string;
  readonly uid: string;
  /** Of the pod that it cleans up after. */
  readonly podUid: string;
  readonly phase: 'active' | 'succeeded' | 'failed';
  readonly isDeleted: boolean;
  readonly createdMs: number;
}

/** Undefined for every other pod. */
export function viewCleanupPod({ metadata, status }: Pod): CleanupPod | undefined {
  const owner = metadata.ownerReferences?.find(({ controller }) => controller === true);
  if (owner?.kind !== 'Pod' || metadata.annotations?.[cleanupAnnotation] === undefined) return undefined;
  const phase = status?.phase;
  return {
    name: metadata.name,
    uid: metadata.uid ?? '',
    podUid: owner.uid,
    phase: phase === 'Succeeded' ? 'succeeded' : phase === 'Failed' ? 'failed' : 'active',
    isDeleted: metadata.deletionTimestamp !== undefined,
    createdMs: Date.parse(metadata.creationTimestamp ?? '') || 0,
  };
}
