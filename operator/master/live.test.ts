import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { once } from 'node:events';
import type { Socket } from 'node:net';
import { fileURLToPath } from 'node:url';
import { test } from 'node:test';
import { WebSocket } from 'ws';
import { OperatorError } from '../errors.ts';
import type { FakeHub } from '../testing/hub.ts';
import { keySpec, openRaw, startMaster, testId, testToken, testUid, upgradeRequest } from '../testing/master.ts';
import type { TestMaster } from '../testing/master.ts';
import { createFakeTimers } from '../testing/timers.ts';

const livePath = `/api/instances/${testId}/live-log`;

/** A client that keeps what it gets. */
class Client {
  readonly ws: WebSocket;
  readonly lines: string[] = [];
  readonly closed: Promise<{ code: number; reason: string }>;
  #waiters: { count: number; resolve: () => void }[] = [];

  constructor(
    master: TestMaster,
    options: { query?: string; token?: string; protocols?: string[]; autoPong?: boolean } = {},
  ) {
    this.ws = new WebSocket(`ws://127.0.0.1:${master.port}${livePath}${options.query ?? ''}`, options.protocols ?? [], {
      headers: { Authorization: `Bearer ${options.token ?? testToken}` },
      autoPong: options.autoPong ?? true,
      maxPayload: 16 * 1024 * 1024,
    });
    this.ws.on('message', (data: Buffer, isBinary) => {
      assert.equal(isBinary, false);
      this.lines.push(data.toString());
      this.#waiters = this.#waiters.filter(({ count, resolve }) => {
        if (this.lines.length < count) return true;
        resolve();
        return false;
      });
    });
    this.closed = new Promise((resolve) => {
      this.ws.once('close', (code, reason) => {
        resolve({ code, reason: reason.toString() });
      });
    });
  }

  async open(): Promise<this> {
    await once(this.ws, 'open');
    return this;
  }

  async count(count: number): Promise<string[]> {
    if (this.lines.length < count) {
      await new Promise<void>((resolve) => this.#waiters.push({ count, resolve }));
    }
    return this.lines;
  }
}

async function gone(hub: FakeHub): Promise<void> {
  while (hub.openCount > 0) await new Promise((resolve) => setImmediate(resolve));
}

test('live: backlog and live lines arrive once, in order, blank ones too, then 1000', async () => {
  await using master = await startMaster();
  master.hub.write(testUid, 'one', '', 'three');
  const client = await new Client(master).open();
  await client.count(3);
  master.hub.write(testUid, '', 'five \u00e4');
  master.hub.end(testUid);
  assert.deepEqual(await client.closed, { code: 1000, reason: 'instance stopped' });
  assert.deepEqual(client.lines, ['one', '', 'three', '', 'five \u00e4']);
  await gone(master.hub);
});

test('live: tail, cursor and ansi are obeyed', async () => {
  await using master = await startMaster();
  master.hub.write(testUid, 'a', 'b', '\x1b[1mc\x1b[0m');
  master.hub.end(testUid);
  const linesWith = async (query: string): Promise<string[]> => {
    const client = new Client(master, { query });
    await client.closed;
    return client.lines;
  };
  assert.deepEqual(await linesWith('?tail=2'), ['b', '\x1b[1mc\x1b[0m']);
  assert.deepEqual(await linesWith('?tail=0'), []);
  assert.deepEqual(await linesWith('?tail=1&ansi=strip'), ['c']);
  assert.deepEqual(await linesWith(`?cursor=${testUid}:0&ansi=strip`), ['b', 'c']);
});

test('live: the plain protocol tells of a gap in one line and of nothing else', async () => {
  await using master = await startMaster();
  master.hub.write(testUid, 'one');
  master.hub.gap(testUid, 1234);
  master.hub.restart(testUid, 'container');
  master.hub.gap(testUid, undefined);
  master.hub.end(testUid);
  const client = new Client(master);
  await client.closed;
  assert.deepEqual(client.lines, [
    'one',
    '[ringmaster] 1234 lines were no longer available',
    '[ringmaster] some lines were no longer available',
  ]);
});

