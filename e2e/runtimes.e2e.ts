/** The runtimes on a real cluster: `runtime:` is one word in the manifest, and nothing else changes for the client. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { after, before, test } from 'node:test';
import {
  applyInstance,
  applyInstances,
  enterWorld,
  eventually,
  onNode,
  openSocket,
  patchSpec,
  podOf,
} from './live-harness.ts';
import type { LiveSocket, World } from './live-harness.ts';
import { lifeOf, openTerminal, programUnder, runtimes, sidecarRuntimes, Typist, underEach } from './runtime-harness.ts';
import type { Runtime } from './runtime-harness.ts';

const burstLines = 200_000;

/** Says what the title of the test promises, once somebody has typed a line. */
const versatile = `
read go
printf 'plain\\n'
awk 'BEGIN { s = sprintf("%300s", ""); gsub(/ /, "w", s); print s }'
printf 'tabs\\tand\\ttabs\\n  blanks  \\ngr\u00fc\u00dfe, \u4e16\u754c, \u{1f3ae}\\n\\033[31mred\\033[0m\\n\\n\\n'
awk 'BEGIN { for (i = 1; i <= ${burstLines}; i++) print "line " i }'
printf 'last, without an end'`;

const expected = [
  'plain',
  'w'.repeat(300),
  'tabs\tand\ttabs',
  '  blanks  ',
  'gr\u00fc\u00dfe, \u4e16\u754c, \u{1f3ae}',
  '\u001b[31mred\u001b[0m',
  '',
  '',
  ...Array.from({ length: burstLines }, (_, index) => `line ${index + 1}`),
  'last, without an end',
];

/** Says each line that is typed. */
const parrot = `echo ready; while IFS= read -r line; do printf '%s\\n' "$line"; done`;

let world: World;
let typist: Typist;
let parrots: Record<Runtime, string>;

before(async () => {
  world = await enterWorld('privileged');
  typist = new Typist(world);
  const named = await applyInstances(
    world,
    Object.fromEntries(Object.entries(underEach(parrot)).map(([runtime, spec]) => [`parrot-${runtime}`, spec])),
  );
  parrots = Object.fromEntries(runtimes.map((runtime) => [runtime, named[`parrot-${runtime}`]])) as typeof parrots;
});

after(() => world.leave());

/** Opens the log of each, and waits until each is ONLINE. */
async function openEach(ids: Record<Runtime, string>, prefix: string): Promise<Record<Runtime, LiveSocket>> {
  const sockets = {} as Record<Runtime, LiveSocket>;
  for (const runtime of runtimes) {
    await ready(`${prefix}${runtime}`);
    sockets[runtime] = await openSocket(world, { id: ids[runtime] });
  }
  return sockets;
}

async function ready(name: string): Promise<void> {
  await world.kubectl(['wait', '--for=condition=Ready', `instance/${name}`, '--timeout=60s']);
}

test('runtimes: the same program gives byte-identical frames under all five', async () => {
  const ids = await applyInstances(world, underEach(versatile, { restartPolicy: 'Never', ...onNode('node2') }));
  const sockets = await openEach(ids, '');
  for (const runtime of runtimes) await typist.typeAll(ids[runtime], ['go']);
  const hashes: Record<string, string> = {};
  for (const runtime of runtimes) {
    await sockets[runtime].ended(60_000);
    hashes[runtime] = hashOf(sockets[runtime].frames);
  }
  const wanted = hashOf(expected);
  for (const runtime of runtimes) {
    const { frames } = sockets[runtime];
    const at = frames.findIndex((frame, index) => frame !== expected[index]);
    const near = JSON.stringify([frames.length, at, frames.slice(at, at + 3)]);
    assert.equal(hashes[runtime], wanted, `${runtime}: first difference: ${near}`);
  }
});

function hashOf(frames: readonly string[]): string {
  const hash = createHash('sha256');
  for (const frame of frames) hash.update(`${Buffer.byteLength(frame)}:`).update(frame);
  return hash.digest('hex');
}

const delicate = [
  '$HOME ${PATH} `id` $(id)',
  '^C ^D ^Z',
  'C-c',
  'Enter',
  'semicolon;',
  ';',
  '-leading',
  '--',
  'back\\slash \\n \\033 \\',
  `"double" 'single'`,
  '  blanks around  ',
  'tab\tinside',
  'gr\u00fc\u00dfe, \u4e16\u754c, \u{1f3ae}',
  '%s %n !! !$ ~ * ? [a] {b} #{c} #S',
  'x'.repeat(4096),
  '\u4e16'.repeat(1365),
];

