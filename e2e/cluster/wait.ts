import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { StartedProgram } from './processes.ts';
import { isRunning } from './processes.ts';

const pollMs = 50;

export interface Wait {
  /** For the message: "kube-apiserver to be ready". */
  what: string;
  timeoutMs: number;
  /** What must be running meanwhile; when it ends, so does the waiting, with the last lines of its log. */
  programs?: readonly StartedProgram[];
  check: () => boolean | Promise<boolean>;
}

/** Asks until the answer is yes. Gives up with an error that names the log to read. */
export async function waitUntil({ what, timeoutMs, programs = [], check }: Wait): Promise<void> {
  const deadline = Date.now() + timeoutMs;
  while (!(await check())) {
    const dead = programs.find((program) => !isRunning(program));
    if (dead !== undefined) throw new Error(`Cannot wait for ${what}: ${dead.name} has ended\n${logTail(dead)}`);
    if (Date.now() > deadline) {
      const logs = programs.map((program) => program.logFile).join(' ');
      throw new Error(`Gave up waiting for ${what} after ${String(timeoutMs / 1000)} s; see ${logs}`);
    }
    await sleep(pollMs);
  }
}

function logTail({ logFile }: StartedProgram): string {
  const lines = readFileSync(logFile, 'utf8').trimEnd().split('\n').slice(-8);
  return [`${logFile}:`, ...lines.map((line) => `  ${line.slice(0, 400)}`)].join('\n');
}
