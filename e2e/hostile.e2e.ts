/**
 * Clients that mean no good, against a real Master: each gets the answer of PROTOCOL.md, the memory stays within what the chart gives a Master, and meanwhile
 * good clients are served: one follows a log of numbered lines from beginning to end, and new ones come, call, and give commands.
 *
 * The Master is a process of this test's own, so that no other test shares it; the log and the commands are those of the cluster.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import WebSocket from 'ws';
import type { Outcome } from './hostile/attacks.ts';
import { startOwnMaster } from './hostile/own-master.ts';
import type { OwnMaster } from './hostile/own-master.ts';
import { clientFrame, consolePath, livePath, RawConnection, upgradeRequest } from './hostile/raw.ts';
import type { Target } from './hostile/raw.ts';
import { applyInstance, call, createKey, enterWorld, numberWriter, openSocket, Tally } from './live-harness.ts';
import type { LiveSocket, World } from './live-harness.ts';

/** The chart's limit for a Master. */
const memoryMaxMb = 1024;
/** So few that a client which answers no ping is not taken for one that has much unread. */
const linesPerSecond = 50;
const socketsPerKeyMax = 1_000;
/** Long for a client, and short beside a Master that hangs: all of this shares two cores. */
const patienceMs = 20_000;

let world: World;
let master: OwnMaster;
let target: Target;
let idleMb: number;
let follower: LiveSocket;
const tally = new Tally();
const delays: number[] = [];
/** Attacks that take as long as the Master's time limits go on beside the others. */
const patient = new Map<string, Promise<Outcome>>();
const table: Record<string, Record<string, string | number>> = {};

before(async () => {
  world = await enterWorld();
  const writer = numberWriter(world, { lines: 1_000_000, perSecond: linesPerSecond });
  const id = await applyInstance(world, 'numbers', writer);
  master = await startOwnMaster(world, 'master-under-attack', {
    RINGMASTER_SOCKETS_PER_KEY_MAX: String(socketsPerKeyMax),
  });
  // A key of their own: its limit of sockets is theirs alone.
  const token = await createKey(world, 'hostile');
  target = { host: master.host, port: master.port, token, id };
  await openGood();
  idleMb = (await master.memory()).nowMb;
  for (const name of ['slow upgrades', 'connections that say nothing', 'bodies that never come', 'half-open sockets']) {
    patient.set(name, attack(name));
  }
});

after(() => world.leave());

async function openGood(): Promise<void> {
  follower = await openSocket(world, {
    ...{ url: master.url, id: target.id, query: '?tail=0' },
    onFrame: (text) => {
      const [number = '', writtenMs = ''] = text.split(' ');
      tally.note(Number(number));
      delays.push(Date.now() - Number(writtenMs));
    },
  });
  await follower.until('lines', () => tally.received > linesPerSecond, patienceMs);
}

