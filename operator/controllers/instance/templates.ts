/**
 * Adds to a pod what puts the files of `spec.templates` into the working directory: an init container of our image, the ConfigMaps as volumes, and an
 * empty volume at the working directory where the Instance has none. Pure.
 *
 * The ConfigMaps are mounted by the kubelet, so the operator needs no right to read any. They are optional to the kubelet, which would otherwise
 * wait for a missing one without a word in the pod's status: the init container says which one is missing, and finds it once it is there.
 */
import { posix } from 'node:path';
import { templateVariables } from '../../../sidecar/protocol.ts';
import type { TemplateSource } from '../../../sidecar/protocol.ts';
import type { Instance, InstanceSpec } from '../../api/v1alpha1/instance.ts';
import { templatesContainer, workloadContainer } from '../../names.ts';
import type { Json, SidecarSettings } from './sidecarpod.ts';
import { hasTemplates, literal, restricted, userId } from './sidecarpod.ts';

const workVolume = 'ringmaster-work';
const templateVolume = (index: number): string => `ringmaster-template-${index}`;
/** The program's folders are mounted below this in the init container: at their own paths they might hide what it is made of. */
const targetDirectory = '/ringmaster-target';
const sourceDirectory = (index: number): string => `/ringmaster-templates/${index}`;

export interface TemplateOptions {
  readonly instance: Instance;
  readonly id: string;
  readonly settings: SidecarSettings | undefined;
}

/**
 * `pod` is the pod spec with the overlay of the user in it, so that volumes that come from there count. Without templates it is returned as it is.
 * The init container is the last one: what others prepare is there before it. Throws a TypeError without `settings`.
 */
export function withTemplates(pod: Json, { instance, id, settings }: TemplateOptions): Json {
  const { spec } = instance;
  if (!hasTemplates(spec)) return pod;
  if (settings === undefined) throw new TypeError('Cannot build a pod: templates need the image of the sidecar');
  const containers = pod['containers'] as Json[];
  const program = containers.find(({ name }) => name === workloadContainer) ?? {};
  const given = listOf(program['volumeMounts']);
  const workingDir = clean(spec.workingDir ?? '');
  const own = baseOf(given, workingDir);
  const base = own ?? { name: workVolume, mountPath: workingDir };
  const mounts = own === undefined ? [...given, base] : given;
  const sources = sourcesOf(spec, { workingDir, base: pathOf(base) });
  const initContainer = {
    name: templatesContainer,
    image: settings.image,
    imagePullPolicy: settings.pullPolicy,
    command: ['node', '/app/sidecar/templates.js'],
    env: [...jobVariables(id, pathOf(base), sources), ...valueVariables(instance, id)],
    resources: settings.resources,
    securityContext: { ...restricted, ...userOf(program, pod) },
    // What it says when it fails is one line.
    terminationMessagePolicy: 'FallbackToLogsOnError',
    volumeMounts: [...targetMounts(mounts, base, sources), ...sources.map(sourceMount)],
  };
  return {
    ...pod,
    initContainers: [...listOf(pod['initContainers']), initContainer],
    containers: containers.map((container) =>
      container === program ? { ...container, volumeMounts: mounts } : container,
    ),
    volumes: [
      ...listOf(pod['volumes']),
      ...(own === undefined ? [{ name: workVolume, emptyDir: {} }] : []),
      ...sources.map(({ name }, index) => ({
        name: templateVolume(index),
        configMap: { name, optional: true, defaultMode: 0o444 },
      })),
    ],
  };
}

/** The innermost mount that has the working directory in it. */
function baseOf(mounts: readonly Json[], workingDir: string): Json | undefined {
  return mounts
    .filter((mount) => isWithin(workingDir, pathOf(mount)))
    .sort((a, b) => pathOf(b).length - pathOf(a).length)[0];
}

function sourcesOf(spec: InstanceSpec, { workingDir, base }: { workingDir: string; base: string }): TemplateSource[] {
  return (spec.templates ?? []).map(({ name, path = '.', replaceIn = [] }, index) => {
    const folder = posix.join(workingDir, path);
    return { name, files: sourceDirectory(index), path: posix.relative(base, folder), folder, replaceIn };
  });
}

function jobVariables(id: string, base: string, sources: readonly TemplateSource[]): Json[] {
  const { root, mark, source } = templateVariables;
  return [
    { name: root, value: literal(`${targetDirectory}${base}`) },
    { name: mark, value: id },
    ...sources.map((each, index) => ({ name: `${source}${index}`, value: literal(JSON.stringify(each)) })),
  ];
}

/** An Instance without ports has no value for `%PORT%`, which then stays as it is. */
function valueVariables({ metadata, spec }: Instance, id: string): Json[] {
  const port = spec.ports?.[0]?.port;
  const values = {
    ...spec.properties,
    INSTANCE_ID: id,
    INSTANCE_NAME: metadata.name,
    ...(port === undefined ? {} : { PORT: String(port) }),
  };
  return [
    ...Object.entries(values).map(([key, value]) => ({
      name: `${templateVariables.value}${key}`,
      value: literal(value),
    })),
    { name: `${templateVariables.value}NODE`, valueFrom: { fieldRef: { fieldPath: 'spec.nodeName' } } },
  ];
}

/** Whom the program runs as, where the Instance says so: what it wrote on a kept volume is then its own. Never root. */
function userOf(program: Json, pod: Json): Json {
  const contexts = [program['securityContext'], pod['securityContext']] as (Json | undefined)[];
  const find = (field: string): number | undefined =>
    contexts.map((context) => context?.[field]).find((value) => typeof value === 'number');
  const user = find('runAsUser');
  const group = find('runAsGroup');
  if (user === undefined || user === 0) return {};
  return { runAsUser: user, runAsGroup: group === undefined || group === 0 ? userId : group };
}

/** The volume with the working directory in it, and of those further in the ones that a template writes into: nothing else is shown to it. */
function targetMounts(mounts: readonly Json[], base: Json, sources: readonly TemplateSource[]): Json[] {
  const isNeeded = (mount: Json): boolean =>
    mount !== base &&
    isWithin(pathOf(mount), pathOf(base)) &&
    sources.some(({ folder }) => isWithin(folder, pathOf(mount)) || posix.dirname(pathOf(mount)) === folder);
  return [base, ...mounts.filter(isNeeded)].map((mount) => ({
    ...mount,
    mountPath: `${targetDirectory}${pathOf(mount)}`,
  }));
}

function sourceMount({ files }: TemplateSource, index: number): Json {
  return { name: templateVolume(index), mountPath: files, readOnly: true };
}

function isWithin(path: string, folder: string): boolean {
  return path === folder || path.startsWith(`${folder}/`);
}

function pathOf(mount: Json): string {
  return typeof mount['mountPath'] === 'string' ? clean(mount['mountPath']) : '';
}

function clean(path: string): string {
  return posix.normalize(path).replace(/(?<=.)\/$/, '');
}

function listOf(value: unknown): Json[] {
  return Array.isArray(value) ? (value as Json[]) : [];
}
