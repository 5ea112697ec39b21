/** The live log on a real cluster: PROTOCOL.md section 2 and 3, each promise by itself. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  applyInstance,
  applyInstances,
  crash,
  enterWorld,
  eventually,
  jsonProtocol,
  masters,
  metricOf,
  nodeProgram,
  numberWriter,
  onNode,
  openSocket,
  parseMessage,
  patchSpec,
  podOf,
  shellProgram,
  Tally,
} from './live-harness.ts';
import type { LiveSocket, SocketOptions, World } from './live-harness.ts';

let world: World;

/** Short-lived programs and those that wait for what a test does; all made at once, because a pod takes its seconds to start. */
type Name = 'odd' | 'phoenix' | 'absent' | 'homeless' | 'leaver' | 'ticker' | 'other';
let ids: Record<Name, string>;

/** Says what happens to it; SIGUSR1 ends it as a crash does. */
const phoenix = `
  trap 'echo "crash in pod $SEQUENCE"; exit 1' USR1
  trap 'echo "farewell of pod $SEQUENCE"; exit 0' TERM
  echo "hello from pod $SEQUENCE"
  while :; do sleep 1000 & wait $!; done`;

const ticker = `i=0; while :; do i=$((i+1)); echo "tick $i"; sleep 0.2; done`;

const euroLine = '€'.repeat(900_000);
const oddLines: readonly Buffer[] = [
  Buffer.from('first'),
  Buffer.from(''),
  Buffer.from(''),
  Buffer.from('  \ttabs\tand blanks  '),
  Buffer.from('grüße, 世界, 🎮'),
  Buffer.from([0x62, 0x61, 0x64, 0xff, 0xfe, 0x20, 0xc3, 0x28, 0x20, 0xe2, 0x82, 0x20, 0xf0, 0x9f, 0x8e]),
  Buffer.from('\u001b[31mred\u001b[0m \u001b]0;title\u0007plain'),
  Buffer.from('with carriage return\r'),
  Buffer.from('\r'),
  Buffer.from('progress 1\rprogress 2'),
  Buffer.from('c'.repeat(300)),
  Buffer.from('k'.repeat(100 * 1024)),
  Buffer.from(euroLine),
  Buffer.from('last, without an end'),
];

before(async () => {
  world = await enterWorld();
  const sequence = {
    env: [
      {
        name: 'SEQUENCE',
        valueFrom: { fieldRef: { fieldPath: "metadata.annotations['ringmaster.dev/pod-sequence']" } },
      },
    ],
  };
  const nowhere = { nodeSelector: { [`${world.namespace}/home`]: 'yes' } };
  ids = await applyInstances(world, {
    odd: { ...nodeProgram(world, oddScript()), restartPolicy: 'Never' },
    phoenix: { ...shellProgram(phoenix), ...sequence },
    absent: { ...shellProgram('echo found; exec sleep 1000'), image: 'ringmaster.local/absent:1' },
    homeless: { ...shellProgram('echo home; exec sleep 1000'), podTemplate: { spec: nowhere } },
    leaver: { ...shellProgram(phoenix), ...sequence },
    ticker: shellProgram(ticker),
    other: shellProgram('echo "other 1"; exec sleep 1000'),
  });
});

after(() => world.leave());

function oddScript(): string {
  const encoded = Buffer.from(oddLines.map((line) => line.toString('latin1')).join('\n'), 'latin1');
  // The long line is made there: arguments are limited.
  const [head = '', tail = ''] = encoded.toString('latin1').split(Buffer.from(euroLine).toString('latin1'));
  const base64 = (text: string): string => Buffer.from(text, 'latin1').toString('base64');
  return `const { writeSync } = require('node:fs');
    const bytes = Buffer.concat([Buffer.from('${base64(shorten(head))}', 'base64'),
      Buffer.from('k'.repeat(102400) + '\\n' + '€'.repeat(900000)), Buffer.from('${base64(tail)}', 'base64')]);
    for (let rest = bytes; rest.length > 0;) rest = rest.subarray(writeSync(1, rest));`;
}

function shorten(head: string): string {
  return head.slice(0, head.indexOf('k'.repeat(1000)));
}

async function open(name: Name, options: Partial<SocketOptions> = {}): Promise<LiveSocket> {
  return openSocket(world, { id: ids[name], ...options });
}

/** What a client should see of the odd lines: text without line endings, the long one in pieces. */
const oddTexts = oddLines.map((line) => new TextDecoder('utf-8', { ignoreBOM: true }).decode(line).replace(/\r$/, ''));

