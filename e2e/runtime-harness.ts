/** What the tests of the runtimes share: one program under each of them, typing into it, and the books on what it wrote. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import Docker from 'dockerode';
import { Client } from 'undici';
import { waitUntil } from './cluster/wait.ts';
import type { Message, Spec, World } from './live-harness.ts';
import { ResumingClient, eventually, podOf } from './live-harness.ts';
import { pidsInPod } from './pids.ts';

export const runtimes = ['kubernetes', 'process', 'screen', 'tmux', 'docker'] as const;
export type Runtime = (typeof runtimes)[number];
export const sidecarRuntimes = runtimes.filter((runtime) => runtime !== 'kubernetes');

/** A shell script in the image that has screen and tmux; the word after `runtime:` is the only difference. */
export function programUnder(runtime: Runtime, script: string, more: Spec = {}): Spec {
  return { runtime, image: 'ringmaster.local/console:1', command: ['sh', '-c', script], ...more };
}

/** The same under each runtime, by name. */
export function underEach(script: string, more: Spec = {}): Record<Runtime, Spec> {
  return Object.fromEntries(runtimes.map((runtime) => [runtime, programUnder(runtime, script, more)])) as Record<
    Runtime,
    Spec
  >;
}

export interface Typed {
  readonly status: number;
  readonly body: { readonly error?: string; readonly message?: string; readonly command?: string };
}

/** Types lines into instances by HTTP. One connection: what is typed one after the other arrives one after the other. */
export class Typist {
  readonly #client: Client;
  readonly #token: string;

  constructor(world: World, url: string = world.url) {
    this.#client = new Client(url, { pipelining: 64 });
    this.#token = world.token;
    world.cleanups.push(() => this.#client.destroy());
  }

  async type(id: string, command: unknown): Promise<Typed> {
    return this.post(id, JSON.stringify({ command }));
  }

  async post(id: string, body: string): Promise<Typed> {
    const response = await this.#client.request({
      path: `/api/instances/${id}/execute`,
      method: 'POST',
      headers: { authorization: `Bearer ${this.#token}`, 'content-type': 'application/json' },
      // Said so that requests follow one another without waiting for answers.
      idempotent: true,
      blocking: false,
      body,
    });
    return { status: response.statusCode, body: (await response.body.json()) as Typed['body'] };
  }

  /** All of them, in order; fails unless each was taken. */
  async typeAll(id: string, lines: readonly string[]): Promise<void> {
    const answers = await Promise.all(lines.map((line) => this.type(id, line)));
    const refused = answers.find(({ status }) => status !== 200);
    assert.equal(refused, undefined, JSON.stringify(refused));
  }
}

/**
 * Writes `LIFE N` with N from 1, ten lines and then a pause of so many seconds, LIFE another word for each life. The typed line `crash` ends it after it
 * has said `LIFE end N`, and so does SIGTERM.
 */
export const countingScriptWith = (pauseSeconds: number): string => `
life=$(cat /proc/sys/kernel/random/uuid); i=0; stop=
trap 'stop=0' TERM
rm -f /tmp/crash
exec 3<&0
while read -r line; do [ "$line" != crash ] || : >/tmp/crash; done <&3 &
while [ -z "$stop" ]; do
  k=0; while [ $k -lt 10 ]; do i=$((i+1)); k=$((k+1)); echo "$life $i"; done
  sleep ${pauseSeconds}
  [ ! -e /tmp/crash ] || stop=1
done
kill $!
echo "$life end $i"
exit $stop`;

/** At about 500 lines a second. */
export const countingScript = countingScriptWith(0.02);

interface Life {
  last: number;
  hasEnded: boolean;
}

/** The books on what one client received of `countingScript`, or of one like it whose lines end with a blank and some `x`. */
export class Ledger {
  received = 0;
  lost = 0;
  doubled = 0;
  disordered = 0;
  gaps = 0;
  longestSilenceMs = 0;
  readonly faults: string[] = [];
  readonly #lives = new Map<string, Life>();
  #present: string | undefined;
  #isGapOpen = false;
  #lastAt: number | undefined;

  get lives(): number {
    return this.#lives.size;
  }

  /** Lives whose end was said. */
  get ends(): number {
    return [...this.#lives.values()].filter(({ hasEnded }) => hasEnded).length;
  }

  /** Whether this life has said its end. */
  hasEndOf(name: string): boolean {
    return this.#lives.get(name)?.hasEnded === true;
  }

  note(message: Message): void {
    if (message.type === 'gap') {
      this.gaps += 1;
      this.#isGapOpen = true;
    }
    if (message.type === 'line') this.#line(message.line ?? '');
  }

  #line(text: string): void {
    const now = performance.now();
    if (this.#lastAt !== undefined) this.longestSilenceMs = Math.max(this.longestSilenceMs, now - this.#lastAt);
    this.#lastAt = now;
    const match = /^([0-9a-f-]{36}) (end )?(\d+)(?: x+)?$/.exec(text);
    if (match === null) {
      this.faults.push(`not a line of the program: ${JSON.stringify(text.slice(0, 200))}`);
      return;
    }
    const [, name = '', end, digits = ''] = match;
    this.received += 1;
    const life = this.#lives.get(name) ?? this.#begin(name);
    if (end === undefined) this.#number(name, life, Number(digits));
    else this.#end(life, Number(digits));
    this.#isGapOpen = false;
  }

  #begin(name: string): Life {
    const before = this.#present === undefined ? undefined : this.#lives.get(this.#present);
    if (before !== undefined && !before.hasEnded && !this.#isGapOpen) {
      this.lost += 1;
      this.faults.push(`the life before ${name} did not end`);
    }
    const life = { last: 0, hasEnded: false };
    this.#lives.set(name, life);
    this.#present = name;
    return life;
  }

