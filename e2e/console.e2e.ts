/** The console on a real cluster: PROTOCOL.md section 11, with the real wscat, by HTTP, and as a dashboard would use it. */
import assert from 'node:assert/strict';
import type { ChildProcess } from 'node:child_process';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { after, before, test } from 'node:test';
import WebSocket from 'ws';
import { run } from './cluster/command.ts';
import { poll } from './harness.ts';
import { applyInstance, call, createKey, enterWorld, eventually, masters, shellProgram } from './live-harness.ts';
import type { World } from './live-harness.ts';
import { pidsInPod } from './pids.ts';
import { releaseNamespace } from './release.ts';

let world: World;
let id: string;
let nodeName: string;

before(async () => {
  world = await enterWorld();
  id = await applyInstance(world, 'lobby', {
    ...shellProgram('while read line; do echo "got $line"; done; exec sleep 1000'),
    ports: [{ name: 'game', port: 25565 }],
  });
  await world.kubectl(['wait', '--for=condition=Ready', 'instance/lobby', '--timeout=60s']);
  nodeName = await world.kubectl(['get', 'instance', 'lobby', '-o', 'jsonpath={.status.nodeName}']);
});

after(() => world.leave());

const unknown = 'Unknown command: nonsense. Type "help" for a list of commands.';

/** An open console that keeps what it gets. */
class Console {
  readonly frames: string[] = [];
  readonly ws: WebSocket;
  close: { code: number; reason: string; atMs: number } | undefined;

  constructor(options: { url?: string; token?: string; protocols?: string[] } = {}) {
    const { url = world.url, token = world.token, protocols = [] } = options;
    this.ws = new WebSocket(`${url.replace(/^http/, 'ws')}/api/console`, protocols, {
      headers: { authorization: `Bearer ${token}` },
    });
    world.cleanups.push(() => {
      this.ws.terminate();
    });
    this.ws.on('message', (data: Buffer) => this.frames.push(data.toString('utf8')));
    this.ws.on('close', (code, reason) => {
      this.close = { code, reason: reason.toString('utf8'), atMs: performance.now() };
    });
  }

  async open(): Promise<this> {
    await once(this.ws, 'open');
    return this;
  }

  async until(what: string, check: (frames: readonly string[]) => boolean): Promise<void> {
    await eventually(what, () => {
      assert.ok(this.close === undefined, `closed with ${JSON.stringify(this.close)} before ${what}`);
      return Promise.resolve(check(this.frames));
    });
  }

  async closed(): Promise<{ code: number; reason: string; atMs: number }> {
    await eventually('the console to close', () => Promise.resolve(this.close !== undefined));
    assert.ok(this.close !== undefined);
    return this.close;
  }
}

/** The real wscat, typed into. What is typed before it has connected it throws away. */
class Wscat {
  stdout = '';
  stderr = '';
  readonly child: ChildProcess;

  constructor(token: string) {
    const program = join(import.meta.dirname, '../node_modules/.bin/wscat');
    const target = ['--connect', `${world.url.replace('http', 'ws')}/api/console`];
    this.child = spawn(process.execPath, [program, '--header', `Authorization: Bearer ${token}`, ...target], {
      stdio: ['pipe', 'pipe', 'pipe'],
    });
    world.cleanups.push(() => this.child.kill('SIGKILL'));
    this.child.stdout?.setEncoding('utf8').on('data', (text: string) => (this.stdout += text));
    this.child.stderr?.setEncoding('utf8').on('data', (text: string) => (this.stderr += text));
  }

  type(line: string): void {
    this.child.stdin?.write(`${line}\n`);
  }

  async says(text: string | RegExp): Promise<void> {
    await eventually(`wscat to print ${String(text)}; it printed ${this.stdout} ${this.stderr}`, () =>
      Promise.resolve(typeof text === 'string' ? this.stdout.includes(text) : text.test(this.stdout)),
    );
  }
}

async function execute(command: string): Promise<{ command: string; output: string; exitCode: number }> {
  const response = await fetch(`${world.url}/api/commands/execute`, {
    method: 'POST',
    headers: { authorization: `Bearer ${world.token}` },
    body: JSON.stringify({ command }),
  });
  assert.equal(response.status, 200, command);
  return (await response.json()) as { command: string; output: string; exitCode: number };
}

test('console: the dialogue of the protocol with the real wscat', async () => {
  const wscat = new Wscat(world.token);
  await eventually('wscat to have connected', () => {
    wscat.type('instance list');
    return Promise.resolve(wscat.stdout.includes('Instances ('));
  });
  await wscat.says(/Instances \(\d+\):\n/);
  await wscat.says(`${id} lobby ONLINE ${nodeName} 25565`);
  wscat.type('help');
  await wscat.says(/Available commands: instance, config, template, cluster, key/);
  wscat.type('nonsense');
  await wscat.says(unknown);
  wscat.type('exit');
  const [code] = (await once(wscat.child, 'close')) as [number];
  assert.equal(code, 0);
});

