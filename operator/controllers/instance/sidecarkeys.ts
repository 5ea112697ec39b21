/**
 * The keys between the Master and the sidecars. One master key, in a Secret beside the operator, which is made once and never overwritten; from it
 * one key for each Instance, in an immutable Secret beside its pod. The name of that Secret tells keys apart, so that a new master key, which people
 * put in the place of the old one, makes new Secrets and an old pod keeps its own. The operator can make Secrets anywhere and read this one alone.
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
import { keyBytes, masterKeyEntries } from '../../sidecar/masterkey.ts';
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
export const keyInSecret = masterKeyEntries.current;

const retryMs = 10_000;
/** How old the keys that are remembered may be: there is no right to watch the Secret. */
const freshMs = 10_000;

export interface SidecarKeysOptions {
  readonly client: Client;
  readonly namespace: string;
  readonly secretName: string;
  readonly randomBytes: (size: number) => Uint8Array;
  readonly clock: Clock;
  readonly log: Logger;
}

type MasterKeys = readonly [Buffer, ...Buffer[]];

/** A Secret that is changed counts within ten seconds. One that has become unreadable, or is gone, changes nothing until the next leadership. */
export class SidecarKeys {
  readonly #options: SidecarKeysOptions;
  /** The one for new pods first. */
  #keys: MasterKeys | undefined;
  #readAtMs = 0;

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

  /** The master keys, for whoever speaks to sidecars: that of new pods first. Rejects when they can be neither read nor made now. */
  async read(signal: AbortSignal): Promise<readonly Buffer[]> {
    return await this.#masters(signal);
  }

  async #isThere(signal: AbortSignal): Promise<boolean> {
    const { log, namespace, secretName } = this.#options;
    try {
      await this.#masters(signal);
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
      const [current] = await this.#masters(signal);
      return current;
    } catch (error) {
      if (!isRefusal(error)) throw error;
      const { namespace, secretName } = this.#options;
      const message = `The master key in Secret "${namespace}/${secretName}" can be neither read nor made: ${error.message}`;
      throw new Refused('MasterKeyUnavailable', message, { cause: error });
    }
  }

  async #masters(signal: AbortSignal): Promise<MasterKeys> {
    const { client, clock, log, namespace, secretName: name } = this.#options;
    const known = this.#keys;
    if (known === undefined) return this.#remember(this.#keysIn(await this.#readOrMake(signal)));
    if (clock.elapsed() - this.#readAtMs < freshMs) return known;
    try {
      const secret = await client.get(secrets, { namespace, name }, signal);
      // It is not made anew: another key would lock the Masters out of all pods.
      if (secret === undefined) throw new Error('it is gone');
      return this.#remember(this.#keysIn(secret));
    } catch (error) {
      if (signal.aborted) throw error;
      const cause = messageOf(error);
      log.warn(
        { secret: `${namespace}/${name}`, error: cause },
        'Cannot read the master key again: the one before counts on',
      );
      return this.#remember(known);
    }
  }

  #remember(keys: MasterKeys): MasterKeys {
    this.#keys = keys;
    this.#readAtMs = this.#options.clock.elapsed();
    return keys;
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

  #keysIn(secret: Secret): MasterKeys {
    const keyOf = (entry: string): Buffer => Buffer.from(secret.data?.[entry] ?? '', 'base64');
    const current = keyOf(keyInSecret);
    if (current.length === keyBytes) {
      return [current, ...masterKeyEntries.others.map(keyOf).filter((key) => key.length === keyBytes)];
    }
    const { namespace, secretName } = this.#options;
    throw new Refused(
      'MasterKeyUnavailable',
      `Secret "${namespace}/${secretName}" holds ${current.length} bytes under "${keyInSecret}", not ${keyBytes}: delete it, and a new one is made when the operator starts`,
    );
  }
}

export function keySecretName(instanceName: string, id: string, key: Uint8Array): string {
  return `${instanceName}-${id}-sidecar-${createHash('sha256').update(key).digest('hex').slice(0, 8)}`;
}

function isRefusal(error: unknown): error is ApiError {
  return error instanceof ApiError && [400, 403, 404, 422].includes(error.code);
}
