/**
 * The InstanceConfiguration controller: gather -> plan (pure) -> act -> one status write, and only where something changed.
 *
 *   gather.ts   what is known: the configuration and its Instances   plan.ts, rollout.ts, static.ts   what to do
 *   observe.ts  what an Instance is to its configuration            act.ts     does it
 *   instance.ts, claim.ts   the objects that are made               status.ts  what to say of it
 *
 * The caches tell whether there is anything to do. If there is, it is decided anew on what the API server has: a cache that does not show yet what
 * the last pass made must not make it twice, remove one too many, or change more at a time than may be away.
 */
import { isDeepStrictEqual } from 'node:util';
import type { InstanceConfiguration, InstanceConfigurationStatus } from '../../api/v1alpha1/instanceconfiguration.ts';
import { instanceConfigurations } from '../../api/v1alpha1/instanceconfiguration.ts';
import { operatorFieldManager } from '../../names.ts';
import type { Reason } from '../../names.ts';
import type { Client, KubernetesObject } from '../../runtime/client.ts';
import { isReason } from '../../runtime/client.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { EventSink } from '../instance/act.ts';
import { Actor } from './act.ts';
import type { Refusal } from './act.ts';
import type { Caches } from './gather.ts';
import { gatherCached, gatherLive } from './gather.ts';
import type { Observed, Plan } from './plan.ts';
import { plan } from './plan.ts';
import { buildConfigurationStatus } from './status.ts';

/** How long what was refused waits for another try; a change of the configuration or of one of its Instances comes sooner. */
const refusedRetryMs = 30_000;

export interface ConfigurationReconcilerOptions {
  readonly client: Client;
  readonly caches: Caches;
  readonly events: EventSink;
  readonly clock: Clock;
  /** For the ends of names: an integer from 0 up to the bound, exclusive. Default: from the system's random numbers. */
  readonly random?: (bound: number) => number;
}

export class ConfigurationReconciler {
  readonly #options: ConfigurationReconcilerOptions;
  readonly #actor: Actor;

  constructor(options: ConfigurationReconcilerOptions) {
    this.#options = options;
    this.#actor = new Actor(options);
  }

  /** One pass over the configuration `namespace/name`. Throws what is worth another try. */
  async reconcile(key: string, signal: AbortSignal): Promise<{ requeueAfterMs?: number }> {
    const { caches, client, clock } = this.#options;
    const cached = gatherCached(caches, key, clock.now());
    if (cached === undefined) return {};
    const first = plan(cached);
    if (first.actions.length === 0) return await this.#finish(cached, first, { refusal: undefined, signal });
    const live = await gatherLive(client, key, { nowMs: clock.now(), signal });
    if (live === undefined) return {};
    const decided = plan(live);
    const refusal = await this.#actor.act(live.configuration, decided.actions, signal);
    return await this.#finish(live, decided, { refusal, signal });
  }

  async #finish(
    { configuration, nowMs }: Observed,
    decided: Plan,
    { refusal, signal }: { refusal: Refusal | undefined; signal: AbortSignal },
  ): Promise<{ requeueAfterMs?: number }> {
    const status = buildConfigurationStatus({ configuration, plan: decided, refusal, nowMs });
    if (!isDeepStrictEqual(status, configuration.status)) await this.#write(configuration, status, signal);
    const waitMs = refusal === undefined ? decided.requeueAfterMs : refusedRetryMs;
    return waitMs === undefined ? {} : { requeueAfterMs: waitMs };
  }

  async #write(
    configuration: InstanceConfiguration,
    status: InstanceConfigurationStatus,
    signal: AbortSignal,
  ): Promise<void> {
    const { name, namespace = '', uid = '' } = configuration.metadata;
    const patch: KubernetesObject & { status: InstanceConfigurationStatus } = {
      metadata: { name, namespace, uid },
      status,
    };
    try {
      const options = { fieldManager: operatorFieldManager, force: true, signal };
      await this.#options.client.applyStatus(instanceConfigurations, patch, options);
    } catch (error) {
      // It was deleted meanwhile: there is nothing left to say.
      if (isReason(error, 'NotFound')) return;
      throw error;
    }
    this.#reportStall(configuration, status);
  }

  #reportStall(configuration: InstanceConfiguration, status: InstanceConfigurationStatus): void {
    const now = status.conditions?.find(({ type }) => type === 'Stalled');
    const before = configuration.status?.conditions?.find(({ type }) => type === 'Stalled');
    if (now?.status !== 'True' || (before?.status === 'True' && before.reason === now.reason)) return;
    const { reason, message } = now;
    this.#options.events.record(configuration, {
      type: 'Warning',
      reason: reason as Reason,
      action: 'Reconcile',
      note: message,
    });
  }
}
