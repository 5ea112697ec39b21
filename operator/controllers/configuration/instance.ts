/** The Instance that a configuration describes. Pure, but for the random end of a name. */
import { createHash, randomInt } from 'node:crypto';
import type { Instance, InstanceSpec } from '../../api/v1alpha1/instance.ts';
import { instances } from '../../api/v1alpha1/instance.ts';
import type { InstanceConfiguration, InstanceConfigurationSpec } from '../../api/v1alpha1/instanceconfiguration.ts';
import { instanceConfigurations, storageVolume } from '../../api/v1alpha1/instanceconfiguration.ts';
import { configurationLabel, floorLabel, templateHashAnnotation } from '../../names.ts';
import type { OwnerReference } from '../../runtime/client.ts';
import { canonical, withoutDefaults } from '../instance/pod.ts';

/** As Kubernetes' own: no vowels, so that no words appear, and nothing that reads like something else. */
const alphabet = 'bcdfghjklmnpqrstvwxz2456789';
const suffixLength = 5;

export interface BuildOptions {
  /** Default: the configuration's name, a hyphen and five random characters. A static configuration always gives its own name. */
  readonly name?: string;
  /** The API server chooses the end of the name; `name` wins. */
  readonly generateName?: string;
  /** Made for the floor: it goes when the floor is lowered, and with the configuration. */
  readonly isFloor: boolean;
}

/**
 * A new Instance from the template, ready to be created. It follows later changes of the template. Throws a TypeError if the configuration has no
 * uid and the Instance should go with it.
 */
export function buildInstance(configuration: InstanceConfiguration, options: BuildOptions): Instance {
  const { name, namespace } = configuration.metadata;
  const { template } = configuration.spec;
  const metadata = {
    ...nameOf(configuration, options),
    ...(namespace === undefined ? {} : { namespace }),
    labels: {
      ...template.metadata?.labels,
      [configurationLabel]: name,
      ...(options.isFloor ? { [floorLabel]: 'true' } : {}),
    },
    annotations: {
      ...template.metadata?.annotations,
      [templateHashAnnotation]: templateHash(configuration.spec),
    },
    ...(options.isFloor ? { ownerReferences: [ownerReference(configuration)] } : {}),
  };
  return {
    apiVersion: instances.apiVersion,
    kind: instances.kind,
    metadata,
    spec: instanceSpecOf(configuration),
  };
}

/** The same Instance with the present template. Whether it should run stays as somebody set it, and so do names that the template lacks. */
export function updateInstance(instance: Instance, configuration: InstanceConfiguration): Instance {
  const { metadata } = configuration.spec.template;
  return {
    ...instance,
    metadata: {
      ...instance.metadata,
      labels: { ...instance.metadata.labels, ...metadata?.labels },
      annotations: {
        ...instance.metadata.annotations,
        ...metadata?.annotations,
        [templateHashAnnotation]: templateHash(configuration.spec),
      },
    },
    spec: { ...instanceSpecOf(configuration), desiredState: instance.spec.desiredState },
  };
}

/** Fingerprint of what Instances get from the configuration. What is a default anyway does not count, as in the fingerprint of a pod. */
export function templateHash(spec: InstanceConfigurationSpec): string {
  const { labels = {}, annotations = {} } = spec.template.metadata ?? {};
  const text = canonical([withoutDefaults({ ...spec.template.spec }), labels, annotations, mountOf(spec) ?? {}]);
  return createHash('sha256').update(text).digest('hex').slice(0, 16);
}

/** A name that is probably free; the API server has the last word. `random` gives an integer from 0 up to its bound, exclusive. */
export function randomName(configuration: string, random: (bound: number) => number = randomInt): string {
  const suffix = Array.from({ length: suffixLength }, () => alphabet.charAt(random(alphabet.length)));
  return `${configuration}-${suffix.join('')}`;
}

/** The one name of the Instance that takes the place of the one with this uid: making it twice makes one. */
export function successorName(configuration: string, uid: string): string {
  const bytes = createHash('sha256').update(uid).digest().values();
  return randomName(configuration, (bound) => (bytes.next().value ?? 0) % bound);
}

/** Selects the Instances of a configuration and their pods. */
export function selectorOf(configuration: string): string {
  return `${configurationLabel}=${configuration}`;
}

/** Ties an Instance to its configuration: the garbage collector removes it afterwards. */
function ownerReference({ metadata: { name, uid } }: InstanceConfiguration): OwnerReference {
  if (uid === undefined) throw new TypeError(`Cannot own an Instance: InstanceConfiguration "${name}" has no uid`);
  const { apiVersion, kind } = instanceConfigurations;
  return { apiVersion, kind, name, uid, controller: true, blockOwnerDeletion: true };
}

function nameOf(
  { metadata, spec }: InstanceConfiguration,
  { name, generateName }: BuildOptions,
): { name: string; generateName?: string } {
  if (spec.static) return { name: metadata.name };
  if (name !== undefined) return { name };
  // An empty name is none: the API server makes one.
  return generateName === undefined ? { name: randomName(metadata.name) } : { name: '', generateName };
}

function instanceSpecOf({ metadata, spec }: InstanceConfiguration): InstanceSpec {
  const mount = mountOf(spec);
  if (mount === undefined) return spec.template.spec;
  const { volumes = [], volumeMounts = [] } = spec.template.spec;
  const claim = { name: storageVolume, persistentVolumeClaim: { claimName: metadata.name } };
  return { ...spec.template.spec, volumes: [...volumes, claim], volumeMounts: [...volumeMounts, mount] };
}

/** Where the storage of a static configuration appears. */
function mountOf(spec: InstanceConfigurationSpec): { name: string; mountPath: string } | undefined {
  const { static: isStatic, storage, template } = spec;
  const mountPath = storage?.mountPath ?? template.spec.workingDir;
  return isStatic && storage !== undefined && mountPath !== undefined ? { name: storageVolume, mountPath } : undefined;
}
