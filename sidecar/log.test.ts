import assert from 'node:assert/strict';
import { appendFile, mkdtemp, open, rm, stat, truncate } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import { LogFile, ReclaimedError } from './log.ts';
import { canPunch, keepWithin, punchWithFallocate } from './reclaim.ts';
import { until } from './testing/rig.ts';

async function withFolder(body: (folder: string) => Promise<void>): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'log-'));
  try {
    await body(folder);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

function openLog(folder: string): Promise<LogFile> {
  return LogFile.open(join(folder, 'log'), join(folder, 'state.json'));
}

/** Everything from an offset on, through `read` alone. */
async function readAll(log: LogFile, offset: number): Promise<Buffer> {
  const parts: Buffer[] = [];
  for (let at = offset; at < log.end;) {
    const buffer = Buffer.alloc(1000);
    const length = await log.read(buffer, at);
    parts.push(buffer.subarray(0, length));
    at += length;
  }
  return Buffer.concat(parts);
}

function tailOffsetOf(content: string, first: number, count: number): number {
  let at = content.lastIndexOf('\n') + 1;
  for (let left = count; left > 0 && at > first; left -= 1) {
    at = at < 2 ? 0 : content.lastIndexOf('\n', at - 2) + 1;
  }
  return Math.max(at, first);
}

type Action =
  | { do: 'write'; text: string }
  | { do: 'tail'; count: number }
  | { do: 'read'; share: number }
  | { do: 'reclaim'; share: number }
  | { do: 'restart' };

const text = fc
  .array(
    fc.oneof(
      fc.constant('\n'),
      fc.string({ maxLength: 30 }),
      fc.integer({ min: 1, max: 40 }).map((n) => 'x\n'.repeat(n * 50)),
    ),
  )
  .map((parts) => Buffer.from(parts.join('')).toString('latin1'));
const action: fc.Arbitrary<Action> = fc.oneof(
  { weight: 3, arbitrary: text.map((each) => ({ do: 'write' as const, text: each })) },
  { weight: 2, arbitrary: fc.nat(60).map((count) => ({ do: 'tail' as const, count })) },
  { weight: 2, arbitrary: fc.double({ min: 0, max: 1, noNaN: true }).map((share) => ({ do: 'read' as const, share })) },
  {
    weight: 1,
    arbitrary: fc.double({ min: 0, max: 1, noNaN: true }).map((share) => ({ do: 'reclaim' as const, share })),
  },
  { weight: 1, arbitrary: fc.constant({ do: 'restart' as const }) },
);

/** The model: a string, and how much of it is gone. */
class Model {
  content = '';
  first = 0;
}

async function apply(each: Action, log: LogFile, model: Model): Promise<void> {
  switch (each.do) {
    case 'write':
      await appendFile(log.file.path, Buffer.from(each.text, 'latin1'));
      model.content += each.text;
      log.file.refresh();
      break;
    case 'tail':
      assert.equal(await log.tailOffset(each.count), tailOffsetOf(model.content, model.first, each.count));
      break;
    case 'read': {
      const offset = Math.floor(each.share * model.content.length);
      if (offset < model.first) {
        await assert.rejects(log.read(Buffer.alloc(10), offset), ReclaimedError);
      } else {
        assert.equal((await readAll(log, offset)).toString('latin1'), model.content.slice(offset));
      }
      break;
    }
    case 'reclaim': {
      const to = model.content.lastIndexOf('\n', Math.floor(each.share * model.content.length)) + 1;
      if (to > model.first) {
        await log.advance(to, model.content.slice(model.first, to).split('\n').length - 1);
        const lines = model.content.slice(model.first, to).split('\n').length - 1;
        assert.equal(log.linesReclaimedSince(model.first), lines);
        model.first = to;
        await punchWithFallocate(log.file.path, 0, to);
      }
      break;
    }
    case 'restart':
      break;
  }
  assert.deepEqual([log.first, log.end], [model.first, model.content.length]);
}

test('LogFile: writes, reads, tails, reclaims and restarts in any order agree with a simple model', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(action, { maxLength: 25 }), async (actions) => {
      await withFolder(async (folder) => {
        const model = new Model();
        let log = await openLog(folder);
        const epoch = log.epoch;
        for (const each of actions) {
          if (each.do === 'restart') {
            await log.close();
            log = await openLog(folder);
          }
          await apply(each, log, model);
          assert.equal(log.epoch, epoch);
        }
        await log.close();
      });
    }),
    { numRuns: 60 },
  );
});

