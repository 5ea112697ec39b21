/** The images that a cluster gets from local files: our own, the ones that samples and tests use, and the cluster's parts. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { run } from '../cluster/command.ts';
import { ensurePackages, imageRequirements } from '../cluster/packages.ts';
import { defaultCacheDir } from '../cluster/settings.ts';
import type { FileSpec, LayerSpec } from './layer.ts';
import type { Image } from './oci.ts';
import { buildImage } from './oci.ts';
import type { Program } from './program.ts';
import { findProgram, isForDevelopers } from './program.ts';

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

/** What `releaseImages` makes: Ringmaster's own, and the ones that samples and tests run. */
export type ReleaseImages = Readonly<Record<'ringmaster' | 'sidecar' | 'busybox' | 'console', Image>>;

/** Every image that a cluster with Ringmaster needs; the programs in them are Debian's, and installed where they are missing. */
export async function releaseImages(
  log: (line: string) => void,
  cacheDir: string = defaultCacheDir(),
): Promise<ReleaseImages> {
  await ensurePackages(log, imageRequirements);
  const small = Promise.all([busyboxImage(cacheDir), consoleImage(cacheDir)]);
  // One after the other: they share the layer with Node, and the second finds it made.
  const ringmaster = await ringmasterImage(cacheDir);
  const sidecar = await sidecarImage(cacheDir);
  const [busybox, console] = await small;
  return { ringmaster, sidecar, busybox, console };
}

/**
 * The operator and the Master: `node operator/main.ts` or `node operator/master.ts` in `/app`, as the chart says. The same as
 * `ringmaster.Dockerfile` makes. Node and the packages are layers of their own: a changed operator makes a new layer of some kilobytes.
 */
export async function ringmasterImage(cacheDir: string = defaultCacheDir()): Promise<Image> {
  const program = await findProgram({ root, entries: ['operator/main.ts', 'operator/master.ts'] });
  return buildImage(
    {
      repository: 'ringmaster.local/ringmaster',
      layers: [nodeLayer(), packageLayer(program), sourceLayer(program)],
      env: { NODE_ENV: 'production' },
      workingDir: '/app',
      user: String(userId),
      entrypoint: ['/usr/local/bin/node'],
    },
    cacheDir,
  );
}

/** What runs in the sidecar's image: the sidecar, the launcher of the docker runtime, and what puts template files into place. */
const sidecarEntries = ['sidecar/main.ts', 'sidecar/docker/main.ts', 'sidecar/templates.ts'];

/** The sidecar of instance pods, as JavaScript. The same as `sidecar.Dockerfile` makes. */
export async function sidecarImage(cacheDir: string = defaultCacheDir()): Promise<Image> {
  const entries = sidecarEntries.filter((path) => existsSync(join(root, path)));
  const program = await findProgram({ root, entries, strip: true });
  const tools: LayerSpec = {
    files: await Promise.all(['mkfifo', 'fallocate'].map((name) => programFile(name))),
    withLibraries: true,
  };
  return buildImage(
    {
      repository: 'ringmaster.local/ringmaster-sidecar',
      layers: [nodeLayer(), tools, packageLayer(program), sourceLayer(program)],
      // It runs once a program: fewer threads, and fewer arenas of the C library, are megabytes each.
      env: { NODE_ENV: 'production', MALLOC_ARENA_MAX: '1', UV_THREADPOOL_SIZE: '2' },
      workingDir: '/app',
      user: String(userId),
      entrypoint: ['/usr/local/bin/node', '--max-semi-space-size=1', '--v8-pool-size=1', '/app/sidecar/main.js'],
    },
    cacheDir,
  );
}

/**
 * A shell, screen and tmux: what a program needs from its image to run under each runtime. Everything in it works for user 65532 and with a
 * root file system that cannot be written.
 */
export async function consoleImage(cacheDir: string = defaultCacheDir()): Promise<Image> {
  return buildImage(
    {
      repository: 'ringmaster.local/console',
      tag: '1',
      layers: [{ files: skeleton, busybox: true }, await terminalLayer()],
      env: { LANG: 'C.UTF-8' },
      user: String(userId),
      entrypoint: [],
    },
    cacheDir,
  );
}

/** The console image with Node in it, for programs of tests and benchmarks that need a clock, under every runtime. */
export async function workbenchImage(cacheDir: string = defaultCacheDir()): Promise<Image> {
  await ensurePackages(() => undefined, imageRequirements);
  return buildImage(
    {
      repository: 'ringmaster.local/workbench',
      layers: [nodeLayer(), { files: [], busybox: true }, await terminalLayer()],
      env: { LANG: 'C.UTF-8' },
      user: String(userId),
      entrypoint: [],
    },
    cacheDir,
  );
}

/** screen, tmux, what they know of terminals, and a UTF-8 locale, without which tmux does not start. */
async function terminalLayer(): Promise<LayerSpec> {
  const programs = await Promise.all(['screen', 'tmux'].map((name) => programFile(name)));
  const data: FileSpec[] = [
    { source: '/lib/terminfo', target: '/lib/terminfo' },
    { source: '/usr/lib/locale/C.utf8', target: '/usr/lib/locale/C.utf8' },
  ];
  return { files: [...programs, ...data], withLibraries: true };
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

/** One of the machine's programs, in `/usr/bin`. */
async function programFile(name: string): Promise<FileSpec> {
  const source = (await run('sh', ['-c', `command -v ${name}`])).trim();
  return { source, target: `/usr/bin/${name}`, mode: 0o755 };
}

function packageLayer({ packages }: Program): LayerSpec {
  const files = packages.map((path): FileSpec => {
    // Packages within a package are listed themselves.
    const nested = join(root, path, 'node_modules');
    const skip = (child: string): boolean => child === nested || isForDevelopers(child);
    return { source: join(root, path), target: `/app/${path}`, skip };
  });
  return { files };
}

function sourceLayer({ sources }: Program): LayerSpec {
  const files = sources.map(({ path, content, isExecutable }): FileSpec => {
    return { target: `/app/${path}`, content, mode: isExecutable ? 0o755 : 0o644 };
  });
  return { files };
}
