/** What a log source must know of its instance, kept current by whoever watches Instances. */
export interface LogTarget {
  readonly namespace: string;
  /** The pod that runs the workload now, or that ran it last; undefined before the first one exists. */
  readonly podName: string | undefined;
  /** Where that pod answers; undefined before it does and after it has ended. Only sources that speak to the pod itself need it. */
  readonly podIP?: string | undefined;
  /** Counts the pods of this instance from 1; a replaced pod has a higher number and another name. 0 before the first one. */
  readonly podSequence: number;
  /** Containers started anew inside this pod, as the operator last saw it: a hint to look, never the truth. */
  readonly restarts: number;
  /** The newest pod whose program is certainly not started any more: its log ends where it ends now. 0 before there was one. */
  readonly endingPodSequence: number;
  /** The newest pod that is known to have come and gone without its program ever running; 0 before there was one. */
  readonly unstartedPodSequence: number;
  /** Its program has not served yet since it was last asked to: a pod that does not answer may just not have begun. */
  readonly isStarting?: boolean;
  /** Stopped on purpose, finished or deleted: when the pod's log is read to its end, nothing follows. */
  readonly isFinished: boolean;
}

/** Before anything is known of an instance. */
export const noTarget: LogTarget = {
  namespace: '',
  podName: undefined,
  podIP: undefined,
  podSequence: 0,
  restarts: 0,
  endingPodSequence: 0,
  unstartedPodSequence: 0,
  isStarting: false,
  isFinished: false,
};

/** The present target, and a way to wait for another. */
export interface TargetWatch {
  current(): LogTarget;
  /** Resolves with the next target that differs from `seen`; at once if it already differs. Rejects with the signal's reason. */
  changed(seen: LogTarget, signal: AbortSignal): Promise<LogTarget>;
}
