import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import {
  formatStarts,
  noteStart,
  parseStarts,
  readStartCount,
  startsMax,
  startsPath,
  writeFault,
  writeWorkloadNote,
} from './notes.ts';
import { headers } from './protocol.ts';
import type { SidecarRuntime } from './protocol.ts';
import { Starts } from './starts.ts';
import { until, withRig } from './testing/rig.ts';
import type { Reading, Rig } from './testing/rig.ts';

const runtimes: readonly SidecarRuntime[] = ['process', 'screen', 'tmux', 'docker'];
/** A stranger to the docker launcher: what it notes is what launch.sh notes under `process`, and the sidecar serves both alike. */
const launchedAs = (runtime: SidecarRuntime): NodeJS.ProcessEnv =>
  runtime === 'docker' ? { RINGMASTER_RUNTIME: 'process' } : {};

async function withFolder(body: (folder: string) => Promise<void>): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'starts-'));
  try {
    await body(folder);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

async function endOf(child: ReturnType<Rig['launch']>): Promise<void> {
  if (child.exitCode === null && child.signalCode === null) {
    await once(child, 'exit');
  }
}

function startsOf(reading: Reading): number {
  return Number(reading.response.headers[headers.workloadStarts]);
}

test('parseStarts: keeps what is in order, believes the later line, and forgets the oldest', () => {
  assert.deepEqual(parseStarts('1 0\nrubbish\n2 10\n2 12\n-3 4\n4 x\n'), [
    { starts: 1, offset: 0 },
    { starts: 2, offset: 12 },
  ]);
  assert.deepEqual(
    parseStarts('1 0\n2 900\n3 20\n4 2'),
    [
      { starts: 1, offset: 0 },
      { starts: 3, offset: 20 },
      { starts: 4, offset: 2 },
    ]
      .slice(0, 1)
      .concat({ starts: 4, offset: 2 }),
  );
  const many = Array.from({ length: startsMax + 5 }, (_, index) => ({ starts: index + 1, offset: index * 7 }));
  assert.deepEqual(parseStarts(formatStarts(many)), many.slice(5));
});

test('notes: what is written is what the sidecar reads', async () => {
  await withFolder(async (folder) => {
    const starts = await Starts.open(folder);
    assert.deepEqual([starts.latest, starts.numberAt(0), starts.boundaryAfter(0)], [0, 0, Infinity]);
    await noteStart(folder, { starts: 1, offset: 0 });
    await noteStart(folder, { starts: 2, offset: 50 });
    await noteStart(folder, { starts: 3, offset: 50 });
    starts.refresh();
    assert.equal(starts.latest, 3);
    assert.deepEqual(
      [0, 49, 50, 999].map((offset) => starts.numberAt(offset)),
      [1, 1, 3, 3],
    );
    assert.deepEqual(
      [0, 1, 2, 3].map((own) => starts.boundaryAfter(own)),
      [50, 50, 50, Infinity],
    );
    await writeWorkloadNote(folder, { starts: 3, startedAtS: 1000, code: 5, exitedAtS: 1010 });
    assert.equal(await readStartCount(folder), 3);
    assert.equal(await readFile(join(folder, 'workload'), 'utf8'), 'starts=3\nstarted=1000\ncode=5\nexited=1010\n');
    await writeFault(folder, '');
    assert.equal(await readFile(join(folder, 'fault'), 'utf8'), '');
  });
});

test('Starts: links, folders and rubbish in place of the notes change nothing', async () => {
  await withFolder(async (folder) => {
    await noteStart(folder, { starts: 1, offset: 0 });
    await noteStart(folder, { starts: 2, offset: 5 });
    const starts = await Starts.open(folder);
    await rm(startsPath(folder));
    await writeFile(join(folder, 'elsewhere'), '9 9\n');
    await symlink(join(folder, 'elsewhere'), startsPath(folder));
    starts.refresh();
    assert.equal(starts.latest, 2);
    await rm(startsPath(folder));
    starts.refresh();
    assert.equal(starts.latest, 2);
  });
});

test('restart: a body ends where the workload was started anew, at once, and the next goes on behind it', async () => {
  for (const runtime of runtimes) {
    await withRig(runtime, async (rig) => {
      const early = await rig.read('offset=0&follow=true');
      await endOf(rig.launch(['dash'], ['sh', '-c', 'echo one; printf unfinished; exit 3'], launchedAs(runtime)));
      await until(() => early.bytes().toString() === 'one\nunfinished', `the first run, ${runtime}`);
      assert.equal(early.response.readableEnded, false);
      // The second run writes nothing before it is told to: the news must come without a byte of it.
      const second = ['sh', '-c', 'read -r line; echo "two $line"; sleep 60'];
      rig.launch(['busybox', 'sh'], second, launchedAs(runtime));
      assert.equal(await early.ended, 'restarted', runtime);
      assert.equal(early.bytes().toString(), 'one\nunfinished\n', runtime);
      const late = await rig.read('offset=15&follow=true');
      assert.equal(startsOf(late), 2);
      await until(async () => (await rig.status()).workload.state === 'running', 'the second run');
      await rig.call('POST', '/v1/stdin', 'told\n');
      await until(() => late.bytes().toString() === 'two told\n', `the second run, ${runtime}`);
      late.close();
      const whole = await rig.read('offset=0');
      assert.equal(await whole.ended, 'restarted');
      assert.deepEqual([whole.bytes().toString(), startsOf(whole)], ['one\nunfinished\n', 1]);
      const look = await rig.read('tail=100');
      assert.equal(await look.ended, 'complete');
      assert.equal(look.bytes().toString(), 'one\nunfinished\ntwo told\n');
    });
  }
});

test('restart: runs that write nothing are counted, and end a waiting reader each', async () => {
  await withRig('process', async (rig) => {
    await endOf(rig.launch(['dash'], ['true']));
    const first = await rig.read('offset=0&follow=true');
    assert.equal(startsOf(first), 1);
    await endOf(rig.launch(['dash'], ['true']));
    assert.equal(await first.ended, 'restarted');
    const second = await rig.read('offset=0&follow=true');
    assert.equal(startsOf(second), 2);
    await endOf(rig.launch(['dash'], ['true']));
    assert.equal(await second.ended, 'restarted');
    const third = await rig.read('offset=0');
    assert.equal(await third.ended, 'complete');
    assert.deepEqual([startsOf(third), third.bytes().length], [3, 0]);
  });
});

test('restart: a launcher killed at any moment leaves whole notes, and the next start has its number', async () => {
  await withRig('process', async (rig) => {
    for (let round = 0; round < 20; round += 1) {
      const child = rig.launch(round % 2 === 0 ? ['dash'] : ['busybox', 'sh'], ['true']);
      const timer = setTimeout(() => child.kill('SIGKILL'), Math.random() * 40);
      await endOf(child);
      clearTimeout(timer);
      const text = await readFile(startsPath(rig.path('run')), 'utf8').catch(() => '');
      assert.match(text, /^(?:\d+ 0\n)*$/);
      const numbers = parseStarts(text).map(({ starts }) => starts);
      assert.deepEqual(
        numbers,
        Array.from(numbers, (_, index) => index + 1),
      );
    }
    const before = (await rig.status()).workload.starts;
    await endOf(rig.launch(['dash'], ['true']));
    const reading = await rig.read('offset=0');
    assert.equal(await reading.ended, 'complete');
    assert.deepEqual([startsOf(reading), (await rig.status()).workload.starts], [before + 1, before + 1]);
  });
});

interface Body {
  readonly starts: number;
  readonly bytes: Buffer;
  readonly reason: string | undefined;
}

/** Reads as the Master does: from its own offset on, again after any end, until `size` says that all is there. */
async function readBodies(rig: Rig, isAll: (received: number) => Promise<boolean>): Promise<Body[]> {
  const bodies: Body[] = [];
  let received = 0;
  while (!(await isAll(received))) {
    const reading = await rig.read(`offset=${received}&follow=true`).catch(() => undefined);
    if (reading === undefined) {
      await new Promise((resolve) => setTimeout(resolve, 20));
      continue;
    }
    const watch = setInterval(() => {
      void isAll(received + reading.bytes().length).then((isDone) => {
        if (isDone) {
          reading.close();
        }
      });
    }, 50);
    const reason = await reading.ended;
    clearInterval(watch);
    bodies.push({ starts: startsOf(reading), bytes: reading.bytes(), reason });
    received += reading.bytes().length;
  }
  return bodies;
}

test('restart: a crashing workload and a sidecar killed at any moment never mix two runs in a body', async () => {
  const runs = 10;
  const lines = 300;
  const command = 'n=0; while [ $n -lt 300 ]; do n=$((n+1)); echo "run $0 line $n"; done; kill -KILL $$';
  const expected = Array.from({ length: runs }, (_, run) =>
    Array.from({ length: lines }, (_unused, line) => `run ${run + 1} line ${line + 1}\n`).join(''),
  );
  const size = expected.join('').length;
  for (const runtime of ['process', 'screen', 'tmux'] as const) {
    await withRig(runtime, async (rig) => {
      const reading = readBodies(rig, async (received) => Promise.resolve(received >= size));
      const killing = killNowAndThen(rig, 6);
      for (let run = 1; run <= runs; run += 1) {
        await endOf(rig.launch(run % 2 === 0 ? ['dash'] : ['busybox', 'sh'], ['dash', '-c', command, String(run)]));
      }
      await killing;
      const bodies = await reading;
      const received = Buffer.concat(bodies.map((each) => each.bytes)).toString();
      // Not `equal`: it would print a hundred kilobytes.
      assert.ok(received === expected.join(''), `${runtime}: ${received.length} bytes, not ${size}, or other ones`);
      for (const body of bodies) {
        const found = new Set(body.bytes.toString().match(/^run \d+ line/gm));
        // 0: the reader was there before the first start, which is no restart.
        found.delete(`run ${Math.max(body.starts, 1)} line`);
        assert.deepEqual([...found], [], `${runtime}: a body of run ${body.starts}`);
      }
      assert.ok(bodies.filter((each) => each.reason === 'restarted').length >= 1, runtime);
      assert.equal((await rig.status()).workload.starts, runs);
    });
  }
});

async function killNowAndThen(rig: Rig, times: number): Promise<void> {
  for (let kill = 0; kill < times; kill += 1) {
    await new Promise((resolve) => setTimeout(resolve, 40 + Math.random() * 400));
    await rig.endSidecar('SIGKILL');
    await rig.startSidecar();
  }
}
