/**
 * Random input against the real sidecar and against simple models. FUZZ_RUNS (default 100) says how much; the seed of a failure is printed.
 */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { appendFile, mkdir, mkdtemp, rm, truncate, writeFile } from 'node:fs/promises';
import { connect as connectPlain } from 'node:net';
import type { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { connect } from 'node:tls';
import fc from 'fast-check';
import { GrowingFile } from './growth.ts';
import { Ingest } from './ingest.ts';
import { LogFile } from './log.ts';
import { noteStart } from './notes.ts';
import { headers, limits, tlsOptions } from './protocol.ts';
import { ReadyGate } from './ready.ts';
import { Starts } from './starts.ts';
import { parseLines } from './stdin.ts';
import { endMark } from './terminal.ts';
import { until, withRig } from './testing/rig.ts';
import type { Reading, Rig } from './testing/rig.ts';

const runs = Number(process.env['FUZZ_RUNS'] ?? 100);

/** The sidecar must have said nothing of an error, and still run. */
async function withTarget(body: (rig: Rig) => Promise<void>): Promise<void> {
  const checked = async (rig: Rig): Promise<void> => {
    await body(rig);
    assert.ok(!rig.sidecarLog.includes('"error"'), rig.sidecarLog);
    assert.equal(rig.sidecar?.exitCode, null);
  };
  await withRig('process', checked, { RINGMASTER_READY_PATTERN: '(never)+$' });
}

async function withFolder(body: (folder: string) => Promise<void>): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'fuzz-'));
  try {
    await body(folder);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** Sends bytes, ends its side after them, and gives what came back before the other side closed. */
async function exchange(socket: Socket, pieces: readonly Buffer[], timeoutMs: number): Promise<Buffer> {
  const received: Buffer[] = [];
  socket.on('data', (data: Buffer) => received.push(data));
  socket.on('error', () => undefined);
  // Not `once`: a reset, which is an answer too, would reject it.
  const closed = new Promise((resolve) => socket.on('close', resolve));
  for (const piece of pieces) {
    socket.write(piece);
  }
  socket.end();
  const timer = setTimeout(() => {
    socket.destroy();
  }, timeoutMs);
  await closed;
  clearTimeout(timer);
  return Buffer.concat(received);
}

async function connectWithKey(rig: Rig): Promise<Socket> {
  const socket = connect({
    ...tlsOptions,
    host: '127.0.0.1',
    port: rig.port,
    pskCallback: () => ({ psk: rig.key, identity: rig.uid }),
    checkServerIdentity: () => undefined,
  });
  await once(socket, 'secureConnect');
  return socket;
}

const path = fc.oneof(
  fc.constantFrom('/', '//', '/v1/log', '/v1/log?offset=0', '/v1/log?tail=1&follow=true', '/v1/stdin', '/v1/status'),
  fc.constantFrom('*', 'http://x/v1/log?offset=0', '/v1/log?offset=%', '/v1/%6cog?tail=0', '/\u0000', '/é', '?', ''),
  fc.string({ maxLength: 30 }),
);
const headerLine = fc.oneof(
  fc.constantFrom(
    'host: x',
    'host: x\r\nhost: y',
    'content-length: 5',
    'content-length: -1',
    'content-length: 99999999',
  ),
  fc.constantFrom('transfer-encoding: chunked', 'transfer-encoding: chunked, chunked', 'expect: 100-continue'),
  fc.constantFrom('connection: upgrade\r\nupgrade: websocket', 'upgrade: h2c', ': nameless', ' folded', 'a'),
  fc.constantFrom(`x: ${'y'.repeat(limits.headerBytesMax)}`, 'x: \u0000', 'x: \u007f', 'connection: close'),
);
const requestBytes = fc
  .tuple(
    fc.constantFrom('GET', 'POST', 'HEAD', 'OPTIONS', 'CONNECT', 'PRI', 'get', '', 'G\u0000T', 'DELETE'),
    path,
    fc.constantFrom('HTTP/1.1', 'HTTP/1.0', 'HTTP/2.0', 'HTTP/9.9', '', 'RTSP/1.0'),
    fc.array(headerLine, { maxLength: 4 }),
    fc.oneof(fc.constantFrom('', 'hello', '5\r\nhello\r\n0\r\n\r\n', 'ffffffffff\r\n', '-1\r\n', '0'), fc.string()),
  )
  .map(([method, target, version, lines, body]) =>
    Buffer.from([`${method} ${target} ${version}`, ...lines, '', body].join('\r\n'), 'latin1'),
  );
const garbage = fc.uint8Array({ maxLength: 600 }).map((bytes) => Buffer.from(bytes));

test('fuzz: malformed HTTP behind a good handshake is answered by HTTP or a closed connection, and harms nobody', async () => {
  await withTarget(async (rig) => {
    const message = fc.oneof({ weight: 4, arbitrary: requestBytes }, { weight: 1, arbitrary: garbage });
    await fc.assert(
      fc.asyncProperty(fc.array(message, { minLength: 1, maxLength: 3 }), async (pieces) => {
        const answer = await exchange(await connectWithKey(rig), pieces, 300);
        if (answer.length > 0) {
          // Whoever said `expect: 100-continue` is told to go on before the answer itself.
          assert.match(answer.toString('latin1'), /^(HTTP\/1\.1 100 Continue\r\n\r\n)*HTTP\/1\.[01] [2-5]\d\d /);
        }
        assert.equal((await rig.call('GET', '/healthz')).status, 200);
      }),
      { numRuns: runs },
    );
    await until(async () => (await rig.status()).sidecar.readers === 0, 'no reader left over');
  });
});

test('fuzz: a log asked for over HTTP/1.0, which cannot say why it ended, is refused and ends nothing', async () => {
  await withTarget(async (rig) => {
    const asked = Buffer.from('GET /v1/log?offset=0 HTTP/1.0\r\nhost: x\r\n\r\n');
    const answer = await exchange(await connectWithKey(rig), [asked], 300);
    assert.match(answer.toString('latin1'), /^HTTP\/1\.1 400 [^]*"code":"BAD_REQUEST"/);
    assert.equal((await rig.call('GET', '/v1/status')).status, 200);
  });
});

test('fuzz: random bytes in place of TLS, and on the plain port, never get an answer of ours', async () => {
  await withTarget(async (rig) => {
    const record = fc
      .tuple(fc.constantFrom(0x16, 0x14, 0x15, 0x17, 0x80), fc.constantFrom(0, 1, 3, 4), garbage)
      .map(([type, minor, bytes]) =>
        Buffer.concat([Buffer.from([type, 3, minor, bytes.length >> 8, bytes.length & 255]), bytes]),
      );
    const message = fc.oneof(garbage, record, requestBytes);
    await fc.assert(
      fc.asyncProperty(message, async (bytes) => {
        const secret = await exchange(connectPlain(rig.port, '127.0.0.1'), [bytes], 300);
        assert.ok(!secret.includes('HTTP/1.1 2'), secret.toString('latin1'));
        const plain = await exchange(connectPlain(rig.healthPort, '127.0.0.1'), [bytes], 300);
        assert.ok(!plain.includes('HTTP/1.1 200') || /GET (\/healthz|\/metrics)/.test(bytes.toString('latin1')));
        assert.equal((await rig.call('GET', '/healthz')).status, 200);
      }),
      { numRuns: runs },
    );
  });
});

test('fuzz: a thousand half-open connections on each port keep neither the kubelet nor the Master out', async (t) => {
  await withTarget(async (rig) => {
    const sockets: Socket[] = [];
    t.after(() => {
      for (const socket of sockets) {
        socket.destroy();
      }
    });
    for (let count = 0; count < 2000; count += 1) {
      const socket = connectPlain(count % 2 === 0 ? rig.port : rig.healthPort, '127.0.0.1');
      socket.on('error', () => undefined);
      socket.resume();
      socket.write(count % 3 === 0 ? randomBytes(20) : 'GET /healthz HTTP/1.1\r\nhost: x\r\n');
      sockets.push(socket);
    }
    const plain = await fetch(`http://127.0.0.1:${rig.healthPort}/healthz`);
    assert.equal(plain.status, 200);
    assert.equal((await rig.call('GET', '/v1/status')).status, 200);
    const openMax = limits.handshakesMax + limits.healthConnectionsMax;
    await until(() => sockets.filter((socket) => !socket.destroyed).length <= openMax, 'the oldest cut');
  });
});

type Act =
  | { do: 'write'; bytes: Buffer }
  | { do: 'restart' }
  | { do: 'read'; share: number; follow: boolean }
  | { do: 'tail'; lines: number; follow: boolean }
  | { do: 'pause' | 'resume' | 'close'; which: number };

const log = fc.string({ unit: fc.constantFrom('a', '\n', 'ü', '\r', '\u001b'), maxLength: 40 });
const act: fc.Arbitrary<Act> = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.tuple(log, fc.constantFrom(1, 1, 1, 5000)).map(([text, times]) => ({
      do: 'write' as const,
      bytes: Buffer.from(text.repeat(times)),
    })),
  },
  { weight: 1, arbitrary: fc.constant({ do: 'restart' as const }) },
  {
    weight: 3,
    arbitrary: fc.record({
      do: fc.constant('read' as const),
      share: fc.double({ min: 0, max: 1.1, noNaN: true }),
      follow: fc.boolean(),
    }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('tail' as const), lines: fc.nat(50), follow: fc.boolean() }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constantFrom('pause', 'resume', 'close'), which: fc.nat(20) }) },
);

