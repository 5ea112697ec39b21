/** What serves `custom.metrics.k8s.io` to autoscalers in tests: a real Prometheus and a real prometheus-adapter, beside the cluster, with the rules of our page. */
import { createServer as createHttpServer } from 'node:http';
import type { Server } from 'node:http';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { stringify } from 'yaml';
import { processGroupDir } from './cluster/cgroup.ts';
import type { Cluster } from './cluster/cluster.ts';
import { ensureProgram } from './cluster/build.ts';
import { logDir } from './cluster/plan.ts';
import { signalProgram, startProgram, waitForExit } from './cluster/processes.ts';
import type { StartedProgram } from './cluster/processes.ts';
import { versions } from './cluster/settings.ts';
import { waitUntil } from './cluster/wait.ts';
import { freePort } from './ports.ts';
import { findPrometheusProgram } from './promtool.ts';
import { releaseNamespace } from './release.ts';

const group = 'custom.metrics.k8s.io';
const serviceName = 'prometheus-adapter';
const apiVersions = ['v1beta1', 'v1beta2'];
const readyTimeoutMs = 60_000;

export interface CustomMetrics {
  /** Ends both, and takes away what was registered for them. */
  close(): Promise<void>;
}

/** Builds the adapter where it is not there (one to two minutes), starts both and registers the API. `programs`: the namespace of pods that serve metrics of their own at a port `metrics`. */
export async function startCustomMetrics(
  cluster: Cluster,
  { rules, programs, log }: { rules: string; programs: string; log: (line: string) => void },
): Promise<CustomMetrics> {
  const [prometheus, adapter] = [await findPrometheusProgram('prometheus'), await ensureAdapter(log)];
  const folder = await mkdtemp(join(tmpdir(), 'ringmaster-metrics-'));
  const ports = { prometheus: await freePort(), adapter: await freePort() };
  const config = join(folder, 'prometheus.json');
  const server = await serveTargets(cluster, programs);
  await writeFile(config, JSON.stringify(prometheusConfig((server.address() as AddressInfo).port)));
  await writeFile(join(folder, 'rules.yaml'), rules);
  const started: StartedProgram[] = [];
  const start = (name: string, file: string, args: string[]): void => {
    const cgroupDir = processGroupDir(cluster.settings.cgroup, 'control');
    started.push(startProgram({ name, file, args, cgroupDir, logFile: join(logDir(cluster.settings), `${name}.log`) }));
  };
  const close = async (): Promise<void> => {
    await cluster.kubectl(['delete', '--ignore-not-found', '-f', '-'], { input: manifests(ports.adapter) });
    for (const program of started) {
      signalProgram(program, 'SIGTERM');
      if (!(await waitForExit(program, 10_000))) signalProgram(program, 'SIGKILL');
    }
    server.close();
    server.closeAllConnections();
    await rm(folder, { recursive: true });
  };
  try {
    start('prometheus', prometheus, [
      `--config.file=${config}`,
      `--storage.tsdb.path=${join(folder, 'data')}`,
      `--web.listen-address=127.0.0.1:${ports.prometheus}`,
    ]);
    start('prometheus-adapter', adapter, [
      `--config=${join(folder, 'rules.yaml')}`,
      `--prometheus-url=http://127.0.0.1:${ports.prometheus}`,
      '--metrics-relist-interval=2s',
      // A pod that is gone has no series any more; one that was just made has one soon.
      '--metrics-max-age=30s',
      '--bind-address=127.0.0.1',
      `--secure-port=${ports.adapter}`,
      `--cert-dir=${join(folder, 'certs')}`,
      ...['lister', 'authentication', 'authorization'].map((name) => `--${name}-kubeconfig=${cluster.kubeconfig}`),
    ]);
    await cluster.kubectl(['apply', '-f', '-'], { input: manifests(ports.adapter) });
    await waitUntil({
      what: 'sockets of Masters to be served as custom metrics',
      timeoutMs: readyTimeoutMs,
      programs: started,
      check: async () => {
        const path = `/apis/${group}/v1beta1/namespaces/${releaseNamespace}/pods/*/ringmaster_master_sockets_open`;
        const answer = await cluster.kubectl(['get', '--raw', path]).catch(() => '{}');
        return ((JSON.parse(answer) as { items?: unknown[] }).items ?? []).length === 2;
      },
    });
  } catch (error) {
    await close();
    throw error;
  }
  return { close };
}

