/** The images that a cluster gets from local files: our own, the ones that samples and tests use, and the cluster's parts. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { defaultCacheDir } from '../cluster/settings.ts';
import type { FileSpec, LayerSpec } from './layer.ts';
import type { Image } from './oci.ts';
import { buildImage } from './oci.ts';

const root = join(import.meta.dirname, '../..');
const userId = 65532;

/** What C libraries and Node expect to find in any root file system. */
const skeleton: FileSpec[] = [
  { target: '/tmp', directory: true, mode: 0o1777 },
  { target: '/proc', directory: true },
  { target: '/sys', directory: true },
  { target: '/dev', directory: true },
  {
    target: '/etc/passwd',
    content: [
      'root:x:0:0:root:/root:/bin/sh',
      'nobody:x:65534:65534:nobody:/:/bin/sh',
      `ringmaster:x:${String(userId)}:${String(userId)}:ringmaster:/app:/bin/sh`,
      '',
    ].join('\n'),
  },
  {
    target: '/etc/group',
    content: ['root:x:0:', 'nogroup:x:65534:', `ringmaster:x:${String(userId)}:`, ''].join('\n'),
  },
  { target: '/etc/nsswitch.conf', content: 'hosts: files dns\n' },
];

/**
 * The operator and the Master: `node operator/main.ts` or `node operator/master.ts` in `/app`, as the chart says. The same as
 * `ringmaster.Dockerfile` makes. Node and the packages are layers of their own: a changed operator makes a new layer of some kilobytes.
 */
export async function ringmasterImage(cacheDir: string = defaultCacheDir()): Promise<Image> {
  return buildImage(
    {
      repository: 'ringmaster.local/ringmaster',
      layers: [nodeLayer(), productionPackages(), ownSources()],
      env: { NODE_ENV: 'production' },
      workingDir: '/app',
      user: String(userId),
      entrypoint: ['/usr/local/bin/node'],
    },
    cacheDir,
  );
}

/** A shell and the usual commands, for samples and tests. */
export async function busyboxImage(cacheDir: string = defaultCacheDir()): Promise<Image> {
  const layers: LayerSpec[] = [{ files: skeleton, busybox: true }];
  return buildImage({ repository: 'ringmaster.local/busybox', tag: '1', layers, entrypoint: [] }, cacheDir);
}

/** What the sandbox of every pod runs; from the programs of `ensureBuilt`. */
export async function pauseImage(binDir: string, cacheDir: string = defaultCacheDir()): Promise<Image> {
  const layers: LayerSpec[] = [{ files: [{ source: join(binDir, 'pause'), target: '/pause' }] }];
  const user = '65534:65534';
  return buildImage({ repository: 'ringmaster.local/pause', layers, user, entrypoint: ['/pause'] }, cacheDir);
}

/** Cluster DNS; from the programs of `ensureBuilt`. */
export async function corednsImage(binDir: string, cacheDir: string = defaultCacheDir()): Promise<Image> {
  const files = [...skeleton, { source: join(binDir, 'coredns'), target: '/coredns' }];
  const layers: LayerSpec[] = [{ files }];
  return buildImage({ repository: 'ringmaster.local/coredns', layers, entrypoint: ['/coredns'] }, cacheDir);
}

function nodeLayer(): LayerSpec {
  const source = join(root, 'node_modules', nodePackage(), 'bin/node');
  return { files: [...skeleton, { source, target: '/usr/local/bin/node', mode: 0o755 }], withLibraries: true };
}

function nodePackage(): string {
  return `node-linux-${process.arch}`;
}

/** Nothing of these is read at run time, and they are half of the size. */
function isForDevelopers(path: string): boolean {
  return /\.(map|d\.[cm]?ts)$/.test(path);
}

interface LockedPackage {
  dev?: boolean;
  optional?: boolean;
}

/** Paths below the clone of the packages that `npm ci --omit=dev` would install, but for the ones that bring Node itself. */
export function productionPaths(lockfile: string): string[] {
  const { packages } = JSON.parse(lockfile) as { packages: Record<string, LockedPackage> };
  return Object.entries(packages)
    .filter(([path, entry]) => path !== '' && entry.dev !== true && !path.startsWith('node_modules/node-linux-'))
    .map(([path]) => path)
    .sort();
}

function productionPackages(): LayerSpec {
  const paths = productionPaths(readFileSync(join(root, 'package-lock.json'), 'utf8'));
  const files = paths
    // An optional package of another platform is in the lockfile only.
    .filter((path) => existsSync(join(root, path)))
    .map((path): FileSpec => {
      // Packages within a package have entries of their own, some of them for development only.
      const nested = join(root, path, 'node_modules');
      return {
        source: join(root, path),
        target: `/app/${path}`,
        skip: (child) => child === nested || isForDevelopers(child),
      };
    });
  return { files };
}

function ownSources(): LayerSpec {
  const skip = (path: string): boolean => path.endsWith('.test.ts') || path.endsWith('/testing');
  return {
    files: [
      { source: join(root, 'operator'), target: '/app/operator', skip },
      { source: join(root, 'package.json'), target: '/app/package.json' },
    ],
  };
}