test('live: the JSON protocol gives every event, and each cursor resumes just after its line', async () => {
  await using master = await startMaster();
  master.hub.write(testUid, 'one', 'two');
  master.hub.restart(testUid, 'pod');
  master.hub.gap(testUid, 7, 'pod-deleted');
  master.hub.write(testUid, 'three');
  master.hub.end(testUid);
  const client = new Client(master, { protocols: ['ringmaster.live-log.v1+json'] });
  await client.closed;
  assert.equal(client.ws.protocol, 'ringmaster.live-log.v1+json');
  const objects = client.lines.map((line) => JSON.parse(line) as { type: string; cursor?: string; line?: string });
  assert.deepEqual(
    objects.map(({ type, line }) => [type, line]),
    [
      ['line', 'one'],
      ['line', 'two'],
      ['restart', undefined],
      ['gap', undefined],
      ['line', 'three'],
      ['end', undefined],
    ],
  );
  const resumed = new Client(master, { query: `?cursor=${objects[1]?.cursor ?? ''}` });
  await resumed.closed;
  assert.equal(resumed.lines.at(-1), 'three');
  assert.ok(!resumed.lines.includes('two'));
});

test('live: long lines and bytes that are not UTF-8 arrive as valid frames', async () => {
  await using master = await startMaster();
  const lines = [125, 126, 65_535, 65_536, 1024 * 1024].map((length) => 'x'.repeat(length));
  master.hub.write(testUid, ...lines, Buffer.from([0x61, 0xff, 0x62]));
  master.hub.end(testUid);
  const client = new Client(master);
  await client.closed;
  assert.deepEqual(client.lines, [...lines, 'a\ufffdb']);
});

test('live: a client that pauses gets everything, costs a bounded buffer, and its last lines come before the close', async () => {
  await using master = await startMaster();
  const client = await new Client(master).open();
  client.ws.pause();
  // Far more than the kernels on both sides hold.
  const linesPerBatch = 1_000;
  const batches = 400;
  for (let batch = 0; batch < batches; batch++) {
    const lines = Array.from({ length: linesPerBatch }, (_, i) => `${batch * linesPerBatch + i} ${'x'.repeat(100)}`);
    master.hub.write(testUid, ...lines);
  }
  master.hub.end(testUid);
  // Another client reads the whole meanwhile: the paused one holds nobody up.
  const other = new Client(master, { query: '?tail=10000' });
  await other.closed;
  const written = Number(/^ringmaster_master_sent_bytes_total (\d+)$/m.exec(await master.metrics.text())?.[1]);
  assert.ok(written < 40_000_000, `the paused client was written to no further than it had room for: ${written}`);
  client.ws.resume();
  assert.deepEqual(await client.closed, { code: 1000, reason: 'instance stopped' });
  assert.equal(client.lines.length, linesPerBatch * batches);
  assert.ok(client.lines.every((line, index) => line.startsWith(`${index} `)));
  await gone(master.hub);
});

