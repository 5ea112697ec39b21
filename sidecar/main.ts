/**
 * The sidecar of an instance pod: it serves the workload's log and standard input to the Master, and knows nothing of Kubernetes.
 *
 * Volume shared with the workload's container:
 *   launch.sh   the launcher, put there at the start (launch.sh says what the workload's side does)
 *   stdin       the pipe (stdin.ts)           log        the log (log.ts, reclaim.ts)
 *   terminal    what screen and tmux write; ingest.ts makes `log` of it
 *   run/        what the launcher writes down (status.ts)
 * server.ts answers, stream.ts sends the log. This file alone reads the environment.
 */
import { execFile } from 'node:child_process';
import { constants } from 'node:fs';
import { chmod, lstat, mkdir, open, readFile, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { GrowingFile } from './growth.ts';
import { Ingest } from './ingest.ts';
import { LogFile } from './log.ts';
import { createCounters } from './metrics.ts';
import {
  defaultDirectory,
  defaultHealthPort,
  defaultPort,
  identityOf,
  sealMessage,
  sidecarRuntimes,
} from './protocol.ts';
import type { SidecarRuntime, SidecarStatus } from './protocol.ts';
import { ReadyGate } from './ready.ts';
import { canPunch, keepWithin, punchWithFallocate } from './reclaim.ts';
import { createSay } from './say.ts';
import { sealLog } from './seal.ts';
import { SidecarServer } from './server.ts';
import { Starts } from './starts.ts';
import { readWorkload } from './status.ts';
import { StdinPipe } from './stdin.ts';

export interface Settings {
  readonly directory: string;
  readonly stateDirectory: string;
  readonly runtime: SidecarRuntime;
  readonly instanceUid: string;
  readonly keyPath: string;
  readonly host: string;
  readonly port: number;
  /** 0 turns the plain server off. */
  readonly healthPort: number;
  /** 0 keeps everything. */
  readonly retainBytes: number;
  /** A line that matches makes the workload ready; undefined where readiness is nobody's question. */
  readonly readyPattern: string | undefined;
  /** How long an orderly stop may wait for readers. */
  readonly drainMs: number;
}

const say = createSay('sidecar');
const keyBytes = 32;
const drainStepMs = 20;
/** A reader that left less than this ago is expected back for the last lines. */
const readerAbsentMsMax = 30_000;

/** Reads the settings. Throws with the name of the variable that is missing or wrong. */
export function readSettings(env: NodeJS.ProcessEnv): Settings {
  const directory = env['RINGMASTER_DIR'] ?? defaultDirectory;
  return {
    directory,
    stateDirectory: env['RINGMASTER_STATE_DIR'] ?? join(directory, 'sidecar'),
    runtime: readRuntime(env['RINGMASTER_RUNTIME']),
    instanceUid: required(env, 'RINGMASTER_INSTANCE_UID'),
    keyPath: required(env, 'RINGMASTER_KEY_FILE'),
    host: env['RINGMASTER_HOST'] ?? '::',
    port: readNumber(env, 'RINGMASTER_PORT', defaultPort),
    healthPort: readNumber(env, 'RINGMASTER_HEALTH_PORT', defaultHealthPort),
    retainBytes: readNumber(env, 'RINGMASTER_RETAIN_BYTES', 0),
    readyPattern: env['RINGMASTER_READY_PATTERN'] === '' ? undefined : env['RINGMASTER_READY_PATTERN'],
    drainMs: readNumber(env, 'RINGMASTER_DRAIN_MS', 10_000),
  };
}

/** Runs the sidecar until the signal, and then until its readers have the last bytes. Rejects if it cannot start. */
export async function runSidecar(settings: Settings, signal: AbortSignal): Promise<void> {
  const { directory, stateDirectory } = settings;
  const runDirectory = join(directory, 'run');
  const stop = new AbortController();
  const onFault = createFaultWriter();
  await makeDirectory(runDirectory, 0o777);
  await makeDirectory(stateDirectory, 0o700);
  const log = await LogFile.open(join(directory, 'log'), join(stateDirectory, 'log.json'));
  const starts = await openStarts(settings, log, stop.signal);
  await makePipe(join(directory, 'stdin'));
  const pipe = new StdinPipe(join(directory, 'stdin'));
  const retention = await startRetention({ settings, log, onFault }, stop.signal);
  const isWatched = log.file.start(stop.signal);
  say('info', 'Log opened', {
    epoch: log.epoch,
    first: log.first,
    end: log.end,
    retention: retention.mode,
    inotify: isWatched,
  });
  const ingest = await startIngest({ settings, log, onFault, starts, canPunch: retention.canPunch }, signal);
  const server = new SidecarServer({
    log,
    starts,
    ready: startReadiness({ settings, log, onFault, starts }, stop.signal),
    pipe,
    identity: identityOf(settings.instanceUid),
    key: await readKey(settings.keyPath),
    counters: createCounters(),
    readStatus: async () => ({
      runtime: settings.runtime,
      ...(await readWorkload(runDirectory, pipe)),
      log: describeLog(log, settings, retention),
    }),
    onFault,
  });
  await listen(server, settings);
  // The launcher comes last: where it is, everything that it needs is there.
  await placeLauncher(directory);
  say('info', 'Serving', { port: settings.port, healthPort: settings.healthPort, runtime: settings.runtime });
  await aborted(signal);
  await ingest.done;
  log.finish();
  await sayLast(log, starts, onFault);
  await drain(server, log, settings.drainMs);
  server.close();
  stop.abort();
  log.file.wake();
  say('info', 'Stopped', { end: log.end, delivered: server.deliveredOffset });
}

interface Retention {
  mode: SidecarStatus['log']['retention'];
  readonly canPunch: boolean;
}

interface Parts {
  readonly settings: Settings;
  readonly log: LogFile;
  readonly onFault: (error: unknown) => void;
}

async function startRetention(parts: Parts, signal: AbortSignal): Promise<Retention> {
  const { settings, log } = parts;
  const isWanted = settings.retainBytes > 0;
  const isPossible = isWanted && (await canPunch(settings.directory, punchWithFallocate));
  const retention: Retention = { mode: isPossible ? 'holes' : isWanted ? 'unsupported' : 'off', canPunch: isPossible };
  if (retention.mode === 'unsupported') {
    say('error', 'Cannot reclaim disk space: holes cannot be punched here; the whole log is kept');
  }
  if (isPossible) {
    const onFault = (error: unknown): void => {
      retention.mode = 'unsupported';
      parts.onFault(error);
    };
    void keepWithin({ log, retainBytes: settings.retainBytes, punch: punchWithFallocate, onFault }, signal);
  }
  return retention;
}

async function openStarts(settings: Settings, log: LogFile, signal: AbortSignal): Promise<Starts> {
  const placedPath = hasTerminal(settings.runtime) ? join(settings.stateDirectory, 'starts') : undefined;
  const starts = await Starts.open(join(settings.directory, 'run'), placedPath);
  // Whenever the end has moved, what was written since may belong to a new start.
  log.file.onChange.push(() => {
    starts.refresh();
  });
  starts.onChange = () => {
    log.file.wake();
  };
  starts.start(signal);
  return starts;
}

function startReadiness(parts: Parts & { starts: Starts }, signal: AbortSignal): ReadyGate | undefined {
  const { settings, log, starts, onFault } = parts;
  const pattern = settings.readyPattern;
  if (pattern === undefined) {
    return undefined;
  }
  const gate = new ReadyGate({ log, starts, pattern, statePath: join(settings.stateDirectory, 'ready'), onFault });
  void gate.run(signal);
  return gate;
}

function hasTerminal(runtime: SidecarRuntime): boolean {
  return runtime === 'screen' || runtime === 'tmux';
}

/** Under screen and tmux the log is made of what the terminal wrote. Resolves when the last of it was taken over. */
async function startIngest(
  parts: Parts & { starts: Starts; canPunch: boolean },
  signal: AbortSignal,
): Promise<{ done: Promise<void> }> {
  const { settings, log, onFault, starts } = parts;
  if (!hasTerminal(settings.runtime)) {
    return { done: Promise.resolve() };
  }
  const terminal = await GrowingFile.open(join(settings.directory, 'terminal'));
  const checkpointPath = join(settings.directory, 'run', 'ingested');
  const punch = parts.canPunch ? punchWithFallocate : undefined;
  terminal.onChange.push(() => {
    starts.refresh();
  });
  starts.onChange = () => {
    log.file.wake();
    terminal.wake();
  };
  terminal.start(signal);
  starts.refresh();
  const done = new Ingest({ terminal, log: log.file, checkpointPath, starts, punch, onFault }).run(signal);
  return { done: done.catch(onFault) };
}

function describeLog(log: LogFile, settings: Settings, retention: Retention): SidecarStatus['log'] {
  return {
    epoch: log.epoch,
    firstOffset: log.first,
    endOffset: log.end,
    diskBytes: log.file.diskBytes,
    retainBytes: settings.retainBytes,
    retention: retention.mode,
  };
}

/** Before the wait for readers: whoever ends that early must not take this away. */
async function sayLast(log: LogFile, starts: Starts, onFault: (error: unknown) => void): Promise<void> {
  try {
    say('info', sealMessage, { ...(await sealLog(log, starts)) });
  } catch (error) {
    onFault(error);
  }
}

/** The workload has ended before the sidecar is told to: what the log holds now is all. Waits for readers, but not for ever. */
async function drain(server: SidecarServer, log: LogFile, drainMs: number): Promise<void> {
  const deadline = Date.now() + drainMs;
  const isAwaited = (): boolean => {
    const isExpected = server.lastReaderAtMs > 0 && Date.now() - server.lastReaderAtMs < readerAbsentMsMax;
    return server.readers > 0 || (isExpected && server.deliveredOffset < log.end);
  };
  while (isAwaited() && Date.now() < deadline) {
    await new Promise((resolve) => setTimeout(resolve, drainStepMs));
  }
}

async function listen(server: SidecarServer, settings: Settings): Promise<void> {
  const start = (each: SidecarServer['tls'] | SidecarServer['plain'], port: number): Promise<void> =>
    new Promise((resolve, reject) => {
      each.once('error', reject);
      each.listen({ host: settings.host, port, backlog: 2048 }, resolve);
    });
  await start(server.tls, settings.port);
  if (settings.healthPort > 0) {
    await start(server.plain, settings.healthPort);
  }
}

/** A folder that was already there must be one, and not a link to elsewhere. */
async function makeDirectory(path: string, mode: number): Promise<void> {
  await mkdir(path, { recursive: true });
  const stat = await lstat(path);
  if (!stat.isDirectory()) {
    throw new Error(`Cannot use "${path}": it is not a directory`);
  }
  if (stat.uid === process.getuid?.()) {
    await chmod(path, mode);
  }
}

async function makePipe(path: string): Promise<void> {
  const stat = await lstat(path).catch(() => undefined);
  if (stat === undefined) {
    // Node has no call for it; the command is in every image that has a shell.
    await promisify(execFile)('mkfifo', ['-m', '666', path]);
  } else if (!stat.isFIFO()) {
    throw new Error(`Cannot use "${path}": it is not a pipe`);
  }
}

async function placeLauncher(directory: string): Promise<void> {
  const source = await readFile(fileURLToPath(new URL('launch.sh', import.meta.url)));
  const path = join(directory, 'launch.sh');
  const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_TRUNC | constants.O_NOFOLLOW;
  const handle = await open(`${path}.new`, flags, 0o755);
  try {
    await handle.writeFile(source);
    await handle.chmod(0o755);
  } finally {
    await handle.close();
  }
  await rename(`${path}.new`, path);
}

/** 32 bytes, raw or as 64 hex digits. */
async function readKey(path: string): Promise<Buffer> {
  const content = await readFile(path);
  const text = content.toString('latin1').trim();
  const key = /^[0-9a-f]{64}$/i.test(text) ? Buffer.from(text, 'hex') : content;
  if (key.length !== keyBytes) {
    throw new Error(`Cannot use the key in "${path}": it has ${key.length} bytes, not ${keyBytes}`);
  }
  return key;
}

function readRuntime(value: string | undefined): SidecarRuntime {
  const runtime = sidecarRuntimes.find((each) => each === value);
  if (runtime === undefined) {
    throw new Error(`Cannot start: RINGMASTER_RUNTIME must be one of ${sidecarRuntimes.join(', ')}`);
  }
  return runtime;
}

function required(env: NodeJS.ProcessEnv, name: string): string {
  const value = env[name];
  if (value === undefined || value === '') {
    throw new Error(`Cannot start: ${name} is not set`);
  }
  return value;
}

function readNumber(env: NodeJS.ProcessEnv, name: string, fallback: number): number {
  const text = env[name] ?? String(fallback);
  if (!/^\d{1,15}$/.test(text)) {
    throw new Error(`Cannot start: ${name} is not a whole number: "${text}"`);
  }
  return Number(text);
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) {
      resolve();
    }
    signal.addEventListener('abort', () => {
      resolve();
    });
  });
}

/** The same fault each second (a full disk) is said once. */
function createFaultWriter(): (error: unknown) => void {
  let last = '';
  return (error) => {
    const message = error instanceof Error ? error.message : String(error);
    if (message !== last) {
      last = message;
      say('error', message);
    }
  };
}

if (import.meta.main) {
  const stop = new AbortController();
  const end = (): void => {
    stop.abort();
  };
  process.on('SIGTERM', end);
  process.on('SIGINT', end);
  try {
    await runSidecar(readSettings(process.env), stop.signal);
    process.exit(0);
  } catch (error) {
    say('error', error instanceof Error ? error.message : String(error));
    process.exit(1);
  }
}
