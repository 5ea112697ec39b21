/**
 * What a pod of the runtime `docker` leaves on its node: its program runs in a container of the Docker Engine there, which the pod's launcher removes
 * when it ends, unless it is killed. So such a pod has a finalizer. It is taken away once the kubelet has passed on the launcher's last words, that
 * nothing is left, or once a pod made for it on the same node has removed the container (docs/adr/0028-docker-containers-and-their-pods.md). Pure.
 */
import type { CleanupPod } from './enginecontainer.ts';
import { isOver } from './observe.ts';
import type { PodView } from './observe.ts';

export type CleanupAction =
  /** Takes the finalizer away. `outcome`: nothing was left, it was removed, or why it may still be there. */
  | {
      readonly type: 'release-pod';
      readonly pod: PodView;
      readonly outcome: 'none' | 'removed' | { readonly leftBecause: string };
    }
  /** `isLastTry`: if the API server refuses it, the pod is released. */
  | { readonly type: 'create-cleanup'; readonly pod: PodView; readonly isLastTry: boolean }
  | { readonly type: 'remove-cleanup'; readonly cleanup: CleanupPod };

export interface CleanupPlan {
  readonly actions: readonly CleanupAction[];
  /** Pods whose container may still run though they are over: until they are released, no other pod is made. */
  readonly held: readonly PodView[];
  readonly requeueAfterMs?: number;
}

export interface CleanupOptions {
  readonly pods: readonly PodView[];
  readonly cleanups: readonly CleanupPod[];
  readonly nowMs: number;
  /** Whether pods may have the Engine's socket at all. */
  readonly isDockerEnabled: boolean;
  readonly isInstanceDeleted: boolean;
  /** Whether a pod should have been gone for so long that its node counts as lost. */
  readonly isOverdue: (pod: PodView) => boolean;
}

/** A cleanup that has not succeeded so long after its making does not any more: the pod is released, and what may be left is said. */
export const cleanupTimeoutMs = 120_000;

type Step = { readonly action?: CleanupAction; readonly isHeld: boolean; readonly waitMs?: number };

export function planCleanup(options: CleanupOptions): CleanupPlan {
  const wanted = options.pods.filter(
    (pod) => pod.engineContainer !== undefined && (isOver(pod) || pod.deletionDueMs !== undefined),
  );
  const steps = wanted.map((pod) => ({ pod, ...stepFor(pod, options) }));
  const isNeeded = ({ podUid }: CleanupPod): boolean => wanted.some(({ uid }) => uid === podUid);
  const spare = options.cleanups.filter((cleanup) => !isNeeded(cleanup) && !cleanup.isDeleted);
  const waits = steps.flatMap(({ waitMs }) => waitMs ?? []);
  return {
    actions: [
      ...steps.flatMap(({ action }) => action ?? []),
      ...spare.map((cleanup) => ({ type: 'remove-cleanup', cleanup }) as const),
    ],
    held: steps.filter(({ isHeld }) => isHeld).map(({ pod }) => pod),
    ...(waits.length === 0 ? {} : { requeueAfterMs: Math.min(...waits) }),
  };
}

function stepFor(pod: PodView, options: CleanupOptions): Step {
  switch (pod.engineContainer?.state) {
    case undefined:
    case 'none':
      return release(pod, 'none');
    case 'unreachable':
      return release(pod, { leftBecause: 'the node was given up' });
    case 'unknown':
      if (!options.isOverdue(pod)) return { isHeld: isOver(pod) };
      // Nobody else would be there to release it.
      return options.isInstanceDeleted ? release(pod, { leftBecause: 'the node does not answer' }) : { isHeld: false };
    case 'left':
      return options.isDockerEnabled
        ? stepForLeft(pod, options)
        : release(pod, { leftBecause: 'the runtime docker is off in this installation' });
  }
}

function stepForLeft(pod: PodView, { cleanups, nowMs }: CleanupOptions): Step {
  const cleanup = cleanups.find(({ podUid }) => podUid === pod.uid);
  if (cleanup === undefined) {
    const isLastTry = nowMs > (pod.engineContainer?.endedMs ?? 0) + cleanupTimeoutMs;
    return { action: { type: 'create-cleanup', pod, isLastTry }, isHeld: true };
  }
  if (cleanup.phase === 'succeeded') return release(pod, 'removed');
  const waitMs = cleanup.createdMs + cleanupTimeoutMs - nowMs;
  if (cleanup.phase === 'active' && waitMs > 0) return { isHeld: true, waitMs };
  return release(pod, { leftBecause: `pod "${cleanup.name}" could not remove it` });
}

function release(pod: PodView, outcome: (CleanupAction & { type: 'release-pod' })['outcome']): Step {
  return { action: { type: 'release-pod', pod, outcome }, isHeld: false };
}
