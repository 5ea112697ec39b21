/** The configuration files of a node: containerd, its network plugins, kubelet and kube-proxy. */
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pkiDir } from './pki.ts';
import type { ClusterPlan } from './plan.ts';
import { containerdSocket, nodeDir } from './plan.ts';
import { nodeAddress } from './settings.ts';

/** Writes all of them. */
export async function writeNodeFiles(plan: ClusterPlan, node: number): Promise<void> {
  const dir = nodeDir(plan.settings, node);
  await mkdir(join(dir, 'cni'), { recursive: true });
  await Promise.all([
    writeFile(join(dir, 'containerd.toml'), containerdConfig(plan, node)),
    writeFile(join(dir, 'cni/10-bridge.conflist'), JSON.stringify(networkConfig(plan, node))),
    writeFile(join(dir, 'kubelet.json'), JSON.stringify(kubeletConfig(plan, node))),
    writeFile(join(dir, 'proxy.json'), JSON.stringify(proxyConfig(plan, node))),
    // There is no DNS outside to ask.
    writeFile(join(dir, 'resolv.conf'), ''),
  ]);
}

/** Name of the CNI network; the plugins' caches outside of the state folder have it in their files' names. */
export function networkName(plan: Pick<ClusterPlan, 'settings'>): string {
  return plan.settings.cgroup;
}

function containerdConfig({ settings, pauseImage }: ClusterPlan, node: number): string {
  const dir = nodeDir(settings, node);
  const quoted = (path: string): string => JSON.stringify(path);
  const snapshotters = ['btrfs', 'aufs', 'zfs', 'devmapper'].map((name) => `io.containerd.snapshotter.v1.${name}`);
  return `version = 2
root = ${quoted(join(dir, 'containerd'))}
state = ${quoted(join(dir, 'containerd-state'))}
disabled_plugins = ${JSON.stringify([...snapshotters, 'io.containerd.internal.v1.opt'])}
[grpc]
  address = ${quoted(containerdSocket(settings, node))}
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = ${quoted(pauseImage)}
  # Where root lacks CAP_SYS_RESOURCE nobody may lower an oom_score_adj: without this runc fails on every sandbox.
  restrict_oom_score_adj = true
  # Below the state, where they are found and unmounted.
  netns_mounts_under_state_dir = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = ${quoted(join(dir, 'cni'))}
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
        Root = ${quoted(join(dir, 'runc'))}
`;
}

function networkConfig(plan: ClusterPlan, node: number): unknown {
  const { settings } = plan;
  const subnet = `${settings.podNet}.${String(node)}.0/24`;
  const ipam = { type: 'host-local', dataDir: join(nodeDir(settings, node), 'ipam'), ranges: [[{ subnet }]] };
  return {
    cniVersion: '0.4.0',
    name: networkName(plan),
    plugins: [
      { type: 'bridge', bridge: 'cni0', isDefaultGateway: true, hairpinMode: true, ipMasq: false, ipam },
      { type: 'portmap', capabilities: { portMappings: true } },
    ],
  };
}

function kubeletConfig({ settings, kubeletConfig: extra, nodeKubeletConfig }: ClusterPlan, node: number): unknown {
  const dir = nodeDir(settings, node);
  const pki = pkiDir(settings);
  return {
    apiVersion: 'kubelet.config.k8s.io/v1beta1',
    kind: 'KubeletConfiguration',
    // The kubelet refuses cgroup v1 by default.
    failCgroupV1: false,
    cgroupDriver: 'cgroupfs',
    cgroupRoot: `/${settings.cgroup}/node${String(node)}`,
    containerRuntimeEndpoint: `unix://${containerdSocket(settings, node)}`,
    podLogsDir: join(dir, 'pod-logs'),
    volumePluginDir: join(dir, 'volume-plugins'),
    address: nodeAddress(settings, node),
    authentication: {
      anonymous: { enabled: false },
      webhook: { enabled: true },
      x509: { clientCAFile: join(pki, 'ca.crt') },
    },
    authorization: { mode: 'Webhook' },
    tlsCertFile: join(pki, `node${String(node)}-serving.crt`),
    tlsPrivateKeyFile: join(pki, `node${String(node)}-serving.key`),
    clusterDNS: [settings.dnsAddress],
    clusterDomain: 'cluster.local',
    resolvConf: join(dir, 'resolv.conf'),
    failSwapOn: false,
    // The default of -999 needs CAP_SYS_RESOURCE.
    oomScoreAdj: 0,
    // No pod is evicted and no image deleted for a full disk: an image that was imported cannot be pulled again.
    evictionHard: {
      'memory.available': '100Mi',
      'nodefs.available': '0%',
      'nodefs.inodesFree': '0%',
      'imagefs.available': '0%',
      'imagefs.inodesFree': '0%',
    },
    imageGCHighThresholdPercent: 100,
    imageGCLowThresholdPercent: 99,
    ...extra,
    ...nodeKubeletConfig[node],
  };
}

function proxyConfig({ settings }: ClusterPlan, node: number): unknown {
  return {
    apiVersion: 'kubeproxy.config.k8s.io/v1alpha1',
    kind: 'KubeProxyConfiguration',
    mode: 'nftables',
    clientConnection: { kubeconfig: join(pkiDir(settings), 'proxy.kubeconfig') },
    clusterCIDR: `${settings.podNet}.0.0/16`,
    hostnameOverride: `node${String(node)}`,
    metricsBindAddress: '127.0.0.1:10249',
    oomScoreAdj: 0,
    // 0: the machine's conntrack settings stay as they are.
    conntrack: { maxPerCore: 0, min: 0, tcpEstablishedTimeout: '0s', tcpCloseWaitTimeout: '0s' },
  };
}
