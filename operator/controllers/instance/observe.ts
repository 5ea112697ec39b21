/** What a pod says of the program in it. Pure; the only place that reads a pod's status. */
import { nothingLeft, paths, runtimeMissingExitCode, versionIn } from '../../../sidecar/protocol.ts';
import {
  logPatternGate,
  podHashAnnotation,
  podSequenceAnnotation,
  restartedAtAnnotation,
  sidecarContainer,
  sidecarProtocolLabel,
  stopCommandSentAnnotation,
  templatesContainer,
  workloadContainer,
} from '../../names.ts';
import type { Pod } from '../../runtime/client.ts';
import { viewEngineContainer } from './enginecontainer.ts';
import type { EngineContainer } from './enginecontainer.ts';

/** How the program in a pod is. */
export type Phase =
  /** Not started yet: being scheduled, pulled, created. */
  | 'pending'
  /** Cannot start until somebody changes something. */
  | 'blocked'
  | 'running'
  /** Ended, and about to be started again by the kubelet. */
  | 'restarting'
  /** Ended repeatedly: the kubelet waits before it tries again. */
  | 'crash-loop'
  /** Ended with success, or with a failure that is not retried. */
  | 'succeeded'
  | 'failed'
  /** The pod itself was taken away (evicted, preempted, node shut down): nothing that the program did. */
  | 'lost';

export interface PodView {
  readonly name: string;
  readonly uid: string;
  readonly hash: string | undefined;
  readonly restartedAt: string | undefined;
  readonly sequence: number;
  readonly phase: Phase;
  readonly isReady: boolean;
  readonly restarts: number;
  /** The container of the program, while it runs. */
  readonly containerId: string | undefined;
  /** Undefined where readiness is nothing that the operator finds out. */
  readonly logPattern: LogPatternView | undefined;
  /** Whether the program may have run in it: false only as long as the pod says otherwise. */
  readonly hasStarted: boolean;
  /** One word and one sentence for why it is as it is. */
  readonly cause: string | undefined;
  readonly message: string | undefined;
  /** Image of its sidecar, or of what puts templates into place, where it has one. */
  readonly sidecarImage: string | undefined;
  /** Newest version of the protocol that its sidecar speaks, by the release that made the pod; NaN: nobody knows; undefined: it has no sidecar. */
  readonly sidecarProtocol: number | undefined;
  readonly nodeName: string | undefined;
  readonly podIp: string | undefined;
  readonly hostIp: string | undefined;
  /** When it should be gone, in ms since the epoch; undefined while nobody deletes it. */
  readonly deletionDueMs: number | undefined;
  readonly createdMs: number;
  readonly isStopCommandSent: boolean;
  /** Undefined where nothing of the pod is on a Docker Engine, and where that was settled before. */
  readonly engineContainer: EngineContainer | undefined;
  /** Nothing but the program uses the pod: no other container runs in it, and no port of the node is taken. */
  readonly isProgramAlone: boolean;
  /** It runs, but what ran before it could not start its runtime: until when that counts, and what it said. */
  readonly doubt: { readonly untilMs: number; readonly message: string } | undefined;
}

/** What the pod's condition says of `readiness.logPattern`. */
export interface LogPatternView {
  /** Whether it says so of the container that runs now. */
  readonly isMatched: boolean;
  /** Whether it says so at all: of another container, it has to be taken back. */
  readonly isTrue: boolean;
}

type ContainerStatus = NonNullable<NonNullable<Pod['status']>['containerStatuses']>[number];

/** Reasons to wait that end only when somebody mends the manifest, the image or what it refers to. */
const blockedReasons = new Set([
  'ImagePullBackOff',
  'ErrImagePull',
  'ErrImageNeverPull',
  'InvalidImageName',
  'CreateContainerConfigError',
  'CreateContainerError',
  'RunContainerError',
]);

/** One sentence for all the steps of a normal start, from before there is a pod: each other one would cost a status write. */
export const startingMessage = 'The pod is being started.';

export function viewPod(pod: Pod): PodView {
  const { metadata, status } = pod;
  const container = status?.containerStatuses?.find(({ name }) => name === workloadContainer);
  const { phase, cause, message } = phaseOf(pod, container);
  const containerId = container?.state?.running === undefined ? undefined : container.containerID;
  const logPattern = viewLogPattern(pod, containerId);
  return {
    name: metadata.name,
    uid: metadata.uid ?? '',
    ...viewAnnotations(metadata.annotations ?? {}),
    phase,
    isReady: phase === 'running' && logPattern?.isMatched !== false && isTrue(pod, 'Ready'),
    containerId,
    logPattern,
    restarts: container?.restartCount ?? 0,
    hasStarted: hasStarted(pod, container),
    cause,
    message,
    sidecarImage: ownImage(pod),
    sidecarProtocol: sidecarProtocol(pod),
    nodeName: pod.spec?.nodeName,
    podIp: status?.podIP,
    hostIp: status?.hostIP,
    deletionDueMs: deletionDueMs(pod),
    createdMs: Date.parse(metadata.creationTimestamp ?? '') || 0,
    engineContainer: viewEngineContainer(pod, { launcher: container, hasStarted: hasStarted(pod, container) }),
    isProgramAlone: isProgramAlone(pod),
    doubt: doubtOf(pod, container),
  };
}

