/** Carries out what plan.ts decided. Every action may be repeated: the next pass sees what this one did, or does it again. */
import type { Instance } from '../../api/v1alpha1/instance.ts';
import { instances } from '../../api/v1alpha1/instance.ts';
import { messageOf } from '../../errors.ts';
import { dockerFinalizer, instanceFinalizer, operatorFieldManager } from '../../names.ts';
import type { Reason } from '../../names.ts';
import { ApiError, isReason, pods, services } from '../../runtime/client.ts';
import type { Client, KubernetesObject, Resource } from '../../runtime/client.ts';
import type { CleanupAction } from './dockercleanup.ts';
import { buildCleanupPod } from './dockerpod.ts';
import type { Gathered } from './gather.ts';
import { isOwnedBy } from './owner.ts';
import type { Action } from './plan.ts';
import { buildPod, podName } from './pod.ts';
import { Refused } from './refused.ts';
import type { SidecarKeys } from './sidecarkeys.ts';
import { needsSidecar } from './sidecarpod.ts';
import type { PodContext, SidecarSettings } from './sidecarpod.ts';
import type { Stall } from './status.ts';
import type { Stopper } from './stopper.ts';

export interface EventSink {
  record(
    regarding: KubernetesObject,
    event: { type: 'Normal' | 'Warning'; reason: Reason; action: string; note: string },
  ): void;
}

/** What acting has changed, for the status. */
export interface Acted {
  created: { name: string; sequence: number } | undefined;
  stall: Stall | undefined;
  isFinalizerGone: boolean;
}

/** All that runtimes with a sidecar need besides the Instance. */
export interface SidecarSupport {
  readonly settings: SidecarSettings;
  readonly keys: Pick<SidecarKeys, 'ensure'>;
}

export interface PatternChecker {
  /** Why the pattern cannot be used, in words; undefined: it can. */
  check(pattern: string): Promise<string | undefined>;
}

export interface ActorOptions {
  readonly client: Client;
  readonly stopper: Stopper;
  readonly events: EventSink;
  readonly sidecars?: SidecarSupport | undefined;
  readonly patterns?: PatternChecker | undefined;
}

export class Actor {
  readonly #client: Client;
  readonly #stopper: Stopper;
  readonly #events: EventSink;
  readonly #sidecars: SidecarSupport | undefined;
  readonly #patterns: PatternChecker | undefined;

  constructor(options: ActorOptions) {
    this.#client = options.client;
    this.#sidecars = options.sidecars;
    this.#patterns = options.patterns;
    this.#stopper = options.stopper;
    this.#events = options.events;
  }

  /** A refusal by the API server becomes `stall`; anything else that fails is thrown, and tried again. */
  async act(gathered: Gathered, actions: readonly Action[], signal: AbortSignal): Promise<Acted> {
    const acted: Acted = { created: undefined, stall: undefined, isFinalizerGone: false };
    for (const action of actions) {
      try {
        await this.#perform(action, { gathered, acted, signal });
      } catch (error) {
        const stall = refusal(error, action);
        if (stall === undefined) throw error;
        acted.stall = stall;
      }
    }
    return acted;
  }

