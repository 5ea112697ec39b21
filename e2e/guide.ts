/**
 * Runs a page of the documentation as its reader would: files that the page shows are saved, its commands run in order in one shell, and what they write is
 * compared with what the page shows.
 *
 * - ` ```sh `: commands. One that fails ends the test.
 * - ` ```text ` directly after them: all that they write. `…` stands for any text within its line, and alone on a line for any lines, none included.
 * - ` ```sh terminal `: one command for a terminal; a comment after it, `<!-- terminal: [["until", "Done"], ["type", "help\r"]] -->`, says what a person would
 *   wait for and type. It must end by itself then.
 * - `<!-- person: page.html -->`: what a person does by hand here, by a name that the test knows.
 * - Any other language whose first line is a comment with a file's name: that file, in the folder that the commands run in.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { chmod, copyFile, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import type { Writable } from 'node:stream';
import { waitUntil } from './cluster/wait.ts';

const root = join(import.meta.dirname, '..');
const blockTimeoutMs = 120_000;
const terminalTimeoutMs = 20_000;
/** Written by the shell after each block: no program writes these characters. */
const separator = '\u001e';

export type TerminalStep = readonly ['until' | 'type', string];

export type GuideStep =
  | { readonly kind: 'file'; readonly name: string; readonly content: string }
  | { readonly kind: 'commands'; readonly text: string; readonly expected: string | undefined }
  | { readonly kind: 'person'; readonly name: string }
  | { readonly kind: 'terminal'; readonly text: string; readonly steps: readonly TerminalStep[] };

