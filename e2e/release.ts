/** Installs Ringmaster into a cluster as a user would: images, Helm chart, API keys. Shared by `up`, the tests and the benchmarks. */
import { createHash, randomBytes } from 'node:crypto';
import { join } from 'node:path';
import type { ReleaseImages } from './images/images.ts';
import type { Image } from './images/oci.ts';

const root = join(import.meta.dirname, '..');

export const releaseName = 'ringmaster';
export const releaseNamespace = 'ringmaster-system';
export const chartDir = join(root, 'charts/ringmaster');

/** Runs `kubectl` and `helm` against one cluster; both throw what the command wrote when it fails. */
export interface Tools {
  kubectl(args: readonly string[], options?: { input?: string }): Promise<string>;
  helm(args: readonly string[]): Promise<string>;
}

/** `helm upgrade --install`, and waits until everything is ready. Returns what Helm printed (the notes). */
export async function installRelease(
  tools: Tools,
  images: Pick<ReleaseImages, 'ringmaster' | 'sidecar'>,
  values: readonly string[] = [],
): Promise<string> {
  const settings = [
    ...imageValues('image', images.ringmaster),
    ...imageValues('sidecar.image', images.sidecar),
    ...values,
  ];
  const where = ['--namespace', releaseNamespace, '--create-namespace'];
  const wait = ['--wait', '--timeout', '180s'];
  const out = await tools.helm([
    'upgrade',
    '--install',
    releaseName,
    chartDir,
    ...where,
    ...wait,
    ...settings.flatMap(setting),
  ]);
  // Everything in it runs under the strictest profile, and the namespace enforces that.
  const labels = ['enforce', 'warn'].map((mode) => `pod-security.kubernetes.io/${mode}=restricted`);
  await tools.kubectl(['label', 'namespace', releaseNamespace, '--overwrite', ...labels]);
  return out;
}

/** A tag may be all digits, and must stay a text. */
function setting(value: string): string[] {
  return [/^[^=]*\.tag=/.test(value) ? '--set-string' : '--set', value];
}

function imageValues(path: string, { repository, tag }: Image): string[] {
  return [`${path}.repository=${repository}`, `${path}.tag=${tag}`];
}

/** A new random token: 256 bits, printable. */
export function createToken(): string {
  return `rm_${randomBytes(32).toString('base64url')}`;
}

/** The ApiKey manifest for a token: only its hash. */
export function apiKeyManifest(
  name: string,
  options: { token: string; permission: 'ALL' | 'PUBLIC'; expiresAt?: string },
): string {
  const { token, permission, expiresAt } = options;
  return JSON.stringify({
    apiVersion: 'ringmaster.dev/v1alpha1',
    kind: 'ApiKey',
    metadata: { name, namespace: releaseNamespace },
    spec: {
      permission,
      tokenSHA256: createHash('sha256').update(token).digest('hex'),
      ...(expiresAt === undefined ? {} : { expiresAt }),
    },
  });
}

/** The Master's address inside the cluster network; from the machine of an embedded cluster it is reachable as well. */
export async function masterUrl(tools: Tools): Promise<string> {
  const path = 'jsonpath={.spec.clusterIP}:{.spec.ports[?(@.name=="http")].port}';
  const address = await tools.kubectl(['get', 'service', '-n', releaseNamespace, `${releaseName}-master`, '-o', path]);
  return `http://${address.trim()}`;
}