test('console: the same by HTTP, and in the plural', async () => {
  for (const command of ['instance list', 'instances list']) {
    const list = await execute(command);
    assert.deepEqual([list.command, list.exitCode], [command, 0]);
    const [head = '', ...rows] = list.output.split('\n');
    assert.equal(head, `Instances (${rows.length}):`);
    assert.ok(rows.includes(`${id} lobby ONLINE ${nodeName} 25565`), list.output);
  }
  assert.match((await execute('help')).output, /^Available commands: /);
  assert.deepEqual(await execute('nonsense'), { command: 'nonsense', output: unknown, exitCode: 2 });
});

test('console: several commands in one frame run in order', async () => {
  const client = await new Console().open();
  client.ws.send('nonsense\ninstance list\n\nhelp');
  await client.until('the help', (frames) => frames.some((line) => line.startsWith('Available commands: ')));
  const heads = client.frames.filter((line) => /^(Unknown|Instances|Available)/.test(line));
  assert.deepEqual(
    heads.map((line) => line.split(' ')[0]),
    ['Unknown', 'Instances', 'Available'],
  );
});

test('console: a client of the JSON protocol knows what belongs to which command and when it has ended', async () => {
  const client = await new Console({ protocols: ['ringmaster.console.v1+json'] }).open();
  client.ws.send(JSON.stringify({ id: 'a', line: 'instance list' }));
  client.ws.send(JSON.stringify({ id: 'b', line: 'nonsense' }));
  client.ws.send('no JSON');
  await client.until('the last end', (frames) => frames.some((frame) => frame.includes('"b","type":"done"')));
  const objects = client.frames.map((frame) => JSON.parse(frame) as { id?: string; type: string; line?: string });
  assert.deepEqual(
    objects.filter(({ type }) => type === 'done'),
    [
      { id: 'a', type: 'done', exitCode: 0 },
      { id: 'b', type: 'done', exitCode: 2 },
    ],
  );
  assert.ok(objects.some(({ id: of, line }) => of === 'a' && line?.startsWith(`${id} lobby`)));
  assert.equal(objects.filter(({ type }) => type === 'error').length, 1);
});

test('console: either replica runs commands, and each is kept as a record of who gave it', async () => {
  for (const { url, name } of await masters(world)) {
    const client = await new Console({ url }).open();
    client.ws.send('instance list');
    await client.until('a list', (frames) => frames.length > 0);
    // The answer may come ahead of its record.
    await eventually('all records to have ended', async () => {
      const records = await recordsOf(name);
      assert.equal(records.at(-1)?.spec.issuedBy.kind, 'ApiKey');
      return records.every(({ status }) => status?.phase === 'Succeeded' || status?.phase === 'Failed');
    });
  }
});

interface CommandRecord {
  readonly spec: { line: string; session?: string; issuedBy: { kind: string } };
  readonly status?: { phase: string; output?: string[] };
}

async function recordsOf(master: string): Promise<CommandRecord[]> {
  const selector = `ringmaster.dev/master=${master}`;
  const out = await world.cluster.kubectl([
    ...['get', 'consolecommands', '-n', releaseNamespace, '-l', selector, '-o', 'json'],
  ]);
  return (JSON.parse(out) as { items: CommandRecord[] }).items;
}

async function endsBy(url: string, type: 'answer' | 'record'): Promise<number> {
  const { text } = await call(url, '/api/metrics');
  const value = new RegExp(`^ringmaster_console_command_ends_total\\{type="${type}"\\} (\\d+)$`, 'm').exec(text)?.[1];
  return Number(value ?? 0);
}

test('console: what only reads is answered straight, and without a way from the operator to the Master by its record, each line once', async () => {
  const [{ url, name, uid }] = await masters(world);
  const client = await new Console({ url }).open();
  const ask = async (count: number): Promise<string[]> => {
    const from = client.frames.length;
    client.ws.send('nonsense\n'.repeat(count));
    await client.until(`${count} answers`, (frames) => frames.length >= from + count);
    return client.frames.slice(from);
  };
  const straight = await endsBy(url, 'answer');
  assert.deepEqual(await ask(20), new Array(20).fill(unknown));
  // The first may be on its way while the connection is made, and on a busy machine a record may be faster. Metrics are a moment old.
  await eventually('most to have been answered straight', async () => (await endsBy(url, 'answer')) >= straight + 10);
  await eventually('the records', async () => {
    const own = (await recordsOf(name)).filter(({ spec, status }) => spec.line === 'nonsense' && status !== undefined);
    return own.length >= 20 && own.every(({ status }) => status?.output?.[0] === unknown);
  });
  const [pid = 0] = await pidsInPod(uid, 'operator/master.ts');
  const nft = ['--net', '--target', String(pid), 'nft'];
  await run('nsenter', [
    ...nft,
    'add table inet cut { chain i { type filter hook input priority 0; tcp dport 7001 drop; }; }',
  ]);
  await sleep(300);
  const [cut, recorded] = [await endsBy(url, 'answer'), await endsBy(url, 'record')];
  try {
    assert.deepEqual(await ask(20), new Array(20).fill(unknown));
  } finally {
    await run('nsenter', [...nft, 'delete', 'table', 'inet', 'cut']);
  }
  await eventually('the records to be counted', async () => (await endsBy(url, 'record')) === recorded + 20);
  assert.equal(await endsBy(url, 'answer'), cut);
  // What was on its way is sent again by the kernel, and nobody waits for it.
  await sleep(3_000);
  const seen = client.frames.length;
  assert.deepEqual(await ask(1), [unknown]);
  assert.equal(client.frames.length, seen + 1);
  assert.equal(seen, 40);
});