const block = /^```(\w+)([^\n]*)\n(.*?)^```$(?:\n+<!-- terminal: (.*?) -->)?|^<!-- person: ([^\n]*) -->$/gms;
const fileName = /^(?:#|\/\/|<!--) ([\w.-]+\.\w+)(?: -->)?\n/;

/** What a page tells its reader to do, in order. Throws where it shows a result of nothing, or a terminal without what is done in it. */
export function readGuide(page: string): GuideStep[] {
  const steps: GuideStep[] = [];
  let end = 0;
  for (const match of page.matchAll(block)) {
    const [all, language = '', info = '', text = '', terminal, person] = match;
    const isDirectlyAfter = page.slice(end, match.index).trim() === '';
    end = match.index + all.length;
    if (person !== undefined) steps.push({ kind: 'person', name: person });
    else if (language === 'text') {
      const last = steps.at(-1);
      if (last?.kind !== 'commands' || last.expected !== undefined || !isDirectlyAfter)
        throw new Error(`This result follows no commands: ${text}`);
      steps[steps.length - 1] = { ...last, expected: text };
    } else if (language === 'sh' && info.trim() === 'terminal') {
      if (terminal === undefined) throw new Error(`Nothing says what is typed into this terminal: ${text}`);
      steps.push({ kind: 'terminal', text, steps: JSON.parse(terminal) as TerminalStep[] });
    } else if (language === 'sh') steps.push({ kind: 'commands', text, expected: undefined });
    else {
      const name = fileName.exec(text)?.[1];
      if (name !== undefined) steps.push({ kind: 'file', name, content: text });
    }
  }
  return steps;
}

/** Whether a text is what a page shows. */
export function isAsShown(shown: string, text: string): boolean {
  const pattern = shown
    .trimEnd()
    .split('\n')
    .map((line) => (line.trim() === '…' ? '(?:[^\n]*\n)*?' : `${line.split('…').map(escapePattern).join('[^\n]*')}\n`))
    .join('');
  return new RegExp(`^${pattern}$`).test(`${text.trimEnd()}\n`);
}

function escapePattern(text: string): string {
  return text.replace(/[\\^$.*+?()[\]{}|]/g, '\\$&');
}

export interface GuideOptions {
  /** Path from the clone. */
  readonly page: string;
  readonly kubeconfig: string;
  /** Of `kubectl` and `helm`. */
  readonly binDir: string;
  readonly env: Readonly<Record<string, string>>;
}

function unknownDeed(name: string): Promise<void> {
  return Promise.reject(new Error(`Nobody here knows how to do by hand: ${name}`));
}

/** A reader with a shell, a folder and a kubeconfig of their own. */
export class Reader {
  readonly folder: string;
  readonly #shell: ChildProcess;
  readonly #steps: readonly GuideStep[];
  #output = '';

  private constructor(folder: string, steps: readonly GuideStep[], env: NodeJS.ProcessEnv) {
    this.folder = folder;
    this.#steps = steps;
    // Standard input stays open, as a person's terminal does. Paths of scripts come by file descriptor 3. Variables go on to programs.
    const loop = `set -ea; while IFS= read -r block <&3; do . "$block" 2>&1; printf '${separator}'; done`;
    this.#shell = spawn('bash', ['-c', loop], {
      cwd: folder,
      env,
      stdio: ['pipe', 'pipe', 'pipe', 'pipe'],
      detached: true,
    });
    for (const stream of [this.#shell.stdout, this.#shell.stderr])
      stream?.setEncoding('utf8').on('data', (text: string) => (this.#output += text));
  }

  static async open({ page, kubeconfig, binDir, env }: GuideOptions): Promise<Reader> {
    const steps = readGuide(await readFile(resolve(root, page), 'utf8'));
    const folder = await mkdtemp(join(tmpdir(), 'ringmaster-guide-'));
    // nginx, started by root, works as somebody else.
    await chmod(folder, 0o755);
    const own = join(folder, 'kubeconfig');
    await copyFile(kubeconfig, own);
    // What a clone has: `npx wscat` finds it, and so do the chart and the scripts that pages name.
    for (const name of ['node_modules', 'charts', 'docs']) await symlink(join(root, name), join(folder, name));
    const PATH = `${process.env.PATH ?? ''}:${binDir}:/usr/sbin`;
    return new Reader(folder, steps, { ...process.env, ...env, KUBECONFIG: own, PATH });
  }

  /** Does what the page says, up to its end. `byHand` does what no command does. */
  async follow(byHand: (name: string) => Promise<void> = unknownDeed): Promise<void> {
    for (const step of this.#steps) {
      if (step.kind === 'file') await writeFile(join(this.folder, step.name), step.content);
      else if (step.kind === 'person') await byHand(step.name);
      else if (step.kind === 'terminal') await this.#useTerminal(step.text, step.steps);
      else await this.#runAsShown(step.text, step.expected);
    }
  }

  async #runAsShown(text: string, expected: string | undefined): Promise<void> {
    const output = await this.run(text);
    if (expected === undefined) return;
    assert.ok(isAsShown(expected, output), `The page shows:\n${expected}\nbut it is:\n${output}`);
  }

  /** Runs commands in the page's shell. Returns what they wrote. */
  async run(text: string): Promise<string> {
    const file = join(this.folder, '.block.sh');
    await writeFile(file, text);
    this.#output = '';
    (this.#shell.stdio[3] as Writable).write(`${file}\n`);
    const hasEnded = (): boolean => this.#output.includes(separator) || this.#shell.exitCode !== null;
    await waitUntil({
      what: `these commands to end:\n${text}`,
      timeoutMs: blockTimeoutMs,
      check: hasEnded,
    }).catch((error: unknown) => {
      throw new Error(`So far they wrote:\n${this.#output}`, { cause: error });
    });
    const end = this.#output.indexOf(separator);
    assert.ok(end !== -1, `These commands failed:\n${text}\nThey wrote:\n${this.#output}`);
    return this.#output.slice(0, end);
  }

  async close(): Promise<void> {
    const { pid, exitCode } = this.#shell;
    if (pid !== undefined && exitCode === null) process.kill(-pid, 'SIGKILL');
    await rm(this.folder, { recursive: true, maxRetries: 5 });
  }

  async #useTerminal(text: string, steps: readonly TerminalStep[]): Promise<void> {
    const file = join(this.folder, '.terminal.sh');
    await writeFile(file, `stty cols 200 rows 40\n${text}`);
    const ended = this.run(`script -qefc "bash '${file}'" /dev/null`);
    // Looked at below; a step that fails first must not leave it unheard.
    ended.catch(() => undefined);
    for (const [action, words] of steps) {
      if (action === 'type') {
        this.#output = '';
        this.#shell.stdin?.write(words);
        continue;
      }
      await waitUntil({
        what: `the terminal to show "${words}"`,
        timeoutMs: terminalTimeoutMs,
        check: () => this.#output.includes(words),
      }).catch((error: unknown) => {
        throw new Error(`The terminal shows ${JSON.stringify(this.#output.slice(-500))}`, { cause: error });
      });
    }
    await ended;
  }
}
