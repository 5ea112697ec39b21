import assert from 'node:assert/strict';
import { once } from 'node:events';
import { test } from 'node:test';
import { WebSocket } from 'ws';
import { OperatorError } from '../errors.ts';
import { jwtOf, createFakeReviews } from '../testing/reviews.ts';
import {
  keySpec,
  openRaw,
  parseResponse,
  publicToken,
  startMaster,
  testId,
  testNamespace,
  testToken,
  upgradeRequest,
} from '../testing/master.ts';
import type { TestMaster } from '../testing/master.ts';
import { createFakeTimers } from '../testing/timers.ts';
import { fingerprintOf } from './auth.ts';
import type { CommandEnd, CommandRequest, Dispatcher } from './dispatch.ts';

/** A cluster in which each command waits until the test ends it. */
class FakeDispatcher implements Dispatcher {
  /** Under way, in the order in which they came. */
  readonly running: {
    request: CommandRequest;
    finish: (end?: Partial<CommandEnd>) => void;
    fail: (error: Error) => void;
  }[] = [];
  readonly lines: string[] = [];
  cancelled = 0;
  /** Answers by itself while it is set. */
  answer: ((line: string) => string[]) | undefined;
  #waiters: (() => void)[] = [];

  async run(request: CommandRequest, signal: AbortSignal): Promise<CommandEnd> {
    this.lines.push(request.line);
    const { promise, resolve, reject } = Promise.withResolvers<CommandEnd>();
    const remove = (): void => {
      this.running.splice(this.running.indexOf(entry), 1);
    };
    const entry = {
      request,
      finish: (end: Partial<CommandEnd> = {}) => {
        remove();
        resolve({ exitCode: 0, isTruncated: false, ...end });
      },
      fail: (error: Error) => {
        remove();
        reject(error);
      },
    };
    signal.addEventListener('abort', () => {
      if (this.running.includes(entry)) this.cancelled += 1;
      reject(signal.reason as Error);
    });
    this.running.push(entry);
    for (const wake of this.#waiters.splice(0)) wake();
    if (this.answer !== undefined) {
      await new Promise((done) => setImmediate(done));
      request.onOutput(this.answer(request.line));
      entry.finish();
    }
    return promise;
  }

  /** The one that is under way, once there is one. */
  async next(count = 1): Promise<FakeDispatcher['running'][number]> {
    while (this.running.length < count) await new Promise<void>((resolve) => this.#waiters.push(resolve));
    return this.running[count - 1]!;
  }
}

class Client {
  readonly ws: WebSocket;
  readonly lines: string[] = [];
  readonly closed: Promise<{ code: number; reason: string }>;
  #waiters: { count: number; resolve: () => void }[] = [];

  constructor(master: TestMaster, options: { token?: string; protocols?: string[]; autoPong?: boolean } = {}) {
    this.ws = new WebSocket(`ws://127.0.0.1:${master.port}/api/console`, options.protocols ?? [], {
      headers: { Authorization: `Bearer ${options.token ?? testToken}` },
      autoPong: options.autoPong ?? true,
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

  send(...frames: string[]): void {
    for (const frame of frames) this.ws.send(frame);
  }

  async count(count: number): Promise<string[]> {
    if (this.lines.length < count) await new Promise<void>((resolve) => this.#waiters.push({ count, resolve }));
    return this.lines;
  }
}

async function until(check: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await check())) await new Promise((resolve) => setImmediate(resolve));
}

const json = { protocols: ['ringmaster.console.v1+json'] };
const echo = (line: string): string[] => [`${line}: 1`, `${line}: 2`];

test('console: each output line is one frame, sent as it is produced, and the socket stays open', async () => {
  const dispatcher = new FakeDispatcher();
  await using master = await startMaster({ dispatcher });
  const client = await new Client(master).open();
  client.send('instance list');
  const first = await dispatcher.next();
  first.request.onOutput(['Instances (1):']);
  assert.deepEqual(await client.count(1), ['Instances (1):']);
  first.request.onOutput(['a1b2c3 lobby ONLINE node-1 25565', '']);
  await client.count(3);
  first.finish();
  client.send('nonsense');
  const second = await dispatcher.next();
  second.request.onOutput(['Unknown command: nonsense. Type "help" for a list of commands.']);
  second.finish({ exitCode: 2 });
  assert.deepEqual(await client.count(4), [
    'Instances (1):',
    'a1b2c3 lobby ONLINE node-1 25565',
    '',
    'Unknown command: nonsense. Type "help" for a list of commands.',
  ]);
  const { issuedBy, session } = second.request;
  assert.deepEqual(issuedBy, { kind: 'ApiKey', name: 'all' });
  assert.equal(session, first.request.session);
  assert.match(session ?? '', /^[0-9a-f]{8}$/);
  assert.equal(client.ws.readyState, WebSocket.OPEN);
});

test('console: commands of a session run one after the other, in order, however they are framed', async () => {
  const dispatcher = new FakeDispatcher();
  await using master = await startMaster({ dispatcher });
  const client = await new Client(master).open();
  client.send('one\ntwo\r\n\r\n  \t\nthree\rfour', '', '   ', 'five\n');
  for (const line of ['one', 'two', 'three', 'four', 'five']) {
    const { request, finish } = await dispatcher.next();
    assert.equal(dispatcher.running.length, 1);
    assert.equal(request.line, line);
    request.onOutput([`${line} done`]);
    finish();
  }
  assert.deepEqual(await client.count(5), ['one done', 'two done', 'three done', 'four done', 'five done']);
  assert.deepEqual(dispatcher.lines.length, 5);
});

test('console: a frame that comes with the upgrade in one packet is not lost', async () => {
  const dispatcher = new FakeDispatcher();
  await using master = await startMaster({ dispatcher });
  using connection = await openRaw(master.port);
  const frame = Buffer.from([0x81, 0x84, 0, 0, 0, 0, ...Buffer.from('help')]);
  connection.send(Buffer.concat([Buffer.from(upgradeRequest('/api/console')), frame]));
  assert.equal((await dispatcher.next()).request.line, 'help');
});

test('console: 256 commands wait; one more is refused in one line, not run, and the others are', async () => {
  const dispatcher = new FakeDispatcher();
  await using master = await startMaster({ dispatcher });
  const client = await new Client(master).open();
  client.send('first');
  const { finish } = await dispatcher.next();
  client.send(Array.from({ length: 256 }, (_, index) => `waiting ${index}`).join('\n'), 'too many', 'again');
  assert.deepEqual(await client.count(2), ['Too many queued commands', 'Too many queued commands']);
  assert.match(await master.metrics.text(), /console_commands_waiting\{state="queued"\} 256/);
  dispatcher.answer = (line) => [line];
  finish();
  await client.count(258);
  assert.deepEqual(
    client.lines.slice(2),
    Array.from({ length: 256 }, (_, index) => `waiting ${index}`),
  );
  assert.ok(!dispatcher.lines.includes('too many'));
  client.send('and on');
  await client.count(259);
  assert.match(await master.metrics.text(), /console_commands_waiting\{state="queued"\} 0/);
});

test('console: commands of more bytes than may wait are refused too', async () => {
  const dispatcher = new FakeDispatcher();
  await using master = await startMaster({ dispatcher, limits: { consoleQueueBytesMax: 100 } });
  const client = await new Client(master).open();
  client.send('first');
  await dispatcher.next();
  client.send('x'.repeat(60), 'y'.repeat(60), 'z'.repeat(40));
  assert.deepEqual(await client.count(1), ['Too many queued commands']);
  dispatcher.answer = (line) => [line[0]!];
  dispatcher.running[0]?.finish();
  assert.deepEqual((await client.count(3)).slice(1), ['x', 'z']);
});

test('console: a control character is refused at its place in the order; a tab is none', async () => {
  const dispatcher = new FakeDispatcher();
  await using master = await startMaster({ dispatcher });
  dispatcher.answer = (line) => [line];
  const client = await new Client(master).open();
  client.send('before\nring \u0007\nafter\ta\n\u009b');
  assert.deepEqual(await client.count(4), [
    'before',
    'Malformed command: it has the control character U+0007',
    'after\ta',
    'Malformed command: it has the control character U+009B',
  ]);
  assert.deepEqual(dispatcher.lines, ['before', 'after\ta']);
});

test('console: exit closes this session with 1000 after what was before it, and no other', async () => {
  const dispatcher = new FakeDispatcher();
  await using master = await startMaster({ dispatcher });
  dispatcher.answer = echo;
  const other = await new Client(master).open();
  const client = await new Client(master).open();
  client.send('a\n exit \nb');
  assert.deepEqual(await client.closed, { code: 1000, reason: 'exit' });
  assert.deepEqual(client.lines, ['a: 1', 'a: 2']);
  other.send('c');
  assert.deepEqual(await other.count(2), ['c: 1', 'c: 2']);
  assert.match(await master.metrics.text(), /sockets_closed_total\{cause="exit"\} 1/);
  assert.match(await master.metrics.text(), /sockets_open\{kind="console"\} 1/);
  assert.match(await master.metrics.text(), /console_commands_waiting\{state="queued"\} 0/);
});

test('console: close codes for a binary frame, one above 64 KiB and bad UTF-8; 64 KiB is not too much', async () => {
  const dispatcher = new FakeDispatcher();
  await using master = await startMaster({ dispatcher });
  dispatcher.answer = (line) => [String(line.length)];
  const largest = await new Client(master).open();
  largest.send('x'.repeat(65_536));
  assert.deepEqual(await largest.count(1), ['65536']);
  largest.send('x'.repeat(65_537));
  assert.equal((await largest.closed).code, 1009);
  const binary = await new Client(master).open();
  binary.ws.send(Buffer.from('help'), { binary: true });
  assert.deepEqual(await binary.closed, { code: 1003, reason: 'binary frame' });
  const bad = await new Client(master).open();
  bad.ws.send(Buffer.from([0x68, 0xff]), { binary: false });
  assert.equal((await bad.closed).code, 1007);
  assert.equal(dispatcher.lines.length, 1);
  // The larger frames are the console's alone, also for a live log that is opened after it.
  const live = new WebSocket(`ws://127.0.0.1:${master.port}/api/instances/${testId}/live-log`, {
    headers: { Authorization: `Bearer ${testToken}` },
  });
  await once(live, 'open');
  live.send('x'.repeat(1025));
  const [code] = (await once(live, 'close')) as [number];
  assert.equal(code, 1009);
});

test('console: JSON gives every command its id back, and each one ends', async () => {
  const dispatcher = new FakeDispatcher();
  await using master = await startMaster({ dispatcher });
  const client = await new Client(master, json).open();
  assert.equal(client.ws.protocol, 'ringmaster.console.v1+json');
  client.send('{"id":"1","line":"instance list"}', '{"id":"é","line":"nonsense"}', '{"id":"","line":"  "}');
  const first = await dispatcher.next();
  first.request.onOutput(['Instances (0):', '']);
  first.finish();
  const second = await dispatcher.next();
  second.finish({ exitCode: 2 });
  client.send('{"id":"4","line":"a\\nb"}', '{"id":"5","line":"\\ud800"}', '{"id":"6","line":"stop"}');
  await client.count(9);
  const third = await dispatcher.next();
  third.finish({ exitCode: 1, reason: 'Interrupted' });
  client.send('{"id":"7","line":"exit"}');
  assert.deepEqual(await client.closed, { code: 1000, reason: 'exit' });
  assert.deepEqual(
    client.lines.map((line) => JSON.parse(line) as object),
    [
      { id: '1', type: 'output', line: 'Instances (0):' },
      { id: '1', type: 'output', line: '' },
      { id: '1', type: 'done', exitCode: 0 },
      { id: 'é', type: 'done', exitCode: 2 },
      { id: '', type: 'done', exitCode: 0 },
      { id: '4', type: 'output', line: 'Malformed command: it has a line break' },
      { id: '4', type: 'done', exitCode: 2 },
      { id: '5', type: 'output', line: 'Malformed command: it is not valid Unicode' },
      { id: '5', type: 'done', exitCode: 2 },
      {
        id: '6',
        type: 'output',
        line: 'Interrupted: the operator that ran this command was lost. It may have run in part; it is not run again.',
      },
      { id: '6', type: 'done', exitCode: 1, reason: 'Interrupted' },
      { id: '7', type: 'done', exitCode: 0 },
    ],
  );
});

test('console: what is no JSON command is answered with an error, and the session goes on', async () => {
  const dispatcher = new FakeDispatcher();
  await using master = await startMaster({ dispatcher });
  dispatcher.answer = () => [];
  const client = await new Client(master, json).open();
  const wrong = ['help', '', '[]', 'null', '{"line":"x"}', '{"id":1,"line":"x"}', '{"id":"1"}', '{"id":"1","line":2}'];
  client.send(...wrong, `{"id":"${'x'.repeat(129)}","line":"x"}`, '{"id":"ok","line":"help","more":1}');
  await client.count(wrong.length + 2);
  const answers = client.lines.map((line) => JSON.parse(line) as { type: string; error?: string; id?: string });
  for (const { type, error } of answers.slice(0, -1)) {
    assert.equal(type, 'error');
    assert.match(error ?? '', /^Malformed message: /);
  }
  assert.deepEqual(answers.at(-1), { id: 'ok', type: 'done', exitCode: 0 });
  assert.deepEqual(dispatcher.lines, ['help']);
});

test('console: a full queue ends a JSON command too', async () => {
  const dispatcher = new FakeDispatcher();
  await using master = await startMaster({ dispatcher, limits: { consoleQueueMax: 1 } });
  const client = await new Client(master, json).open();
  client.send('{"id":"1","line":"x"}');
  await dispatcher.next();
  client.send('{"id":"2","line":"x"}', '{"id":"3","line":"x"}');
  assert.deepEqual(await client.count(2), [
    '{"id":"3","type":"output","line":"Too many queued commands"}',
    '{"id":"3","type":"done","exitCode":1}',
  ]);
});

test('console: a command that cannot be given to the cluster is said, and the session goes on', async () => {
  const dispatcher = new FakeDispatcher();
  await using master = await startMaster({ dispatcher });
  const client = await new Client(master).open();
  client.send('a\nb');
  (await dispatcher.next()).fail(new OperatorError('COMMAND_UNAVAILABLE', 'Cannot run the command: no API'));
  (await dispatcher.next()).finish({ exitCode: 1, reason: 'Unavailable', isTruncated: true });
  assert.deepEqual(await client.count(3), [
    'Cannot run the command: no API',
    '[ringmaster] the output was longer than is kept: the rest was dropped',
    'Unavailable: no operator took this command in time. It was withdrawn and did not run.',
  ]);
});

test('console: a fault of ours closes with 1011 and says nothing of itself', async () => {
  const dispatcher = new FakeDispatcher();
  await using master = await startMaster({ dispatcher });
  const client = await new Client(master).open();
  client.send('a');
  (await dispatcher.next()).fail(new TypeError('secret'));
  assert.deepEqual(await client.closed, { code: 1011, reason: 'internal error' });
  assert.deepEqual(client.lines, []);
});

test('console: a client that leaves gives up its commands, those that wait too', async () => {
  const dispatcher = new FakeDispatcher();
  await using master = await startMaster({ dispatcher });
  const client = await new Client(master).open();
  client.send('a\nb');
  await dispatcher.next();
  client.ws.terminate();
  await until(() => dispatcher.cancelled === 1);
  await until(async () => (await master.metrics.text()).includes('sockets_open{kind="console"} 0'));
  assert.deepEqual(dispatcher.lines, ['a']);
  assert.match(await master.metrics.text(), /console_commands_waiting\{state="queued"\} 0/);
});

test('console: a key that is revoked ends its sessions with 1008, and no queued command of theirs runs', async () => {
  const dispatcher = new FakeDispatcher();
  await using master = await startMaster({ dispatcher });
  master.keys.set('other', keySpec('other-token'));
  const [client, other] = [await new Client(master, { token: 'other-token' }).open(), await new Client(master).open()];
  client.send('a\nb');
  const { finish } = await dispatcher.next();
  master.keys.set('other', keySpec('other-token', { permission: 'PUBLIC' }));
  finish();
  assert.deepEqual(await client.closed, { code: 1008, reason: 'token revoked' });
  assert.deepEqual(dispatcher.lines, ['a']);
  assert.deepEqual(client.lines, []);
  other.send('c');
  await dispatcher.next();
  assert.equal(dispatcher.lines.at(-1), 'c');
});

test('console: draining closes with 1001', async () => {
  const dispatcher = new FakeDispatcher();
  await using master = await startMaster({ dispatcher });
  const client = await new Client(master).open();
  client.send('a\nb');
  await dispatcher.next();
  master.stop.abort(new Error('Stopped'));
  assert.deepEqual(await client.closed, { code: 1001, reason: 'draining' });
  await until(() => dispatcher.cancelled === 1);
  assert.deepEqual(dispatcher.lines, ['a']);
});

test('console: it is pinged, and cut when it does not answer', async () => {
  const timers = createFakeTimers();
  await using master = await startMaster({ dispatcher: new FakeDispatcher(), timers });
  const client = await new Client(master, { autoPong: false }).open();
  const pinged = once(client.ws, 'ping');
  timers.advance(16_000);
  await pinged;
  timers.advance(16_000);
  assert.equal((await client.closed).code, 1006);
});

test('console: a client that does not read holds up itself alone, and what is kept for it is bounded', async () => {
  const dispatcher = new FakeDispatcher();
  const sendBufferBytesMax = 256 * 1024;
  await using master = await startMaster({ dispatcher, limits: { sendBufferBytesMax } });
  const block = Array.from({ length: 8 }, () => 'x'.repeat(60_000));
  dispatcher.answer = (line) => (line === 'big' ? block : [line]);
  using slow = await openRaw(master.port);
  slow.send(upgradeRequest('/api/console'));
  await slow.contains('101 Switching');
  slow.socket.pause();
  const masked = (text: string): Buffer => {
    const payload = Buffer.from(text);
    const head =
      payload.length < 126 ? [0x81, 0x80 | payload.length] : [0x81, 0xfe, payload.length >> 8, payload.length & 255];
    return Buffer.concat([Buffer.from([...head, 0, 0, 0, 0]), payload]);
  };
  // 64 MB of answers, far more than the kernel takes.
  for (let index = 0; index < 136; index += 1) slow.send(masked('big'));
  const other = await new Client(master).open();
  const commands = Array.from({ length: 200 }, (_, index) => `quick ${index}`);
  other.send(...commands);
  assert.deepEqual(await other.count(200), commands);
  // It stands still: other sessions go on, and it begins nothing new.
  let seen = -1;
  const count = (): number => dispatcher.lines.filter((line) => line === 'big').length;
  while (seen !== count()) {
    seen = count();
    other.send(...commands);
    await other.count(other.lines.length + 200);
  }
  assert.ok(seen < 60, `${seen} of 136 commands were begun for a client that does not read`);
  // Requests that it goes on sending are not read: none is refused, none is kept.
  slow.send(Buffer.concat(Array.from({ length: 100_000 }, () => masked('more'))));
  other.send(...commands);
  await other.count(other.lines.length + 200);
  assert.ok(!dispatcher.lines.includes('more'));
  assert.match(await master.metrics.text(), /console_commands_waiting\{state="queued"\} 1?\d?\d\n/);
  slow.socket.resume();
  await until(() => count() === 136);
});

test('console: 500 sessions at once keep their commands and outputs apart and in order', async () => {
  const dispatcher = new FakeDispatcher();
  await using master = await startMaster({ dispatcher });
  dispatcher.answer = echo;
  const clients = await Promise.all(Array.from({ length: 500 }, () => new Client(master).open()));
  for (const [index, client] of clients.entries()) {
    client.send(...Array.from({ length: 4 }, (_, command) => `s${index} c${command}`));
  }
  for (const [index, client] of clients.entries()) {
    assert.deepEqual(
      await client.count(8),
      Array.from({ length: 4 }, (_, command) => echo(`s${index} c${command}`)).flat(),
    );
  }
  assert.equal(dispatcher.lines.length, 2_000);
  for (const client of clients) client.ws.terminate();
});

async function refused(
  master: TestMaster,
  path: string,
  changes: Record<string, string | undefined> = {},
): Promise<{ status: number; body: string }> {
  using connection = await openRaw(master.port);
  connection.send(upgradeRequest(path, changes));
  const { status, body } = parseResponse(await connection.ended());
  return { status, body };
}

test('console: who may not is refused before 101', async () => {
  await using master = await startMaster();
  const unauthorized = { status: 401, body: '{"error":"Unauthorized"}' };
  for (const Authorization of [undefined, 'Bearer nobody', `Bearer ${publicToken}`, 'Basic x']) {
    assert.deepEqual(await refused(master, '/api/console', { Authorization }), unauthorized);
  }
  assert.deepEqual(await refused(master, '/api/console?token=x', { Authorization: undefined }), unauthorized);
  assert.equal((await refused(master, '/api/console?tail=1')).status, 400);
  assert.equal((await refused(master, '/api/console/')).status, 404);
  assert.equal((await refused(master, '/api/Console')).status, 404);
  const call = await fetch(`http://127.0.0.1:${master.port}/api/console`, {
    headers: { Authorization: `Bearer ${testToken}` },
  });
  assert.equal(call.status, 426);
  await call.body?.cancel();
});

test('console: too many sockets are refused with 503, and a closed console makes room', async () => {
  await using master = await startMaster({ limits: { socketsPerKeyMax: 1 } });
  const client = await new Client(master).open();
  assert.equal((await refused(master, '/api/console')).status, 503);
  client.ws.terminate();
  await until(async () => (await master.metrics.text()).includes('sockets_open{kind="console"} 0'));
  await new Client(master).open();
});

test('console: a Kubernetes user needs create on consolecommands in the release namespace', async () => {
  const dispatcher = new FakeDispatcher();
  const reviews = createFakeReviews();
  await using master = await startMaster({ dispatcher, reviews });
  reviews.tokens.set(jwtOf(1), 'alice').set(jwtOf(2), 'bob');
  reviews.rights.add(`alice create  ${testNamespace}  consolecommands`);
  const client = await new Client(master, { token: jwtOf(1) }).open();
  client.send('help');
  assert.deepEqual((await dispatcher.next()).request.issuedBy, { kind: 'User', name: 'alice' });
  assert.equal((await refused(master, '/api/console', { Authorization: `Bearer ${jwtOf(2)}` })).status, 401);
});

test('console: a browser presents its token as a subprotocol and gets the real one back', async () => {
  await using master = await startMaster();
  const carrier = `base64url.bearer.authorization.k8s.io.${Buffer.from(testToken).toString('base64url')}`;
  for (const real of ['ringmaster.console.v1', 'ringmaster.console.v1+json']) {
    const ws = new WebSocket(`ws://127.0.0.1:${master.port}/api/console`, [carrier, real]);
    await once(ws, 'open');
    assert.equal(ws.protocol, real);
    ws.terminate();
  }
});

test('console: key create prints the token once, after the key exists, and dispatches its hash alone', async () => {
  const dispatcher = new FakeDispatcher();
  await using master = await startMaster({ dispatcher });
  const client = await new Client(master).open();
  client.send('key create dash ALL', ' keys create other PUBLIC ', 'key create failed ALL', 'keys list');
  const hashes: string[] = [];
  for (const exitCode of [0, 0, 1]) {
    const { request, finish } = await dispatcher.next();
    hashes.push(/ --token-sha256=([0-9a-f]{64})$/.exec(request.line)?.[1] ?? '');
    request.onOutput(['said by the operator']);
    const before = client.lines.length;
    await client.count(before + 1);
    assert.ok(!client.lines.at(-1)?.includes('Token'), 'not before the key exists');
    finish({ exitCode });
    if (exitCode === 0) await client.count(before + 2);
  }
  const { request, finish } = await dispatcher.next();
  assert.equal(request.line, 'keys list');
  finish();
  const tokens = client.lines.flatMap((line) => /: (rm_[\w-]{43})$/.exec(line)?.[1] ?? []);
  assert.deepEqual(tokens.map(fingerprintOf), hashes.slice(0, 2));
  assert.equal(new Set(hashes).size, 3);
  for (const line of dispatcher.lines) assert.ok(!tokens.some((token) => line.includes(token)));
  client.send('key create own ALL --token-sha256=00');
  assert.equal((await dispatcher.next()).request.line, 'key create own ALL --token-sha256=00');
});
