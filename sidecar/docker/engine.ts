/**
 * A narrow port to a Docker Engine, and dockerode behind it. Nothing else in the launcher talks to the library.
 */
import { once } from 'node:events';
import type { Duplex, Readable } from 'node:stream';
import Docker from 'dockerode';
import type { ContainerCreateOptions } from 'dockerode';

export type EngineErrorKind =
  /** The socket is missing, refuses, or broke: the Engine may come back. */
  | 'unreachable'
  /** There is no such container or image. */
  | 'missing'
  /** Something of that name is there already, or the state does not allow it. */
  | 'conflict'
  /** The Engine said no. */
  | 'refused';

/** What an Engine did not do, with its own words. */
export class EngineError extends Error {
  readonly kind: EngineErrorKind;

  constructor(kind: EngineErrorKind, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = 'EngineError';
    this.kind = kind;
  }
}

export interface ContainerState {
  readonly id: string;
  readonly labels: Readonly<Record<string, string>>;
  /** `created`: it never ran. */
  readonly status: 'created' | 'running' | 'ended';
  readonly exitCode: number;
  readonly startedAtMs: number;
}

export interface LogOptions {
  readonly follow: boolean;
  /** The last records alone. */
  readonly tail: number | undefined;
}

/** What the launcher needs of an Engine. Every method throws EngineError. */
export interface Engine {
  ping(): Promise<void>;
  /** Ids of all containers with this label, ended ones as well. */
  list(label: string): Promise<string[]>;
  inspect(id: string): Promise<ContainerState>;
  hasImage(image: string): Promise<boolean>;
  pull(image: string): Promise<void>;
  create(options: ContainerCreateOptions): Promise<string>;
  start(id: string): Promise<void>;
  /** Both output streams, framed, with time stamps. Destroy it to end it. */
  logs(id: string, options: LogOptions, signal: AbortSignal): Promise<Readable>;
  /** Standard input. The signal ends the attempt; the stream is the caller's to end. */
  attach(id: string, signal: AbortSignal): Promise<Duplex>;
  /** Resolves when the container is not running; rejects after the time. */
  wait(id: string, timeoutMs: number): Promise<void>;
  /** SIGTERM, and SIGKILL after the time; nothing if it has ended. */
  stop(id: string, timeoutSeconds: number): Promise<void>;
  kill(id: string, signal: NodeJS.Signals): Promise<void>;
  /** Nothing if it is gone already; a running one is killed. */
  remove(id: string): Promise<void>;
}

const pingTimeoutMs = 5000;
const callTimeoutMs = 30_000;
const pullTimeoutMs = 3_600_000;
const answerTimeoutMs = 5000;
const streamStatusCodes = { 200: true, 404: 'no such container', 500: 'server error' };

/** An Engine behind a Unix socket. */
export function connectEngine(socketPath: string): Engine {
  const docker = new Docker({ socketPath });
  return {
    async ping() {
      await call(docker.ping(), pingTimeoutMs);
    },
    async list(label) {
      const found = await call(docker.listContainers({ all: true, filters: { label: [label] } }));
      return found.map(({ Id }) => Id);
    },
    async inspect(id) {
      const { Id, Config, State } = await call(docker.getContainer(id).inspect());
      const isLive = State.Running || State.Paused || State.Restarting;
      return {
        id: Id,
        labels: Config.Labels,
        status: isLive ? 'running' : State.Status === 'created' ? 'created' : 'ended',
        exitCode: State.ExitCode,
        startedAtMs: Date.parse(State.StartedAt),
      };
    },
    async hasImage(image) {
      return await unless('missing', () => call(docker.getImage(image).inspect()));
    },
    async pull(image) {
      await pullImage(docker, image);
    },
    async create(options) {
      return (await call(docker.createContainer(options))).id;
    },
    async start(id) {
      await call(docker.getContainer(id).start());
    },
    async logs(id, options, signal) {
      return await answered(signal, (abortSignal) => openLogs(docker, id, { ...options, abortSignal }));
    },
    async attach(id, signal) {
      const options = { stream: true, stdin: true, stdout: false, stderr: false, hijack: true };
      return await answered(
        signal,
        async (abortSignal) =>
          (await call(docker.getContainer(id).attach({ ...options, abortSignal }))) as unknown as Duplex,
      );
    },
    async wait(id, timeoutMs) {
      const stop = new AbortController();
      try {
        await call(docker.getContainer(id).wait({ abortSignal: stop.signal }), timeoutMs);
      } finally {
        stop.abort();
      }
    },
    async stop(id, timeoutSeconds) {
      await unless('conflict', async () => {
        await call(docker.getContainer(id).stop({ t: timeoutSeconds }), timeoutSeconds * 1000 + callTimeoutMs);
      });
    },
    async kill(id, signal) {
      await unless('conflict', async () => {
        await call(docker.getContainer(id).kill({ signal }));
      });
    },
    async remove(id) {
      await unless('missing', async () => {
        await call(docker.getContainer(id).remove({ force: true, v: true }));
      });
    },
  };
}

