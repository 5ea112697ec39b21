/**
 * A Docker Engine of the tests' own: a `dockerd` with its own folders, socket and cgroup, that touches no network. Everything that it starts it
 * ends, and it clears away what a killed run left. Needs root.
 */
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { createReadStream, existsSync } from 'node:fs';
import { mkdtemp, open, readFile, readdir, rm, rmdir, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import Docker from 'dockerode';
import { hasProgram, run } from './cluster/command.ts';
import type { Requirement } from './cluster/packages.ts';
import { waitUntil } from './cluster/wait.ts';
import type { Image } from './images/oci.ts';

/** What it runs on. */
export const dockerRequirements: readonly Requirement[] = [
  { need: 'dockerd', debian: 'docker.io' },
  { need: 'docker-init', debian: 'tini' },
  { need: 'runc', debian: 'runc' },
  { need: 'containerd', debian: 'containerd' },
];

const prefix = 'ringmaster-dockerd-';
const readyTimeoutMs = 30_000;
/** The program of the docker launcher, where it runs outside of a pod. */
export const launcherMain = join(import.meta.dirname, '../sidecar/docker/main.ts');
const cgroupRoot = '/sys/fs/cgroup';

export class DockerEngine {
  readonly root: string;
  readonly docker: Docker;
  #daemon: ChildProcess | undefined;
  #containerd: ChildProcess | undefined;

  private constructor(root: string) {
    this.root = root;
    this.docker = new Docker({ socketPath: this.socketPath });
  }

  get socketPath(): string {
    return join(this.root, 'docker.sock');
  }

  /** Starts one that has these images. */
  static async create(options: { liveRestore: boolean; images: readonly Image[] }): Promise<DockerEngine> {
    await clearLeftovers();
    const engine = new DockerEngine(await mkdtemp(join(tmpdir(), prefix)));
    await writeFile(join(engine.root, 'owner'), String(process.pid));
    try {
      await engine.#startContainerd();
      await engine.start(options);
      for (const image of options.images) await engine.#load(image);
    } catch (error) {
      await engine.close();
      throw error;
    }
    return engine;
  }

  async start({ liveRestore }: { liveRestore: boolean }): Promise<void> {
    const log = await open(join(this.root, 'dockerd.log'), 'a');
    await writeFile(join(this.root, 'daemon.json'), '{}');
    const flags = {
      'config-file': join(this.root, 'daemon.json'),
      'data-root': join(this.root, 'data'),
      'exec-root': join(this.root, 'exec'),
      pidfile: join(this.root, 'docker.pid'),
      containerd: join(this.root, 'containerd.sock'),
      host: `unix://${this.socketPath}`,
      'cgroup-parent': `/${basename(this.root)}`,
      bridge: 'none',
      iptables: 'false',
      ip6tables: 'false',
      'live-restore': String(liveRestore),
    };
    const program = (await hasProgram('dockerd')) && existsSync('/usr/sbin/dockerd') ? '/usr/sbin/dockerd' : 'dockerd';
    const daemon = spawn(
      program,
      Object.entries(flags).map(([key, value]) => `--${key}=${value}`),
      {
        stdio: ['ignore', log.fd, log.fd],
        // A group of its own: a ^C that ends the tests must not end it before they have cleared away.
        detached: true,
      },
    );
    this.#daemon = daemon;
    await log.close();
    await waitUntil({
      what: 'the Docker Engine to answer',
      timeoutMs: readyTimeoutMs,
      check: async () => {
        if (daemon.exitCode !== null || daemon.signalCode !== null) {
          throw new Error(`dockerd ended: ${(await this.#log()).slice(-2000)}`);
        }
        return await this.docker.ping().then(
          () => true,
          () => false,
        );
      },
    });
  }

  /** As on most machines, containerd is a process of its own, which outlives the Engine: containers need it for live-restore. */
  async #startContainerd(): Promise<void> {
    const config = join(this.root, 'containerd.toml');
    const socket = join(this.root, 'containerd.sock');
    await writeFile(
      config,
      [
        'version = 2',
        `root = "${join(this.root, 'containerd')}"`,
        `state = "${join(this.root, 'containerd-state')}"`,
        'disabled_plugins = ["io.containerd.grpc.v1.cri"]',
        `[grpc]\naddress = "${socket}"`,
        '',
      ].join('\n'),
    );
    const log = await open(join(this.root, 'containerd.log'), 'a');
    this.#containerd = spawn('containerd', ['--config', config], { stdio: ['ignore', log.fd, log.fd], detached: true });
    await log.close();
    await waitUntil({
      what: 'containerd to listen',
      timeoutMs: readyTimeoutMs,
      check: () => Promise.resolve(existsSync(socket)),
    });
  }

  async end(signal: NodeJS.Signals): Promise<void> {
    const daemon = this.#daemon;
    if (daemon === undefined || daemon.exitCode !== null || daemon.signalCode !== null) {
      return;
    }
    const exited = once(daemon, 'exit');
    daemon.kill(signal);
    await exited;
  }

  async close(): Promise<void> {
    await this.end('SIGKILL');
    this.#containerd?.kill('SIGKILL');
    await clear(this.root);
  }

  async #log(): Promise<string> {
    return await readFile(join(this.root, 'dockerd.log'), 'utf8');
  }

  /** Docker 20.10 loads no OCI layouts: a manifest of its own kind beside the same blobs makes one that it does. */
  async #load({ tar, name }: Image): Promise<void> {
    const folder = await mkdtemp(join(this.root, 'load-'));
    await run('tar', ['-xf', tar, '-C', folder]);
    const readBlob = async (path: string): Promise<unknown> => JSON.parse(await readFile(join(folder, path), 'utf8'));
    const pathOf = (digest = ''): string => `blobs/${digest.replace(':', '/')}`;
    const index = (await readBlob('index.json')) as { manifests: { digest: string }[] };
    const manifest = (await readBlob(pathOf(index.manifests[0]?.digest))) as Record<'config', { digest: string }> &
      Record<'layers', { digest: string }[]>;
    const layers = manifest.layers.map(({ digest }) => pathOf(digest));
    const own = [{ Config: pathOf(manifest.config.digest), RepoTags: [name], Layers: layers }];
    await writeFile(join(folder, 'manifest.json'), JSON.stringify(own));
    const archive = `${folder}.tar`;
    await run('tar', ['-cf', archive, '-C', folder, 'manifest.json', 'blobs']);
    const progress = await this.docker.loadImage(createReadStream(archive));
    progress.resume();
    await once(progress, 'end');
    await this.docker.getImage(name).inspect();
    await rm(folder, { recursive: true });
    await rm(archive);
  }
}