/** What the log holds, and where in it the workload was started anew. */
class World {
  content: Buffer = Buffer.alloc(0);
  readonly boundaries: number[] = [0];
  readonly readers: { reading: Reading; start: number; isLook: boolean; isFollowing: boolean }[] = [];

  /** The end of the run that a body from `start` on belongs to; `runs` is how many starts the sidecar knew then. */
  endOf(start: number, starts: number): number {
    return this.boundaries[starts] ?? (start <= this.content.length ? this.content.length : start);
  }
}

async function perform(rig: Rig, world: World, each: Act): Promise<void> {
  switch (each.do) {
    case 'write':
      world.content = Buffer.concat([world.content, each.bytes]);
      await appendFile(rig.path('log'), each.bytes);
      break;
    case 'restart':
      await noteStart(rig.path('run'), { starts: world.boundaries.length + 1, offset: world.content.length });
      world.boundaries.push(world.content.length);
      break;
    case 'read':
    case 'tail': {
      const query =
        each.do === 'tail' ? `tail=${each.lines}` : `offset=${Math.floor(each.share * world.content.length)}`;
      const reading = await rig.read(`${query}&follow=${each.follow}`);
      const start = Number(reading.response.headers[headers.startOffset]);
      if (reading.response.statusCode === 416) {
        assert.ok(each.do === 'read');
        reading.close();
      } else {
        world.readers.push({ reading, start, isLook: each.do === 'tail' && !each.follow, isFollowing: each.follow });
      }
      break;
    }
    case 'pause':
    case 'resume':
    case 'close':
      world.readers[each.which]?.reading.response[each.do === 'close' ? 'destroy' : each.do]();
      break;
  }
}

