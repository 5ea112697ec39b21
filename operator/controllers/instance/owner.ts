import type { Instance } from '../../api/v1alpha1/instance.ts';
import { instances } from '../../api/v1alpha1/instance.ts';
import { cleanupAnnotation } from '../../names.ts';
import type { KubernetesObject, OwnerReference } from '../../runtime/client.ts';

/** Ties an object to its Instance: the garbage collector removes it afterwards, and foreground deletion waits for it. */
export function ownerReference(instance: Instance): OwnerReference {
  const { name, uid } = instance.metadata;
  if (uid === undefined) throw new TypeError(`Cannot own an object: Instance "${name}" has no uid`);
  return {
    apiVersion: instances.apiVersion,
    kind: instances.kind,
    name,
    uid,
    controller: true,
    blockOwnerDeletion: true,
  };
}

export function isOwnedBy(object: KubernetesObject, instance: Instance): boolean {
  return (
    object.metadata.ownerReferences?.some(
      (owner) => owner.uid === instance.metadata.uid && owner.controller === true,
    ) === true
  );
}

/** Name of the Instance that controls `object`, or for whose pod it cleans up. */
export function ownerName(object: KubernetesObject): string | undefined {
  const owner = object.metadata.ownerReferences?.find((reference) => reference.controller === true);
  if (owner?.kind === instances.kind && owner.apiVersion === instances.apiVersion) return owner.name;
  return owner?.kind === 'Pod' ? object.metadata.annotations?.[cleanupAnnotation] : undefined;
}
