/**
 * Every name that Kubernetes or a user sees: group, kinds, labels, annotations, finalizers, condition types, reasons.
 * They are API: never renamed, only added to.
 */

/** API group of all custom resources. */
export const group = 'ringmaster.dev';
/** The one served and stored version. */
export const version = 'v1alpha1';
export const apiVersion = `${group}/${version}`;

/** Owner of the fields that the operator applies (server-side apply). */
export const operatorFieldManager = 'ringmaster-operator';

/** Keeps an Instance until its pod has been stopped gracefully. */
export const instanceFinalizer = `${group}/graceful-stop`;

/** Keeps a pod of the runtime `docker` until nothing of it is left on the Docker Engine of its node. */
export const dockerFinalizer = `${group}/docker-container`;
/** On a pod that removes what another pod left on a Docker Engine: the name of the Instance that both are for. */
export const cleanupAnnotation = `${group}/cleanup-for`;

/** The six-character instance id; on Instances, pods and Services. */
export const idLabel = `${group}/id`;
/** Name of the Instance that an owned object belongs to. */
export const instanceLabel = `${group}/instance`;
/** Hash of the pod-relevant spec that a pod was made from. */
export const podHashAnnotation = `${group}/pod-hash`;
/** Set on an Instance to any new value: its pod is replaced once. */
export const restartedAtAnnotation = `${group}/restarted-at`;
/** On a pod: how many pods its Instance has had, this one included. */
export const podSequenceAnnotation = `${group}/pod-sequence`;
/** On a pod that is being stopped: the stop command was written to its standard input (it is never written twice). */
export const stopCommandSentAnnotation = `${group}/stop-command-sent`;

/** On a pod: the newest version of the sidecar's protocol that the release spoke which made it. Absent: 1. */
export const sidecarProtocolLabel = `${group}/sidecar-protocol`;

/** Name of the InstanceConfiguration that an Instance is of; on Instances, pods and Services. */
export const configurationLabel = `${group}/configuration`;
/** On an Instance that the loop made for a configuration's floor; only these are removed when the floor is lowered. */
export const floorLabel = `${group}/floor`;
/** Hash of the template that an Instance of a configuration was made from. */
export const templateHashAnnotation = `${group}/template-hash`;
/** On ConfigMaps whose files are a template. */
export const templateLabel = `${group}/template`;
/** Name of the Master's pod that issued a ConsoleCommand: each replica watches its own alone. */
export const masterLabel = `${group}/master`;
/** On a ConsoleCommand: the IP address of the Master that waits for it, to which an answer may be sent ahead of the status. */
export const answerToAnnotation = `${group}/answer-to`;

/** What an external heartbeat last said of an Instance: its state, and when (milliseconds since 1970). */
export const reportedStateAnnotation = `${group}/reported-state`;
export const lastHeartbeatAnnotation = `${group}/last-heartbeat`;

/** Owner of the fields that a console command applies: GitOps tools see that it was not they. */
export const consoleFieldManager = 'ringmaster-console';
export const consoleRestartFieldManager = 'ringmaster-console-restart';

export const managedByLabel = 'app.kubernetes.io/managed-by';
export const managedBy = 'ringmaster';

/** The container of an instance pod that runs the workload. */
export const workloadContainer = 'instance';
/** The native sidecar in the pod of every runtime but `kubernetes`. */
export const sidecarContainer = 'ringmaster-sidecar';
/** The init container that puts template files into the working directory. */
export const templatesContainer = 'ringmaster-templates';
/** Readiness gate, and its condition, of a pod whose log the operator itself reads for `readiness.logPattern`. */
export const logPatternGate = `${group}/log-pattern`;

/**
 * Condition types. kstatus reads three: Ready sums up; Reconciling and Stalled are true only when something is wrong or under way. It passes over
 * SidecarUnsupported, which is there only while it is true: the program runs, and nobody can read its log or type.
 */
export const conditionTypes = ['Ready', 'Reconciling', 'Stalled', 'SidecarUnsupported'] as const;
export type ConditionType = (typeof conditionTypes)[number];

/** Condition and Event reasons. Each is one word for one cause. */
export const reasons = [
  // At rest
  'Ready',
  'Stopped',
  'Completed',
  'Accepted',
  // Under way
  'PodPending',
  'Unschedulable',
  'PodNotReady',
  'Restarting',
  'PodLost',
  'NodeLost',
  'Stopping',
  'MinimumNotReached',
  'RollingOut',
  'CommandRunning',
  // Stalled: somebody has to act
  'InvalidSpec',
  'PodRejected',
  'PodConflict',
  'ServiceRejected',
  'ServiceConflict',
  'ImageUnavailable',
  'RuntimeDisabled',
  'RuntimeMissing',
  'TemplateFailed',
  'SidecarFailed',
  'MasterKeyUnavailable',
  'CrashLoop',
  'Failed',
  'InstanceStalled',
  'InstanceRejected',
  'InstanceConflict',
  'StorageRejected',
  'ForeignNamespace',
  'Expired',
  'UnknownCommand',
  'CommandFailed',
  'Interrupted',
  // Beside whatever else is: the program runs on
  'SidecarTooOld',
  'SidecarTooNew',
  // Events only
  'PodCreated',
  'PodReplaced',
  'StopCommandSent',
  'StopCommandFailed',
  'ContainerRemoved',
  'ContainerLeft',
  'InstancesCreated',
  'InstancesUpdated',
  'InstancesReplaced',
  'InstancesRemoved',
  'InstancesReleased',
  'StorageCreated',
  'CommandRun',
] as const;
export type Reason = (typeof reasons)[number];