test('LogFile: a write wakes whoever waits, by inotify and not by the poll', async () => {
  await withFolder(async (folder) => {
    const log = await openLog(folder);
    const stop = new AbortController();
    assert.equal(log.file.start(stop.signal), true);
    const times: number[] = [];
    for (let round = 0; round < 20; round += 1) {
      const changed = log.changed(stop.signal);
      const before = performance.now();
      await appendFile(log.file.path, 'line\n');
      await changed;
      times.push(performance.now() - before);
    }
    stop.abort();
    times.sort((a, b) => a - b);
    assert.ok((times[10] ?? 1000) < 200, `half of the writes took ${times[10]} ms to be seen`);
    await log.close();
  });
});

test('LogFile: a truncated file is a new epoch, over a restart as well, and a replaced one too', async () => {
  await withFolder(async (folder) => {
    let log = await openLog(folder);
    await appendFile(log.file.path, 'one\ntwo\n');
    log.file.refresh();
    const first = log.epoch;
    await truncate(log.file.path, 0);
    log.file.refresh();
    assert.notEqual(log.epoch, first);
    await appendFile(log.file.path, 'one\ntwo\n');
    log.file.refresh();
    await log.advance(4, 1);
    const second = log.epoch;
    await log.close();
    await truncate(join(folder, 'log'), 0);
    log = await openLog(folder);
    assert.notEqual(log.epoch, second);
    assert.equal(log.first, 0);
    await log.close();
  });
});

test('LogFile: the last thousand lines of a gigabyte are found at once, and holes before them are no matter', async () => {
  await withFolder(async (folder) => {
    const handle = await open(join(folder, 'log'), 'a+');
    await handle.truncate(1 << 30);
    await handle.writeFile(`\n${'a line of the log\n'.repeat(5000)}`);
    await handle.close();
    const log = await openLog(folder);
    const before = performance.now();
    assert.equal(await log.tailOffset(1000), log.end - 18 * 1000);
    const tookMs = performance.now() - before;
    assert.ok(tookMs < 100, `it took ${tookMs} ms`);
    await log.close();
  });
});

test('keepWithin: the disk stays bounded, the boundary is a line start, and every lost line is counted', async () => {
  await withFolder(async (folder) => {
    assert.equal(await canPunch(folder, punchWithFallocate), true, 'this file system must be able to punch holes');
    const log = await openLog(folder);
    const stop = new AbortController();
    log.file.start(stop.signal);
    const faults: unknown[] = [];
    const retainBytes = 1 << 20;
    const onFault = (error: unknown): void => void faults.push(error);
    const kept = keepWithin({ log, retainBytes, punch: punchWithFallocate, onFault }, stop.signal);
    const block = Array.from({ length: 1000 }, (_, index) => `line ${index} ${'.'.repeat(index % 90)}\n`).join('');
    for (let round = 0; round < 200; round += 1) {
      await appendFile(log.file.path, block);
      await until(() => log.end - log.first <= retainBytes * 1.125 + block.length, 'space to be given back');
    }
    stop.abort();
    log.file.wake();
    await kept;
    assert.deepEqual(faults, []);
    const { size, blocks } = await stat(log.file.path);
    assert.equal(size, block.length * 200);
    assert.ok(blocks * 512 < retainBytes * 1.5, `${blocks * 512} bytes on the disk`);
    const rest = (await readAll(log, log.first)).toString();
    assert.match(rest, /^line \d+ /);
    assert.equal(rest.split('\n').length - 1 + log.linesReclaimedSince(0), 200_000);
    await log.close();
  });
});

test('keepWithin: where holes cannot be punched everything is kept, and the fault is told', async () => {
  await withFolder(async (folder) => {
    const refuse = (): Promise<void> => Promise.reject(new Error('Operation not supported'));
    assert.equal(await canPunch(folder, refuse), false);
    const log = await openLog(folder);
    const faults: unknown[] = [];
    const onFault = (error: unknown): void => void faults.push(error);
    await appendFile(log.file.path, 'line\n'.repeat(100_000));
    log.file.refresh();
    await keepWithin({ log, retainBytes: 1000, punch: refuse, onFault }, new AbortController().signal);
    assert.equal(faults.length, 1);
    const { blocks } = await stat(log.file.path);
    assert.ok(blocks * 512 >= 500_000);
    await log.close();
  });
});
