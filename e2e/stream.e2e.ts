/**
 * The long stream: a program prints numbered lines at 1,000 a second, while its container restarts, the API server goes and comes back, and its
 * pod is deleted. Three clients follow it at once: a plain one, one that is cut now and then and resumes by cursor at the other replica, and a
 * slow one. Each must get every number once and in order, or be told at its place that the last lines of the deleted pod could not be had.
 */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import {
  applyInstance,
  crash,
  enterWorld,
  masters,
  nodeProgram,
  openSocket,
  patchSpec,
  podOf,
  restartApiServer,
  ResumingClient,
  Tally,
} from './live-harness.ts';
import type { LiveSocket, World } from './live-harness.ts';

const linesWanted = 20_000;
/** Numbers of the second pod begin here: what the first one wrote to its volume is gone with it. */
const blockSize = 1_000_000;

/**
 * Each number is printed exactly once: the count is kept in a file when the program ends, and it ends between two lines. SIGUSR1 is a crash,
 * SIGTERM the end; both are told in a last line, which says how many were written.
 */
const program = `
  const { existsSync, readFileSync, writeFileSync, writeSync } = require('node:fs');
  const file = '/state/written';
  const block = (Number(process.env.SEQUENCE) - 1) * ${blockSize};
  let written = existsSync(file) ? Number(readFileSync(file, 'utf8')) : 0;
  const startedAt = performance.now();
  const before = written;
  const write = (text) => { for (let rest = Buffer.from(text); rest.length > 0;) rest = rest.subarray(writeSync(1, rest)); };
  setInterval(() => {
    const due = before + Math.floor(performance.now() - startedAt);
    let text = '';
    while (written < due) text += (block + ++written) + ' some words to make it a line\\n';
    if (text !== '') write(text);
  }, 10);
  const end = (word, code) => {
    writeFileSync(file, String(written));
    write(word + ' ' + (block + written) + '\\n');
    process.exit(code);
  };
  process.on('SIGUSR1', () => end('crash', 1));
  process.on('SIGTERM', () => end('stop', 0));`;

/** What one client received. */
class Account {
  readonly tally = new Tally();
  /** Last numbers of the program's lives, from its own words. */
  readonly ends: string[] = [];
  gaps = 0;
  connects = 1;
  #isGapOpen = false;

  line(text: string): void {
    if (text.startsWith('[ringmaster] ')) this.gap();
    else if (/^(crash|stop) /.test(text)) this.ends.push(text);
    else this.#number(Number.parseInt(text, 10));
  }

  /** A client that is cut just after a gap resumes before it, and is told again. */
  gap(): void {
    if (!this.#isGapOpen) this.gaps += 1;
    this.#isGapOpen = true;
  }

  #number(number: number): void {
    // From one pod's numbers to the next one's is no loss where the first has said its last word, or the gap was announced.
    const isNextPod = number === blockSize + 1 && this.tally.last < blockSize;
    const isTold = this.#isGapOpen || this.ends.at(-1) === `stop ${this.tally.last}`;
    this.tally.note(number, isNextPod && isTold);
    this.#isGapOpen = false;
  }
}

let world: World;
let id: string;

before(async () => {
  world = await enterWorld();
  const { env, ...rest } = {
    ...nodeProgram(world, program),
    env: [
      {
        name: 'SEQUENCE',
        valueFrom: { fieldRef: { fieldPath: "metadata.annotations['ringmaster.dev/pod-sequence']" } },
      },
    ],
  };
  id = await applyInstance(world, 'counter', {
    ...{ ...rest, env },
    volumes: [{ name: 'state', emptyDir: {} }],
    volumeMounts: [{ name: 'state', mountPath: '/state' }],
  });
});

after(() => world.leave());

async function openAccount(account: Account): Promise<LiveSocket> {
  return openSocket(world, {
    ...{ id, query: '?tail=10000' },
    onFrame: (text) => {
      account.line(text);
    },
  });
}

