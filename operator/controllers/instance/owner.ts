import type { Instance } from '../../api/v1alpha1/instance.ts';
import { instances } from '../../api/v1alpha1/instance.ts';
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

/** Name of the Instance that controls `object`, if one does. */
export function ownerName(object: KubernetesObject): string | undefined {
  const owner = object.metadata.ownerReferences?.find((reference) => reference.controller === true);
  return owner?.kind === instances.kind && owner.apiVersion === instances.apiVersion ? owner.name : undefined;
}
