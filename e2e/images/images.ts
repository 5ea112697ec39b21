/** The images that a cluster gets from local files: our own, the ones that samples and tests use, and the cluster's parts. */
import { realpathSync } from 'node:fs';
import { join } from 'node:path';
import { run } from '../cluster/command.ts';
import { ensurePackages, imageRequirements } from '../cluster/packages.ts';
import { defaultCacheDir } from '../cluster/settings.ts';
import type { FileSpec, LayerSpec } from './layer.ts';
import type { Image, ImageSpec } from './oci.ts';
import { buildImage } from './oci.ts';
import { ownImages, userId } from './own.ts';
import type { OwnImageName } from './own.ts';
import type { Program } from './program.ts';
import { findProgram, isForDevelopers } from './program.ts';

const root = join(import.meta.dirname, '../..');

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

/** The operator and the Master, as `ownImages.ringmaster` says. */
export async function ringmasterImage(cacheDir: string = defaultCacheDir(), clone: string = root): Promise<Image> {
  return buildImage(await ownImageSpec('ringmaster', clone), cacheDir);
}

/** The sidecar of instance pods, as `ownImages.sidecar` says. */
export async function sidecarImage(cacheDir: string = defaultCacheDir(), clone: string = root): Promise<Image> {
  return buildImage(await ownImageSpec('sidecar', clone), cacheDir);
}

/**
 * Layers and settings of one of our own images from the files of a clone. Node and the packages are layers of their own: a changed operator makes a
 * new layer of some kilobytes.
 */
export async function ownImageSpec(name: OwnImageName, clone: string = root): Promise<ImageSpec> {
  const { program: programSpec, tools, ...settings } = ownImages[name];
  const program = await findProgram({ root: clone, ...programSpec });
  const toolLayer: LayerSpec = {
    files: await Promise.all(tools.map((tool) => programFile(tool))),
    withLibraries: true,
  };
  return {
    ...settings,
    layers: [
      nodeLayer(clone),
      ...(tools.length === 0 ? [] : [toolLayer]),
      packageLayer(clone, program),
      sourceLayer(program),
    ],
  };
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

/**
 * Stands in for the base of the Dockerfiles where there is no registry: Node, a shell and npm, which takes packages from `npmCache` alone. `npm` is npm's
 * folder on this machine.
 */
export async function nodeBaseImage(from: { npm: string; npmCache: string; cacheDir: string }): Promise<Image> {
  const npm = '/usr/local/lib/node_modules/npm';
  const start = `#!/bin/sh\nexec /usr/local/bin/node ${npm}/bin/npm-cli.js "$@"\n`;
  const files: FileSpec[] = [
    { source: from.npm, target: npm },
    { content: start, target: '/usr/local/bin/npm', mode: 0o755 },
    { content: 'cache=/npm-cache\noffline=true\n', target: '/usr/local/etc/npmrc' },
    { source: from.npmCache, target: '/npm-cache' },
  ];
  return buildImage(
    {
      repository: 'ringmaster.local/node',
      layers: [nodeLayer(), { files: [], busybox: true }, { files }],
      env: { PATH: '/usr/local/bin:/usr/bin:/bin' },
      entrypoint: [],
    },
    from.cacheDir,
  );
}

function nodeLayer(clone: string = root): LayerSpec {
  const source = join(clone, 'node_modules', nodePackage(), 'bin/node');
  return { files: [...skeleton, { source, target: '/usr/local/bin/node', mode: 0o755 }], withLibraries: true };
}

/** The package that has the program `node` of this architecture. */
export function nodePackage(): string {
  return `node-linux-${process.arch}`;
}

/** One of the machine's programs, in `/usr/bin`. */
async function programFile(name: string): Promise<FileSpec> {
  const source = (await run('sh', ['-c', `command -v ${name}`])).trim();
  return { source, target: `/usr/bin/${name}`, mode: 0o755 };
}

function packageLayer(clone: string, { packages }: Program): LayerSpec {
  const files = packages.map((path): FileSpec => {
    // As the layer names what is in it, also where the clone or its packages are reached by a link.
    const source = realpathSync(join(clone, path));
    // Packages within a package are listed themselves.
    const nested = join(source, 'node_modules');
    const skip = (child: string): boolean => child === nested || isForDevelopers(child);
    return { source, target: `/app/${path}`, skip };
  });
  return { files };
}

function sourceLayer({ sources }: Program): LayerSpec {
  const files = sources.map(({ path, content, isExecutable }): FileSpec => {
    return { target: `/app/${path}`, content, mode: isExecutable ? 0o755 : 0o644 };
  });
  return { files };
}