const shortened = (text: string): string => text.slice(0, 100);
const isPiece = (text: string): boolean => text.startsWith('€');

test('live-log: a program that ends gives all its lines, the last one without a line end too, then 1000', async () => {
  const socket = await open('odd');
  await socket.ended();
  assert.deepEqual([socket.frames[0], socket.frames.at(-1)], ['first', 'last, without an end']);
});

test('live-log: of a finished program as many last lines as asked for, then 1000', async () => {
  const one = await open('odd', { query: '?tail=1' });
  await one.ended();
  assert.deepEqual(one.frames.map(shortened), ['last, without an end']);
  const none = await open('odd', { query: '?tail=0' });
  await none.ended();
  assert.deepEqual(none.frames, []);
});

test('live-log: blank lines, tabs, UTF-8, invalid bytes, ANSI, carriage returns, 300 and 102400 columns arrive as written', async () => {
  const socket = await open('odd');
  await socket.ended();
  const short = socket.frames.filter((text) => !isPiece(text));
  assert.deepEqual(
    short,
    oddTexts.filter((text) => !isPiece(text)),
  );
});

test('live-log: a line above 1 MiB comes in frames of at most 1 MiB, cut between characters, with nothing missing', async () => {
  const socket = await open('odd');
  await socket.ended();
  const pieces = socket.frames.filter(isPiece);
  const sizes = pieces.map((text) => Buffer.byteLength(text));
  const limit = 1024 * 1024;
  assert.ok(pieces.join('') === euroLine, `${pieces.length} pieces are the line`);
  assert.ok(
    sizes.every((size) => size <= limit) && sizes.slice(0, -1).every((size) => size > limit - 4),
    String(sizes),
  );
});

test('live-log: ansi=strip removes escape sequences and nothing else', async () => {
  const socket = await open('odd', { query: '?ansi=strip' });
  await socket.ended();
  const expected = oddTexts.map((text) => (text.includes('\u001b') ? 'red plain' : text));
  assert.deepEqual(
    socket.frames.filter((text) => !isPiece(text)),
    expected.filter((text) => !isPiece(text)),
  );
});

/**
 * Without the gaps that come straight after a pod's last line: where the pod was gone before its log could be seen to end there, whether more
 * was written cannot be known, and the client is told so.
 */
function withoutPodGaps(frames: readonly string[]): string[] {
  const gap = '[ringmaster] some lines were no longer available';
  return frames.filter((text, index) => text !== gap || frames[index - 1]?.startsWith('farewell') !== true);
}

test('live-log: a container restart, a replaced pod and a stop are one socket, in order', async () => {
  const plain = await open('phoenix');
  const json = await open('phoenix', { protocols: [jsonProtocol] });
  const story = [
    'hello from pod 1',
    'crash in pod 1',
    'hello from pod 1',
    'farewell of pod 1',
    'hello from pod 2',
    'farewell of pod 2',
  ];
  await plain.untilFrames(1);
  await crash(world, 'phoenix', ['kill', '-USR1', '1']);
  await plain.untilFrames(3);
  await world.kubectl(['delete', 'pod', await podOf(world, 'phoenix'), '--wait=false']);
  await plain.untilFrames(5);
  await patchSpec(world, 'phoenix', { desiredState: 'Stopped' });
  await Promise.all([plain.ended(), json.ended()]);
  assert.deepEqual(withoutPodGaps(plain.frames), story);
  const messages = json.frames.map(parseMessage).filter(({ type, cause }) => type !== 'gap' || cause !== 'pod-deleted');
  assert.deepEqual(
    messages.map(({ type, line, cause }) => line ?? [type, cause].join(' ').trim()),
    [...story.slice(0, 2), 'restart container', ...story.slice(2, 4), 'restart pod', ...story.slice(4), 'end'],
  );
  const stopped = await open('phoenix');
  await stopped.ended();
});

test('live-log: an instance whose image is missing keeps the socket open, and lines arrive when it is mended', async () => {
  const socket = await open('absent');
  try {
    await world.kubectl(['wait', '--for=condition=Stalled', 'instance/absent', '--timeout=60s']);
    assert.deepEqual([socket.frames, socket.close], [[], undefined]);
    await patchSpec(world, 'absent', { image: 'ringmaster.local/busybox:1' });
    await socket.untilFrames(1);
    assert.deepEqual(socket.frames, ['found'], 'nothing was written before, so nothing is missing');
  } finally {
    socket.terminate();
  }
});

