import assert from 'node:assert/strict';
import type { ChildProcess } from 'node:child_process';
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { open, truncate } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { connect, createServer } from 'node:net';
import type { AddressInfo, Server, Socket } from 'node:net';
import { Readable } from 'node:stream';
import { test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import fc from 'fast-check';
import { Rig, until } from '../../../sidecar/testing/rig.ts';
import { openDirectly } from '../../testing/directly.ts';
import { createSilentLogger } from '../../log.ts';
import { ApiError } from '../../runtime/client.ts';
import type { LogOptions } from '../../runtime/client.ts';
import { systemClock } from '../../runtime/clock.ts';
import { createSidecarClient } from '../../sidecar/client.ts';
import type { SidecarClient, sidecarTimeouts } from '../../sidecar/client.ts';
import type { LogSource, Start } from '../source.ts';
import { noTarget } from '../target.ts';
import type { LogTarget, TargetWatch } from '../target.ts';
import { LogReader, testLogSourceContract } from './contract.ts';
import type { LogHarness } from './contract.ts';
import { createSidecarLogSource } from './sidecar.ts';
import type { SidecarLogLimits } from './sidecar.ts';

const uid = 'b6a1e0f4-0000-4000-8000-000000000001';

/** A real sidecar and a real launcher for each pod, each pod under an address of its own behind a proxy that can be cut. */
class Lab implements LogHarness, TargetWatch {
  readonly client: SidecarClient;
  readonly source: LogSource;
  readonly rigs: Rig[] = [];
  readonly proxy: Proxy;
  readonly #env: NodeJS.ProcessEnv;
  readonly #closed = new AbortController();
  #workload: ChildProcess | undefined;
  #feed: FileHandle | undefined;
  #target: LogTarget = { ...noTarget, namespace: 'games' };
  readonly #waiting = new Set<() => void>();
  readonly #outputs: Buffer[][] = [];
  isMirrored = true;

  private constructor(proxy: Proxy, options: LabOptions) {
    this.proxy = proxy;
    this.#env = options.env ?? {};
    this.client = createSidecarClient({
      masterKey: { read: () => Promise.resolve([Buffer.alloc(32, 7)]) },
      timeouts: options.timeouts ?? {},
    });
    const source = createSidecarLogSource({
      client: this.client,
      pods: { log: (ref, options) => this.#kept(ref, options) },
      target: this,
      instanceUid: uid,
      clock: systemClock,
      random: Math.random,
      log: createSilentLogger(),
      port: proxy.port,
      limits: options.limits ?? {},
    });
    let opened = 0;
    this.source = {
      ...source,
      open: (start, signal) => {
        // Whatever a failed test leaves reading ends with the lab.
        const either = AbortSignal.any([signal, this.#closed.signal]);
        opened += 1;
        // Both ways in which lines come, in turn.
        return opened % 2 === 1 ? openDirectly(source, start, either) : source.open(start, either);
      },
    };
  }

  static async create(options: LabOptions = {}): Promise<Lab> {
    return new Lab(await Proxy.create(), options);
  }

  get rig(): Rig {
    const rig = this.rigs.at(-1);
    assert.ok(rig !== undefined, 'there is a pod');
    return rig;
  }

  current(): LogTarget {
    return this.#target;
  }

  async changed(seen: LogTarget, signal: AbortSignal): Promise<LogTarget> {
    while (this.#target === seen) {
      const { promise, resolve, reject } = Promise.withResolvers<undefined>();
      this.#waiting.add(() => {
        resolve(undefined);
      });
      signal.addEventListener('abort', () => {
        reject(signal.reason as Error);
      });
      signal.throwIfAborted();
      await promise;
    }
    return this.#target;
  }

  setTarget(change: Partial<LogTarget>): void {
    this.#target = { ...this.#target, ...change };
    for (const wake of this.#waiting) wake();
    this.#waiting.clear();
  }

  async startPod(): Promise<void> {
    const podSequence = this.rigs.length + 1;
    this.#outputs.length = 0;
    const rig = await Rig.create('process', this.#env);
    this.rigs.push(rig);
    await promisify(execFile)('mkfifo', [rig.path('feed')]);
    const podIP = await this.proxy.expose(podSequence, rig.port);
    this.setTarget({ podName: `game-${podSequence}`, podIP, podSequence });
  }

  async startWorkload(): Promise<void> {
    const { rig } = this;
    this.#feed = await open(rig.path('feed'), 'r+');
    const { starts } = (await rig.status()).workload;
    this.#workload = rig.launch(['sh'], ['cat', rig.path('feed')], { RINGMASTER_MIRROR: String(this.isMirrored) });
    const output: Buffer[] = [];
    this.#outputs.push(output);
    this.#workload.stdout?.on('data', (data: Buffer) => output.push(data));
    await until(async () => {
      const { workload } = await rig.status();
      return workload.state === 'running' && workload.starts === starts + 1;
    }, 'a workload that runs');
  }

  async endWorkload(): Promise<void> {
    const workload = this.#workload;
    this.#workload = undefined;
    await this.#feed?.close();
    if (workload?.exitCode === null) {
      await once(workload, 'exit');
    }
  }

  async write(...lines: (string | Buffer)[]): Promise<void> {
    await this.writeBytes(Buffer.concat(lines.flatMap((line) => [Buffer.from(line), Buffer.from('\n')])));
  }

  async writeBytes(bytes: Buffer): Promise<void> {
    if (this.rigs.length === 0) {
      await this.startPod();
    }
    if (this.#workload === undefined) {
      await this.startWorkload();
    }
    const before = (await this.rig.logFile()).length;
    await this.#feed?.writeFile(bytes);
    await until(async () => (await this.rig.logFile()).length >= before + bytes.length, 'the lines in the log');
  }

  async restart(): Promise<void> {
    await this.endWorkload();
    await this.startWorkload();
  }

  async replacePod(): Promise<void> {
    await this.endWorkload();
    await this.rig.endSidecar('SIGTERM');
    await this.startPod();
  }

  async cut(kind: 'eof' | 'reset'): Promise<void> {
    this.proxy.cut(kind);
    await delay(1);
  }

  async finish(): Promise<void> {
    await this.endWorkload();
    await this.rig.endSidecar('SIGTERM');
    this.setTarget({ isFinished: true, podIP: undefined, endingPodSequence: this.rigs.length });
  }

  /** What the kubelet keeps: the output of the last two containers of the program, and that of the sidecar. */
  #kept(_ref: unknown, { container, previous }: LogOptions): Promise<AsyncIterable<Uint8Array>> {
    const output = this.#outputs.at(previous === true ? -2 : -1);
    const bytes = container === 'instance' ? output : [Buffer.from(this.rig.sidecarLog)];
    return bytes === undefined
      ? Promise.reject(new ApiError({ code: 400, reason: 'BadRequest', message: 'there was none' }))
      : Promise.resolve(Readable.from(bytes, { objectMode: true }));
  }

  async pass(ms: number): Promise<void> {
    await delay(ms);
  }

  async close(): Promise<void> {
    this.#closed.abort();
    this.client.close();
    await this.endWorkload();
    for (const rig of this.rigs) {
      await rig.close();
    }
    this.proxy.close();
  }
}

interface LabOptions {
  readonly limits?: Partial<SidecarLogLimits>;
  readonly env?: NodeJS.ProcessEnv;
  readonly timeouts?: Partial<typeof sidecarTimeouts>;
}

/** 127.1.0.N for pod N, one port for all, to the rig's own port. */
class Proxy {
  readonly port: number;
  readonly #servers: Server[] = [];
  readonly #sockets = new Set<Socket>();
  #cutAfterBytes: number[] = [];
  /** Bytes vanish without a word, and new connections are not answered. */
  isSilent = false;
  connections = 0;
  bytesToClients = 0;
  #isArmed = false;

  private constructor(port: number) {
    this.port = port;
  }

  static async create(): Promise<Proxy> {
    const probe = createServer().listen(0, '127.1.0.1');
    await once(probe, 'listening');
    const { port } = probe.address() as AddressInfo;
    probe.close();
    await once(probe, 'close');
    return new Proxy(port);
  }

  async expose(pod: number, port: number): Promise<string> {
    const host = `127.1.0.${pod}`;
    const server = createServer((client) => {
      this.#pass(client, port);
    });
    this.#servers.push(server);
    server.listen(this.port, host);
    await once(server, 'listening');
    return host;
  }

  /** The next connection is reset after so many bytes to the client. */
  arm(bytes: number): void {
    this.#isArmed = true;
    this.#cutAfterBytes.push(bytes);
  }

  /** No more cuts after some bytes, also on connections that are open. */
  disarm(): void {
    this.#cutAfterBytes = [];
    this.#isArmed = false;
  }

  cut(kind: 'eof' | 'reset'): void {
    for (const socket of this.#sockets) {
      if (kind === 'eof') socket.end();
      else socket.resetAndDestroy();
    }
    this.#sockets.clear();
  }

  close(): void {
    this.cut('reset');
    for (const server of this.#servers) server.close();
  }

  #pass(client: Socket, port: number): void {
    this.connections += 1;
    const cutAfter = this.#cutAfterBytes.shift() ?? Number.POSITIVE_INFINITY;
    let passed = 0;
    const server = connect({ port, host: '127.0.0.1' });
    this.#sockets.add(client);
    client.on('data', (data) => {
      if (!this.isSilent) server.write(data);
    });
    server.on('data', (data) => {
      if (this.isSilent) return;
      const rest = cutAfter - passed;
      passed += data.length;
      this.bytesToClients += data.length;
      if (data.length <= rest || !this.#isArmed) {
        if (!client.write(data)) server.pause();
        return;
      }
      client.write(data.subarray(0, rest), () => client.resetAndDestroy());
    });
    client.on('drain', () => server.resume());
    for (const [socket, other] of [
      [client, server],
      [server, client],
    ] as const) {
      socket.on('error', () => undefined);
      socket.on('close', () => {
        this.#sockets.delete(client);
        if (!this.isSilent) other.destroy();
      });
    }
  }
}

testLogSourceContract('sidecar', () => Lab.create());

async function withLab(options: LabOptions, body: (lab: Lab) => Promise<void>): Promise<void> {
  const lab = await Lab.create(options);
  try {
    await body(lab);
  } finally {
    await lab.close();
  }
}

function numbered(from: number, to: number): string[] {
  return Array.from({ length: to - from + 1 }, (_, index) => `line ${from + index}`);
}
/** The text of a line, or `<event cause>`. */
function textsOf(reader: LogReader): string[] {
  return reader.received.map(({ type, text }) =>
    type === 'line' ? text : `<${type}${text === '' ? '' : ` ${text}`}>`,
  );
}

test('sidecar log source: a reader that returns is told of the restart since its line', async () => {
  await withLab({}, async (lab) => {
    await lab.write('before');
    const first = new LogReader(lab, { tail: 10 });
    await first.untilLines(1);
    await first.stop();
    await lab.restart();
    await lab.write('after');
    const later = new LogReader(lab, { after: first.received[0]?.cursor ?? '' });
    await later.untilLines(1);
    assert.deepEqual(textsOf(later), ['<restart container>', 'after']);
    await later.stop();
  });
});

test('sidecar log source: a line without an end is given when its pod has ended, not before', async () => {
  await withLab({}, async (lab) => {
    await lab.write('whole');
    const reader = new LogReader(lab, { tail: 10 });
    await reader.untilLines(1);
    await lab.writeBytes(Buffer.from('par'));
    await lab.rig.endSidecar('SIGKILL');
    await lab.rig.startSidecar();
    await lab.writeBytes(Buffer.from('t one\r\npart two'));
    await reader.untilLines(2);
    await lab.pass(200);
    assert.deepEqual(reader.texts, ['whole', 'part one']);
    await lab.endWorkload();
    await lab.rig.endSidecar('SIGTERM');
    lab.setTarget({ isFinished: true });
    await reader.until(() => reader.isDone, 'the end');
    assert.deepEqual(reader.texts, ['whole', 'part one', 'part two', '<end>']);
  });
});

test('sidecar log source: a line above 1 MiB comes in the same pieces from any of its cursors', async () => {
  await withLab({ limits: { lineBytesMax: 10_000 } }, async (lab) => {
    await lab.write('ä→🚀'.repeat(8000), 'next');
    const all = new LogReader(lab, { tail: 10 });
    await all.until(() => all.lines.includes('next'), 'the next line');
    assert.equal(all.lines.slice(0, -1).join(''), 'ä→🚀'.repeat(8000));
    for (const index of [0, 3]) {
      const some = new LogReader(lab, { after: all.received[index]?.cursor ?? '' });
      await some.until(() => some.lines.includes('next'), 'the next line');
      assert.deepEqual(some.received, all.received.slice(index + 1));
      await some.stop();
    }
    await all.stop();
  });
});

test('sidecar log source: a pod that was lost unread is a gap; one that never started is none', async () => {
  await withLab({ limits: { unreachableMsMax: 200, refusedMsMax: 200 } }, async (lab) => {
    await lab.write('1');
    const reader = new LogReader(lab, { tail: 10 });
    await reader.untilLines(1);
    await lab.rig.endSidecar('SIGKILL');
    lab.setTarget({ podName: 'game-2', podIP: undefined, podSequence: 2 });
    await reader.until(() => reader.received.length === 3, 'a gap and a restart');
    lab.setTarget({ unstartedPodSequence: 2 });
    await lab.endWorkload();
    // Pod 2 went as it came; the next one has the third sequence.
    lab.rigs.push(lab.rig);
    await lab.startPod();
    await lab.write('2');
    await reader.untilLines(2);
    assert.deepEqual(textsOf(reader), ['1', '<gap pod-deleted>', '<restart pod>', '<restart pod>', '2']);
    await reader.stop();
  });
});

test('sidecar log source: what retention takes from a reader that paused is announced, and nothing else is missing', async () => {
  await withLab({ env: { RINGMASTER_RETAIN_BYTES: '1048576' } }, async (lab) => {
    const lineBytes = 200;
    const total = 200_000;
    const gate = Promise.withResolvers<undefined>();
    await lab.write('0'.padEnd(lineBytes - 1));
    const reader = new LogReader(lab, { tail: 10 }, async () => {
      await gate.promise;
    });
    await reader.untilLines(1);
    for (let from = 1; from < total; from += 10_000) {
      const lines = Array.from({ length: Math.min(10_000, total - from) }, (_, index) => String(from + index));
      await lab.write(...lines.map((line) => line.padEnd(lineBytes - 1)));
    }
    await until(
      async () => (await lab.rig.status()).log.firstOffset > (total * lineBytes * 9) / 10,
      'a log that was reclaimed',
    );
    gate.resolve(undefined);
    await reader.until(() => Number(reader.received.at(-1)?.text) === total - 1, 'the last line');
    let [expected, gaps] = [0, 0];
    for (const { type, text } of reader.received) {
      if (type === 'gap') gaps += 1;
      else if (Number(text) !== expected) {
        assert.ok(gaps > 0 && Number(text) > expected, `${text} follows ${expected - 1} without a gap`);
        gaps -= 1;
        expected = Number(text);
      }
      expected += type === 'line' ? 1 : 0;
    }
    assert.equal(reader.received.filter(({ type }) => type === 'gap').length, 1);
    await reader.stop();
  });
});

test('sidecar log source: a log that somebody truncated is a gap, then what is written next', async () => {
  await withLab({}, async (lab) => {
    await lab.write(...numbered(1, 20));
    const reader = new LogReader(lab, { tail: 1 });
    await reader.untilLines(1);
    await truncate(lab.rig.path('log'), 0);
    await until(async () => (await lab.rig.status()).log.endOffset === 0, 'a sidecar that has seen it');
    await lab.write('new');
    await reader.untilLines(2);
    assert.deepEqual(textsOf(reader), ['line 20', '<gap rotated>', 'new']);
    await reader.stop();
  });
});

test('sidecar log source: a connection that falls silent is noticed and taken up again', async () => {
  await withLab({ limits: { quietMs: 200 }, timeouts: { connectMs: 300, statusMs: 300 } }, async (lab) => {
    await lab.write('1');
    const reader = new LogReader(lab, { tail: 10 });
    await reader.untilLines(1);
    lab.proxy.isSilent = true;
    await lab.write('2');
    const { connections } = lab.proxy;
    await reader.until(() => lab.proxy.connections >= connections + 2, 'another try');
    lab.proxy.isSilent = false;
    await reader.untilLines(2);
    assert.deepEqual(reader.texts, ['1', '2']);
    await reader.stop();
  });
});

test('sidecar log source: while nobody pulls, a bounded amount leaves the sidecar', async () => {
  await withLab({}, async (lab) => {
    await lab.write('1');
    const events = lab.source.open({ tail: 10 }, new AbortController().signal)[Symbol.asyncIterator]();
    await events.next();
    for (let written = 0; written < 40; written += 1) {
      await lab.writeBytes(Buffer.from(`${'x'.repeat(999)}\n`.repeat(1000)));
    }
    await lab.pass(300);
    assert.ok(lab.proxy.bytesToClients < 20_000_000, `${lab.proxy.bytesToClients} bytes were sent`);
    await events.return?.();
  });
});

type Action =
  | { do: 'write'; lines: number; isSlow: boolean }
  | { do: 'cut'; kind: 'eof' | 'reset' }
  | { do: 'cut-after'; bytes: number }
  | { do: 'kill-sidecar' }
  | { do: 'restart' }
  | { do: 'replace-pod' };

const action: fc.Arbitrary<Action> = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constant('write' as const),
      lines: fc.integer({ min: 1, max: 400 }),
      isSlow: fc.boolean(),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({ do: fc.constant('cut' as const), kind: fc.constantFrom('eof' as const, 'reset' as const) }),
  },
  {
    weight: 2,
    arbitrary: fc.record({ do: fc.constant('cut-after' as const), bytes: fc.integer({ min: 1, max: 6000 }) }),
  },
  { weight: 1, arbitrary: fc.constant({ do: 'kill-sidecar' as const }) },
  { weight: 1, arbitrary: fc.constant({ do: 'restart' as const }) },
  { weight: 1, arbitrary: fc.constant({ do: 'replace-pod' as const }) },
);

test('sidecar log source: model: cut at any byte, killed, restarted, replaced, every line comes once and in order', async () => {
  const property = fc.asyncProperty(fc.array(action, { minLength: 6, maxLength: 14 }), async (actions) => {
    await withLab({}, async (lab) => {
      const expected: string[] = ['start'];
      await lab.write('start');
      const reader = new LogReader(lab, { tail: 10_000 });
      const caughtUp = async (): Promise<void> => {
        await until(() => reader.received.length >= expected.length, 'what was written', 20_000).catch(() => {
          assert.deepEqual(reader.texts, expected);
        });
      };
      await caughtUp();
      for (const each of actions) {
        await act(lab, each, { expected, caughtUp });
      }
      await caughtUp();
      assert.deepEqual(reader.texts, expected);
      const middle = reader.received.findIndex(
        ({ type }, index) => type === 'line' && index * 2 >= reader.received.length,
      );
      await resumesAt(lab, reader, middle);
      await reader.stop();
    });
  });
  await fc.assert(property, { numRuns: 8, endOnFailure: true });
});

async function act(
  lab: Lab,
  each: Action,
  { expected, caughtUp }: { expected: string[]; caughtUp: () => Promise<void> },
): Promise<void> {
  switch (each.do) {
    case 'write': {
      const lines = Array.from(
        { length: each.lines },
        (_, index) => `${expected.length + index} ${'.'.repeat(index % 50)}`,
      );
      expected.push(...lines);
      await lab.write(...lines);
      if (each.isSlow) await caughtUp();
      break;
    }
    case 'cut':
      await lab.cut(each.kind);
      break;
    case 'cut-after':
      lab.proxy.arm(each.bytes);
      await lab.cut('reset');
      break;
    case 'kill-sidecar':
      await lab.rig.endSidecar('SIGKILL');
      await lab.rig.startSidecar();
      break;
    case 'restart':
      await lab.restart();
      expected.push('<restart>', 'anew');
      await lab.write('anew');
      break;
    case 'replace-pod':
      await caughtUp();
      lab.proxy.disarm();
      await until(async () => (await lab.rig.status()).sidecar.readers > 0, 'a reader that is connected');
      await lab.replacePod();
      expected.push('<restart>', 'another');
      await lab.write('another');
      break;
  }
}

/** A second reader from a line in the newest pod on gets exactly the rest. */
async function resumesAt(lab: Lab, reader: LogReader, index: number): Promise<void> {
  const cursor = reader.received[index]?.cursor;
  const isNewest = reader.received.slice(index).every(({ type, text }) => type !== 'restart' || text !== 'pod');
  if (cursor === undefined || !isNewest) return;
  const later = new LogReader(lab, { after: cursor });
  await later.until(() => later.received.length >= reader.received.length - index - 1, 'the rest');
  assert.deepEqual(later.received, reader.received.slice(index + 1));
  await later.stop();
}

test('sidecar log source: a reader who comes back after the end gets the rest of every run exactly once, from the kubelet', async () => {
  await withLab({}, async (lab) => {
    await lab.write(...numbered(1, 20));
    await lab.restart();
    await lab.write(...numbered(21, 3000));
    const half = new LogReader(lab, { tail: 5000 });
    await half.untilLines(3000);
    await half.stop();
    await lab.writeBytes(Buffer.from('without an end'));
    await lab.finish();
    const all = [...numbered(1, 20), '<restart container>', ...numbered(21, 3000), 'without an end', '<end>'];
    for (const index of [5, 19, 20, 21, 1500, 3000]) {
      const { cursor } = half.received[index] ?? {};
      if (cursor === undefined) continue;
      const late = new LogReader(lab, { after: cursor });
      await late.until(() => late.isDone, 'the end');
      assert.deepEqual(textsOf(late), all.slice(index + 1), `after entry ${index}`);
    }
    const late = new LogReader(lab, { tail: 5000 });
    await late.until(() => late.isDone, 'the end');
    assert.deepEqual(textsOf(late), all);
    const last = late.received.at(-2)?.cursor ?? '';
    const atEnd = new LogReader(lab, { after: last });
    await atEnd.until(() => atEnd.isDone, 'the end');
    assert.deepEqual(textsOf(atEnd), ['<end>']);
    const { lines, cursor } = await lab.source.tail(2, new AbortController().signal);
    assert.deepEqual(lines.map(String), ['line 3000', 'without an end']);
    assert.equal(lab.source.compare(cursor, last), 0);
  });
});

test('sidecar log source: of a finished pod without a mirror, what is missing is announced and nothing else is said', async () => {
  await withLab({}, async (lab) => {
    lab.isMirrored = false;
    await lab.write(...numbered(1, 20));
    const reader = new LogReader(lab, { tail: 10 });
    await reader.untilLines(10);
    await reader.stop();
    await lab.finish();
    const expected: [Start, string[]][] = [
      [{ after: reader.received[3]?.cursor ?? '' }, ['<gap expired>', '<end>']],
      [{ after: reader.received[9]?.cursor ?? '' }, ['<end>']],
      [{ tail: 10 }, ['<gap expired>', '<end>']],
      [{ tail: 0 }, ['<end>']],
    ];
    for (const [start, texts] of expected) {
      const late = new LogReader(lab, start);
      await late.until(() => late.isDone, 'the end');
      assert.deepEqual(textsOf(late), texts, JSON.stringify(start));
    }
    assert.deepEqual((await lab.source.tail(5, new AbortController().signal)).lines, []);
    // Killed: nobody has said what the log was.
    lab.rig.sidecarLog = '';
    const late = new LogReader(lab, { tail: 10 });
    await late.until(() => late.isDone, 'the end');
    assert.deepEqual(textsOf(late), ['<gap pod-deleted>', '<end>']);
  });
});