function assertBody(world: World, reader: World['readers'][number]): void {
  const { reading, start, isLook } = reader;
  const bytes = reading.bytes();
  assert.ok(bytes.equals(world.content.subarray(start, start + bytes.length)), 'bytes of the log, in order');
  const starts = Number(reading.response.headers[headers.workloadStarts]);
  if (!isLook) {
    assert.ok(start + bytes.length <= world.endOf(start, starts), 'no byte of another run');
  }
}

test('fuzz: overlapping readers, fast, slow, paused and gone, each get the bytes of one run and no others', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(act, { minLength: 10, maxLength: 40 }), async (acts) => {
      await withTarget(async (rig) => {
        const world = new World();
        await noteStart(rig.path('run'), { starts: 1, offset: 0 });
        for (const each of acts) {
          await perform(rig, world, each);
          world.readers.forEach((reader) => {
            assertBody(world, reader);
          });
        }
        await until(async () => (await rig.status()).log.endOffset === world.content.length, 'the size');
        for (const reader of world.readers.filter(({ reading }) => !reading.response.destroyed)) {
          reader.reading.response.resume();
          const starts = Number(reader.reading.response.headers[headers.workloadStarts]);
          if (reader.isFollowing) {
            const end = world.endOf(reader.start, starts);
            await until(() => reader.start + reader.reading.bytes().length === end, 'everything of its run');
            reader.reading.close();
          } else {
            assert.ok(['complete', 'restarted'].includes((await reader.reading.ended) ?? 'cut'));
          }
          assertBody(world, reader);
        }
      });
    }),
    { numRuns: Math.ceil(runs / 20) },
  );
});