test('live-log: an instance that no node takes keeps the socket open, and lines arrive when one does', async () => {
  const socket = await open('homeless');
  const label = `${world.namespace}/home`;
  const node = (await world.kubectl(['get', 'nodes', '-o', 'jsonpath={.items[0].metadata.name}'])).trim();
  await eventually('instance "homeless" to be unschedulable', async () => {
    const path = 'jsonpath={.status.conditions[*].reason}';
    return (await world.kubectl(['get', 'instance', 'homeless', '-o', path])).includes('Unschedulable');
  });
  assert.deepEqual([socket.frames, socket.close], [[], undefined]);
  await world.kubectl(['label', 'node', node, `${label}=yes`]);
  try {
    await socket.untilFrames(1);
    assert.deepEqual(socket.frames, ['home']);
  } finally {
    await world.kubectl(['label', 'node', node, `${label}-`]);
    socket.terminate();
  }
});

test('live-log: a deleted instance gives its last lines, then 1000; afterwards it is not found', async () => {
  const socket = await open('leaver');
  await socket.untilFrames(1);
  await world.kubectl(['delete', 'instance', 'leaver']);
  await socket.ended();
  assert.deepEqual(withoutPodGaps(socket.frames), ['hello from pod 1', 'farewell of pod 1']);
  await assert.rejects(open('leaver'), /HTTP 404 \{"error":"Instance not found"\}/);
});

