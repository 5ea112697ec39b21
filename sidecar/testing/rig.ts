/**
 * A real pod without Kubernetes, for tests: a folder as the shared volume, a sidecar process, and the launcher under a real shell.
 * Everything that it starts it ends.
 */
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import type { IncomingMessage } from 'node:http';
import { request } from 'node:https';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { text } from 'node:stream/consumers';
import { freePort } from '../../e2e/ports.ts';
import { deriveKey, headers, tlsOptions } from '../protocol.ts';
import type { SidecarRuntime, SidecarStatus } from '../protocol.ts';

/** Of this tree. */
const ownFolder = fileURLToPath(new URL('..', import.meta.url));
const stepMs = 10;

/** Resolves once the condition holds; rejects, with what it says, after the time. */
export async function until(isMet: () => boolean | Promise<boolean>, what: string, timeoutMs = 30_000): Promise<void> {
  for (const deadline = Date.now() + timeoutMs; Date.now() < deadline;) {
    if (await isMet()) {
      return;
    }
    await new Promise((resolve) => setTimeout(resolve, stepMs));
  }
  throw new Error(`Waited in vain for: ${what}`);
}

export interface Answer {
  readonly status: number;
  readonly headers: IncomingMessage['headers'];
  readonly body: string;
}

/** A reader of `/v1/log` that keeps everything. */
export interface Reading {
  readonly response: IncomingMessage;
  /** What has come so far. */
  bytes(): Buffer;
  /** Resolves when the stream has ended: the reason, or undefined if it was cut. */
  readonly ended: Promise<string | undefined>;
  close(): void;
}

export class Rig {
  readonly directory: string;
  readonly runtime: SidecarRuntime;
  readonly uid = 'b6a1e0f4-0000-4000-8000-000000000001';
  readonly key = deriveKey(Buffer.alloc(32, 7), this.uid);
  port = 0;
  healthPort = 0;
  sidecar: ChildProcess | undefined;
  sidecarLog = '';
  readonly #children = new Set<ChildProcess>();
  #env: NodeJS.ProcessEnv = {};
  #folder = ownFolder;

  private constructor(directory: string, runtime: SidecarRuntime) {
    this.directory = directory;
    this.runtime = runtime;
  }

  /** `folder` has the sidecar's sources, of this release or another. */
  static async create(runtime: SidecarRuntime, env: NodeJS.ProcessEnv = {}, folder = ownFolder): Promise<Rig> {
    const rig = new Rig(await mkdtemp(join(tmpdir(), 'sidecar-')), runtime);
    rig.#env = env;
    rig.#folder = folder;
    await writeFile(join(rig.directory, 'key'), rig.key.toString('hex'));
    [rig.port, rig.healthPort] = await Promise.all([freePort(), freePort()]);
    await rig.startSidecar();
    return rig;
  }

  path(name: string): string {
    return join(this.directory, name);
  }

  async startSidecar(): Promise<void> {
    const child = spawn(process.execPath, [join(this.#folder, 'main.ts')], {
      env: {
        PATH: process.env['PATH'],
        RINGMASTER_DIR: this.directory,
        RINGMASTER_RUNTIME: this.runtime,
        RINGMASTER_INSTANCE_UID: this.uid,
        RINGMASTER_KEY_FILE: this.path('key'),
        RINGMASTER_HOST: '127.0.0.1',
        RINGMASTER_PORT: String(this.port),
        RINGMASTER_HEALTH_PORT: String(this.healthPort),
        ...this.#env,
      },
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    this.#children.add(child);
    this.sidecar = child;
    this.sidecarLog = '';
    child.stderr.on('data', (data: Buffer) => {
      this.sidecarLog += data.toString();
    });
    await until(() => {
      if (child.exitCode !== null) {
        throw new Error(`The sidecar ended: ${this.sidecarLog}`);
      }
      return this.sidecarLog.includes('"Serving"');
    }, 'a sidecar that serves');
  }

  async endSidecar(signal: NodeJS.Signals): Promise<number | null> {
    const child = this.sidecar;
    if (child === undefined || child.exitCode !== null) {
      return child?.exitCode ?? null;
    }
    child.kill(signal);
    const [code] = (await once(child, 'exit')) as [number | null];
    return code;
  }

  /** Starts the launcher under a shell (`dash`, `busybox sh`) as a container would. */
  launch(shell: readonly string[], command: readonly string[], env: NodeJS.ProcessEnv = {}): ChildProcess {
    const [program, ...rest] = shell;
    const child = spawn(program ?? 'sh', [...rest, join(this.#folder, 'launch.sh'), '--', ...command], {
      env: {
        PATH: process.env['PATH'],
        HOME: this.directory,
        RINGMASTER_DIR: this.directory,
        RINGMASTER_RUNTIME: this.runtime,
        RINGMASTER_ID: 'a1b2c3',
        ...env,
      },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.#children.add(child);
    return child;
  }

  async call(
    method: string,
    path: string,
    body?: string | Buffer,
    sent: Readonly<Record<string, string>> = {},
  ): Promise<Answer> {
    const response = await this.#request(method, path, body, sent);
    return { status: response.statusCode ?? 0, headers: response.headers, body: await text(response) };
  }

  async status(): Promise<SidecarStatus> {
    return JSON.parse((await this.call('GET', '/v1/status')).body) as SidecarStatus;
  }

  async read(query: string): Promise<Reading> {
    const response = await this.#request('GET', `/v1/log?${query}`);
    const chunks: Buffer[] = [];
    response.on('data', (chunk: Buffer) => chunks.push(chunk));
    const ended = new Promise<string | undefined>((resolve) => {
      response.on('error', () => undefined);
      response.on('close', () => {
        resolve(response.complete ? response.trailers[headers.endReason] : undefined);
      });
    });
    const close = (): void => {
      response.destroy();
    };
    return { response, bytes: () => Buffer.concat(chunks), ended, close };
  }

  async logFile(): Promise<Buffer> {
    return await readFile(this.path('log'));
  }

  async close(): Promise<void> {
    for (const child of this.#children) {
      if (child.exitCode === null && child.signalCode === null) {
        child.kill(child === this.sidecar ? 'SIGKILL' : 'SIGTERM');
        await Promise.race([once(child, 'exit'), new Promise((resolve) => setTimeout(resolve, 5000))]);
        child.kill('SIGKILL');
      }
    }
    await rm(this.directory, { recursive: true, force: true });
  }

  async #request(
    method: string,
    path: string,
    body?: string | Buffer,
    sent: Readonly<Record<string, string>> = {},
  ): Promise<IncomingMessage> {
    // Spread, because the types of node:https leave the key out.
    const secret = { pskCallback: () => ({ psk: this.key, identity: this.uid }), checkServerIdentity: () => undefined };
    const outgoing = request({
      ...tlsOptions,
      ...secret,
      host: '127.0.0.1',
      port: this.port,
      method,
      path,
      headers: sent,
      agent: false,
    });
    outgoing.end(body);
    const [response] = (await once(outgoing, 'response')) as [IncomingMessage];
    outgoing.on('error', () => undefined);
    return response;
  }
}

/** A rig for the length of `body`. */
export async function withRig(
  runtime: SidecarRuntime,
  body: (rig: Rig) => Promise<void>,
  env: NodeJS.ProcessEnv = {},
): Promise<void> {
  const rig = await Rig.create(runtime, env);
  try {
    await body(rig);
  } finally {
    await rig.close();
  }
}