/** Resolves when the stream has ended or broken. */
export async function closed(stream: Readable | Duplex): Promise<void> {
  if (!stream.destroyed) {
    await once(stream, 'close').catch(() => undefined);
  }
}

async function pullImage(docker: Docker, image: string): Promise<void> {
  const progress = await call(docker.pull(image));
  const { promise, resolve, reject } = Promise.withResolvers<undefined>();
  docker.modem.followProgress(progress, (error) => {
    if (error === null) {
      resolve(undefined);
    } else {
      reject(error);
    }
  });
  // A pull that breaks off ends without a word.
  progress.once('close', () => {
    reject(new EngineError('unreachable', 'The pull broke off'));
  });
  await call(promise, pullTimeoutMs);
}

/** `Container.logs` collects what it does not follow into one string; this streams both. */
async function openLogs(
  docker: Docker,
  id: string,
  request: LogOptions & { abortSignal: AbortSignal },
): Promise<Readable> {
  const { follow, tail, abortSignal } = request;
  const { promise, resolve, reject } = Promise.withResolvers<Readable>();
  const options = { stdout: true, stderr: true, timestamps: true, follow, ...(tail === undefined ? {} : { tail }) };
  docker.modem.dial(
    {
      path: `/containers/${id}/logs?`,
      method: 'GET',
      isStream: true,
      abortSignal,
      statusCodes: streamStatusCodes,
      options,
    },
    (error: unknown, stream: unknown) => {
      if (error instanceof Error) {
        reject(error);
      } else {
        resolve(stream as Readable);
      }
    },
  );
  return await call(promise);
}

/** A request for a stream that gets no answer is given up; once there is a stream, it is the caller's. */
async function answered<T>(signal: AbortSignal, request: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const stop = new AbortController();
  const end = (): void => {
    stop.abort();
  };
  const timer = setTimeout(end, answerTimeoutMs);
  signal.addEventListener('abort', end);
  if (signal.aborted) {
    end();
  }
  try {
    return await request(stop.signal);
  } finally {
    clearTimeout(timer);
    signal.removeEventListener('abort', end);
  }
}

/** dockerode never settles a call whose answer breaks off in the middle: each has its time. */
async function call<T>(promise: Promise<T>, timeoutMs = callTimeoutMs): Promise<T> {
  const { promise: late, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(() => {
    reject(new EngineError('unreachable', `The Engine has not answered for ${timeoutMs} ms`));
  }, timeoutMs);
  try {
    return await Promise.race([promise, late]);
  } catch (error) {
    throw error instanceof EngineError ? error : asEngineError(error);
  } finally {
    clearTimeout(timer);
  }
}

/** False if it failed for that reason alone. */
async function unless(kind: EngineErrorKind, body: () => Promise<unknown>): Promise<boolean> {
  try {
    await body();
    return true;
  } catch (error) {
    if (error instanceof EngineError && error.kind === kind) {
      return false;
    }
    throw error;
  }
}

const networkFault = /socket hang up|ECONN|EPIPE|ENOENT|EACCES|ETIMEDOUT|aborted/;

function asEngineError(error: unknown): EngineError {
  const { statusCode, code, message, json } = error as {
    statusCode?: number;
    code?: string;
    message: string;
    json?: { message?: string };
  };
  const said = (json?.message ?? message).trim();
  if (statusCode === 404) {
    return new EngineError('missing', said, { cause: error });
  }
  if (statusCode === 409 || statusCode === 304) {
    return new EngineError('conflict', said, { cause: error });
  }
  const isNetwork = statusCode === undefined && networkFault.test(`${code ?? ''} ${message}`);
  return new EngineError(isNetwork ? 'unreachable' : 'refused', said, { cause: error });
}
