/**
 * Exactly once under every runtime: a program writes numbered lines at 500 a second, and a client that resumes by cursor follows each, while one
 * fault after the other comes over all of them. Printed as a table.
 */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { run } from './cluster/command.ts';
import {
  applyInstance,
  applyInstances,
  enterWorld,
  eventually,
  masters,
  openSocket,
  patchSpec,
  podOf,
} from './live-harness.ts';
import type { Message, ResumingClient, World } from './live-harness.ts';
import {
  containersOf,
  restartEngine,
  countingScript,
  flowing,
  follow,
  pidsOf,
  programUnder,
  runtimes,
  sidecarRuntimes,
  Typist,
  underEach,
} from './runtime-harness.ts';
import type { Ledger, Runtime } from './runtime-harness.ts';
import { pidsInPod } from './pids.ts';

/** Words in the command line of the sidecar, and of the Master. */
const sidecarProgram = 'sidecar/main.js';
const masterProgram = 'operator/master';
const cutMs = 10_000;

let world: World;
let typist: Typist;
let ids: Record<Runtime, string>;
const ledgers = {} as Record<Runtime, Ledger>;
const clients = {} as Record<Runtime, ResumingClient>;

before(async () => {
  world = await enterWorld('privileged');
  typist = new Typist(world);
  ids = await applyInstances(world, underEach(countingScript));
  for (const runtime of runtimes) {
    await world.kubectl(['wait', '--for=condition=Ready', `instance/${runtime}`, '--timeout=60s']);
    watch(runtime);
  }
  await flowing(ledgers, 1000);
});

after(() => world.leave());

function watch(runtime: Runtime): void {
  const { client, ledger } = follow(world, ids[runtime]);
  ledgers[runtime] = ledger;
  clients[runtime] = client;
}

/** Two more seconds' worth of lines, and all of them. */
async function exact(what: string): Promise<void> {
  await flowing(ledgers, 1000);
  for (const runtime of runtimes) ledgers[runtime].check(`${runtime}, ${what}`);
}

/** No fault of these may lose anything, so nothing may be announced either. */
function noGaps(who: readonly Runtime[]): void {
  for (const runtime of who) assert.equal(ledgers[runtime].gaps, 0, `${runtime}: gaps announced`);
}

test('exactly once: the sidecar is killed', async () => {
  for (const runtime of sidecarRuntimes) {
    const pids = await pidsOf(world, runtime, sidecarProgram);
    assert.equal(pids.length, 1, `${runtime}: ${pids.join(' ')}`);
    for (const pid of pids) process.kill(pid, 'SIGKILL');
  }
  await exact('sidecar SIGKILL');
  noGaps(sidecarRuntimes);
});

test('exactly once: the program crashes and is started again', async () => {
  for (const runtime of runtimes) await typist.typeAll(ids[runtime], ['crash']);
  await eventually('all to live again', () =>
    Promise.resolve(runtimes.every((runtime) => ledgers[runtime].lives === 2)),
  );
  await exact('crash');
  noGaps(sidecarRuntimes);
});

test('exactly once: both Masters are killed, and the clients resume by cursor', async () => {
  const before = runtimes.map((runtime) => clients[runtime].connects);
  for (const { uid } of await masters(world)) {
    for (const pid of await pidsInPod(uid, masterProgram)) process.kill(pid, 'SIGKILL');
  }
  await exact('Master SIGKILL');
  runtimes.forEach((runtime, index) => {
    assert.ok(clients[runtime].connects > (before[index] ?? 0), `${runtime} was connected anew`);
  });
  noGaps(sidecarRuntimes);
});

test('exactly once: the network between the Masters and the sidecars is cut for ten seconds', async () => {
  const nets: (readonly string[])[] = [];
  for (const runtime of sidecarRuntimes) {
    const [pid = 0] = await pidsOf(world, runtime, sidecarProgram);
    nets.push(['--net', '--target', String(pid), 'nft']);
  }
  const rules =
    'add table inet cut { chain i { type filter hook input priority 0; tcp dport 7070 drop; }; chain o { type filter hook output priority 0; tcp sport 7070 drop; }; }';
  for (const net of nets) await run('nsenter', [...net, rules]);
  const heard = ledgers.process.received;
  await sleep(cutMs);
  assert.ok(ledgers.process.received - heard < 500, 'the cut is a cut');
  for (const net of nets) await run('nsenter', [...net, 'delete', 'table', 'inet', 'cut']);
  await exact('network cut');
  noGaps(sidecarRuntimes);
});