/** One run of a workload as the terminal shows it: it ends with a line end, as the launcher sees to. */
const terminalRun = fc
  .array(fc.constantFrom('a', 'bc\n', '\n', '\r', '\u001b[0m', 'ü', '\u001b_ring', 'x'.repeat(300)), { maxLength: 30 })
  .map((parts) =>
    Buffer.from(`${parts.join('')}\n`)
      .toString('latin1')
      .replaceAll(endMark.toString('latin1'), ''),
  );

interface Crash {
  /** Share of the run's bytes that had come by then. */
  readonly at: number;
  /** Share of what was not on the disk for sure that is lost. */
  readonly lost: number;
  readonly isCheckpointLost: boolean;
}

/** Takes the terminal over until the signal; after it, as a kill would, the log may be cut back to what was placed. */
async function ingestOnce(folder: string, crash: Crash | undefined): Promise<Starts> {
  const terminal = await GrowingFile.open(join(folder, 'terminal'));
  const logFile = await GrowingFile.open(join(folder, 'log'));
  const starts = await Starts.open(join(folder, 'run'), join(folder, 'placed'));
  const checkpointPath = join(folder, 'run', 'ingested');
  const onFault = (error: unknown): never => {
    throw error;
  };
  await new Ingest({ terminal, log: logFile, starts, checkpointPath, punch: undefined, onFault }).run(
    AbortSignal.abort(),
  );
  const end = logFile.end;
  await Promise.all([terminal.close(), logFile.close()]);
  if (crash?.isCheckpointLost === true) {
    const keep = starts.present?.offset ?? 0;
    await rm(checkpointPath, { force: true });
    await truncate(join(folder, 'log'), keep + Math.floor((end - keep) * (1 - crash.lost)));
  }
  return starts;
}

test('fuzz: whatever the terminal wrote is taken over once, and each start is placed at its line, over any crash', async () => {
  const share = fc.double({ min: 0, max: 1, noNaN: true });
  const crash = fc.record({ at: share, lost: share, isCheckpointLost: fc.boolean() });
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.tuple(terminalRun, fc.array(crash, { maxLength: 3 }), fc.boolean()), { maxLength: 6 }),
      async (all) => {
        await withFolder(async (folder) => {
          await mkdir(join(folder, 'run'));
          await writeFile(join(folder, 'terminal'), '');
          let [size, expected] = [0, ''];
          const places: number[] = [];
          for (const [index, [text, crashes, hasMark]] of all.entries()) {
            const shown = Buffer.concat([
              Buffer.from(text.replaceAll('\n', '\r\n'), 'latin1'),
              hasMark ? endMark : Buffer.alloc(0),
            ]);
            await noteStart(join(folder, 'run'), { starts: index + 1, offset: size });
            places.push(expected.length);
            let written = 0;
            for (const each of crashes) {
              const to = Math.max(written, Math.floor(each.at * shown.length));
              await appendFile(join(folder, 'terminal'), shown.subarray(written, to));
              written = to;
              await ingestOnce(folder, each);
            }
            await appendFile(join(folder, 'terminal'), shown.subarray(written));
            size += shown.length;
            expected += text;
          }
          const starts = await ingestOnce(folder, undefined);
          const logFile = await LogFile.open(join(folder, 'log'), join(folder, 'state'));
          const content = Buffer.alloc(logFile.end);
          await logFile.read(content, 0);
          await logFile.close();
          assert.equal(content.toString('latin1'), expected);
          for (const [index, place] of places.entries()) {
            assert.equal(starts.boundaryAfter(index), places[Math.max(index, 1)] ?? Infinity);
            assert.equal(starts.numberAt(place), places.lastIndexOf(place) + 1);
          }
        });
      },
    ),
    { numRuns: Math.ceil(runs / 2) },
  );
});

