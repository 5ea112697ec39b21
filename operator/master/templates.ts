/** The templates of the release: ConfigMaps that carry our label. Only the names of their files are kept. */
import { templateLabel } from '../names.ts';
import type { KubernetesObject, Resource } from '../runtime/client.ts';

export interface TemplateMap extends KubernetesObject {
  data?: Readonly<Record<string, string>>;
  binaryData?: Readonly<Record<string, string>>;
}

export const templateMaps: Resource<TemplateMap> = {
  apiVersion: 'v1',
  kind: 'ConfigMap',
  plural: 'configmaps',
  namespaced: true,
};

/** Whatever the value of the label is. */
export const templateSelector = templateLabel;

/** Field names are the protocol's. */
export interface TemplateInfo {
  readonly name: string;
  readonly namespace: string;
  readonly files: readonly string[];
}

/** What is kept of a ConfigMap: its files may have a megabyte. */
export function trimTemplate({ metadata, data, binaryData }: TemplateMap): TemplateMap {
  const { name, namespace, uid, resourceVersion } = metadata;
  return {
    metadata: {
      name,
      ...(namespace && { namespace }),
      ...(uid && { uid }),
      ...(resourceVersion && { resourceVersion }),
    },
    data: Object.fromEntries(Object.keys({ ...data, ...binaryData }).map((file) => [file, ''])),
  };
}

/** PURE: all of them, by name. */
export function toTemplateInfos(maps: readonly TemplateMap[]): TemplateInfo[] {
  return maps.map(toInfo).sort((a, b) => (a.name < b.name ? -1 : 1));
}

function toInfo({ metadata, data, binaryData }: TemplateMap): TemplateInfo {
  const files = Object.keys({ ...data, ...binaryData }).sort();
  return { name: metadata.name, namespace: metadata.namespace ?? '', files };
}
