import { spawn } from 'node:child_process';

/** What {@link run} may be told besides the command itself. */
export interface RunOptions {
  cwd?: string;
  /** Added to this process's environment. */
  env?: Record<string, string>;
  /** Written to the command's stdin, which is empty otherwise. */
  input?: string;
  signal?: AbortSignal;
}

/** A command that ended other than with exit code 0; `output` is what it wrote, stderr last. */
export class CommandError extends Error {
  readonly exitCode: number | null;
  readonly output: string;

  constructor(message: string, exitCode: number | null, output: string) {
    super(message);
    this.name = 'CommandError';
    this.exitCode = exitCode;
    this.output = output;
  }
}

/** Runs a command to its end and gives its stdout. Throws a {@link CommandError} that holds the last lines it wrote. */
export async function run(file: string, args: readonly string[], options: RunOptions = {}): Promise<string> {
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  const child = spawn(file, args, {
    cwd: options.cwd,
    env: { ...process.env, ...options.env },
    signal: options.signal,
    stdio: ['pipe', 'pipe', 'pipe'],
  });
  const stdout: Buffer[] = [];
  const stderr: Buffer[] = [];
  child.stdout.on('data', (chunk: Buffer) => stdout.push(chunk));
  child.stderr.on('data', (chunk: Buffer) => stderr.push(chunk));
  child.on('error', reject);
  // A command that ends without reading all of its input is no fault of its own; its exit code says how it went.
  child.stdin.on('error', () => undefined);
  child.stdin.end(options.input ?? '');
  child.on('close', (code, signal) => {
    const out = Buffer.concat(stdout).toString();
    if (code === 0) {
      resolve(out);
      return;
    }
    const output = (out + Buffer.concat(stderr).toString()).trimEnd();
    const how = signal === null ? `exit code ${String(code)}` : signal;
    const tail = output.split('\n').slice(-15).join('\n');
    reject(new CommandError(`"${[file, ...args].join(' ')}" failed: ${how}\n${tail}`, code, output));
  });
  return promise;
}

/** Whether a program can be found on the PATH or in the folders where distributions put administrators' programs. */
export async function hasProgram(name: string): Promise<boolean> {
  try {
    await run('sh', ['-c', 'PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"; command -v -- "$1"', 'sh', name]);
    return true;
  } catch {
    // `command -v` answers "not there" with its exit code.
    return false;
  }
}