  async #perform(action: Action, context: { gathered: Gathered; acted: Acted; signal: AbortSignal }): Promise<void> {
    const { gathered, acted, signal } = context;
    const { instance } = gathered.observed;
    const { name, namespace = '' } = instance.metadata;
    switch (action.type) {
      case 'create-pod':
        acted.created = await this.#createPod(gathered, action, signal);
        return;
      case 'stop-pod':
        await this.#stopPod(instance, action);
        return;
      case 'remove-pod':
        await this.#client.remove(pods, { namespace, name: action.pod.name }, { uid: action.pod.uid, signal });
        return;
      case 'apply-service':
        await this.#applyService(gathered, signal);
        return;
      case 'remove-service':
        await this.#client.remove(services, { namespace, name }, uidOf(gathered.service, signal));
        return;
      case 'remove-finalizer':
        acted.isFinalizerGone = true;
        await this.#removeFinalizer({ resource: instances, object: instance, finalizer: instanceFinalizer }, signal);
        return;
      case 'release-pod':
        await this.#releasePod(gathered, action, signal);
        return;
      case 'create-cleanup':
        await this.#createCleanup(gathered, action, signal);
        return;
      case 'remove-cleanup': {
        const { name: cleanup, uid } = action.cleanup;
        await this.#client.remove(pods, { namespace, name: cleanup }, { uid, signal });
        return;
      }
    }
  }

  /** `create`, not apply: an apply would take a pod of somebody else over. */
  async #createPod(
    gathered: Gathered,
    action: Action & { type: 'create-pod' },
    signal: AbortSignal,
  ): Promise<Acted['created']> {
    const { instance } = gathered.observed;
    const { sequence } = action;
    const name = podName(instance, gathered.id, sequence);
    const created = { name, sequence };
    await this.#refuseSecondPod(gathered, name, signal);
    const pod = buildPod(instance, { id: gathered.id, sequence }, await this.#prepare(gathered, signal));
    try {
      await this.#client.create(pods, pod, signal);
    } catch (error) {
      if (!isReason(error, 'AlreadyExists')) throw error;
      // Made before, by us, and not in the cache yet; or somebody else's.
      const present = await this.#client.get(pods, { namespace: instance.metadata.namespace ?? '', name }, signal);
      if (present === undefined || isOwnedBy(present, instance)) return created;
      throw new Refused('PodConflict', `Pod "${name}" exists and is not this Instance's: delete it`, {
        cause: error,
      });
    }
    // What every Instance begins with is no news: its status names the pod, and the pod has Events of its own. One write less for each.
    if (action.because === 'first') return created;
    const why = {
      started: ', to start again',
      replaced: ', in place of the old one',
      lost: ', in place of the lost one',
    }[action.because];
    this.#events.record(instance, {
      type: 'Normal',
      reason: 'PodCreated',
      action: 'CreatePod',
      note: `Made pod "${name}"${why}.`,
    });
    return created;
  }

  /** What must exist before the pod, and hold of the Instance, beyond what the API server checked. */
  async #prepare({ id, observed: { instance } }: Gathered, signal: AbortSignal): Promise<PodContext | undefined> {
    const { spec } = instance;
    const pattern = spec.readiness?.logPattern;
    const fault = pattern === undefined ? undefined : await this.#patterns?.check(pattern);
    if (fault !== undefined) throw new Refused('InvalidSpec', `spec.readiness.logPattern cannot be used: ${fault}`);
    if (this.#sidecars === undefined) return undefined;
    const { keys, settings } = this.#sidecars;
    if (!needsSidecar(spec.runtime)) return { settings };
    return { settings, keySecret: await keys.ensure(instance, id, signal) };
  }

  /**
   * The caches of Instances and pods are filled by two watches, and either may be ahead. An empty pod cache beside a status that names a pod
   * may only mean that the pod has not arrived yet: one look at the API server before another pod is made.
   */
  async #refuseSecondPod({ observed, pods: cached }: Gathered, name: string, signal: AbortSignal): Promise<void> {
    const { metadata, status } = observed.instance;
    if (cached.length > 0 || status?.podName === undefined || status.podName === name) return;
    const present = await this.#client.get(pods, { namespace: metadata.namespace ?? '', name: status.podName }, signal);
    if (present !== undefined && isOwnedBy(present, observed.instance)) {
      throw new Error(`Cannot make pod "${name}" yet: pod "${status.podName}" still exists and is not in the cache`);
    }
  }

  async #stopPod(instance: Instance, action: Action & { type: 'stop-pod' }): Promise<void> {
    const { pod, because } = action;
    const { command, error } = await this.#stopper.stop(instance, pod);
    const record = (type: 'Normal' | 'Warning', reason: Reason, note: string): void => {
      this.#events.record(instance, { type, reason, action: 'StopPod', note });
    };
    if (pod.deletionDueMs === undefined) {
      const why = {
        stopped: 'it should not run',
        replaced: 'the Instance was changed',
        deleted: 'the Instance is being deleted',
      }[because];
      record('Normal', because === 'replaced' ? 'PodReplaced' : 'Stopping', `Stopping pod "${pod.name}": ${why}.`);
    }
    if (command === 'sent') record('Normal', 'StopCommandSent', `Wrote the stop command to pod "${pod.name}".`);
    if (command === 'failed') {
      const note = `Cannot write the stop command to pod "${pod.name}": ${error ?? 'unknown'}. SIGTERM follows after the grace period.`;
      record('Warning', 'StopCommandFailed', note);
    }
  }

  async #applyService(gathered: Gathered, signal: AbortSignal): Promise<void> {
    const { desiredService: desired, service, observed } = gathered;
    if (desired === undefined || (service !== undefined && covers(service, desired))) return;
    if (service === undefined) {
      // The cache holds only what is ours: a Service of somebody else under this name must not be taken over.
      const { name, namespace = '' } = desired.metadata;
      const present = await this.#client.get(services, { namespace, name }, signal);
      if (present !== undefined && !isOwnedBy(present, observed.instance)) {
        throw new Refused(
          'ServiceConflict',
          `Service "${name}" exists and is not this Instance's: rename one of them, or set spec.service.type to None`,
        );
      }
    }
    await this.#client.apply(services, desired, { fieldManager: operatorFieldManager, force: true, signal });
  }

  async #releasePod(
    { pods: present, observed: { instance } }: Gathered,
    { pod, outcome }: CleanupAction & { type: 'release-pod' },
    signal: AbortSignal,
  ): Promise<void> {
    const object = present.find(({ metadata }) => metadata.uid === pod.uid);
    if (object === undefined) return;
    await this.#removeFinalizer({ resource: pods, object, finalizer: dockerFinalizer }, signal);
    if (outcome === 'none') return;
    const where = `the container of pod "${pod.name}" from the Docker Engine of node "${pod.nodeName ?? ''}"`;
    const action = 'CleanUp';
    this.#events.record(
      instance,
      outcome === 'removed'
        ? { type: 'Normal', reason: 'ContainerRemoved', action, note: `Removed ${where}: its launcher could not.` }
        : {
            type: 'Warning',
            reason: 'ContainerLeft',
            action,
            note: `Did not remove ${where}: ${outcome.leftBecause}.`,
          },
    );
  }

  async #createCleanup(
    gathered: Gathered,
    { pod, isLastTry }: CleanupAction & { type: 'create-cleanup' },
    signal: AbortSignal,
  ): Promise<void> {
    const { instance } = gathered.observed;
    const old = gathered.pods.find(({ metadata }) => metadata.uid === pod.uid);
    if (old === undefined || this.#sidecars === undefined) return;
    try {
      await this.#client.create(pods, buildCleanupPod(instance, old, this.#sidecars.settings), signal);
    } catch (error) {
      // Not in the cache yet.
      if (isReason(error, 'AlreadyExists')) return;
      if (!isLastTry || !isRefusal(error)) throw error;
      const leftBecause = `the API server refuses the pod for it: ${messageOf(error)}`;
      await this.#releasePod(gathered, { type: 'release-pod', pod, outcome: { leftBecause } }, signal);
    }
  }

  async #removeFinalizer<T extends KubernetesObject>(
    { resource, object, finalizer }: { resource: Resource<T>; object: T; finalizer: string },
    signal: AbortSignal,
  ): Promise<void> {
    const { name, namespace = '', uid, resourceVersion, finalizers = [] } = object.metadata;
    if (!finalizers.includes(finalizer)) return;
    const others = finalizers.filter((other) => other !== finalizer);
    try {
      await this.#client.mergePatch(
        resource,
        { namespace, name },
        { metadata: { uid, resourceVersion, finalizers: others } },
        signal,
      );
    } catch (error) {
      if (!isReason(error, 'NotFound')) throw error;
    }
  }
}

