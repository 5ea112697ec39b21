/**
 * The keys between the Master and the sidecars. One master key, in a Secret beside the operator, which is made once and never overwritten; from it
 * one key for each Instance, in an immutable Secret beside its pod. The name of that Secret tells keys apart, so that a new master key makes new
 * Secrets and an old pod keeps its own. The operator can make Secrets anywhere and read this one alone.
 */
import { createHash } from 'node:crypto';
import { deriveKey } from '../../../sidecar/protocol.ts';
import type { Instance } from '../../api/v1alpha1/instance.ts';
import { messageOf } from '../../errors.ts';
import type { Logger } from '../../log.ts';
import { managedBy, managedByLabel } from '../../names.ts';
import { ApiError, isReason } from '../../runtime/client.ts';
import type { Client, KubernetesObject, Resource } from '../../runtime/client.ts';
import type { Clock } from '../../runtime/clock.ts';
import { ownerReference } from './owner.ts';
import { Refused } from './refused.ts';

export interface Secret extends KubernetesObject {
  type?: string;
  immutable?: boolean;
  /** Base64. */
  data?: Record<string, string>;
}

export const secrets: Resource<Secret> = { apiVersion: 'v1', kind: 'Secret', plural: 'secrets', namespaced: true };

/** The key in both kinds of Secret. */
export const keyInSecret = 'key';

const keyBytes = 32;
const retryMs = 10_000;

export interface SidecarKeysOptions {
  readonly client: Client;
  readonly namespace: string;
  readonly secretName: string;
  readonly randomBytes: (size: number) => Uint8Array;
  readonly clock: Clock;
  readonly log: Logger;
}

/** Reads the master key once; a Secret that is changed afterwards counts from the next leadership on. */
export class SidecarKeys {
  readonly #options: SidecarKeysOptions;
  #masterKey: Uint8Array | undefined;

  constructor(options: SidecarKeysOptions) {
    this.#options = options;
  }

  /** Makes the master key if there is none, because the Master waits for it. Tries again until it is there; ends with `signal`. */
  async run(signal: AbortSignal): Promise<void> {
    while (!(await this.#isThere(signal))) {
      try {
        await this.#options.clock.after(retryMs, signal);
      } catch {
        // Only the signal ends a wait.
        return;
      }
    }
  }

  /** The master key, for whoever speaks to sidecars. Rejects when it can be neither read nor made now. */
  async read(signal: AbortSignal): Promise<Buffer> {
    return Buffer.from(await this.#master(signal));
  }

  async #isThere(signal: AbortSignal): Promise<boolean> {
    const { log, namespace, secretName } = this.#options;
    try {
      await this.#master(signal);
      return true;
    } catch (error) {
      if (signal.aborted) return false;
      log.error(
        { secret: `${namespace}/${secretName}`, error: messageOf(error) },
        'Cannot read or make the master key',
      );
      return false;
    }
  }

  /** The name of the Secret with the Instance's key; it exists afterwards. Throws `Refused` for what only somebody else can mend. */
  async ensure(instance: Instance, id: string, signal: AbortSignal): Promise<string> {
    const { name, namespace = '', uid = '' } = instance.metadata;
    const key = deriveKey(await this.#masterOrRefused(signal), uid);
    const secretName = keySecretName(name, id, key);
    const secret: Secret = {
      metadata: {
        name: secretName,
        namespace,
        labels: { [managedByLabel]: managedBy },
        ownerReferences: [ownerReference(instance)],
      },
      type: 'Opaque',
      immutable: true,
      data: { [keyInSecret]: key.toString('base64') },
    };
    try {
      await this.#options.client.create(secrets, secret, signal);
    } catch (error) {
      // Nobody can choose this name without the key, and it cannot have been changed since.
      if (isReason(error, 'AlreadyExists')) return secretName;
      if (!isRefusal(error)) throw error;
      throw new Refused('PodRejected', `The API server refuses Secret "${secretName}": ${error.message}`, {
        cause: error,
      });
    }
    return secretName;
  }

  async #masterOrRefused(signal: AbortSignal): Promise<Uint8Array> {
    try {
      return await this.#master(signal);
    } catch (error) {
      if (!isRefusal(error)) throw error;
      const { namespace, secretName } = this.#options;
      const message = `The master key in Secret "${namespace}/${secretName}" can be neither read nor made: ${error.message}`;
      throw new Refused('MasterKeyUnavailable', message, { cause: error });
    }
  }

  async #master(signal: AbortSignal): Promise<Uint8Array> {
    this.#masterKey ??= this.#keyIn(await this.#readOrMake(signal));
    return this.#masterKey;
  }

  async #readOrMake(signal: AbortSignal): Promise<Secret> {
    const { client, namespace, secretName: name, randomBytes } = this.#options;
    const present = await client.get(secrets, { namespace, name }, signal);
    if (present !== undefined) return present;
    const data = { [keyInSecret]: Buffer.from(randomBytes(keyBytes)).toString('base64') };
    const metadata = { namespace, name, labels: { [managedByLabel]: managedBy } };
    try {
      return await client.create(secrets, { metadata, type: 'Opaque', data }, signal);
    } catch (error) {
      if (!isReason(error, 'AlreadyExists')) throw error;
      const made = await client.get(secrets, { namespace, name }, signal);
      if (made === undefined) throw error;
      return made;
    }
  }

  #keyIn(secret: Secret): Uint8Array {
    const key = Buffer.from(secret.data?.[keyInSecret] ?? '', 'base64');
    if (key.length >= keyBytes) return key;
    const { namespace, secretName } = this.#options;
    throw new Refused(
      'MasterKeyUnavailable',
      `Secret "${namespace}/${secretName}" holds ${key.length} bytes under "${keyInSecret}", fewer than ${keyBytes}: delete it, and a new one is made when the operator starts`,
    );
  }
}

export function keySecretName(instanceName: string, id: string, key: Uint8Array): string {
  return `${instanceName}-${id}-sidecar-${createHash('sha256').update(key).digest('hex').slice(0, 8)}`;
}

function isRefusal(error: unknown): error is ApiError {
  return error instanceof ApiError && [400, 403, 404, 422].includes(error.code);
}