test('console: a deleted key closes its console with 1008 within a second, and no other', async () => {
  const token = await createKey(world, 'console-revoked');
  const [lost, kept] = [await new Console({ token }).open(), await new Console().open()];
  const deletedAtMs = performance.now();
  await world.cluster.kubectl(['delete', 'apikey', 'console-revoked', '-n', releaseNamespace]);
  const { code, reason, atMs } = await lost.closed();
  assert.deepEqual({ code, reason }, { code: 1008, reason: 'token revoked' });
  assert.ok(atMs - deletedAtMs < 2_000, `${Math.round(atMs - deletedAtMs)} ms, kubectl included`);
  kept.ws.send('help');
  await kept.until('the help', (frames) => frames.length > 0);
});

test('console: PUBLIC keys and strangers are refused before 101', async () => {
  for (const token of [world.publicToken, 'nobody']) {
    const ws = new WebSocket(`${world.url.replace(/^http/, 'ws')}/api/console`, {
      headers: { authorization: `Bearer ${token}` },
    });
    const [error] = (await once(ws, 'error')) as [Error];
    assert.match(error.message, /401/);
  }
});

/** Files below the folder that hold the text, compressed ones not looked into. */
async function filesWith(text: string, folder: string): Promise<string[]> {
  const child = spawn(
    'grep',
    ['--recursive', '--files-with-matches', '--text', '--fixed-strings', '--', text, folder],
    {
      stdio: ['ignore', 'pipe', 'ignore'],
    },
  );
  let out = '';
  child.stdout.setEncoding('utf8').on('data', (data: string) => (out += data));
  await once(child, 'close');
  return out.split('\n').filter((file) => file !== '');
}

/** Every object of every resource that can be listed. */
async function everyObject(): Promise<string> {
  const names = await world.cluster.kubectl(['api-resources', '--verbs=list', '-o', 'name']);
  const kinds = names
    .split('\n')
    .filter((name) => name !== '')
    .join(',');
  return world.cluster.kubectl(['get', kinds, '--all-namespaces', '--ignore-not-found', '-o', 'json']);
}

async function everyLog(): Promise<string> {
  const pods = await world.cluster.kubectl(['get', 'pods', '-n', releaseNamespace, '-o', 'name']);
  const logs = pods
    .split('\n')
    .filter((name) => name !== '')
    .map((pod) => world.cluster.kubectl(['logs', '-n', releaseNamespace, pod, '--all-containers']));
  return (await Promise.all(logs)).join('\n');
}

test('console: key create prints a token that works and that is found nowhere else', async () => {
  const client = await new Console().open();
  world.cleanups.push(() =>
    world.cluster.kubectl([
      'delete',
      'apikey',
      'console-made',
      'console-called',
      '-n',
      releaseNamespace,
      '--ignore-not-found',
    ]),
  );
  client.ws.send('key create console-made ALL');
  await client.until('a token', (frames) => frames.some((line) => /: rm_[\w-]{43}$/.test(line)));
  const called = await execute('key create console-called PUBLIC');
  const tokenIn = (text: string): string => /: (rm_[\w-]{43})$/m.exec(text)?.[1] ?? '';
  const [made, other] = [tokenIn(client.frames.join('\n')), tokenIn(called.output)];
  assert.equal(client.frames.join('\n').split(made).length, 2, 'it is printed once');
  await eventually('the new key to count', async () => {
    return (await call(world.url, '/api/instances', { token: made })).status === 200;
  });
  await eventually('the PUBLIC key to be one', async () => {
    return (await call(world.url, '/api/instances', { token: other })).status === 401;
  });
  const hash = await world.cluster.kubectl([
    ...['get', 'apikey', 'console-made', '-n', releaseNamespace, '-o', 'jsonpath={.spec.tokenSHA256}'],
  ]);
  const [objects, logs] = [await everyObject(), await everyLog()];
  const etcd = join(world.cluster.settings.stateDir, 'etcd');
  // That these places are looked into is shown by what must be there.
  assert.ok(objects.includes(hash));
  assert.match(logs, /"command":"key create"/);
  assert.notDeepEqual(await filesWith(hash, etcd), []);
  for (const token of [made, other]) {
    assert.match(token, /^rm_/);
    assert.ok(!objects.includes(token) && !objects.includes(Buffer.from(token).toString('base64')));
    assert.ok(!logs.includes(token));
    assert.deepEqual(await filesWith(token, etcd), []);
    assert.deepEqual(await filesWith(token, world.cluster.logDir), []);
  }
});