async function attack(name: string): Promise<Outcome> {
  const child = spawn(process.execPath, [join(import.meta.dirname, 'hostile/attacks.ts'), name], {
    env: { ...process.env, TARGET: JSON.stringify(target) },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  world.cleanups.push(() => child.kill('SIGKILL'));
  let output = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => (output += text));
  await once(child, 'close');
  return JSON.parse(output) as Outcome;
}

/** Lets an attack run while good clients come and go; notes how they fared, and gives how the attackers did. */
async function underAttack(name: string): Promise<Outcome> {
  const from = delays.length;
  let isOver = false;
  const running = attack(name).finally(() => (isOver = true));
  const waits: number[] = [];
  do {
    const startedAt = performance.now();
    await visit();
    waits.push(performance.now() - startedAt);
  } while (!isOver);
  const outcome = await running;
  const before = tally.received;
  await follower.until('further lines', () => tally.received > before, patienceMs);
  const { nowMb, peakMb } = await master.memory();
  const during = delays.slice(from).sort((a, b) => a - b);
  table[name] = {
    endings: Object.entries(outcome.endings)
      .map(([ending, amount]) => `${amount} ${ending}`)
      .join(', '),
    'tries/s': outcome.perSecond ?? '',
    'good visits': waits.length,
    'slowest, ms': Math.round(Math.max(...waits)),
    'line p50, ms': during[Math.floor(during.length / 2)] ?? '',
    'line max, ms': during.at(-1) ?? '',
    'MB now': nowMb,
    'MB peak': peakMb,
  };
  return outcome;
}

/** A good client that comes newly: a call, a command, and the first lines of a log. Throws if it is not served in time. */
async function visit(): Promise<void> {
  const { url } = master;
  const [answer, output] = await Promise.all([
    call(url, `/api/instances/${target.id}`, { token: world.token }),
    command('instance list'),
    (async () => {
      const socket = await openSocket(world, { url, id: target.id, query: '?tail=3', timeoutMs: patienceMs });
      await socket.untilFrames(3);
      socket.terminate();
    })(),
  ]);
  assert.equal(answer.status, 200);
  assert.match(output, /^Instances \(\d+\):$/);
}

/** The first line of a command's output. */
async function command(line: string): Promise<string> {
  const ws = new WebSocket(`${master.url.replace('http', 'ws')}${consolePath}`, {
    headers: { authorization: `Bearer ${world.token}` },
    handshakeTimeout: patienceMs,
  });
  try {
    await once(ws, 'open');
    ws.send(line);
    const [data] = (await once(ws, 'message', { signal: AbortSignal.timeout(patienceMs) })) as [Buffer];
    return data.toString('utf8');
  } finally {
    ws.terminate();
  }
}

const [continuation, text, binary, close, ping] = [0, 1, 2, 8, 9];
const bytes = (length: number): Buffer => Buffer.alloc(length, 'x');
const fragments = (count: number, size: number): Buffer =>
  Buffer.concat([
    clientFrame({ opcode: text, payload: bytes(size), isFinal: false }),
    ...Array.from({ length: count - 1 }, () =>
      clientFrame({ opcode: continuation, payload: bytes(size), isFinal: false }),
    ),
  ]);
const closeWith = (code: number, reason: string | Buffer = ''): Buffer => {
  const payload = Buffer.concat([Buffer.alloc(2), Buffer.from(reason)]);
  payload.writeUInt16BE(code);
  return clientFrame({ opcode: close, payload });
};
const badUtf8 = Buffer.from([0x68, 0xc0, 0xaf]);

type FrameCase = readonly [title: string, frames: Buffer, code: number];

const onBoth: readonly FrameCase[] = [
  ['a frame that is not masked', clientFrame({ opcode: text, payload: bytes(3), isMasked: false }), 1002],
  ['reserved bit 1, without an extension', clientFrame({ opcode: text, reserved: 0x40 }), 1002],
  ['reserved bit 2', clientFrame({ opcode: text, reserved: 0x20 }), 1002],
  ['reserved bit 3', clientFrame({ opcode: text, reserved: 0x10 }), 1002],
  ['a reserved bit on a ping', clientFrame({ opcode: ping, reserved: 0x40 }), 1002],
  ...[3, 7, 11, 15].map((opcode): FrameCase => [`the reserved opcode ${opcode}`, clientFrame({ opcode }), 1002]),
  ['a ping of 126 bytes', clientFrame({ opcode: ping, payload: bytes(126) }), 1002],
  ['a fragmented ping', clientFrame({ opcode: ping, isFinal: false }), 1002],
  ['a continuation of nothing', clientFrame({ opcode: continuation }), 1002],
  ['a message within a message', Buffer.concat([fragments(1, 1), clientFrame({ opcode: text })]), 1002],
  ['a close of one byte', clientFrame({ opcode: close, payload: bytes(1) }), 1002],
  ['a close code below 1000', closeWith(999), 1002],
  ['a close code that is never sent', closeWith(1005), 1002],
  ['a close reason that is not UTF-8', closeWith(1000, badUtf8), 1007],
  ['text that is not UTF-8', clientFrame({ opcode: text, payload: badUtf8 }), 1007],
  ['text that ends within a character', clientFrame({ opcode: text, payload: Buffer.from([0xc3]) }), 1007],
  ['a length of 2^62', clientFrame({ opcode: text, length: 2n ** 62n }), 1009],
  ['a length of 2^32', clientFrame({ opcode: text, length: 2n ** 32n }), 1009],
  ['a continuation without end, of one byte each', fragments(2_000, 1), 1008],
  ['a continuation without end, of nothing', fragments(2_000, 0), 1008],
  ['an orderly close', closeWith(1000, 'bye'), 1000],
  ['an orderly close with a code of its own', closeWith(4000), 4000],
];

const onLiveLog: readonly FrameCase[] = [
  ['a frame of more than 1 KiB', clientFrame({ opcode: text, payload: bytes(1_025) }), 1009],
  ['fragments of more than 1 KiB', fragments(3, 400), 1009],
];

const onConsole: readonly FrameCase[] = [
  ['a binary frame', clientFrame({ opcode: binary, payload: bytes(3) }), 1003],
  ['a frame of more than 64 KiB', clientFrame({ opcode: text, payload: bytes(65_537) }), 1009],
  ['fragments of more than 64 KiB', fragments(3, 30_000), 1009],
];

async function closeCodeFor(path: string, frames: Buffer): Promise<string> {
  const connection = new RawConnection(target);
  connection.send(upgradeRequest(target, { path }));
  assert.ok(await connection.upgraded());
  // A byte at a time, where that is bearable: how it is cut changes nothing.
  if (frames.length <= 32) for (const byte of frames) connection.socket.write(Buffer.from([byte]));
  else connection.send(frames);
  // We hold out our hand as a client does that has seen the close frame.
  setTimeout(() => connection.socket.end(), 1_000).unref();
  return connection.ending(patienceMs);
}

for (const [where, path, cases] of [
  ['live log', () => livePath(target), [...onBoth, ...onLiveLog]],
  ['console', () => consolePath, [...onBoth, ...onConsole]],
] as const) {
  test(`hostile: each wrong frame on a ${where} is closed with its code`, async () => {
    const endings = await Promise.all(cases.map(([, frames]) => closeCodeFor(path(), frames)));
    const seen = Object.fromEntries(cases.map(([title], index) => [title, endings[index]]));
    assert.deepEqual(seen, Object.fromEntries(cases.map(([title, , code]) => [title, `close ${code}`])));
  });
}

test('hostile: a flood of pings is closed with 1008', async () => {
  const { endings } = await underAttack('pings, answers read');
  assert.deepEqual(endings, { 'close 1008': 20 });
});

test('hostile: a flood of pings whose answers are not read is cut', async () => {
  const { endings } = await underAttack('pings, answers not read');
  // Those that have read so far see why.
  assert.equal((endings['close 1008'] ?? 0) + (endings['cut'] ?? 0), 20);
});

test('hostile: thousands of bad tokens a second are 401 one by one', async () => {
  const inCalls = await underAttack('bad tokens in calls');
  assert.deepEqual(inCalls.endings, { 'answered to the end': 20 });
  assert.ok((inCalls.perSecond ?? 0) > 0);
  const inUpgrades = await underAttack('bad tokens in upgrades');
  assert.deepEqual(Object.keys(inUpgrades.endings), ['HTTP 401']);
});

test('hostile: a storm of upgrades is served, and above the limit of its key it is 503', async () => {
  const { endings } = await underAttack('upgrades that are dropped');
  assert.ok((endings['open'] ?? 0) > 0);
  const { endings: many } = await underAttack('too many sockets');
  const { open: accepted = 0, 'HTTP 503': refused = 0 } = many;
  assert.equal(accepted + refused, 1_300);
  // A few of its sockets may be those that do not answer pings.
  assert.ok(accepted <= socketsPerKeyMax && accepted >= socketsPerKeyMax - 30, `${accepted} were let in`);
});

test('hostile: headers without end are 431', async () => {
  const { endings } = await underAttack('header bombs');
  assert.deepEqual(endings, { 'HTTP 431': 200 });
});

test('hostile: calls whose answers nobody reads end their connections', async () => {
  const { endings } = await underAttack('pipelined calls');
  // Those that the kernel has taken the beginning for see that, the others nothing.
  assert.equal((endings['HTTP 200'] ?? 0) + (endings['cut'] ?? 0), 20);
});

test('hostile: who is slow or silent is sent away in time', async () => {
  const outcomes: Record<string, unknown> = {};
  for (const [name, outcome] of patient) outcomes[name] = (await outcome).endings;
  assert.deepEqual(outcomes, {
    'slow upgrades': { 'HTTP 408': 200 },
    'connections that say nothing': { 'HTTP 408': 200 },
    'bodies that never come': { 'HTTP 408': 100 },
    'half-open sockets': { cut: 30 },
  });
});

test('hostile: a crowd that says nothing takes no place from anybody', async () => {
  const { endings } = await underAttack('a crowd that says nothing');
  assert.ok((endings['cut'] ?? 0) >= 2_000, 'the oldest make room');
});

test('hostile: through all of it the good client lost nothing, and the memory was bounded', async () => {
  const last = tally.last;
  await follower.until('another second of lines', () => tally.last >= last + linesPerSecond, patienceMs);
  // What the attacks left behind is given back.
  await sleep(1_000);
  await visit();
  console.table(table);
  const { nowMb, peakMb } = await master.memory();
  console.log(`memory: ${idleMb} MB before, ${peakMb} MB at most, ${nowMb} MB after; ${tally.received} lines`);
  tally.check('the good client', tally.last);
  assert.ok(peakMb < memoryMaxMb, `${peakMb} MB`);
});
