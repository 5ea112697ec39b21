import assert from 'node:assert/strict';
import { execFile, execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { connect, createServer } from 'node:net';
import type { Server } from 'node:net';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import { ensurePackages } from '../../e2e/cluster/packages.ts';
import { nothingLeft, runtimeMissingExitCode } from '../protocol.ts';
import type { DockerEngine } from '../../e2e/docker-engine.ts';
import { dockerRequirements } from '../../e2e/docker-engine.ts';
import { StdinPipe } from '../stdin.ts';
import { createEngine, DockerPod } from '../testing/docker.ts';
import type { PodOptions } from '../testing/docker.ts';
import { until } from '../testing/rig.ts';

/** Everything here runs against one real Engine; the tests that restart it come last. */
let engine: DockerEngine;

before(async () => {
  await ensurePackages(() => undefined, dockerRequirements);
  engine = await createEngine({ liveRestore: true });
});

after(async () => {
  await engine.close();
});

type Options = Omit<PodOptions, 'engine'>;

async function withPod(options: Options, body: (pod: DockerPod) => Promise<void>): Promise<void> {
  const pod = await DockerPod.create({ engine, ...options });
  try {
    await body(pod);
  } catch (error) {
    throw new Error(`${String(error)}\nThe launcher said: ${pod.launcherLog}`, { cause: error });
  } finally {
    await pod.close();
    // A test that failed while the Engine was away must show its own fault.
    await removeAll().catch(() => undefined);
  }
}

async function containers(): Promise<string[]> {
  return (await engine.docker.listContainers({ all: true })).map(({ Id }) => Id);
}

async function removeAll(): Promise<void> {
  for (const id of await containers()) {
    await engine.docker.getContainer(id).remove({ force: true });
  }
}

function shell(script: string): { command: string[]; args: string[] } {
  return { command: ['/bin/sh', '-c'], args: [script] };
}

function hash(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex');
}

const program = `
printf 'plain\\n\\n\\n  blanks  \\n\\ttab\\there\\n'
awk 'BEGIN { for (n = 0; n < 3; n++) { for (c = 0; c < 300; c++) printf "%d", c % 10; print "" } }'
printf '\\033[31mred\\033[0m \\303\\274n\\303\\257 \\342\\206\\222 \\360\\237\\232\\200\\n'
printf 'progress 10%%\\rprogress 100%%\\nwith return\\r\\nnot UTF-8 \\377\\376\\n'
for bytes in 16383 16384 16385 32767 32768 32769 100000; do
  awk -v n=$bytes 'BEGIN { for (c = 0; c < n; c++) printf "%d", c % 7; print "" }'
done
awk 'BEGIN { for (n = 1; n <= 200000; n++) print "burst line " n " of a program that writes as fast as it can" }'
printf 'the last line has no end'
`;

test("docker: the log has the bytes that the program wrote, and the exit code is the program's", async () => {
  const expected = execFileSync('busybox', ['sh', '-c', program], { maxBuffer: 1 << 26 });
  await withPod({ id: 'bytes', spec: shell(`${program}\nexit 7`) }, async (pod) => {
    pod.start();
    assert.equal(await pod.exited(), 7);
    const log = await pod.log();
    assert.equal(log.length, expected.length);
    assert.equal(hash(log), hash(expected));
    assert.match(await pod.note('workload'), /^starts=1\nstarted=\d+\ncode=7\nexited=\d+\n$/);
    assert.equal(await pod.note('starts'), '1 0\n');
    assert.deepEqual(await containers(), [], 'the container is removed');

    pod.start();
    assert.equal(await pod.exited(), 7);
    const again = await pod.log();
    assert.equal(
      hash(again),
      hash(Buffer.concat([expected, Buffer.from('\n'), expected])),
      'a second start begins a line',
    );
    assert.equal(await pod.note('starts'), `1 0\n2 ${expected.length + 1}\n`);
  });
});

const typed = [
  'plain',
  '',
  '$HOME ${PATH} `id` $(id)',
  '^C',
  'back\\slash \\n \\033 \\\\',
  `"double" 'single'`,
  '  blanks  ',
  '\ttab\t',
  'ünï → 🚀 日本語',
  'x'.repeat(4096),
  'ü'.repeat(2048),
  '!history & | > < * ? [a] #{x} %H ~.',
];

test('docker: a thousand typed lines arrive as they were typed, in order', async () => {
  await withPod({ id: 'typed', spec: shell('echo ready; exec cat') }, async (pod) => {
    pod.start();
    await pod.logHas('ready\n');
    const lines = Array.from({ length: 1000 }, (_, index) => `${index} ${typed[index % typed.length]!}\n`);
    for (const line of lines) {
      await pod.type(line);
    }
    const expected = `ready\n${lines.join('')}`;
    await until(async () => (await pod.log()).length >= Buffer.byteLength(expected), 'all lines');
    assert.equal((await pod.log()).toString(), expected);
  });
});

test('docker: a workload that reads nothing for a while loses no line and stops nobody', async () => {
  await withPod({ id: 'slow', spec: shell('echo ready; sleep 2; exec cat') }, async (pod) => {
    pod.start();
    await pod.logHas('ready\n');
    const text = Array.from(
      { length: 10_000 },
      (_, index) => `command ${index} with some text of a usual width\n`,
    ).join('');
    await pod.type(text);
    await until(async () => (await pod.log()).length >= text.length + 6, 'all commands');
    assert.equal((await pod.log()).toString(), `ready\n${text}`);
  });
});

test("docker: SIGTERM types the stop command first, and the exit code is the program's", async () => {
  const script = 'echo ready; while read -r line; do echo "got $line"; [ "$line" = "stop now" ] && exit 3; done';
  await withPod({ id: 'stop', spec: shell(script), env: { RINGMASTER_STOP_COMMAND: 'stop now' } }, async (pod) => {
    pod.start();
    await pod.logHas('ready\n');
    assert.equal(await pod.kill('SIGTERM'), 3);
    assert.equal((await pod.log()).toString(), 'ready\ngot stop now\n');
    assert.deepEqual(await containers(), []);
  });
});

test('docker: SIGTERM reaches a program, a second one cuts the wait for the stop command short, and a deaf program is killed', async () => {
  const trap = `trap 'echo got TERM; exit 5' TERM; echo ready; while :; do sleep 0.05; done`;
  await withPod({ id: 'term', spec: shell(trap) }, async (pod) => {
    pod.start();
    await pod.logHas('ready\n');
    assert.equal(await pod.kill('SIGTERM'), 5);
    assert.equal((await pod.log()).toString(), 'ready\ngot TERM\n');
  });
  const env = { RINGMASTER_STOP_COMMAND: 'ignored', RINGMASTER_STOP_GRACE_SECONDS: '60' };
  await withPod({ id: 'hurry', spec: shell(trap), env }, async (pod) => {
    pod.start();
    await pod.logHas('ready\n');
    pod.launcher?.kill('SIGTERM');
    await delay(500);
    assert.equal(pod.launcher?.exitCode, null, 'the stop command has its time');
    assert.equal(await pod.kill('SIGTERM'), 5);
  });
  const deaf = shell(`trap '' TERM; echo ready; while :; do sleep 0.05; done`);
  await withPod({ id: 'deaf', spec: deaf, env: { RINGMASTER_STOP_GRACE_SECONDS: '3' } }, async (pod) => {
    pod.start();
    await pod.logHas('ready\n');
    assert.equal(await pod.kill('SIGTERM'), 137);
    assert.match(await pod.note('workload'), /^code=137$/m);
  });
});

test('docker: nobody holds the pipe before the program runs, so that nothing counts as started', async () => {
  const gate = await StartGate.create(engine);
  try {
    const env = { RINGMASTER_DOCKER_SOCKET: gate.socketPath };
    await withPod({ id: 'gate', spec: shell('echo ready; exec cat'), env }, async (pod) => {
      const pipe = new StdinPipe(join(pod.directory, 'stdin'));
      pod.start();
      await gate.asked;
      await delay(200);
      assert.equal(await pipe.isOpen(), false);
      gate.open();
      await until(() => pipe.isOpen(), 'the pipe');
      await pod.type('typed\n');
      await pod.logHas('ready\ntyped\n');
    });
  } finally {
    gate.close();
  }
});

/** A way to the Engine on which the request that starts a container waits. */
class StartGate {
  readonly socketPath: string;
  /** Resolves when that request has come. */
  readonly asked: Promise<undefined>;
  readonly open: () => void;
  readonly #server: Server;

  private constructor(socketPath: string, server: Server, gate: { asked: Promise<undefined>; open: () => void }) {
    this.socketPath = socketPath;
    this.#server = server;
    this.asked = gate.asked;
    this.open = gate.open;
  }

  static async create(behind: DockerEngine): Promise<StartGate> {
    const asked = Promise.withResolvers<undefined>();
    const opened = Promise.withResolvers<undefined>();
    const server = createServer((client) => {
      const there = connect(behind.socketPath);
      there.pipe(client);
      for (const socket of [client, there]) socket.on('error', () => undefined);
      there.on('close', () => client.destroy());
      client.on('close', () => there.destroy());
      client.on('data', (data) => {
        if (!/^POST \S+\/start /.test(data.toString('latin1'))) {
          there.write(data);
          return;
        }
        asked.resolve(undefined);
        void opened.promise.then(() => there.write(data));
      });
    });
    const socketPath = join(behind.root, 'gate.sock');
    await new Promise<void>((resolve) => server.listen(socketPath, resolve));
    return new StartGate(socketPath, server, {
      asked: asked.promise,
      open: () => {
        opened.resolve(undefined);
      },
    });
  }

  close(): void {
    this.#server.close();
  }
}

test('docker: environment, working directory and arguments are those of the Instance', async () => {
  const spec = {
    command: ['/bin/sh', '-c', 'pwd; echo "$1|$GREETING|${RINGMASTER_ID-none}|${HOME}"', 'sh'],
    args: ['a b'],
    workingDir: '/tmp',
  };
  await withPod({ id: 'env', spec, env: { GREETING: 'hello $USER', HOME: '/nowhere' } }, async (pod) => {
    pod.start();
    assert.equal(await pod.exited(), 0);
    assert.equal((await pod.log()).toString(), '/tmp\na b|hello $USER|none|/root\n');
  });
});

test('docker: a missing image, a missing program and a missing Engine are clear lines', async () => {
  for (const pull of ['Never', 'IfNotPresent', 'Always']) {
    await withPod({ id: 'image', spec: { image: '127.0.0.1:1/no/such:1', pull } }, async (pod) => {
      pod.start();
      assert.equal(await pod.exited(), 1);
      assert.match(
        (await pod.log()).toString(),
        /^\[ringmaster\] Cannot (start|pull).*127\.0\.0\.1:1\/no\/such:1.*\n$/,
      );
      assert.equal(await pod.note('fault'), '');
    });
  }
  await withPod({ id: 'program', spec: { command: ['/no/such/program'] } }, async (pod) => {
    pod.start();
    assert.equal(await pod.exited(), 127);
    assert.match((await pod.log()).toString(), /\/no\/such\/program/);
    assert.deepEqual(await containers(), []);
  });
  const env = { RINGMASTER_DOCKER_SOCKET: '/no/such.sock', RINGMASTER_DOCKER_TIMEOUT_MS: '300' };
  await withPod({ id: 'engine', spec: {}, env }, async (pod) => {
    pod.start();
    assert.equal(await pod.exited(), runtimeMissingExitCode);
    assert.match(
      (await pod.log()).toString(),
      /^\[ringmaster\] Cannot use the Docker Engine at "\/no\/such.sock": .*\n$/,
    );
    assert.match(await pod.note('fault'), /^Cannot use the Docker Engine/);
  });
});

test('docker: the container that a lost pod of the same Instance left is stopped and removed, and no other', async () => {
  const other = await DockerPod.create({ engine, id: 'other', spec: shell('echo ready; exec sleep 60') });
  const lost = await DockerPod.create({
    engine,
    id: 'same',
    podUid: '22222222-0000',
    spec: shell('echo lost; exec sleep 60'),
  });
  try {
    for (const [pod, word] of [
      [other, 'ready'],
      [lost, 'lost'],
    ] as const) {
      pod.start();
      await pod.logHas(word);
    }
    await lost.kill('SIGKILL');
    assert.equal((await containers()).length, 2);
    await withPod({ id: 'same', spec: shell('echo new; exec sleep 60') }, async (pod) => {
      pod.start();
      await pod.logHas('new');
      const names = (await engine.docker.listContainers()).map(({ Names }) => Names[0]).sort();
      assert.deepEqual(names, ['/ringmaster-other-11111111', '/ringmaster-same-11111111']);
      assert.equal((await pod.log()).toString(), 'new\n');
    });
  } finally {
    await Promise.all([other.close(), lost.close()]);
    await removeAll();
  }
});

test('docker: the last words say that nothing is left only where nothing is', async () => {
  const clean = `${nothingLeft}\n`;
  const away = { RINGMASTER_DOCKER_SOCKET: '/no/such.sock', RINGMASTER_DOCKER_TIMEOUT_MS: '300' };
  await withPod({ id: 'words', spec: shell('echo ready; read -r line; exit 3') }, async (pod) => {
    // No Engine was ever asked for a container.
    pod.start(away);
    assert.equal(await pod.exited(), runtimeMissingExitCode);
    assert.match(await pod.lastWords(), /^Cannot use the Docker Engine [^\n]*\n(.*)\n$/);
    assert.ok((await pod.lastWords()).endsWith(clean));

    pod.start();
    await pod.logHas('ready\n');
    await pod.kill('SIGKILL');
    assert.equal(await pod.lastWords(), '');
    // The Engine has one, and does not answer.
    pod.start(away);
    assert.equal(await pod.exited(), runtimeMissingExitCode);
    assert.match(await pod.lastWords(), /^Cannot use the Docker Engine [^\n]*\n$/);
    assert.equal((await containers()).length, 1);

    pod.start();
    await until(
      async () => (await pod.note('workload')).startsWith('starts=') && pod.launcherLog.includes('Adopted'),
      'the adoption',
    );
    await pod.type('end\n');
    assert.equal(await pod.exited(), 3);
    assert.equal(await pod.lastWords(), clean);
  });
  await withPod({ id: 'never', spec: { command: ['/no/such/program'] } }, async (pod) => {
    pod.start();
    assert.equal(await pod.exited(), 127);
    assert.equal(await pod.lastWords(), clean);
  });
  await withPod({ id: 'unpulled', spec: { image: '127.0.0.1:1/no/such:1' } }, async (pod) => {
    pod.start();
    assert.equal(await pod.exited(), 1);
    assert.equal(await pod.lastWords(), clean);
  });
});

const runFile = promisify(execFile);
const cleanupMain = join(import.meta.dirname, 'cleanup.ts');

test('docker: the cleanup removes what one pod left, running or not, waits for the Engine, and touches no other', async () => {
  const lost = await DockerPod.create({
    engine,
    id: 'lost',
    podUid: '22222222-0000',
    spec: shell('echo lost; exec sleep 60'),
  });
  const other = await DockerPod.create({
    engine,
    id: 'lost',
    podUid: '33333333-0000',
    instanceUid: 'another',
    spec: shell('echo other; exec sleep 60'),
  });
  const clean = async (podUid: string): Promise<string> => {
    const env = { PATH: process.env['PATH'], RINGMASTER_POD_UID: podUid, RINGMASTER_DOCKER_SOCKET: engine.socketPath };
    return (await runFile(process.execPath, [cleanupMain], { env })).stderr;
  };
  try {
    for (const [pod, word] of [
      [lost, 'lost'],
      [other, 'other'],
    ] as const) {
      pod.start();
      await pod.logHas(word);
    }
    await lost.kill('SIGKILL');
    await engine.end('SIGKILL');
    const cleaning = clean(lost.podUid);
    await delay(500);
    await engine.start({ liveRestore: true });
    assert.match(await cleaning, /"level":"error".*\n.*Removed the container of a lost pod/);
    const names = async (): Promise<(string | undefined)[]> =>
      (await engine.docker.listContainers({ all: true })).map(({ Names }) => Names[0]);
    assert.deepEqual(await names(), ['/ringmaster-lost-33333333']);
    assert.equal(await clean(lost.podUid), '', 'what is gone is no fault');
    assert.deepEqual(await names(), ['/ringmaster-lost-33333333']);
    assert.equal(other.launcher?.exitCode, null);
    await assert.rejects(clean(''), /RINGMASTER_POD_UID is not set/);
  } finally {
    await Promise.all([lost.close(), other.close()]);
    await removeAll();
  }
});

test('docker: the mirror shows the log on standard output, and nobody waits for one that is not read', async () => {
  const script = shell(`awk 'BEGIN { for (n = 1; n <= 20000; n++) print "line " n " of a program that is mirrored" }'`);
  await withPod({ id: 'mirror', spec: script, env: { RINGMASTER_MIRROR: 'true' } }, async (pod) => {
    const output: Buffer[] = [];
    pod.start().stdout?.on('data', (data: Buffer) => output.push(data));
    assert.equal(await pod.exited(), 0);
    assert.equal(hash(Buffer.concat(output)), hash(await pod.log()));

    const child = pod.start();
    child.stdout?.pause();
    await until(() => child.exitCode !== null, 'an end without a reader');
    assert.equal((await pod.log()).toString().split('\n').length, 40_001);
  });
});

/** Numbered lines at about 500 a second. */
const numbered = shell(
  `i=0; while [ $i -lt 4000 ]; do j=0; while [ $j -lt 10 ]; do i=$((i+1)); j=$((j+1)); echo "line $i"; done; usleep 18000; done; exit 9`,
);
const numberedLog = Array.from({ length: 4000 }, (_, index) => `line ${index + 1}\n`).join('');

test('docker: numbered lines come exactly once through kills of the launcher', async () => {
  await withPod({ id: 'kills', spec: numbered }, async (pod) => {
    for (let kills = 0; kills < 6; kills += 1) {
      pod.start();
      const size = (await pod.log()).length;
      await until(async () => (await pod.log()).length > size + 500, 'more lines');
      await delay(Math.random() * 200);
      await pod.kill('SIGKILL');
    }
    pod.start();
    assert.equal(await pod.exited(), 9);
    assert.equal((await pod.log()).toString(), numberedLog);
    assert.equal(await pod.note('starts'), '1 0\n', 'it was one start');
    assert.match(await pod.note('workload'), /^starts=1\n/);
  });
});

test('docker: a container that ended while nobody looked is read to its end', async () => {
  await withPod({ id: 'late', spec: shell('echo ready; sleep 1; echo late; exit 4') }, async (pod) => {
    pod.start();
    await pod.logHas('ready\n');
    await pod.kill('SIGKILL');
    await until(async () => (await engine.docker.listContainers()).length === 0, 'the end of the container');
    pod.start();
    assert.equal(await pod.exited(), 4);
    assert.equal((await pod.log()).toString(), 'ready\nlate\n');
  });
});

test('docker: a burst is read exactly once through a kill of the launcher in the middle of it', async () => {
  const lines = 300_000;
  const script = shell(`awk 'BEGIN { for (n = 1; n <= ${lines}; n++) print "burst line " n " as fast as it can" }'`);
  const expected = Buffer.from(
    Array.from({ length: lines }, (_, index) => `burst line ${index + 1} as fast as it can\n`).join(''),
  );
  await withPod({ id: 'burst', spec: script }, async (pod) => {
    for (const share of [0.1, 0.5]) {
      pod.start();
      await until(async () => (await pod.log()).length > expected.length * share, 'a part of the burst');
      await pod.kill('SIGKILL');
    }
    pod.start();
    assert.equal(await pod.exited(), 0);
    assert.equal(hash(await pod.log()), hash(expected));
  });
});

test('docker: with live-restore, numbered lines come exactly once through kills and restarts of the Engine', async () => {
  await withPod({ id: 'engine-kills', spec: numbered }, async (pod) => {
    pod.start();
    for (const signal of ['SIGKILL', 'SIGTERM', 'SIGKILL'] as const) {
      const size = (await pod.log()).length;
      await until(async () => (await pod.log()).length > size + 1000, 'more lines');
      await engine.end(signal);
      await engine.start({ liveRestore: true });
    }
    assert.equal(await pod.exited(), 9);
    assert.equal((await pod.log()).toString(), numberedLog);
    assert.equal(await pod.note('starts'), '1 0\n');
  });
});

test('docker: typed lines wait while the Engine is away', async () => {
  await withPod({ id: 'away', spec: shell('echo ready; exec cat') }, async (pod) => {
    pod.start();
    await pod.logHas('ready\n');
    await pod.type('before\n');
    await pod.logHas('before\n');
    await engine.end('SIGTERM');
    await delay(300);
    await pod.type('while away\n');
    await engine.start({ liveRestore: true });
    await pod.logHas('while away\n');
    assert.equal((await pod.log()).toString(), 'ready\nbefore\nwhile away\n');
  });
});

test('docker: without live-restore a restart of the Engine ends the workload, which is an exit like any other', async () => {
  await engine.end('SIGTERM');
  await engine.start({ liveRestore: false });
  await withPod({ id: 'no-restore', spec: shell('echo ready; exec sleep 60') }, async (pod) => {
    pod.start();
    await pod.logHas('ready\n');
    await engine.end('SIGTERM');
    await engine.start({ liveRestore: false });
    const code = await pod.exited();
    assert.ok(code === 143 || code === 137, `code ${String(code)}`);
    assert.equal((await pod.log()).toString(), 'ready\n');
    assert.deepEqual(await containers(), []);
  });
});