/** A launcher that starts anew after it found its runtime missing runs until it finds that again: it gets so long. */
const doubtMs = 15_000;

function doubtOf(pod: Pod, container: ContainerStatus | undefined): PodView['doubt'] {
  const running = container?.state?.running;
  const last = container?.lastState?.terminated;
  const missing = running === undefined || last === undefined ? undefined : runtimeMissing(pod, last);
  if (missing?.message === undefined) return undefined;
  return { untilMs: (Date.parse(running?.startedAt ?? '') || 0) + doubtMs, message: missing.message };
}

/** The view as it counts now: while there is doubt, what was found last still holds. */
export function judgeDoubt(view: PodView, nowMs: number): PodView {
  const { doubt } = view;
  if (doubt === undefined || nowMs >= doubt.untilMs) return { ...view, doubt: undefined };
  return { ...view, phase: 'blocked', isReady: false, cause: 'RuntimeMissing', message: doubt.message };
}

/** A kubelet that never started a container says, when the pod has gone, that it "terminated": without an id, and with null for its start time. */
function hasStarted({ status }: Pod, container: ContainerStatus | undefined): boolean {
  if (container === undefined) return status?.phase !== undefined && status.phase !== 'Pending';
  const { state, lastState, restartCount } = container;
  const ended = state?.terminated;
  const hasEnded = Boolean(ended?.containerID) || Boolean(ended?.startedAt);
  return state?.running !== undefined || hasEnded || lastState?.terminated !== undefined || restartCount > 0;
}

function viewAnnotations(
  annotations: Readonly<Record<string, string>>,
): Pick<PodView, 'hash' | 'restartedAt' | 'sequence' | 'isStopCommandSent'> {
  return {
    hash: annotations[podHashAnnotation],
    restartedAt: annotations[restartedAtAnnotation],
    sequence: Number(annotations[podSequenceAnnotation] ?? 0),
    isStopCommandSent: annotations[stopCommandSentAnnotation] !== undefined,
  };
}

function isTrue({ status }: Pod, wanted: string): boolean {
  return status?.conditions?.some(({ type, status: value }) => type === wanted && value === 'True') === true;
}

/** The message of the condition says which container it speaks of. */
export function matchedMessage(containerId: string): string {
  return `A line of container "${containerId}" matches.`;
}

function viewLogPattern({ spec, status }: Pod, containerId: string | undefined): LogPatternView | undefined {
  if (spec?.readinessGates?.some(({ conditionType }) => conditionType === logPatternGate) !== true) return undefined;
  const condition = status?.conditions?.find(({ type }) => type === logPatternGate);
  const says = condition?.status === 'True';
  const isMatched = says && containerId !== undefined && condition.message === matchedMessage(containerId);
  return { isTrue: says, isMatched };
}

function isProgramAlone({ spec }: Pod): boolean {
  const containers = spec?.containers ?? [];
  const hasSidecar = spec?.initContainers?.some(({ restartPolicy }) => restartPolicy === 'Always') === true;
  const hasHostPort = containers.some(({ ports }) => ports?.some(({ hostPort }) => hostPort !== undefined) === true);
  return containers.length <= 1 && !hasSidecar && !hasHostPort;
}

/**
 * A second delete with a shorter grace period (stopper.ts) moves the time stamp to before that delete: by it alone, a program that took its time
 * to stop would be overdue at once. What it was given when the stop command was sent counts as well.
 */
function deletionDueMs({ metadata, spec }: Pod): number | undefined {
  if (metadata.deletionTimestamp === undefined) return undefined;
  const dueMs = Date.parse(metadata.deletionTimestamp);
  const sentAtMs = Date.parse(metadata.annotations?.[stopCommandSentAnnotation] ?? '');
  const graceMs = (spec?.terminationGracePeriodSeconds ?? 0) * 1000;
  return Number.isNaN(sentAtMs) ? dueMs : Math.max(dueMs, sentAtMs + graceMs);
}

/** Whether the program in it will not run again. */
export function isOver(view: PodView): boolean {
  return view.phase === 'succeeded' || view.phase === 'failed' || view.phase === 'lost';
}

interface Finding {
  phase: Phase;
  cause?: string | undefined;
  message?: string | undefined;
}

