/** The published rules by which GitOps tools (Argo CD, Flux, kpt) judge any object whose kind they do not know: sigs.k8s.io/cli-utils, package kstatus. */
import type { Condition, KubeObject } from './harness.ts';

export type KStatus = 'InProgress' | 'Current' | 'Failed' | 'Terminating';

interface Judged {
  readonly metadata: KubeObject['metadata'];
  readonly status?: { readonly observedGeneration?: number; readonly conditions?: readonly Condition[] };
}

/** Pure. The order of the rules is that of the library. */
export function kstatus({ metadata, status }: Judged): KStatus {
  if (metadata.deletionTimestamp !== undefined) return 'Terminating';
  if (status?.observedGeneration !== undefined && status.observedGeneration !== metadata.generation)
    return 'InProgress';
  const value = (type: string): string | undefined =>
    status?.conditions?.find((condition) => condition.type === type)?.status;
  if (value('Reconciling') === 'True') return 'InProgress';
  if (value('Stalled') === 'True') return 'Failed';
  const ready = value('Ready');
  return ready === undefined || ready === 'True' ? 'Current' : 'InProgress';
}