async function ensureAdapter(log: (line: string) => void): Promise<string> {
  const program = {
    module: 'go-adapter',
    target: 'sigs.k8s.io/prometheus-adapter/cmd/adapter',
    output: 'prometheus-adapter',
    title: `prometheus-adapter ${versions.prometheusAdapter}`,
    ldflags: '-s -w',
  } as const;
  return ensureProgram(program, { log });
}

interface PodList {
  items: {
    metadata: { name: string; namespace: string; deletionTimestamp?: string };
    spec: { containers: { ports?: { name?: string; containerPort: number }[] }[] };
    status: { phase?: string; podIP?: string };
  }[];
}

/** What to ask, with the labels that a PodMonitor would add. Debian's Prometheus cannot look at pods itself: it asks for this list by HTTP. */
async function targets(cluster: Cluster, programs: string): Promise<object[]> {
  const { items } = JSON.parse(await cluster.kubectl(['get', 'pods', '--all-namespaces', '-o', 'json'])) as PodList;
  return items.flatMap(({ metadata: { name, namespace, deletionTimestamp }, spec, status: { phase, podIP } }) => {
    if (phase !== 'Running' || podIP === undefined || deletionTimestamp !== undefined) return [];
    const isOfRelease = namespace === releaseNamespace;
    if (!isOfRelease && namespace !== programs) return [];
    const [portName, path] = isOfRelease ? ['http', '/api/metrics'] : ['metrics', '/metrics'];
    const port = spec.containers.flatMap(({ ports = [] }) => ports).find((one) => one.name === portName)?.containerPort;
    if (port === undefined) return [];
    return [{ targets: [`${podIP}:${port}`], labels: { namespace, pod: name, __metrics_path__: path } }];
  });
}

async function serveTargets(cluster: Cluster, programs: string): Promise<Server> {
  const server = createHttpServer((_, response) => {
    targets(cluster, programs).then(
      (found) => {
        response.setHeader('content-type', 'application/json');
        response.end(JSON.stringify(found));
      },
      () => {
        // The API server is away for a moment: Prometheus keeps what it has.
        response.statusCode = 503;
        response.end();
      },
    );
  });
  await once(server.listen(0, '127.0.0.1'), 'listening');
  return server;
}

function prometheusConfig(targetsPort: number): object {
  const discovery = { url: `http://127.0.0.1:${targetsPort}/`, refresh_interval: '2s' };
  return {
    global: { scrape_interval: '1s', scrape_timeout: '1s' },
    scrape_configs: [{ job_name: 'pods', http_sd_configs: [discovery] }],
  };
}

/** The adapter runs on the API server's own machine: a name in place of pods behind a Service. Autoscalers may read what it serves. */
function manifests(port: number): string {
  const meta = (name: string): object => ({ name, namespace: releaseNamespace });
  const reader = `${serviceName}-reader`;
  const rbac = 'rbac.authorization.k8s.io';
  const service = { name: serviceName, namespace: releaseNamespace, port };
  return [
    {
      apiVersion: 'v1',
      kind: 'Service',
      metadata: meta(serviceName),
      spec: { type: 'ExternalName', externalName: 'localhost', ports: [{ port }] },
    },
    {
      apiVersion: `${rbac}/v1`,
      kind: 'ClusterRole',
      metadata: { name: reader },
      rules: [{ apiGroups: [group], resources: ['*'], verbs: ['get', 'list', 'watch'] }],
    },
    {
      apiVersion: `${rbac}/v1`,
      kind: 'ClusterRoleBinding',
      metadata: { name: reader },
      roleRef: { apiGroup: rbac, kind: 'ClusterRole', name: reader },
      subjects: [{ kind: 'ServiceAccount', name: 'horizontal-pod-autoscaler', namespace: 'kube-system' }],
    },
    ...apiVersions.map((version, index) => ({
      apiVersion: 'apiregistration.k8s.io/v1',
      kind: 'APIService',
      metadata: { name: `${version}.${group}` },
      spec: {
        ...{ group, version, service, groupPriorityMinimum: 100, versionPriority: 100 * (index + 1) },
        insecureSkipTLSVerify: true,
      },
    })),
  ]
    .map((manifest) => stringify(manifest))
    .join('---\n');
}
