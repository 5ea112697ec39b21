/** A built-in kind that every API server has and nobody else acts on. */
import type { KubernetesObject, Resource } from '../runtime/client.ts';

export interface ConfigMap extends KubernetesObject {
  data?: Record<string, string>;
}

export const configMaps: Resource<ConfigMap> = {
  apiVersion: 'v1',
  kind: 'ConfigMap',
  plural: 'configmaps',
  namespaced: true,
};