test('exactly once: the kubelets are restarted', async () => {
  const { cluster } = world;
  for (const component of cluster.components.filter((name) => name.startsWith('kubelet-'))) {
    await cluster.kill(component);
    await cluster.start(component);
  }
  await exact('kubelet restart');
  noGaps(sidecarRuntimes);
});

test('exactly once: the Docker Engine is killed and started again', async () => {
  await restartEngine();
  await exact('Engine SIGKILL');
  noGaps(['docker']);
});

test('exactly once: the pods are deleted, and the last lines of the old ones come before the first of the new', async () => {
  for (const runtime of runtimes) await world.kubectl(['delete', 'pod', await podOf(world, runtime), '--wait=false']);
  await eventually('all to live again', () =>
    Promise.resolve(runtimes.every((runtime) => ledgers[runtime].lives === 3)),
  );
  await exact('pod deletion');
});

test('exactly once: the end is told after the last line', async () => {
  for (const runtime of runtimes) await patchSpec(world, runtime, { desiredState: 'Stopped' });
  for (const runtime of runtimes) await clients[runtime].done();
  console.table(
    Object.fromEntries(
      runtimes.map((runtime) => {
        const { received, lost, doubled, disordered, gaps, longestSilenceMs, lives } = ledgers[runtime];
        const row = { received, lost, doubled, 'out of order': disordered, 'gaps announced': gaps, lives };
        return [
          runtime,
          { ...row, connects: clients[runtime].connects, 'longest silence, ms': Math.round(longestSilenceMs) },
        ];
      }),
    ),
  );
  for (const runtime of runtimes) ledgers[runtime].check(runtime);
  assert.deepEqual(await containersOf(ids.docker), [], 'no container is left in the Engine');
});

test('exactly once: what retention took while a client was away is announced with its number, and the rest is complete', async () => {
  const script = `read go; awk 'BEGIN { for (i = 1; i <= 300000; i++) print "number " i }'; echo done; exec sleep 1000`;
  const spec = programUnder('process', `echo ready; ${script}`, { logs: { retainBytes: '1Mi' } });
  const id = await applyInstance(world, 'short', spec);
  const before: Message[] = [];
  const first = await openSocket(world, {
    id,
    protocols: ['ringmaster.live-log.v1+json'],
    onFrame: (text) => before.push(JSON.parse(text) as Message),
  });
  await first.until('the first line', () => before.length > 0);
  first.terminate();
  await typist.typeAll(id, ['go']);
  await eventually('the program to be done', async () => {
    const { lines } = (await (
      await fetch(`${world.url}/api/instances/${id}/logs?lines=1`, {
        headers: { authorization: `Bearer ${world.token}` },
      })
    ).json()) as { lines: string[] };
    return lines[0] === 'done';
  });
  // Holes are punched a little later than the lines come.
  await eventually('a gap to be announced', async () => {
    const messages: Message[] = [];
    const cursor = encodeURIComponent(before.at(-1)?.cursor ?? '');
    const socket = await openSocket(world, {
      id,
      query: `?cursor=${cursor}`,
      protocols: ['ringmaster.live-log.v1+json'],
      onFrame: (text) => messages.push(JSON.parse(text) as Message),
    });
    await socket.until('the last line', () => messages.at(-1)?.line === 'done');
    socket.terminate();
    const [gap, next] = messages;
    if (gap?.type !== 'gap') return false;
    const numbers = messages
      .filter(({ line }) => line?.startsWith('number '))
      .map(({ line }) => Number(line?.slice(7)));
    // Exact from one boundary of the retention to another; the cursor is after a line that is none.
    const missing = (numbers[0] ?? 0) - 1;
    assert.ok(Math.abs((gap.lines ?? 0) - missing) <= missing / 1000, JSON.stringify([gap, next]));
    numbers.forEach((number, index) => {
      assert.equal(number, (numbers[0] ?? 0) + index);
    });
    assert.equal(numbers.at(-1), 300_000);
    return true;
  });
});
