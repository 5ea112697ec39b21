/**
 * The custom resources of Argo CD and Flux, so that what we publish for them can be checked by an API server. They come out of the Go modules that
 * these tools are published as, by their check sums, and are kept.
 */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { copyFile, mkdir, mkdtemp, rename, rm } from 'node:fs/promises';
import { basename, join } from 'node:path';
import type { Cluster } from '../cluster/cluster.ts';
import { run } from '../cluster/command.ts';
import { ensureGo } from '../cluster/golang.ts';
import { defaultCacheDir } from '../cluster/settings.ts';

interface Source {
  /** Newest releases that the Go of the embedded cluster can read. */
  readonly module: string;
  /** As in a go.sum. */
  readonly sum: string;
  readonly files: readonly string[];
}

const sources: readonly Source[] = [
  {
    module: 'github.com/argoproj/argo-cd/v3@v3.5.7',
    sum: 'h1:Xm1BF+I5OgDKUG3SDK49vn2/Y5AMyaNVko+/JT08gj0=',
    files: ['manifests/crds/application-crd.yaml'],
  },
  {
    module: 'github.com/fluxcd/kustomize-controller@v1.9.6',
    sum: 'h1:XB+G3A0mky0j5uVHZWv4oSlS2RvZBoNIUhstIvY0JKE=',
    files: ['config/crd/bases/kustomize.toolkit.fluxcd.io_kustomizations.yaml'],
  },
  {
    module: 'github.com/fluxcd/source-controller@v1.9.6',
    sum: 'h1:nG534/bI6nVpyHra7ONAk6xDB3xPsVT+EOLHZHXPrrc=',
    files: ['config/crd/bases/source.toolkit.fluxcd.io_gitrepositories.yaml'],
  },
];

/** API groups whose objects can be checked while these resources are installed. */
export const toolGroups = ['argoproj.io', 'kustomize.toolkit.fluxcd.io', 'source.toolkit.fluxcd.io'] as const;

/** Installs them; the result takes them away again. */
export async function installToolCrds(cluster: Cluster): Promise<() => Promise<void>> {
  const dir = await fetchToolCrds();
  // Too large for the annotation that a plain apply leaves.
  await cluster.kubectl(['apply', '--server-side', '--filename', dir]);
  await cluster.kubectl(['wait', '--for=condition=Established', '--timeout=30s', '--filename', dir]);
  return async () => {
    await cluster.kubectl(['delete', '--ignore-not-found', '--filename', dir]);
  };
}

/** The folder that holds one file for each; fetched once, about 60 MB. */
async function fetchToolCrds(): Promise<string> {
  const key = createHash('sha256').update(JSON.stringify(sources)).digest('hex').slice(0, 12);
  const cacheDir = defaultCacheDir();
  const dir = join(cacheDir, `tool-crds-${key}`);
  if (existsSync(dir)) return dir;
  const log = (line: string): void => {
    process.stderr.write(`tool CRDs: ${line}\n`);
  };
  const go = await ensureGo({ log, cacheDir });
  const scratch = await mkdtemp(join(cacheDir, 'tool-crds-'));
  try {
    await mkdir(join(scratch, 'files'));
    for (const source of sources) await fetchSource(go, source, scratch);
    await rename(join(scratch, 'files'), dir).catch((error: unknown) => {
      // Another run was faster.
      if (!existsSync(dir)) throw error;
    });
  } finally {
    await rm(scratch, { recursive: true });
  }
  return dir;
}

async function fetchSource(go: string, { module, sum, files }: Source, scratch: string): Promise<void> {
  const env = { GOMODCACHE: join(scratch, 'modules'), GOFLAGS: '-modcacherw', GOTOOLCHAIN: 'local', GOWORK: 'off' };
  const out = await run(go, ['mod', 'download', '-json', module], { cwd: scratch, env });
  const fetched = JSON.parse(out) as { Dir: string; Sum: string };
  if (fetched.Sum !== sum) throw new Error(`${module} has the check sum ${fetched.Sum}, and not ${sum}`);
  for (const file of files) await copyFile(join(fetched.Dir, file), join(scratch, 'files', basename(file)));
}