const sessions = 10;
const commandsEach = 100;

/** The process of the operator that leads. */
async function leaderPid(): Promise<number> {
  const lease = [
    'get',
    'lease',
    'ringmaster-operator',
    '-n',
    releaseNamespace,
    '-o',
    'jsonpath={.spec.holderIdentity}',
  ];
  const [pod = ''] = (await world.cluster.kubectl(lease)).split('_');
  const uid = await world.cluster.kubectl([
    'get',
    'pod',
    pod,
    '-n',
    releaseNamespace,
    '-o',
    'jsonpath={.metadata.uid}',
  ]);
  const [pid] = await pidsInPod(uid, 'operator/main.ts');
  assert.ok(pid !== undefined, `no operator runs in ${pod}`);
  return pid;
}

/** What a session got: `output` and `done` by command, in the order of arrival. */
interface Ended {
  readonly id: string;
  readonly lines: readonly string[];
  readonly exitCode: number;
  readonly reason?: string;
}

function endedOf(frames: readonly string[]): Ended[] {
  const ended: Ended[] = [];
  const open = new Map<string, string[]>();
  for (const frame of frames) {
    const message = JSON.parse(frame) as { id: string; type: string; line: string; exitCode: number; reason?: string };
    const lines = open.get(message.id) ?? [];
    assert.ok(open.size === 0 || open.has(message.id), `output of ${message.id} within that of another command`);
    if (message.type === 'output') open.set(message.id, [...lines, message.line]);
    else {
      open.delete(message.id);
      ended.push({ ...message, lines });
    }
  }
  return ended;
}

test('console: a thousand commands over ten sessions, and the leader killed among them: each ends once, in order, and none is run twice', async () => {
  const clients = await Promise.all(
    Array.from({ length: sessions }, () => new Console({ protocols: ['ringmaster.console.v1+json'] }).open()),
  );
  // Half of them only read, half of them change something that can be counted.
  const lineOf = (session: number, index: number): string =>
    index % 2 === 0 ? 'instance list' : `instance execute ${id} s${session}c${index}`;
  for (const [session, client] of clients.entries()) {
    for (let index = 0; index < commandsEach; index += 1) {
      client.ws.send(JSON.stringify({ id: String(index), line: lineOf(session, index) }));
    }
  }
  const doneIn = (client: Console): number => client.frames.filter((frame) => frame.includes('"done"')).length;
  await eventually('a quarter of the commands to end', () =>
    Promise.resolve(clients.reduce((sum, client) => sum + doneIn(client), 0) > (sessions * commandsEach) / 4),
  );
  process.kill(await leaderPid(), 'SIGKILL');
  await poll(
    'all commands to end',
    () => Promise.resolve(clients.every((client) => doneIn(client) === commandsEach) || undefined),
    {
      timeoutMs: 120_000,
    },
  );
  const sure = new Set<string>();
  let broken = 0;
  for (const [session, client] of clients.entries()) {
    const ended = endedOf(client.frames);
    assert.deepEqual(
      ended.map((each) => each.id),
      Array.from({ length: commandsEach }, (_, index) => String(index)),
    );
    for (const [index, { exitCode, lines, reason }] of ended.entries()) {
      if (exitCode !== 0) {
        broken += 1;
        assert.match(reason ?? '', /^(Interrupted|Unavailable)$/, lines.join('\n'));
      } else if (index % 2 === 0) assert.match(lines[0] ?? '', /^Instances \(\d+\):$/);
      else sure.add(`got s${session}c${index}`);
    }
  }
  // One at a time is under way in each session.
  assert.ok(broken <= 2 * sessions, `${broken} commands were broken off`);
  const { json } = await call(world.url, `/api/instances/${id}/logs?lines=1000`, { token: world.token });
  const typed = (json as { lines: string[] }).lines.filter((line) => /^got s\d+c\d+$/.test(line));
  assert.equal(new Set(typed).size, typed.length, 'a line was typed twice');
  const missing = [...sure].filter((line) => !typed.includes(line));
  assert.deepEqual(missing, [], 'a command that succeeded did nothing');
});