test('live: 64 KiB are buffered for a client that does not read, and a frame', async () => {
  await using master = await startMaster();
  const accepted: Socket[] = [];
  const note = (message: unknown): void => void accepted.push((message as { socket: Socket }).socket);
  subscribe('net.server.socket', note);
  try {
    const client = await new Client(master).open();
    client.ws.pause();
    const line = 'x'.repeat(1_000);
    // The kernels on both sides take some megabytes before anything waits here.
    for (let batch = 0; batch < 20; batch++) master.hub.write(testUid, ...Array.from({ length: 1_000 }, () => line));
    const [socket] = accepted;
    let waiting = -1;
    while (socket !== undefined && waiting !== socket.writableLength) {
      waiting = socket.writableLength;
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
    assert.ok(waiting > 48 * 1024 && waiting <= 64 * 1024 + 1_004, `${waiting} bytes wait`);
    client.ws.terminate();
    await gone(master.hub);
  } finally {
    unsubscribe('net.server.socket', note);
  }
});

test('live: pings between the lines of a lagging client never break a frame', async () => {
  const timers = createFakeTimers();
  const limits = { pingIntervalMs: 1_000, pongTimeoutMs: 1_000_000 };
  await using master = await startMaster({ timers, limits });
  const client = await new Client(master).open();
  let pings = 0;
  client.ws.on('ping', () => pings++);
  const total = 200_000;
  let written = 0;
  while (written < total) {
    master.hub.write(testUid, ...Array.from({ length: 2_000 }, () => `${written++} ${'x'.repeat(written % 300)}`));
    timers.advance(1_000);
    await client.count(Math.max(written - 20_000, 0));
  }
  master.hub.end(testUid);
  assert.deepEqual(await client.closed, { code: 1000, reason: 'instance stopped' });
  assert.ok(pings > 1);
  assert.ok(client.lines.every((line, index) => line.startsWith(`${index} `)));
  assert.equal(client.lines.length, total);
});

test('live: a fault of the source closes with its code, a bug with 1011 and no internals', async () => {
  const faults: [error: unknown, code: number, reason: string][] = [
    [new OperatorError('LOG_SOURCE_UNAVAILABLE', 'Cannot read the log: gone'), 1013, 'Cannot read the log: gone'],
    [new OperatorError('CURSOR_INVALID', 'Cannot resume: unknown'), 1008, 'Cannot resume: unknown'],
    [new OperatorError('INTERNAL', '\u00e4'.repeat(100)), 1011, '\u00e4'.repeat(61)],
    [new Error('secret detail'), 1011, 'internal error'],
  ];
  for (const [error, code, reason] of faults) {
    await using master = await startMaster();
    master.hub.write(testUid, 'before');
    const client = await new Client(master).open();
    master.hub.fail(testUid, error);
    assert.deepEqual(await client.closed, { code, reason });
    assert.deepEqual(client.lines, ['before']);
    await gone(master.hub);
  }
});

test('live: what a client sends is ignored up to 1 KiB, above it 1009, and bad UTF-8 is 1007', async () => {
  await using master = await startMaster();
  const talker = await new Client(master).open();
  talker.ws.send('x'.repeat(1_024));
  talker.ws.send(Buffer.alloc(1_024));
  master.hub.write(testUid, 'still here');
  await talker.count(1);
  talker.ws.send('x'.repeat(1_025));
  assert.equal((await talker.closed).code, 1009);
  const garbler = await new Client(master, { query: '?tail=0' }).open();
  garbler.ws.send(Buffer.from([0xff]), { binary: false });
  assert.equal((await garbler.closed).code, 1007);
  await gone(master.hub);
});

test('live: a client that closes, half-closes or resets gives its subscription back', async () => {
  await using master = await startMaster();
  const closer = await new Client(master).open();
  closer.ws.close(1000);
  await closer.closed;
  for (const leave of ['end', 'resetAndDestroy'] as const) {
    using connection = await openRaw(master.port);
    connection.send(upgradeRequest(livePath));
    await connection.contains(' 101 ');
    connection.socket[leave]();
    await connection.ended();
  }
  await gone(master.hub);
  assert.match(await master.metrics.text(), /^ringmaster_master_sockets_open\{kind="live-log"\} 0$/m);
});

test('live: a peer that answers pings stays, one that does not is ended', async () => {
  const timers = createFakeTimers();
  await using master = await startMaster({ timers });
  const answering = await new Client(master).open();
  const silent = await new Client(master, { autoPong: false }).open();
  for (let round = 0; round < 3; round++) {
    const pinged = once(answering.ws, 'ping');
    timers.advance(15_000);
    await pinged;
    // Our own ping goes behind the pong on the same connection: its answer says that the pong has arrived.
    answering.ws.ping();
    await once(answering.ws, 'pong');
  }
  assert.equal((await silent.closed).code, 1006);
  assert.equal(answering.ws.readyState, WebSocket.OPEN);
});

test('live: deleting a key closes exactly its sockets with 1008 within a second', async () => {
  await using master = await startMaster();
  master.keys.set('other', keySpec('other-token'));
  const mine = await new Client(master).open();
  const other = await new Client(master, { token: 'other-token' }).open();
  const startedAtMs = performance.now();
  master.keys.remove('all');
  assert.deepEqual(await mine.closed, { code: 1008, reason: 'token revoked' });
  assert.ok(performance.now() - startedAtMs < 1_000);
  master.hub.write(testUid, 'still here');
  assert.deepEqual(await other.count(1), ['still here']);
});

test('live: a revoked client that does not read is cut within a second', async () => {
  await using master = await startMaster();
  using connection = await openRaw(master.port);
  connection.send(upgradeRequest(livePath));
  await connection.contains(' 101 ');
  connection.socket.pause();
  // More than the kernels on both sides hold, so that the close frame cannot get through.
  for (let batch = 0; batch < 60; batch++) {
    master.hub.write(testUid, ...Array.from({ length: 1_000 }, () => 'x'.repeat(1_000)));
  }
  await stuck(master);
  const startedAtMs = performance.now();
  master.keys.remove('all');
  await gone(master.hub);
  assert.ok(performance.now() - startedAtMs < 1_000);
});

/** Waits until nothing more is sent. */
async function stuck(master: TestMaster): Promise<void> {
  let sent = '';
  for (let quietTurns = 0; quietTurns < 100; quietTurns++) {
    await new Promise((resolve) => setImmediate(resolve));
    const now = /^ringmaster_master_sent_bytes_total \d+$/m.exec(await master.metrics.text())?.[0] ?? '';
    if (now !== sent) quietTurns = 0;
    sent = now;
  }
}

test('live: draining closes with 1001, refuses with 503, answers plain requests, then the port is closed', async () => {
  await using master = await startMaster({ limits: { drainGraceMs: 5_000 } });
  const client = await new Client(master).open();
  // Holds the drain open: it does not answer the close frame.
  using lingering = await openRaw(master.port);
  lingering.send(upgradeRequest(livePath));
  await lingering.contains(' 101 ');
  const drained = master.server.drain();
  assert.deepEqual(await client.closed, { code: 1001, reason: 'draining' });
  const ready = await fetch(`http://127.0.0.1:${master.port}/readyz`);
  assert.equal(ready.status, 503);
  assert.equal((await fetch(`http://127.0.0.1:${master.port}/healthz`)).status, 200);
  using late = await openRaw(master.port);
  late.send(upgradeRequest(livePath));
  const answer = await late.ended();
  assert.ok(answer.startsWith('HTTP/1.1 503 '));
  assert.match(answer, /\r\nRetry-After: 1\r\n/);
  lingering.socket.destroy();
  await drained;
  await assert.rejects(fetch(`http://127.0.0.1:${master.port}/healthz`));
});

test('live: an aborted signal drains', async () => {
  await using master = await startMaster();
  const client = await new Client(master).open();
  master.stop.abort();
  assert.equal((await client.closed).code, 1001);
  await master.server.drain();
  await assert.rejects(master.server.start(AbortSignal.abort()));
});

const wscat = fileURLToPath(new URL('../../node_modules/.bin/wscat', import.meta.url));

async function runWscat(args: string[], until: string): Promise<string> {
  const child = spawn(process.execPath, [wscat, '--no-color', ...args], { stdio: ['pipe', 'pipe', 'pipe'] });
  let output = '';
  const seen = new Promise<void>((resolve) => {
    const collect = (data: Buffer): void => {
      output += data.toString();
      if (output.includes(until)) resolve();
    };
    child.stdout.on('data', collect);
    child.stderr.on('data', collect);
    child.once('close', () => {
      resolve();
    });
  });
  await seen;
  child.kill();
  if (child.exitCode === null && child.signalCode === null) await once(child, 'close');
  return output;
}

test('live: wscat shows the lines with a token and 401 without one', async () => {
  await using master = await startMaster();
  master.hub.write(testUid, 'hello from the log', 'last line');
  const url = `ws://127.0.0.1:${master.port}${livePath}`;
  const output = await runWscat(['-c', url, '-H', `Authorization: Bearer ${testToken}`], 'last line');
  assert.match(output, /hello from the log[^]*last line/);
  assert.match(await runWscat(['-c', url], '401'), /401/);
});
