import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { versions } from './settings.ts';

/** One `go build`: the module's folder, what is built, the name of the executable, what to call it in progress lines. */
export interface GoProgram {
  module: 'go' | 'go-adapter' | 'go-helm' | 'go-kube-router' | 'go-kwok' | 'go-stern' | '../gitops/go';
  target: string;
  output: string;
  title: string;
  ldflags: string;
}

/** Names under which the one executable of Kubernetes is started. */
export const hyperkubeLinks = [
  'etcd',
  'kube-apiserver',
  'kube-controller-manager',
  'kube-scheduler',
  'kubelet',
  'kube-proxy',
  'kubectl',
] as const;

/** Files whose content decides what comes out of a build. */
export const recipeFiles = [
  'go/go.mod',
  'go/go.sum',
  'go/cmd/hyperkube/main.go',
  'go/cmd/coredns/main.go',
  'go/cmd/pause/main.go',
  'go-helm/go.mod',
  'go-helm/go.sum',
] as const;

/** Flags of every build: no paths of this machine, no version control stamp, stripped, static. */
export const goFlags = ['-mod=readonly', '-trimpath', '-buildvcs=false'] as const;

/** GOFLAGS and GOWORK of the user must not change what is built; GOROOT would be that of another Go. */
export const goBuildEnv = { CGO_ENABLED: '0', GOFLAGS: '', GOWORK: 'off', GOROOT: '', GOTOOLCHAIN: 'local' } as const;

/** The builds, slowest first. */
export function goPrograms(): GoProgram[] {
  const strip = '-s -w';
  return [
    {
      module: 'go',
      target: './cmd/hyperkube',
      output: 'hyperkube',
      title: `Kubernetes ${versions.kubernetes} and etcd ${versions.etcd}`,
      ldflags: `${strip} ${kubernetesStamps()}`,
    },
    {
      module: 'go',
      target: './cmd/coredns',
      output: 'coredns',
      title: `CoreDNS ${versions.coredns}`,
      ldflags: strip,
    },
    { module: 'go', target: './cmd/pause', output: 'pause', title: 'pause', ldflags: strip },
    {
      module: 'go-helm',
      target: 'helm.sh/helm/v3/cmd/helm',
      output: 'helm',
      title: `Helm ${versions.helm}`,
      ldflags: `${strip} ${helmStamps()}`,
    },
  ];
}

/** Files of kwok's module that say what becomes of nodes and pods: ready at once, and gone when they are deleted. */
export const kwokStages = [
  'node/fast/node-initialize.yaml',
  'node/heartbeat-with-lease/node-heartbeat-with-lease.yaml',
  'pod/fast/pod-ready.yaml',
  'pod/fast/pod-delete.yaml',
] as const;

/** Plays kubelets of nodes that do not exist; the benchmarks alone need it, so that it is built apart from the rest. */
export const kwokProgram: GoProgram = {
  module: 'go-kwok',
  target: 'sigs.k8s.io/kwok/cmd/kwok',
  output: 'kwok',
  title: `kwok ${versions.kwok}`,
  ldflags: '-s -w',
};

/** The same as `recipeKey` for kwok. */
export async function kwokKey(read: (file: string) => Promise<string | Buffer>, arch: string): Promise<string> {
  return keyOf([arch, goFlags, kwokProgram, kwokStages], ['go-kwok/go.mod', 'go-kwok/go.sum'], read);
}

/** A short hash of everything that decides the build; `read` gives the content of a recipe file. */
export async function recipeKey(read: (file: string) => Promise<string | Buffer>, arch: string): Promise<string> {
  return keyOf([arch, goFlags, goPrograms(), hyperkubeLinks], recipeFiles, read);
}

/** The same for a program that is the only one of its module; `sources` are files of the module, `goVersion` is what builds it if not the usual release. */
export async function programKey(
  program: GoProgram,
  read: (file: string) => Promise<string | Buffer>,
  { sources = [], goVersion }: { sources?: readonly string[]; goVersion?: string } = {},
): Promise<string> {
  const files = ['go.mod', 'go.sum', ...sources].map((name) => `${program.module}/${name}`);
  return keyOf([process.arch, goFlags, program, goVersion], files, read);
}

async function keyOf(
  settings: readonly unknown[],
  files: readonly string[],
  read: (file: string) => Promise<string | Buffer>,
): Promise<string> {
  const hash = createHash('sha256');
  hash.update(JSON.stringify(settings));
  for (const file of files) {
    const content = await read(file);
    hash.update(`\n${file} ${String(content.length)}\n`).update(content);
  }
  return hash.digest('hex').slice(0, 12);
}

/** Reads a recipe file from beside this one. */
export async function readRecipeFile(file: string): Promise<Buffer> {
  return readFile(join(import.meta.dirname, file));
}

/** Without these the components call themselves v0.0.0-master, and the checks of version skew misfire. */
function kubernetesStamps(): string {
  const [major, minor] = versions.kubernetes.split('.');
  const values = [
    `gitVersion=v${versions.kubernetes}`,
    `gitMajor=${String(major)}`,
    `gitMinor=${String(minor)}`,
    'gitTreeState=clean',
  ];
  const packages = ['k8s.io/client-go/pkg/version', 'k8s.io/component-base/version'];
  return packages.flatMap((name) => values.map((value) => `-X ${name}.${value}`)).join(' ');
}

/** `helm template` and `helm lint` take the version that they assume from here; the default is 1.20. */
function helmStamps(): string {
  const [major, minor] = versions.kubernetes.split('.');
  const packages = ['helm.sh/helm/v3/pkg/lint/rules', 'helm.sh/helm/v3/pkg/chartutil'];
  const stamps = packages.flatMap((name) => [
    `-X ${name}.k8sVersionMajor=${String(major)}`,
    `-X ${name}.k8sVersionMinor=${String(minor)}`,
  ]);
  return [`-X helm.sh/helm/v3/internal/version.version=v${versions.helm}`, ...stamps].join(' ');
}
