/**
 * The Instance controller: gather (caches) -> plan (pure) -> act -> one status write, and only where something changed.
 *
 *   gather.ts   what is known: the Instance, its pods, its Service     plan.ts    what to do
 *   observe.ts  what a pod's status means                             act.ts     does it
 *   pod.ts, service.ts, overlay.ts, id.ts   the objects and the id    stopper.ts the graceful stop
 *   runtimepod.ts, sidecarpod.ts, dockerpod.ts   pods with a sidecar    status.ts  what to say of it
 *   sidecarkeys.ts  their keys                                        logpattern.ts  readiness by a line of the log
 *   templates.ts    files for the working directory
 */
import { isDeepStrictEqual } from 'node:util';
import type { Instance, InstanceStatus } from '../../api/v1alpha1/instance.ts';
import { instances } from '../../api/v1alpha1/instance.ts';
import { idLabel, instanceFinalizer, operatorFieldManager } from '../../names.ts';
import type { ConditionType, Reason } from '../../names.ts';
import type { Client, KubernetesObject } from '../../runtime/client.ts';
import type { Clock } from '../../runtime/clock.ts';
import { Actor } from './act.ts';
import type { Acted, EventSink, PatternChecker, SidecarSupport } from './act.ts';
import { gather } from './gather.ts';
import type { Caches, Gathered } from './gather.ts';
import type { LogPatternGates } from './logpattern.ts';
import { plan } from './plan.ts';
import type { Plan } from './plan.ts';
import type { SidecarSettings } from './sidecarpod.ts';
import { buildStatus } from './status.ts';
import type { Stopper } from './stopper.ts';

/** How long a refused pod or Service waits for another try; a change of the Instance comes sooner. */
const refusedRetryMs = 30_000;

export interface InstanceReconcilerOptions {
  readonly client: Client;
  readonly caches: Caches;
  readonly stopper: Stopper;
  readonly events: EventSink;
  readonly clock: Clock;
  /** Absent: only the runtime kubernetes can be had. */
  readonly sidecars?: SidecarSupport | undefined;
  readonly patterns?: PatternChecker | undefined;
  readonly gates?: LogPatternGates | undefined;
}

export class InstanceReconciler {
  readonly #client: Client;
  readonly #caches: Caches;
  readonly #events: EventSink;
  readonly #clock: Clock;
  readonly #actor: Actor;
  readonly #sidecar: SidecarSettings | undefined;
  readonly #gates: LogPatternGates | undefined;
  /** Ids given by this process that the cache may not show yet, by Instance uid. */
  readonly #assignedIds = new Map<string, string>();

  constructor(options: InstanceReconcilerOptions) {
    this.#client = options.client;
    this.#caches = options.caches;
    this.#events = options.events;
    this.#clock = options.clock;
    this.#actor = new Actor(options);
    this.#sidecar = options.sidecars?.settings;
    this.#gates = options.gates;
  }

  /** One pass over the Instance `namespace/name`. Throws what is worth another try. */
  async reconcile(key: string, signal: AbortSignal): Promise<{ requeueAfterMs?: number }> {
    const gathered = gather(this.#caches, key, {
      nowMs: this.#clock.now(),
      assignedIds: this.#assignedIds,
      sidecar: this.#sidecar,
    });
    if (gathered === undefined) {
      this.#gates?.forget(key);
      return {};
    }
    const { instance } = gathered.observed;
    this.#remember(instance, gathered.id);
    const decided = plan(gathered.observed);
    this.#gates?.sync(key, instance, decided.pod);
    if (instance.metadata.deletionTimestamp === undefined) await this.#claim(instance, gathered.id, signal);
    const acted = await this.#actor.act(gathered, decided.actions, signal);
    if (acted.isFinalizerGone) this.#assignedIds.delete(instance.metadata.uid ?? '');
    else await this.#writeStatus({ gathered, decided, acted, signal });
    const requeueAfterMs = decided.requeueAfterMs ?? (acted.stall === undefined ? undefined : refusedRetryMs);
    return requeueAfterMs === undefined ? {} : { requeueAfterMs };
  }

  /** Two Instances that appear at the same moment must not draw the same id while the cache lags. */
  #remember(instance: Instance, id: string): void {
    const uid = instance.metadata.uid ?? '';
    if (instance.status?.id === undefined) this.#assignedIds.set(uid, id);
    else this.#assignedIds.delete(uid);
  }

  /** Our finalizer and the id as a label, before the first pod exists. */
  async #claim(instance: Instance, id: string, signal: AbortSignal): Promise<void> {
    const { finalizers = [], labels = {} } = instance.metadata;
    if (finalizers.includes(instanceFinalizer) && labels[idLabel] === id) return;
    const metadata = { ...identity(instance), labels: { [idLabel]: id }, finalizers: [instanceFinalizer] };
    await this.#client.apply(instances, { metadata }, { fieldManager: operatorFieldManager, force: true, signal });
  }

  async #writeStatus(context: { gathered: Gathered; decided: Plan; acted: Acted; signal: AbortSignal }): Promise<void> {
    const { gathered, decided, acted, signal } = context;
    const { instance, nowMs } = gathered.observed;
    const { created, stall } = acted;
    const status = buildStatus({ instance, id: gathered.id, plan: decided, created, stall, nowMs });
    if (isDeepStrictEqual(status, instance.status)) return;
    const patch: KubernetesObject & { status: InstanceStatus } = { metadata: identity(instance), status };
    await this.#client.applyStatus(instances, patch, { fieldManager: operatorFieldManager, force: true, signal });
    this.#report(instance, status);
  }

  /** An Event when something begins that waits for somebody to act, and when its reason changes. */
  #report(instance: Instance, status: InstanceStatus): void {
    for (const type of ['Stalled', 'SidecarUnsupported'] as const satisfies ConditionType[]) {
      const now = status.conditions?.find((condition) => condition.type === type);
      const before = instance.status?.conditions?.find((condition) => condition.type === type);
      if (now?.status !== 'True' || (before?.status === 'True' && before.reason === now.reason)) continue;
      this.#events.record(instance, {
        type: 'Warning',
        reason: now.reason as Reason,
        action: 'Reconcile',
        note: now.message,
      });
    }
  }
}

/** Name, namespace and uid: with the uid, an apply can never make the object anew after somebody deleted it. */
function identity(instance: Instance): { name: string; namespace: string; uid: string } {
  const { name, namespace = '', uid = '' } = instance.metadata;
  return { name, namespace, uid };
}