test('runtimes: every typed line arrives as typed and in order, ten thousand in all, under all five', async () => {
  const sockets = await openEach(parrots, 'parrot-');
  const many = Array.from({ length: 2000 }, (_, index) => `command ${index + 1} $HOME;`);
  const lines = [...delicate, ...many];
  await Promise.all(
    runtimes.map(async (runtime) => {
      const own = new Typist(world);
      for (let start = 0; start < lines.length; start += 200) {
        await own.typeAll(parrots[runtime], lines.slice(start, start + 200));
      }
    }),
  );
  for (const runtime of runtimes) {
    const socket = sockets[runtime];
    await socket.until(`all typed lines under ${runtime}`, () => socket.frames.length > lines.length, 60_000);
    assert.deepEqual(socket.frames.slice(1, 1 + delicate.length), delicate, runtime);
    assert.equal(hashOf(socket.frames.slice(1)), hashOf(lines), runtime);
  }
});

test('runtimes: what cannot be typed is refused with what is wrong, and nothing of it arrives', async () => {
  for (const runtime of runtimes) {
    const id = parrots[runtime];
    const socket = await openSocket(world, { id, query: '?tail=0' });
    for (const wrong of [
      'two\nlines',
      'return\r',
      'escape \u001b[2J',
      'nul \u0000',
      'delete \u007f',
      'x'.repeat(4097),
      '',
      7,
    ]) {
      const { status, body } = await typist.type(id, wrong);
      assert.equal(status, 400, `${runtime} ${JSON.stringify(wrong).slice(0, 40)}: ${JSON.stringify(body)}`);
      assert.match(body.error ?? '', /command|line|character|bytes/i);
    }
    assert.equal((await typist.post(id, '{"command":"x"')).status, 400);
    assert.equal((await typist.post(id, '{"command":"x","more":1}')).status, 400);
    await typist.typeAll(id, ['after']);
    await socket.untilFrames(1);
    assert.deepEqual(socket.frames, ['after'], runtime);
  }
  assert.equal((await typist.type('000000', 'x')).status, 404);
});

test('runtimes: the stop command is typed, the program ends by itself, and its last lines are delivered; then typing is 409', async () => {
  const script = `echo up; while read -r line; do echo "got $line"; [ "$line" = 'stop $now;' ] && { echo bye; exit 0; }; done`;
  const specs = underEach(script, { stop: { command: 'stop $now;', gracePeriodSeconds: 20 } });
  const ids = await applyInstances(
    world,
    Object.fromEntries(Object.entries(specs).map(([runtime, spec]) => [`stopped-${runtime}`, spec])),
  );
  const sockets: Partial<Record<Runtime, LiveSocket>> = {};
  for (const runtime of runtimes) {
    await ready(`stopped-${runtime}`);
    sockets[runtime] = await openSocket(world, { id: ids[`stopped-${runtime}`] ?? '' });
  }
  const startedAt = performance.now();
  for (const runtime of runtimes) await patchSpec(world, `stopped-${runtime}`, { desiredState: 'Stopped' });
  for (const runtime of runtimes) {
    await sockets[runtime]?.ended(60_000);
    assert.deepEqual(sockets[runtime]?.frames, ['up', 'got stop $now;', 'bye'], runtime);
  }
  assert.ok(performance.now() - startedAt < 20_000, 'nothing had to wait for the grace period');
  for (const runtime of runtimes) {
    const answer = await typist.type(ids[`stopped-${runtime}`] ?? '', 'hello');
    assert.equal(answer.status, 409, `${runtime}: ${JSON.stringify(answer.body)}`);
  }
});

test('runtimes: readiness.logPattern turns ONLINE when a line matches, and anew after a restart', async () => {
  const script = `echo 'Starting, Done soon'; read go; printf '\\033[32m[12:00:00] Done (3.2s)! For help, type "help"\\033[0m\\n'; read crash; exit 1`;
  const specs = underEach(script, { readiness: { logPattern: '^\\[[0-9:]+\\] Done \\(' } });
  const ids = await applyInstances(
    world,
    Object.fromEntries(Object.entries(specs).map(([runtime, spec]) => [`pattern-${runtime}`, spec])),
  );
  for (const runtime of runtimes) {
    const id = ids[`pattern-${runtime}`] ?? '';
    const socket = await openSocket(world, { id });
    await socket.until(`the first line under ${runtime}`, () => socket.frames.length >= 1, 60_000);
    assert.equal(await stateOf(`pattern-${runtime}`), 'CREATING', runtime);
    await typist.typeAll(id, ['go']);
  }
  for (const runtime of runtimes) await ready(`pattern-${runtime}`);
  for (const runtime of runtimes) await typist.typeAll(ids[`pattern-${runtime}`] ?? '', ['crash']);
  for (const runtime of runtimes) {
    await world.kubectl(['wait', '--for=condition=Ready=false', `instance/pattern-${runtime}`, '--timeout=30s']);
    await world.kubectl([
      'wait',
      '--for=jsonpath={.status.restarts}=1',
      `instance/pattern-${runtime}`,
      '--timeout=30s',
    ]);
    const id = ids[`pattern-${runtime}`] ?? '';
    await eventually(`${runtime} to take a line again`, async () => (await typist.type(id, 'go')).status === 200);
  }
  for (const runtime of runtimes) await ready(`pattern-${runtime}`);
});