/** What the API server says no to until somebody acts, as a condition; undefined for what is worth another try at once. */
function refusal(error: unknown, action: Action): Stall | undefined {
  if (error instanceof Refused) return { reason: error.reason, message: `${error.message}.` };
  if (!isRefusal(error)) return undefined;
  if (action.type === 'apply-service')
    return { reason: 'ServiceRejected', message: `The API server refuses the Service: ${messageOf(error)}` };
  if (action.type === 'create-cleanup')
    return {
      reason: 'PodRejected',
      message: `The API server refuses the pod that is to remove what pod "${action.pod.name}" left on the Docker Engine: ${messageOf(error)}`,
    };
  if (action.type === 'create-pod')
    return { reason: 'PodRejected', message: `The API server refuses the pod: ${messageOf(error)}` };
  return undefined;
}

function isRefusal(error: unknown): error is ApiError {
  return error instanceof ApiError && [400, 403, 422].includes(error.code);
}

function uidOf(object: KubernetesObject | undefined, signal: AbortSignal): { uid?: string; signal: AbortSignal } {
  return object?.metadata.uid === undefined ? { signal } : { uid: object.metadata.uid, signal };
}

/** Whether everything in `wanted` is in `actual` as well; lists must be equally long. What the server or others add does not count. */
export function covers(actual: unknown, wanted: unknown): boolean {
  if (Array.isArray(wanted)) {
    return (
      Array.isArray(actual) &&
      actual.length === wanted.length &&
      wanted.every((item, index) => covers(actual[index], item))
    );
  }
  if (typeof wanted !== 'object' || wanted === null) return actual === wanted;
  if (typeof actual !== 'object' || actual === null) return false;
  return Object.entries(wanted).every(([key, value]) => covers((actual as Record<string, unknown>)[key], value));
}
