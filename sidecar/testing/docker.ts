/** A pod of the runtime docker, without Kubernetes: a shared volume and the launcher. */
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { mkdir, mkdtemp, open, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { run } from '../../e2e/cluster/command.ts';
import { DockerEngine, launcherMain } from '../../e2e/docker-engine.ts';
import { busyboxImage } from '../../e2e/images/images.ts';
import { until } from './rig.ts';

export const testImage = 'ringmaster.local/busybox:1';

/** An Engine that has the test image. */
export async function createEngine(options: { liveRestore: boolean }): Promise<DockerEngine> {
  return DockerEngine.create({ ...options, images: [await busyboxImage()] });
}

/** The shared volume and the launcher of one pod. */
export class DockerPod {
  readonly directory: string;
  readonly podUid: string;
  launcher: ChildProcess | undefined;
  launcherLog = '';
  readonly #engine: DockerEngine;
  readonly #env: NodeJS.ProcessEnv;

  private constructor(directory: string, options: PodOptions) {
    this.directory = directory;
    this.podUid = options.podUid ?? '11111111-0000-4000-8000-000000000001';
    this.#engine = options.engine;
    const { pull = 'Never', ...spec } = options.spec;
    this.#env = {
      PATH: process.env['PATH'],
      RINGMASTER_DIR: directory,
      RINGMASTER_RUNTIME: 'docker',
      RINGMASTER_ID: options.id,
      RINGMASTER_INSTANCE_UID: options.instanceUid ?? `uid-of-${options.id}`,
      RINGMASTER_POD_UID: this.podUid,
      RINGMASTER_DOCKER_SOCKET: this.#engine.socketPath,
      RINGMASTER_DOCKER_SPEC: JSON.stringify({ image: testImage, network: 'none', pull, ...spec }),
      RINGMASTER_STOP_GRACE_SECONDS: '5',
      RINGMASTER_LAST_WORDS_FILE: join(directory, 'last-words'),
      ...options.env,
    };
  }

  static async create(options: PodOptions): Promise<DockerPod> {
    const directory = await mkdtemp(join(options.engine.root, 'pod-'));
    await mkdir(join(directory, 'run'));
    await writeFile(join(directory, 'log'), '');
    await run('mkfifo', [join(directory, 'stdin')]);
    return new DockerPod(directory, options);
  }

  /** `env` is laid over that of the pod. */
  start(env: NodeJS.ProcessEnv = {}): ChildProcess {
    // As the kubelet makes one for each start of a container.
    writeFileSync(join(this.directory, 'last-words'), '');
    const child = spawn(process.execPath, [launcherMain], {
      env: { ...this.#env, ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    child.stderr.on('data', (data: Buffer) => {
      this.launcherLog += data.toString();
    });
    this.launcher = child;
    return child;
  }

  /** Resolves with the exit code; null after a signal. */
  async exited(): Promise<number | null> {
    const child = this.launcher;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) {
      return child?.exitCode ?? null;
    }
    const [code] = (await once(child, 'close')) as [number | null];
    return code;
  }

  async kill(signal: NodeJS.Signals): Promise<number | null> {
    const exited = this.exited();
    this.launcher?.kill(signal);
    return await exited;
  }

  async log(): Promise<Buffer> {
    return await readFile(join(this.directory, 'log'));
  }

  async note(name: string): Promise<string> {
    return await readFile(join(this.directory, 'run', name), 'utf8');
  }

  /** What the launcher that was started last left for the kubelet. */
  async lastWords(): Promise<string> {
    return await readFile(join(this.directory, 'last-words'), 'utf8');
  }

  /** Writes to the pipe as the sidecar does; waits while it is full. */
  async type(text: string): Promise<void> {
    const handle = await open(join(this.directory, 'stdin'), 'w');
    await handle.writeFile(text);
    await handle.close();
  }

  async logHas(text: string, timeoutMs = 30_000): Promise<void> {
    await until(
      async () => {
        if (this.launcher?.exitCode !== null && !(await this.log()).includes(text)) {
          throw new Error(`The launcher ended: ${this.launcherLog}`);
        }
        return (await this.log()).includes(text);
      },
      `"${text}" in the log`,
      timeoutMs,
    );
  }

  async close(): Promise<void> {
    await this.kill('SIGKILL');
    await rm(this.directory, { recursive: true, force: true });
  }
}

export interface PodOptions {
  readonly engine: DockerEngine;
  readonly id: string;
  readonly instanceUid?: string;
  readonly podUid?: string;
  readonly spec: Record<string, unknown>;
  readonly env?: NodeJS.ProcessEnv;
}