/** Ends and removes what runs of tests that were killed left behind. */
async function clearLeftovers(): Promise<void> {
  for (const name of await readdir(tmpdir())) {
    if (!name.startsWith(prefix)) {
      continue;
    }
    const root = join(tmpdir(), name);
    const owner = await readFile(join(root, 'owner'), 'utf8').catch(() => '');
    if (owner !== '' && !existsSync(`/proc/${owner}`)) {
      await clear(root);
    }
  }
}

/** Processes first (by their command lines, which name the folder, and by cgroup), then mounts, then files. */
async function clear(root: string): Promise<void> {
  for (let tries = 0; tries < 50; tries += 1) {
    const pids = [...(await pidsNaming(root)), ...(await pidsInCgroup(basename(root)))];
    if (pids.length === 0) {
      break;
    }
    pids.forEach(endProcess);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  const mounts = (await readFile('/proc/self/mountinfo', 'utf8'))
    .split('\n')
    .map((line) => line.split(' ')[4] ?? '')
    .filter((path) => path.startsWith(`${root}/`));
  for (const path of mounts.reverse()) {
    await run('umount', ['-l', path]);
  }
  for (const folder of await cgroupFolders(basename(root))) {
    await removeCgroup(folder);
  }
  await rm(root, { recursive: true, force: true });
}

function endProcess(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // It has ended meanwhile.
  }
}

/** dockerd, containerd and the shims name a path below the folder on their command lines, launchers in their environment. */
async function pidsNaming(root: string): Promise<number[]> {
  const pids: number[] = [];
  const read = async (path: string): Promise<string> => await readFile(path, 'utf8').catch(() => '');
  for (const name of (await readdir('/proc')).filter((each) => /^\d+$/.test(each))) {
    const words = (await read(`/proc/${name}/cmdline`)).split('\0');
    const isEngine = /^(dockerd|containerd|containerd-shim.*|docker-proxy)$/.test(basename(words[0] ?? ''));
    const isLauncher = words[1] === launcherMain;
    const text = isEngine ? words.join(' ') : isLauncher ? await read(`/proc/${name}/environ`) : '';
    if (text.includes(`${root}/`)) {
      pids.push(Number(name));
    }
  }
  return pids;
}

async function cgroupFolders(name: string): Promise<string[]> {
  const controllers = await readdir(cgroupRoot).catch(() => []);
  return ['', ...controllers].map((each) => join(cgroupRoot, each, name)).filter((path) => existsSync(path));
}

async function pidsInCgroup(name: string): Promise<number[]> {
  const pids: number[] = [];
  for (const folder of await cgroupFolders(name)) {
    for (const path of [folder, ...(await subfolders(folder))]) {
      const text = await readFile(join(path, 'cgroup.procs'), 'utf8').catch(() => '');
      pids.push(...text.split('\n').filter(Boolean).map(Number));
    }
  }
  return [...new Set(pids)];
}

async function removeCgroup(folder: string): Promise<void> {
  for (const path of (await subfolders(folder)).reverse()) {
    await rmdir(path).catch(() => undefined);
  }
  await rmdir(folder).catch(() => undefined);
}

async function subfolders(folder: string): Promise<string[]> {
  const entries = await readdir(folder, { withFileTypes: true, recursive: true }).catch(() => []);
  return entries.filter((entry) => entry.isDirectory()).map((entry) => join(entry.parentPath, entry.name));
}
