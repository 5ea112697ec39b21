/** The ApiKey controller: says whether a key counts. It changes nothing else; the Master reads the keys by itself. */
import { isDeepStrictEqual } from 'node:util';
import type { ApiKey, ApiKeyStatus } from '../../api/v1alpha1/apikey.ts';
import { apiKeys } from '../../api/v1alpha1/apikey.ts';
import { makeCondition } from '../../api/v1alpha1/meta.ts';
import { operatorFieldManager } from '../../names.ts';
import type { Reason } from '../../names.ts';
import type { Client, KubernetesObject } from '../../runtime/client.ts';
import type { Clock } from '../../runtime/clock.ts';

/** A timer can't wait longer than 2^31 - 1 ms; a far expiry is looked at again once a day. */
const expiryLookMs = 24 * 60 * 60 * 1000;

export interface ApiKeyReconcilerOptions {
  readonly client: Client;
  readonly keys: { get(key: string): ApiKey | undefined };
  /** The namespace in which keys count: the one that Ringmaster is installed in. */
  readonly releaseNamespace: string;
  readonly clock: Clock;
}

export class ApiKeyReconciler {
  readonly #options: ApiKeyReconcilerOptions;

  constructor(options: ApiKeyReconcilerOptions) {
    this.#options = options;
  }

  async reconcile(key: string, signal: AbortSignal): Promise<{ requeueAfterMs?: number }> {
    const { keys, releaseNamespace, clock, client } = this.#options;
    const apiKey = keys.get(key);
    if (apiKey === undefined || apiKey.metadata.deletionTimestamp !== undefined) return {};
    const nowMs = clock.now();
    const status = buildKeyStatus(apiKey, { releaseNamespace, nowMs });
    if (!isDeepStrictEqual(status, apiKey.status)) {
      const { name, namespace = '', uid = '' } = apiKey.metadata;
      const patch: KubernetesObject & { status: ApiKeyStatus } = { metadata: { name, namespace, uid }, status };
      await client.applyStatus(apiKeys, patch, { fieldManager: operatorFieldManager, force: true, signal });
    }
    const leftMs = apiKey.spec.expiresAt === undefined ? undefined : Date.parse(apiKey.spec.expiresAt) - nowMs;
    return leftMs === undefined || leftMs <= 0 ? {} : { requeueAfterMs: Math.min(leftMs, expiryLookMs) };
  }
}

/** Pure. */
export function buildKeyStatus(apiKey: ApiKey, options: { releaseNamespace: string; nowMs: number }): ApiKeyStatus {
  const { isReady, reason, message } = judge(apiKey, options);
  const { generation } = apiKey.metadata;
  const context = { before: apiKey.status?.conditions, generation, nowMs: options.nowMs };
  return {
    ...(generation === undefined ? {} : { observedGeneration: generation }),
    conditions: [
      makeCondition({ type: 'Ready', reason, message, holds: isReady }, context),
      makeCondition({ type: 'Stalled', reason, message, holds: !isReady }, context),
    ],
  };
}

function judge(
  apiKey: ApiKey,
  options: { releaseNamespace: string; nowMs: number },
): { isReady: boolean; reason: Reason; message: string } {
  const { namespace } = apiKey.metadata;
  if (namespace !== options.releaseNamespace) {
    const message = `Keys count only in namespace "${options.releaseNamespace}": create it there.`;
    return { isReady: false, reason: 'ForeignNamespace', message };
  }
  const { expiresAt } = apiKey.spec;
  if (expiresAt !== undefined && Date.parse(expiresAt) <= options.nowMs) {
    return { isReady: false, reason: 'Expired', message: `The key expired at ${expiresAt}.` };
  }
  return { isReady: true, reason: 'Accepted', message: 'The key counts.' };
}