test('stream: 20,000 lines at 1,000/s over a container restart, an API server restart and a pod deletion: each once, in order', async () => {
  const [plain, json, slow] = [new Account(), new Account(), new Account()];
  const plainSocket = await openAccount(plain);
  const slowSocket = await openAccount(slow);
  const urls = (await masters(world)).map(({ url }) => url);
  const client = new ResumingClient({
    ...{ world, id, urls },
    onMessage: ({ type, line = '' }) => {
      if (type === 'line') json.line(line);
      if (type === 'gap') json.gap();
    },
  });
  client.start();
  const until = async (lines: number): Promise<void> => {
    await plainSocket.until(`${lines} lines`, () => plain.tally.received >= lines, 90_000);
  };
  const stopSlowness = slowDown(slowSocket, slow);

  await until(2_500);
  client.cut();
  await until(4_000);
  await crash(world, 'counter', ['node', '-e', "process.kill(1, 'SIGUSR1')"]);
  await until(8_000);
  client.cut();
  await restartApiServer(world);
  await until(plain.tally.received + 3_000);
  await world.kubectl(['delete', 'pod', await podOf(world, 'counter'), '--wait=false']);
  await plainSocket.until('a line of the second pod', () => plain.tally.last > blockSize, 90_000);
  client.cut();
  await until(Math.max(linesWanted, plain.tally.received + 2_000));
  await patchSpec(world, 'counter', { desiredState: 'Stopped' });
  await plainSocket.ended(60_000);
  stopSlowness();
  await Promise.all([slowSocket.ended(60_000), client.done()]);
  json.connects = client.connects;

  const accounts = { plain, 'json, cut and resumed': json, slow };
  const written = writtenOf(plain);
  console.table(Object.fromEntries(Object.entries(accounts).map(([name, account]) => [name, row(account, written)])));
  assert.ok(written.total >= linesWanted, `${written.total} lines were written`);
  for (const [name, account] of Object.entries(accounts)) checkAccount(name, account, written);
  assert.ok(json.connects >= 4, `the client that is cut has connected ${json.connects} times`);
});

/** Reads for a moment every half second until it is told to stop; gives a function that does. */
function slowDown(socket: LiveSocket, account: Account): () => void {
  let isSlow = true;
  const read = (): void => {
    socket.ws.resume();
    const enough = account.tally.received + 200;
    const pause = (): void => {
      if (isSlow && account.tally.received >= enough) socket.ws.pause();
    };
    socket.ws.on('message', pause);
    setTimeout(() => {
      socket.ws.off('message', pause);
      if (isSlow) read();
    }, 500).unref();
  };
  read();
  return () => {
    isSlow = false;
    socket.ws.resume();
  };
}

interface Written {
  readonly firstPod: number;
  readonly secondPod: number;
  readonly total: number;
}

/** What the two pods say that they have written; of a pod whose last word was lost, what has come of it. */
function writtenOf(account: Account): Written {
  const numbers = account.ends.map((text) => Number(text.split(' ')[1]));
  const firstPod = Math.max(...numbers.filter((number) => number < blockSize));
  const secondPod = Math.max(...numbers.filter((number) => number > blockSize)) - blockSize;
  return { firstPod, secondPod, total: firstPod + secondPod };
}

function row({ tally, gaps, connects }: Account, written: Written): Record<string, number> {
  return {
    written: written.total,
    received: tally.received,
    lost: tally.lost,
    doubled: tally.doubled,
    'out of order': tally.disordered,
    'gaps announced': gaps,
    connects,
    'longest silence, ms': Math.round(tally.longestSilenceMs),
  };
}

function checkAccount(name: string, account: Account, written: Written): void {
  account.tally.check(name, blockSize + written.secondPod);
  assert.equal(account.tally.first, 1, name);
  if (account.gaps === 0) {
    assert.equal(account.tally.received, written.total, `${name}: without a gap, all that was written`);
    assert.deepEqual(
      account.ends.map((text) => text.split(' ')[0]),
      ['crash', 'stop', 'stop'],
      name,
    );
  }
  assert.ok(account.gaps <= 1, `${name}: at most the one gap at the deleted pod, not ${account.gaps}`);
}