async function stateOf(name: string): Promise<string> {
  return world.kubectl(['get', 'instance', name, '-o', 'jsonpath={.status.state}']);
}

test('runtimes: screen or tmux that the image does not have is a line in the log, and Stalled with reason RuntimeMissing', async () => {
  for (const runtime of ['screen', 'tmux'] as const) {
    const spec = { ...programUnder(runtime, 'echo never'), image: 'ringmaster.local/busybox:1' };
    const id = await applyInstance(world, `without-${runtime}`, spec);
    const socket = await openSocket(world, { id });
    await socket.untilFrames(1);
    const sentence = `Cannot start the runtime "${runtime}": the image has no "${runtime}" in its PATH`;
    assert.equal(socket.frames[0], `[ringmaster] ${sentence}`);
    await world.kubectl(['wait', '--for=condition=Stalled', `instance/without-${runtime}`, '--timeout=30s']);
    const [reason, message] = (
      await world.kubectl([
        ...['get', 'instance', `without-${runtime}`, '-o'],
        `jsonpath={.status.conditions[?(@.type=="Stalled")].reason}|{.status.conditions[?(@.type=="Stalled")].message}`,
      ])
    ).split('|');
    assert.equal(reason, 'RuntimeMissing');
    assert.ok(message?.includes(sentence), message);
  }
});

test('runtimes: people attach to screen and tmux, type, detach, and the program and the stream do not notice', async () => {
  for (const runtime of ['screen', 'tmux'] as const) {
    const id = parrots[runtime];
    const pod = await podOf(world, `parrot-${runtime}`);
    const before = await lifeOf(world, `parrot-${runtime}`);
    const socket = await openSocket(world, { id, query: '?tail=0' });
    const attach =
      runtime === 'screen' ? ['screen', '-r', `ringmaster-${id}`] : ['tmux', 'attach', '-t', `ringmaster-${id}`];
    const terminal = openTerminal(world, ['exec', '-it', pod, '-c', 'instance', '--', ...attach]);
    await terminal.until(/command 2000/);
    terminal.type('typed by hand\n');
    await socket.untilFrames(1);
    assert.deepEqual(socket.frames, ['typed by hand'], runtime);
    terminal.type(runtime === 'screen' ? '\u0001d' : '\u0002d');
    await terminal.until(/detached/);
    await terminal.ended();
    await typist.typeAll(id, ['after']);
    await socket.untilFrames(2);
    assert.equal(socket.frames[1], 'after');
    assert.equal(await lifeOf(world, `parrot-${runtime}`), before);
  }
});

test('runtimes: kubectl logs shows the lines of every runtime, and mirrorToStdout: false turns that off', async () => {
  for (const runtime of sidecarRuntimes) {
    await eventually(`kubectl logs of ${runtime}`, async () => {
      const out = await world.kubectl(['logs', await podOf(world, `parrot-${runtime}`), '-c', 'instance']);
      return out.split('\n').includes('ready');
    });
  }
  const quiet = programUnder('process', 'echo quiet; exec sleep 1000', { logs: { mirrorToStdout: false } });
  const id = await applyInstance(world, 'quiet', quiet);
  const socket = await openSocket(world, { id });
  await socket.untilFrames(1);
  assert.equal(await world.kubectl(['logs', await podOf(world, 'quiet'), '-c', 'instance']), '');
});

test('runtimes: the sidecar holds no Kubernetes credentials, and its key is of this instance alone', async () => {
  const pod = JSON.parse(await world.kubectl(['get', 'pod', await podOf(world, 'parrot-process'), '-o', 'json'])) as {
    spec: {
      automountServiceAccountToken: boolean;
      initContainers: { name: string; volumeMounts: { mountPath: string }[] }[];
    };
  };
  assert.equal(pod.spec.automountServiceAccountToken, false);
  const [sidecar] = pod.spec.initContainers;
  assert.equal(sidecar?.name, 'ringmaster-sidecar');
  assert.ok(sidecar.volumeMounts.every(({ mountPath }) => !mountPath.includes('serviceaccount')));
  const secrets = await world.kubectl(['get', 'secrets', '-o', 'jsonpath={.items[*].data.key}']);
  const keys = secrets.split(' ').filter((key) => key !== '');
  assert.ok(keys.length >= sidecarRuntimes.length);
  assert.equal(new Set(keys).size, keys.length);
});
