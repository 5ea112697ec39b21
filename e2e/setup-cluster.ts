/** The cluster of the end-to-end tests: two nodes, Ringmaster installed from this clone, and what the tests need to know as environment. */
import { join } from 'node:path';
import { ensurePackages } from './cluster/packages.ts';
import { DockerEngine, dockerRequirements } from './docker-engine.ts';
import { releaseImages } from './images/images.ts';
import type { ReleaseImages } from './images/images.ts';
import type { Image } from './images/oci.ts';
import { downCluster, startCluster } from './cluster/cluster.ts';
import { logDir } from './cluster/plan.ts';
import { clusterNames, clusterSettings, isClusterName } from './cluster/settings.ts';
import type { ClusterName } from './cluster/settings.ts';
import type { Cluster } from './cluster/cluster.ts';
import { extractPreviousRelease } from './previous-release.ts';
import type { Progress } from './progress.ts';
import { apiKeyManifest, createToken, installRelease, masterUrl } from './release.ts';

/** Short, so that a lost node is noticed within seconds and not within a minute, and autoscalers look every other second. */
const controllerManagerArgs = [
  '--node-monitor-grace-period=12s',
  '--node-monitor-period=1s',
  '--horizontal-pod-autoscaler-sync-period=2s',
];
/** On the first node small and often looked at, so that a test sees log files rotate within seconds; on the second one never rotated in a test. */
const nodeKubeletConfig = {
  1: { containerLogMaxSize: '4Mi', containerLogMonitorInterval: '3s' },
  2: { containerLogMaxSize: '1Gi' },
};

/** Every request of the operator and the Master, so that a test can say what they did not do. */
function auditArgs(name: ClusterName): string[] {
  return [
    `--audit-policy-file=${join(import.meta.dirname, 'audit-policy.json')}`,
    `--audit-log-path=${auditLogFile(name)}`,
    '--audit-log-maxsize=64',
    '--audit-log-maxbackup=1',
  ];
}

/** JSON lines, written by the API server. */
export function auditLogFile(name: ClusterName): string {
  return join(logDir(clusterSettings(name)), 'audit.log');
}

/** Another name lets somebody work on tests while a run has the cluster `test`. */
function clusterName(): ClusterName {
  const name = process.env.RINGMASTER_TEST_CLUSTER_NAME ?? 'test';
  if (!isClusterName(name))
    throw new RangeError(`RINGMASTER_TEST_CLUSTER_NAME is "${name}": use one of ${clusterNames.join(', ')}`);
  return name;
}

export async function startTestCluster(progress: Progress): Promise<Cluster> {
  const name = clusterName();
  return startCluster({
    name,
    nodes: 2,
    log: (line) => {
      progress.say(line);
    },
    extraArgs: { 'kube-apiserver': auditArgs(name), 'kube-controller-manager': controllerManagerArgs },
    nodeKubeletConfig,
  });
}

export async function downTestCluster(): Promise<void> {
  await downCluster(clusterName(), { wipe: true });
}

export interface TestInstallation {
  readonly env: Record<string, string>;
  /** Brings the installation to this tree, whatever it was before. */
  upgrade(): Promise<void>;
  /** Ends what was started beside the cluster. */
  close(): Promise<void>;
}

/** Installs this tree, or, to be upgraded, the release before it. */
export async function installForTests(
  progress: Progress,
  options: { isUpgraded?: boolean } = {},
): Promise<TestInstallation> {
  const cluster = await startTestCluster(progress);
  const images = await progress.step('Building the images', () =>
    releaseImages((line) => {
      progress.say(line);
    }),
  );
  await cluster.importImages(Object.values(images).map(({ tar }) => tar));
  const engine = await startEngine(progress, [images.console]);
  const upgrade = (): Promise<void> =>
    progress.step('Installing the Helm chart', async () => {
      await installRelease(cluster, images, testValues(engine));
    });
  try {
    const env = await (options.isUpgraded === true
      ? progress.step('Installing the release before this one', () => installPrevious(progress, cluster, engine))
      : upgrade().then(() => ({})));
    return { env: { ...env, ...(await prepare({ cluster, images, engine })) }, upgrade, close: () => engine.close() };
  } catch (error) {
    await engine.close();
    throw error;
  }
}

/** By its own scripts; gives its images as environment. */
async function installPrevious(
  progress: Progress,
  cluster: Cluster,
  engine: DockerEngine,
): Promise<Record<string, string>> {
  const previous = await extractPreviousRelease();
  try {
    const at = (path: string): string => join(previous.folder, path);
    const builder = (await import(at('e2e/images/images.ts'))) as { releaseImages: typeof releaseImages };
    const installer = (await import(at('e2e/release.ts'))) as { installRelease: typeof installRelease };
    const images = await builder.releaseImages((line) => {
      progress.say(line);
    });
    await cluster.importImages([images.ringmaster.tar, images.sidecar.tar]);
    await installer.installRelease(cluster, images, [...commonValues, ...engineValues(engine)]);
    return {
      RINGMASTER_PREVIOUS_IMAGE: images.ringmaster.name,
      RINGMASTER_PREVIOUS_SIDECAR_IMAGE: images.sidecar.name,
    };
  } finally {
    await previous.remove();
  }
}

/** The nodes' Docker Engine: one for all, because they share this machine's files. Its containers have no network. */
export async function startEngine(progress: Progress, images: readonly Image[]): Promise<DockerEngine> {
  await ensurePackages((line) => {
    progress.say(line);
  }, dockerRequirements);
  return progress.step('Starting a Docker Engine', () => DockerEngine.create({ liveRestore: true, images }));
}

/** Chart values that let Instances use it. */
export function engineValues({ socketPath }: Pick<DockerEngine, 'socketPath'>): string[] {
  return Object.entries({ enabled: 'true', socketPath, network: 'none' }).map(
    ([name, value]) => `runtimes.docker.${name}=${value}`,
  );
}

/** Chart values that the release before this one knows as well. */
const commonValues = ['logLevel=debug', 'master.preStopSeconds=1', 'master.drainSeconds=5'];

/** Chart values of an installation of this tree for tests. */
export function testValues(engine: Pick<DockerEngine, 'socketPath'>): string[] {
  return [...commonValues, ...engineValues(engine)];
}

async function prepare({
  cluster,
  images,
  engine,
}: {
  cluster: Cluster;
  images: ReleaseImages;
  engine: DockerEngine;
}): Promise<Record<string, string>> {
  const tokens = { all: createToken(), public: createToken() };
  const manifests = [
    apiKeyManifest('test-all', { token: tokens.all, permission: 'ALL' }),
    apiKeyManifest('test-public', { token: tokens.public, permission: 'PUBLIC' }),
  ];
  await cluster.kubectl(['apply', '-f', '-'], { input: manifests.join('\n---\n') });
  return {
    ...cluster.env(),
    RINGMASTER_TEST_CLUSTER: clusterName(),
    RINGMASTER_IMAGE: images.ringmaster.name,
    RINGMASTER_SIDECAR_IMAGE: images.sidecar.name,
    RINGMASTER_DOCKER_SOCKET: engine.socketPath,
    RINGMASTER_URL: await masterUrl(cluster),
    RINGMASTER_TOKEN: tokens.all,
    RINGMASTER_PUBLIC_TOKEN: tokens.public,
  };
}