function phaseOf(pod: Pod, container: ContainerStatus | undefined): Finding {
  const { status } = pod;
  if (status?.phase === 'Succeeded')
    return { phase: 'succeeded', cause: 'Completed', message: 'The program ended with exit code 0.' };
  if (status?.phase === 'Failed') return failure(pod, container);
  const waiting = container?.state?.waiting;
  if (waiting !== undefined) return waitingPhase(pod, waiting);
  if (container?.state?.running !== undefined) return running(pod, container);
  const ended = container?.state?.terminated;
  if (ended !== undefined)
    return runtimeMissing(pod, ended) ?? { phase: 'restarting', cause: 'Restarting', message: exitMessage(ended) };
  return unscheduled(pod) ?? blockedInit(pod) ?? { phase: 'pending', cause: 'PodPending', message: startingMessage };
}

function running(pod: Pod, container: ContainerStatus): Finding {
  const ready = pod.status?.conditions?.find(({ type }) => type === 'Ready');
  if (isNodeLost(pod)) {
    return { phase: 'running', cause: 'NodeLost', message: `Node "${pod.spec?.nodeName ?? ''}" no longer reports.` };
  }
  const sidecar = sidecarStatus(pod);
  if (sidecar?.state?.waiting !== undefined && sidecar.restartCount > 0) {
    return { phase: 'running', cause: 'SidecarFailed', message: sidecarMessage(sidecar) };
  }
  if (sidecar?.started === false) {
    return {
      phase: 'running',
      cause: 'PodNotReady',
      message: 'The program runs, and its sidecar is being started again.',
    };
  }
  const message =
    unstartedMessage(pod, container) ??
    patternMessage(pod, container) ??
    ready?.message ??
    'The program runs and is not ready yet.';
  return { phase: 'running', cause: 'PodNotReady', message };
}

/** The container is a launcher's, whose program runs elsewhere. */
function unstartedMessage({ spec }: Pod, { started }: ContainerStatus): string | undefined {
  const container = spec?.containers.find(({ name }) => name === workloadContainer);
  return started === false && container?.startupProbe?.httpGet?.path === paths.started
    ? 'The program has not started yet: the Docker Engine of the node is preparing its container.'
    : undefined;
}

/** The kubelet would name a condition or the sidecar, and the user knows only the pattern. */
function patternMessage(pod: Pod, { containerID }: ContainerStatus): string | undefined {
  const hasProbe =
    initContainerIn(pod, sidecarContainer)?.readinessProbe !== undefined && sidecarStatus(pod)?.ready === false;
  const gate = viewLogPattern(pod, containerID);
  if (!hasProbe && gate?.isMatched !== false) return undefined;
  const condition = pod.status?.conditions?.find(({ type }) => type === logPatternGate);
  return condition?.reason === 'PatternTooSlow'
    ? (condition.message ?? '')
    : 'The program runs, and no line of its log matches readiness.logPattern yet.';
}

type InitContainer = NonNullable<NonNullable<Pod['spec']>['initContainers']>[number];

function initContainerIn({ spec }: Pod, wanted: string): InitContainer | undefined {
  return spec?.initContainers?.find(({ name }) => name === wanted);
}

function ownImage(pod: Pod): string | undefined {
  return (initContainerIn(pod, sidecarContainer) ?? initContainerIn(pod, templatesContainer))?.image;
}

function sidecarProtocol(pod: Pod): number | undefined {
  if (initContainerIn(pod, sidecarContainer) === undefined) return undefined;
  return versionIn(pod.metadata.labels?.[sidecarProtocolLabel]);
}

function sidecarStatus({ status }: Pod): ContainerStatus | undefined {
  return status?.initContainerStatuses?.find(({ name }) => name === sidecarContainer);
}

/** What kept the files of templates from being put into place when that was tried last: in this state the kubelet tries it again and again. */
function templateFault({ status }: Pod): Finding | undefined {
  const container = status?.initContainerStatuses?.find(({ name }) => name === templatesContainer);
  const ended = container?.state?.terminated ?? container?.lastState?.terminated;
  if (ended === undefined || ended.exitCode === 0) return undefined;
  const said = ended.message?.trim();
  return {
    phase: status?.phase === 'Failed' ? 'failed' : 'blocked',
    cause: 'TemplateFailed',
    message:
      said === undefined || said === ''
        ? `The files of templates could not be put into place (exit code ${ended.exitCode}). The log of container "${templatesContainer}" of the pod may say why.`
        : said,
  };
}

function sidecarMessage({ state, lastState }: ContainerStatus): string {
  const ended = lastState?.terminated;
  const said = ended === undefined ? (state?.waiting?.message ?? '') : `It ended with exit code ${ended.exitCode}.`;
  return `The sidecar cannot be kept running. ${said} Its log says why: container "${sidecarContainer}" of the pod.`;
}