  #number(name: string, life: Life, number: number): void {
    if (number <= life.last) {
      if (name === this.#present) this.doubled += 1;
      else this.disordered += 1;
    } else if (!this.#isGapOpen && number !== life.last + 1) {
      this.lost += number - life.last - 1;
      this.faults.push(`${number} after ${life.last} in ${name}`);
    }
    life.last = Math.max(life.last, number);
  }

  #end(life: Life, number: number): void {
    if (life.hasEnded) this.doubled += 1;
    if (number !== life.last && !this.#isGapOpen) {
      this.lost += number - life.last;
      this.faults.push(`end ${number} after ${life.last}`);
    }
    life.hasEnded = true;
  }

  check(who: string): void {
    const { lost, doubled, disordered, faults } = this;
    assert.deepEqual({ lost, doubled, disordered, faults }, { lost: 0, doubled: 0, disordered: 0, faults: [] }, who);
  }
}

/** A client that follows an Instance through whatever comes, and the books on what it received. */
export function follow(world: World, id: string): { client: ResumingClient; ledger: Ledger } {
  const ledger = new Ledger();
  const client = new ResumingClient({
    ...{ world, id, urls: [world.url] },
    onMessage: (message) => {
      ledger.note(message);
    },
  });
  client.start();
  return { client, ledger };
}

/** Resolves when so many more lines have come under each runtime. */
export async function flowing(ledgers: Readonly<Record<Runtime, Ledger>>, lines: number): Promise<void> {
  const wanted = runtimes.map((runtime) => [runtime, ledgers[runtime].received + lines] as const);
  for (const [runtime, count] of wanted) {
    await eventually(`${runtime} to go on from ${count} lines`, () =>
      Promise.resolve(ledgers[runtime].received >= count),
    );
  }
}

/** Host pids of the processes in the pod of an Instance whose command line has this word. */
export async function pidsOf(world: World, name: string, word: string): Promise<number[]> {
  const pod = await podOf(world, name);
  return pidsInPod(await world.kubectl(['get', 'pod', pod, '-o', 'jsonpath={.metadata.uid}']), word);
}

/** The pod and how often its program was started anew: the same as long as nothing happened to it. */
export async function lifeOf(world: World, name: string): Promise<string> {
  return world.kubectl(['get', 'instance', name, '-o', 'jsonpath={.status.podName} {.status.restarts}']);
}

export interface Terminal {
  type(keys: string): void;
  /** Resolves when the screen has shown this. */
  until(pattern: RegExp): Promise<void>;
  ended(): Promise<void>;
}

/** kubectl in a terminal of its own, as a person has it. */
export function openTerminal(world: World, args: readonly string[]): Terminal {
  const { binDir, kubeconfig } = world.cluster;
  const words = [join(binDir, 'kubectl'), '--namespace', world.namespace, ...args];
  const child = spawn('script', ['-qefc', `stty cols 200 rows 40; exec ${words.join(' ')}`, '/dev/null'], {
    env: { ...process.env, KUBECONFIG: kubeconfig, TERM: 'xterm' },
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  world.cleanups.push(() => child.kill('SIGKILL'));
  const closed = new Promise<void>((resolve) => {
    child.once('close', () => {
      resolve();
    });
  });
  let shown = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => (shown += text));
  const within = async (what: string, check: () => boolean): Promise<void> =>
    waitUntil({
      what: `the terminal to ${what}; it shows ${JSON.stringify(shown.slice(-300))}`,
      timeoutMs: 20_000,
      check: () => Promise.resolve(check()),
    });
  return {
    type: (keys) => {
      child.stdin.write(keys);
    },
    until: (pattern) => within(`show ${String(pattern)}`, () => pattern.test(shown)),
    ended: () => closed,
  };
}

function engineSocket(): string {
  const path = process.env.RINGMASTER_DOCKER_SOCKET;
  assert.ok(path !== undefined, 'RINGMASTER_DOCKER_SOCKET is not set: run these tests by e2e/test.ts');
  return path;
}

/** Names of the Engine's containers, running or not, of the Instance with this id. */
export async function containersOf(id: string): Promise<string[]> {
  const docker = new Docker({ socketPath: engineSocket() });
  const found = await docker.listContainers({
    all: true,
    filters: { label: [`ringmaster.dev/instance-id=${id}`] },
  });
  return found.flatMap(({ Names }) => Names);
}

/** Kills the Docker Engine and starts it again as it was; with live-restore its containers go on. */
export async function restartEngine(): Promise<void> {
  const socketPath = engineSocket();
  const pid = Number(await readFile(join(dirname(socketPath), 'docker.pid'), 'utf8'));
  const [program = '', ...args] = (await readFile(`/proc/${pid}/cmdline`, 'utf8')).split('\0').slice(0, -1);
  process.kill(pid, 'SIGKILL');
  await waitUntil({
    what: 'the Docker Engine to end',
    timeoutMs: 10_000,
    // Also as a zombie it keeps another from starting, which looks for the pid in its file.
    check: () => Promise.resolve(!existsSync(`/proc/${pid}`)),
  });
  // As at first: a group of its own, which the run ends by its folder's name.
  spawn(program, args, { stdio: 'ignore', detached: true }).unref();
  const docker = new Docker({ socketPath });
  await waitUntil({
    what: 'the Docker Engine to answer',
    timeoutMs: 30_000,
    check: () =>
      docker.ping().then(
        () => true,
        () => false,
      ),
  });
}