test('fuzz: the readiness gate sees the lines that a simple model sees, however the bytes come', async () => {
  const line = fc.oneof(
    fc.constantFrom('ready', 'ready\r', '\u001b[1mready\u001b[0m', 'not ready', 'ready!', '', 'é'),
    fc.constantFrom(20_000, 16_379, 16_384).map((bytes) => `${'x'.repeat(bytes)}ready`),
  );
  await fc.assert(
    fc.asyncProperty(
      fc.array(line, { maxLength: 8 }),
      fc.array(fc.nat(20_000), { maxLength: 6 }),
      async (lines, cuts) => {
        await withFolder(async (folder) => {
          const logFile = await LogFile.open(join(folder, 'log'), join(folder, 'state'));
          await noteStart(folder, { starts: 1, offset: 0 });
          const starts = await Starts.open(folder);
          const stop = new AbortController();
          const onFault = (error: unknown): never => {
            throw error;
          };
          const gate = new ReadyGate({
            log: logFile,
            starts,
            pattern: 'y$|^ready$',
            statePath: join(folder, 'ready'),
            onFault,
          });
          const done = gate.run(stop.signal);
          const bytes = Buffer.from(lines.map((each) => `${each}\n`).join(''));
          for (let [from, next] = [0, 0]; from < bytes.length; next += 1) {
            const to = from + (cuts[next] ?? bytes.length);
            await appendFile(logFile.file.path, bytes.subarray(from, to));
            logFile.file.refresh();
            await new Promise((resolve) => setImmediate(resolve));
            from = Math.min(to, bytes.length);
          }
          await until(() => gate.reason === undefined || gate.position === logFile.end, 'the end of the log', 5000);
          stop.abort();
          logFile.file.wake();
          await done;
          const isReady = lines
            .map((each) =>
              Buffer.from(each)
                .subarray(0, limits.matchBytesMax)
                .toString()
                .replace(/\r$|\u001b\[\d*m/g, ''),
            )
            .some((each) => each.endsWith('y'));
          assert.equal(gate.reason === undefined, isReady);
          await logFile.close();
        });
      },
    ),
    { numRuns: runs },
  );
});

test('fuzz: parseLines gives the lines of a simple model or refuses the whole body', () => {
  const text = fc.oneof(
    fc.string({ unit: 'binary', maxLength: 60 }),
    fc.string({ unit: fc.constantFrom('a', '\n', '\t', 'ü', ' ') }),
  );
  fc.assert(
    fc.property(text, (body) => {
      const isAllowed = body !== '' && body.isWellFormed() && !/[\u0000-\u0008\u000b-\u001f\u007f]/.test(body);
      if (isAllowed) {
        const model = body
          .replace(/\n$/, '')
          .split('\n')
          .map((each) => `${each}\n`);
        assert.deepEqual(parseLines(Buffer.from(body)).map(String), model);
      } else if (body.isWellFormed()) {
        assert.throws(() => parseLines(Buffer.from(body)), { code: 'BAD_REQUEST' });
      }
    }),
    { numRuns: runs * 5 },
  );
});