/** The launcher says by this exit code, and in the termination message, that what it needs is not in the image. */
function runtimeMissing(pod: Pod, { exitCode, message }: { exitCode: number; message?: string }): Finding | undefined {
  if (exitCode !== runtimeMissingExitCode || sidecarStatus(pod) === undefined) return undefined;
  const said = message?.replace(nothingLeft, '').trim();
  return {
    phase: pod.status?.phase === 'Failed' ? 'failed' : 'blocked',
    cause: 'RuntimeMissing',
    message:
      said === undefined || said === ''
        ? `The runtime cannot start the program (exit code ${exitCode}): the log says what the image lacks.`
        : `${said.replace(/\.$/, '')}.`,
  };
}

/**
 * When the kubelet no longer reports, the node life cycle controller turns Ready to False and leaves everything else as it was: the containers
 * still count as ready. The kubelet itself says that of no pod, except of one that waits for a readiness gate.
 */
function isNodeLost({ status }: Pod): boolean {
  if (status?.reason === 'NodeLost') return true;
  const find = (wanted: string): string | undefined => status?.conditions?.find(({ type }) => type === wanted)?.status;
  const isGated = status?.conditions?.some(({ reason }) => reason === 'ReadinessGatesNotReady') === true;
  return find('Ready') === 'False' && find('ContainersReady') === 'True' && !isGated;
}

function waitingPhase(pod: Pod, waiting: { reason?: string; message?: string }): Finding {
  const reason = waiting.reason ?? 'Waiting';
  if (reason === 'CrashLoopBackOff') {
    const last = pod.status?.containerStatuses?.find(({ name }) => name === workloadContainer)?.lastState?.terminated;
    const missing = last === undefined ? undefined : runtimeMissing(pod, last);
    if (missing !== undefined) return missing;
    const ended = last === undefined ? 'The program ended.' : exitMessage(last);
    return { phase: 'crash-loop', cause: 'CrashLoop', message: `${ended} It is tried again after a pause.` };
  }
  const message = waiting.message ?? `The container cannot be started: ${reason}.`;
  if (blockedReasons.has(reason))
    return { phase: 'blocked', cause: /Image|Pull/.test(reason) ? 'ImageUnavailable' : 'ContainerRejected', message };
  return pending(pod);
}

function pending(pod: Pod): Finding {
  return unscheduled(pod) ?? blockedInit(pod) ?? { phase: 'pending', cause: 'PodPending', message: startingMessage };
}

function unscheduled(pod: Pod): Finding | undefined {
  const scheduled = pod.status?.conditions?.find(({ type }) => type === 'PodScheduled');
  if (scheduled?.status !== 'False') return undefined;
  return { phase: 'pending', cause: 'Unschedulable', message: scheduled.message ?? 'No node fits.' };
}

function blockedInit(pod: Pod): Finding | undefined {
  const fault = templateFault(pod);
  if (fault !== undefined) return fault;
  for (const container of pod.status?.initContainerStatuses ?? []) {
    const { name, state } = container;
    const reason = state?.waiting?.reason;
    if (reason === undefined || (!blockedReasons.has(reason) && reason !== 'CrashLoopBackOff')) continue;
    if (name === sidecarContainer && reason === 'CrashLoopBackOff') {
      return { phase: 'blocked', cause: 'SidecarFailed', message: sidecarMessage(container) };
    }
    return {
      phase: 'blocked',
      cause: /Image|Pull/.test(reason) ? 'ImageUnavailable' : 'ContainerRejected',
      message: `Init container "${name}": ${state?.waiting?.message ?? reason}`,
    };
  }
  return undefined;
}

/** A failed pod whose program never got to say why (evicted, preempted, refused by the kubelet) was lost; else the program failed. */
function failure(pod: Pod, container: ContainerStatus | undefined): Finding {
  const { status } = pod;
  if (isTrue(pod, 'DisruptionTarget') || (status?.reason !== undefined && status.reason !== 'DeadlineExceeded')) {
    return {
      phase: 'lost',
      cause: 'PodLost',
      message: `The pod was taken away: ${status?.reason ?? 'disrupted'}. ${status?.message ?? ''}`.trim(),
    };
  }
  const terminated = container?.state?.terminated;
  if (terminated === undefined)
    return templateFault(pod) ?? { phase: 'failed', cause: 'Failed', message: status?.message ?? 'The pod failed.' };
  return runtimeMissing(pod, terminated) ?? { phase: 'failed', cause: 'Failed', message: exitMessage(terminated) };
}

function exitMessage(terminated: { exitCode: number; signal?: number; reason?: string }): string {
  const { exitCode, signal, reason } = terminated;
  if (reason === 'OOMKilled')
    return `The program was ended because it used more memory than its limit (exit code ${exitCode}).`;
  if (signal !== undefined && signal !== 0) return `The program was ended by signal ${signal}.`;
  return `The program ended with exit code ${exitCode}.`;
}
