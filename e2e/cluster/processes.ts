import { spawn } from 'node:child_process';
import { closeSync, openSync, readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

const pollMs = 20;

/** One long-running program of a cluster, described so that it can be started again exactly as it was. */
export interface Program {
  name: string;
  file: string;
  args: string[];
  /** Network namespace that it runs in; the machine's own by default. */
  netns?: string;
  /** Folder of the cgroup that it is put into before it begins. */
  cgroupDir: string;
  /** Where its output is added to. */
  logFile: string;
}

/** A program that was started. A pid alone may have been given to another process since; with its start time it is unique. */
export interface StartedProgram extends Program {
  pid: number;
  startTicks: string;
}

/** Starts a program in its own session and cgroup: it outlives this process, whatever ends that. */
export function startProgram(program: Program): StartedProgram {
  const log = openSync(program.logFile, 'a');
  try {
    // `nsenter --net` and not `ip netns exec`, which would give it a mount namespace: a Secret's tmpfs that the kubelet mounts would
    // then be missing in containers. Each step is an exec, so the pid stays the same.
    const netns = program.netns === undefined ? [] : ['nsenter', `--net=/run/netns/${program.netns}`];
    const enterCgroup = 'echo $$ >"$0" && exec "$@"';
    const args = ['-c', enterCgroup, join(program.cgroupDir, 'cgroup.procs'), ...netns, program.file, ...program.args];
    const child = spawn('sh', args, { detached: true, stdio: ['ignore', log, log] });
    // Reported by the exit of the program, which whoever waits for it notices.
    child.on('error', () => undefined);
    child.unref();
    if (child.pid === undefined) throw new Error(`Cannot start "${program.name}": no shell`);
    return { ...program, pid: child.pid, startTicks: startTicksOf(child.pid) ?? '' };
  } finally {
    closeSync(log);
  }
}

/** Whether exactly this process is still there, and not a zombie. */
export function isRunning({ pid, startTicks }: StartedProgram): boolean {
  return startTicksOf(pid) === startTicks;
}

/** Sends a signal to the process if it is still there. */
export function signalProgram(program: StartedProgram, signal: NodeJS.Signals): void {
  if (!isRunning(program)) return;
  try {
    process.kill(program.pid, signal);
  } catch {
    // It ended in between.
  }
}

/** Waits until the process has ended; gives false when it has not within the time. */
export async function waitForExit(program: StartedProgram, timeoutMs: number): Promise<boolean> {
  const deadline = Date.now() + timeoutMs;
  while (isRunning(program)) {
    if (Date.now() > deadline) return false;
    await sleep(pollMs);
  }
  return true;
}

/** Field 22 of `/proc/PID/stat`; undefined if there is no such process, or only what is left of it. */
function startTicksOf(pid: number): string | undefined {
  try {
    const text = readFileSync(`/proc/${String(pid)}/stat`, 'utf8');
    // The name, in parentheses, may hold anything; what follows it are plain fields from the third.
    const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
    return fields[0] === 'Z' || fields[0] === 'X' ? onlyThreads(pid, fields[19]) : fields[19];
  } catch {
    // No such process.
    return undefined;
  }
}

/** The first thread ends before the others do, and until the last one has, ports and files are still held. */
function onlyThreads(pid: number, startTicks: string | undefined): string | undefined {
  return readdirSync(`/proc/${String(pid)}/task`).length > 1 ? startTicks : undefined;
}
