/** What commands work with. They answer from the caches and write through the client; who reads logs and types is given from outside. */
import type { ApiKey } from '../../api/v1alpha1/apikey.ts';
import type { Instance } from '../../api/v1alpha1/instance.ts';
import type { InstanceConfiguration } from '../../api/v1alpha1/instanceconfiguration.ts';
import type { Client, KubernetesObject, Resource } from '../../runtime/client.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { Node } from '../../runtime/nodes.ts';

/** The part of an informer that is needed here. */
export interface Cache<T> {
  readonly hasSynced: boolean;
  /** `key` is `namespace/name`. */
  get(key: string): T | undefined;
  list(): readonly T[];
}

export interface InstanceCache extends Cache<Instance> {
  /** Index `id`. */
  byIndex(index: string, value: string): readonly Instance[];
}

export interface ConfigMap extends KubernetesObject {
  data?: Record<string, string>;
  binaryData?: Record<string, string>;
}

export const configMaps: Resource<ConfigMap> = {
  apiVersion: 'v1',
  kind: 'ConfigMap',
  plural: 'configmaps',
  namespaced: true,
};

/** The logs and the standard input of programs. Both reject with an `OperatorError`. */
export interface ProgramIo {
  /** The last lines, oldest first. */
  tail(instanceUid: string, lines: number, signal: AbortSignal): Promise<readonly string[]>;
  /** Types one line, exactly. */
  type(instanceUid: string, line: string, signal: AbortSignal): Promise<void>;
  /** What keeps a line from being typed; undefined if nothing does. */
  lineFault(line: string): string | undefined;
}

export interface World {
  readonly client: Client;
  readonly clock: Clock;
  /** In [0, 1). */
  readonly random: () => number;
  readonly instances: InstanceCache;
  readonly configurations: Cache<InstanceConfiguration>;
  readonly keys: Cache<ApiKey>;
  readonly templates: Cache<ConfigMap>;
  /** Undefined: the operator is limited to namespaces, and nodes belong to none. */
  readonly nodes: Cache<Node> | undefined;
  readonly io: ProgramIo;
  /** The namespace that Ringmaster is installed in: API keys, and what is named without a namespace. */
  readonly releaseNamespace: string;
  /** Image of configurations that `config create` makes. */
  readonly defaultImage: string | undefined;
  /** This operator. */
  readonly identity: string;
}