test('live-log: a cursor resumes after its line on the other replica; the one of another instance is refused', async () => {
  const [one, other] = await masters(world);
  const first = await open('ticker', { url: one.url, protocols: [jsonProtocol], query: '?tail=10' });
  await first.untilFrames(3);
  first.terminate();
  const [, seen] = first.frames.map(parseMessage);
  assert.ok(seen?.cursor !== undefined && seen.time !== undefined && !Number.isNaN(Date.parse(seen.time)));
  const query = `?cursor=${encodeURIComponent(seen.cursor)}`;
  const second = await open('ticker', { url: other.url, query });
  await second.untilFrames(3);
  second.terminate();
  const number = Number(seen.line?.split(' ')[1]);
  assert.deepEqual(
    second.frames.slice(0, 3),
    [1, 2, 3].map((step) => `tick ${number + step}`),
  );
  await assert.rejects(open('other', { query }), /HTTP 400 \{"error":"/);
});

test('live-log: one upstream follows an instance, however many clients it has', async () => {
  const [{ url }] = await masters(world);
  await eventually('no log to be followed', async () => (await metricOf(url, 'ringmaster_hub_upstreams_open')) === 0);
  const sockets = await Promise.all(Array.from({ length: 20 }, () => open('ticker', { url, query: '?tail=0' })));
  await Promise.all(sockets.map((socket) => socket.untilFrames(2)));
  assert.equal(await metricOf(url, 'ringmaster_master_sockets_open'), 20);
  assert.equal(await metricOf(url, 'ringmaster_hub_upstreams_open'), 1);
  for (const socket of sockets) socket.terminate();
  await eventually('the log not to be followed any more', async () => {
    return (await metricOf(url, 'ringmaster_hub_upstreams_open')) === 0;
  });
});

test('live-log: the real wscat prints lines with a token, and the 401 without', async () => {
  const target = `${world.url.replace('http', 'ws')}/api/instances/${ids.ticker}/live-log?tail=5`;
  const granted = await wscat(['--connect', target, '--header', `Authorization: Bearer ${world.token}`], 5);
  assert.match(granted.stdout, /^(tick \d+\n){5}/);
  const refused = await wscat(['--connect', target]);
  assert.deepEqual([refused.stdout, refused.stderr.trim()], ['', 'error: Unexpected server response: 401']);
});

interface Output {
  stdout: string;
  stderr: string;
}

/** Runs wscat until it ends by itself, or has printed so many lines. */
async function wscat(args: readonly string[], lines = Number.POSITIVE_INFINITY): Promise<Output> {
  const program = join(import.meta.dirname, '../node_modules/.bin/wscat');
  // Its input stays open: at the end of it, it would leave.
  const child: ChildProcess = spawn(process.execPath, [program, ...args], { stdio: ['pipe', 'pipe', 'pipe'] });
  const output: Output = { stdout: '', stderr: '' };
  child.stderr?.setEncoding('utf8').on('data', (text: string) => (output.stderr += text));
  child.stdout?.setEncoding('utf8').on('data', (text: string) => {
    output.stdout += text;
    if (output.stdout.split('\n').length > lines) child.kill('SIGTERM');
  });
  const { promise, resolve, reject } = Promise.withResolvers<Output>();
  child.once('error', reject);
  child.once('close', () => {
    resolve(output);
  });
  const timer = setTimeout(() => child.kill('SIGKILL'), 20_000);
  return promise.finally(() => {
    clearTimeout(timer);
  });
}

/** A client of a numbered log. */
async function openNumbers(
  id: string,
  { tally, query = '?tail=10000', url = world.url }: { tally: Tally; query?: string; url?: string },
): Promise<LiveSocket> {
  return openSocket(world, {
    ...{ id, query, url },
    onFrame: (text) => {
      tally.note(Number.parseInt(text, 10));
    },
  });
}

interface Joiner {
  readonly tail: number;
  readonly tally: Tally;
  readonly socket: LiveSocket;
  /** Before it asked for the connection, and when it had its first line; milliseconds since 1970. */
  readonly askedAtMs: number;
  firstAtMs: number;
}

async function joinLog(id: string, tail: number): Promise<Joiner> {
  const tally = new Tally();
  const askedAtMs = Date.now();
  const state = { firstAtMs: 0 };
  const socket = await openSocket(world, {
    ...{ id, query: `?tail=${tail}` },
    onFrame: (text) => {
      if (state.firstAtMs === 0) state.firstAtMs = Date.now();
      tally.note(Number.parseInt(text, 10));
    },
  });
  return Object.assign(state, { tail, tally, socket, askedAtMs });
}

test('live-log: backlog and live join without gap or duplicate, for clients that come at any moment of a fast writer', async () => {
  const lines = 30_000;
  const id = await applyInstance(world, 'writer', numberWriter(world, { lines, perSecond: 2_000 }));
  const writtenAt = new Float64Array(lines + 1);
  const reference = new Tally();
  const first = await openSocket(world, {
    ...{ id, query: '?tail=10000' },
    onFrame: (text) => {
      const [number, time] = text.split(' ').map(Number);
      writtenAt[number ?? 0] = time ?? 0;
      reference.note(number ?? Number.NaN);
    },
  });
  const joining: Promise<Joiner>[] = [];
  const tails = [0, 1, 10, 100, 1_000, 5_000, 10_000];
  for (const [index, tail] of [...tails, ...tails].entries()) {
    const moment = Math.round(((index + Math.random()) * (lines - 2_000)) / (2 * tails.length));
    await first.until(`line ${moment}`, () => reference.last >= moment);
    joining.push(joinLog(id, tail));
  }
  const joiners = await Promise.all(joining);
  await first.until('the last line', () => reference.last === lines, 60_000);
  reference.check('the first client', lines);
  assert.equal(reference.first, 1);
  for (const joiner of joiners) {
    await joiner.socket.until('the last line', () => joiner.tally.last === lines);
    joiner.tally.check(`the client with tail=${joiner.tail}`, lines);
    checkStart(joiner, writtenAt);
  }
  await world.kubectl(['delete', 'instance', 'writer', '--wait=false']);
  await Promise.all([first, ...joiners.map(({ socket }) => socket)].map((socket) => socket.ended()));
});

/** The first line of a client is the right one for its tail at a moment between its asking and its first line. */
function checkStart({ tail, tally, askedAtMs, firstAtMs }: Joiner, writtenAt: Float64Array): void {
  // A line takes some time from the program to the log file.
  const slackMs = 500;
  const writtenUntil = (timeMs: number): number =>
    writtenAt.findLastIndex((at, number) => number === 0 || at <= timeMs);
  const newest = (tally.first ?? Number.NaN) + tail - 1;
  const earliest = writtenUntil(askedAtMs - slackMs);
  const latest = writtenUntil(firstAtMs);
  const isFromBeginning = tally.first === 1 && latest <= tail;
  assert.ok(
    isFromBeginning || (newest >= earliest && newest <= latest),
    `tail=${tail} began at ${String(tally.first)}: the newest line then was one of ${earliest} to ${latest}`,
  );
}

test('live-log: a client that comes later with the tail of an earlier one gets its own last lines, not the earlier ones', async () => {
  // It never pauses, so that nothing tells where the backlog ends and the live lines begin.
  const writer = numberWriter(world, { lines: 50_000, perSecond: 3_000, everyMs: 1 });
  const id = await applyInstance(world, 'steadfast', writer);
  const [{ url }] = await masters(world);
  const early = new Tally();
  const earlySocket = await openNumbers(id, { tally: early, url, query: '?tail=1' });
  // Several, because whether the log seems quiet for a moment is chance.
  for (const wanted of [3_000, 6_000, 9_000, 12_000, 15_000]) {
    await earlySocket.until(`${wanted} lines`, () => early.received > wanted);
    const late = new Tally();
    const asked = early.last;
    const lateSocket = await openNumbers(id, { tally: late, url, query: '?tail=1' });
    await lateSocket.until('500 lines', () => late.received > 500);
    lateSocket.terminate();
    assert.ok((late.first ?? 0) >= asked, `it asked for one line at ${asked} and began at ${String(late.first)}`);
    late.check('the later client', late.last);
  }
  earlySocket.terminate();
  await world.kubectl(['delete', 'instance', 'steadfast', '--wait=false']);
});

test('live-log: a client that reads nothing for ten seconds and then all has lost nothing, and slows nobody', async () => {
  const lines = 16_000;
  const writer = numberWriter(world, { lines, perSecond: 2_000, bytes: 150 });
  const id = await applyInstance(world, 'padded', writer);
  const [slow, fast] = [new Tally(), new Tally()];
  const slowSocket = await openNumbers(id, { tally: slow });
  const fastSocket = await openNumbers(id, { tally: fast });
  await slowSocket.until('the first line', () => slow.last > 0);
  slowSocket.ws.pause();
  const pausedAt = performance.now();
  await fastSocket.until('the last line', () => fast.last === lines);
  // The ten seconds are the promise, not a wait for something.
  await sleep(Math.max(0, 10_000 - (performance.now() - pausedAt)));
  assert.ok(slow.last < lines / 2, `it had read only ${slow.last} lines`);
  slowSocket.ws.resume();
  await slowSocket.until('the last line', () => slow.last === lines);
  slow.check('the slow client', lines);
  fast.check('the fast client', lines);
  assert.ok(fast.longestSilenceMs < 2_000, `the fast client waited ${fast.longestSilenceMs} ms for a line`);
  for (const socket of [slowSocket, fastSocket]) socket.terminate();
  await world.kubectl(['delete', 'instance', 'padded', '--wait=false']);
});

test('live-log: rotation of the log file loses and repeats nothing for clients that keep up', async () => {
  const lines = 80_000;
  const id = await applyInstance(world, 'rotated', {
    ...numberWriter(world, { lines, perSecond: 8_000, bytes: 200 }),
    ...onNode('node1'),
  });
  const tallies = [new Tally(), new Tally()] as const;
  const sockets = await Promise.all(tallies.map((tally) => openNumbers(id, { tally })));
  // The kubelet shows the newest file alone: its first line changes with each rotation.
  const heads = new Set<string>();
  for (let seen = 0; seen < lines - 5_000; seen += 5_000) {
    await sockets[0]?.until(`line ${seen}`, () => tallies[0].last > seen);
    heads.add(await world.kubectl(['logs', await podOf(world, 'rotated'), '--limit-bytes=5']));
  }
  for (const [index, socket] of sockets.entries()) {
    await socket.until('the last line', () => tallies[index]?.last === lines, 60_000);
    tallies[index]?.check(`client ${index}`, lines);
    socket.terminate();
  }
  assert.ok(heads.size >= 3, `it was rotated at least twice: ${[...heads].join(', ')}`);
  await world.kubectl(['delete', 'instance', 'rotated', '--wait=false']);
});

test('live-log: a stream that ends cleanly while the program runs is resumed where it was', async () => {
  const { cluster } = world;
  const id = await applyInstance(world, 'steady', numberWriter(world, { lines: 100_000, perSecond: 500 }));
  const tally = new Tally();
  const socket = await openNumbers(id, { tally });
  await socket.until('the first lines', () => tally.last > 100);
  const pod = await podOf(world, 'steady');
  // What the API server makes of a kubelet that goes away: kubectl, which reads the same way, takes it for the end of the log.
  const raw = world.kubectl(['logs', '--follow', '--tail=1', pod]);
  const node = await world.kubectl(['get', 'pod', pod, '-o', 'jsonpath={.spec.nodeName}']);
  const kubelet = `kubelet-${Number(/(\d+)$/.exec(node)?.[1])}` as const;
  const atCut = tally.last;
  await socket.until('more lines', () => tally.last > atCut + 500);
  await cluster.kill(kubelet);
  assert.match(await raw, /^(\d+ \d+ \n)+$/, 'kubectl has seen a clean end');
  const atEnd = tally.last;
  await cluster.start(kubelet);
  await socket.until('lines after it', () => tally.last > atEnd + 1_000);
  tally.check('the client', tally.last);
  socket.terminate();
  await world.kubectl(['delete', 'instance', 'steady', '--wait=false']);
});
