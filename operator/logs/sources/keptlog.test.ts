import assert from 'node:assert/strict';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import { LogFile } from '../../../sidecar/log.ts';
import { formatStarts, startsPath } from '../../../sidecar/notes.ts';
import { sealMessage } from '../../../sidecar/protocol.ts';
import { sealLog } from '../../../sidecar/seal.ts';
import { Starts } from '../../../sidecar/starts.ts';
import { ApiError } from '../../runtime/client.ts';
import type { Client } from '../../runtime/client.ts';
import { KeptLog } from './keptlog.ts';

const { signal } = new AbortController();

/** What the kubelet gives of the two containers of a pod that has ended; undefined where there is no such container. */
interface Copies {
  readonly sidecar: string | undefined;
  readonly last: Buffer | undefined;
  readonly previous?: Buffer | undefined;
}

function kubelet(copies: Copies): Pick<Client, 'log'> {
  return {
    log: (_ref, { container, previous }) => {
      const { sidecar, last } = copies;
      const found =
        container === 'instance'
          ? previous === true
            ? copies.previous
            : last
          : sidecar === undefined
            ? undefined
            : Buffer.from(sidecar);
      return found === undefined
        ? Promise.reject(new ApiError({ code: 400, reason: 'BadRequest', message: 'no such container' }))
        : Promise.resolve(inPieces(found));
    },
  };
}

async function* inPieces(bytes: Buffer): AsyncGenerator<Buffer> {
  for (let at = 0; at < bytes.length; at += 1009) yield await Promise.resolve(bytes.subarray(at, at + 1009));
}

/** The line that a real sidecar writes of a log in which runs begin at these offsets. */
async function sealOf(bytes: Buffer, starts: readonly number[] = [0]): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'kept-'));
  try {
    const run = join(directory, 'run');
    await mkdir(run);
    await writeFile(join(directory, 'log'), bytes);
    await writeFile(startsPath(run), formatStarts(starts.map((offset, index) => ({ starts: index + 1, offset }))));
    const log = await LogFile.open(join(directory, 'log'), join(directory, 'log.json'));
    const noted = await Starts.open(run);
    const seal = await sealLog(log, noted);
    await log.close();
    return `{"level":"info","msg":"Serving"}\n${JSON.stringify({ level: 'info', ...seal, msg: sealMessage })}\n{"level":"info","msg":"Stopped"}\n`;
  } finally {
    await rm(directory, { recursive: true });
  }
}

async function find(copies: Copies): Promise<KeptLog> {
  const kept = await KeptLog.find({ pods: kubelet(copies), namespace: 'games', podName: 'a' }, signal);
  assert.ok(kept instanceof KeptLog);
  return kept;
}

/** Reads as a follower does, body after body: pieces `[offset, run, bytes]`, none across a gap. */
async function readFrom(kept: KeptLog, offset: number): Promise<[number, number, Buffer][]> {
  const pieces: [number, number, Buffer][] = [];
  for (let at = offset, bodies = 0; ; bodies += 1) {
    assert.ok(bodies < 1000, 'it comes to an end');
    const log = await kept.open({ offset: at, follow: true }, signal);
    assert.ok(log.startOffset >= at);
    const chunks = [];
    for await (const chunk of log.bytes) chunks.push(chunk);
    const bytes = Buffer.concat(chunks);
    if (bytes.length > 0) pieces.push([log.startOffset, log.run, bytes]);
    at = log.startOffset + bytes.length;
    if (log.endReason === 'complete') {
      assert.equal(at, log.endOffset);
      return pieces;
    }
    assert.ok(bytes.length > 0, 'each body leads on');
  }
}

async function tailOf(kept: KeptLog, tail: number): Promise<string> {
  const log = await kept.open({ tail, follow: false }, signal);
  const chunks = [];
  for await (const chunk of log.bytes) chunks.push(chunk);
  assert.equal(log.endReason, 'complete');
  return Buffer.concat(chunks).toString();
}

function numbered(from: number, to: number): Buffer {
  let text = '';
  for (let number = from; number <= to; number += 1) text += `line ${number}\n`;
  return Buffer.from(text);
}

test('kept log: a whole copy gives every byte from any offset on', async () => {
  const log = Buffer.concat([numbered(1, 5000), Buffer.from('without an end')]);
  const kept = await find({ sidecar: await sealOf(log), last: log });
  for (const offset of [0, 7, 4096, log.length - 3, log.length]) {
    const wanted = offset === log.length ? [] : [[offset, 1, log.subarray(offset)]];
    assert.deepEqual(await readFrom(kept, offset), wanted);
  }
});

test('kept log: the last lines; one without an end is a line, and so is one before it', async () => {
  const log = Buffer.from('one\ntwo\n\nfour\nfive');
  const kept = await find({ sidecar: await sealOf(log), last: log });
  assert.equal(await tailOf(kept, 0), '');
  assert.equal(await tailOf(kept, 1), 'five');
  assert.equal(await tailOf(kept, 3), '\nfour\nfive');
  assert.equal(await tailOf(kept, 5), log.toString());
  assert.equal(await tailOf(kept, 1000), log.toString());
  const ended = Buffer.from('one\ntwo\n');
  const other = await find({ sidecar: await sealOf(ended), last: ended });
  assert.equal(await tailOf(other, 1), 'two\n');
  assert.equal(await tailOf(other, 2), 'one\ntwo\n');
});

test('kept log: two runs come with their numbers, and the line end that the second one began with', async () => {
  const [first, second] = [Buffer.from('a\nb without an end'), numbered(1, 3)];
  const log = Buffer.concat([first, Buffer.from('\n'), second]);
  const kept = await find({
    sidecar: await sealOf(log, [0, first.length + 1]),
    last: second,
    previous: first,
  });
  assert.deepEqual(await readFrom(kept, 0), [
    [0, 1, log.subarray(0, first.length + 1)],
    [first.length + 1, 2, second],
  ]);
  const { endReason, bytes } = await kept.open({ offset: 2, follow: true }, signal);
  assert.equal(endReason, undefined, 'not before it has ended');
  for await (const chunk of bytes) assert.ok(chunk.length > 0);
  assert.equal(await tailOf(kept, 4), `b without an end\n${second.toString()}`);
});

test('kept log: what launchers say among the lines is left out, and offsets are none the wiser', async () => {
  const log = numbered(1, 3000);
  const half = log.indexOf('line 1500');
  const said = [
    '{"level":"info","time":"2026-01-01T00:00:00.000Z","name":"docker-launcher","msg":"Started the container"}\n',
    '/ringmaster/launch.sh: line 205: 12 Killed\n',
  ].map((line) => Buffer.from(line));
  const last = Buffer.concat([...said, log.subarray(0, half), ...said, log.subarray(half), said[0] ?? Buffer.alloc(0)]);
  const kept = await find({ sidecar: await sealOf(log), last });
  assert.deepEqual(await readFrom(kept, 0), [[0, 1, log]]);
});

test('kept log: a program that writes what a launcher would has lines missing, and never others in their place', async () => {
  const odd = Buffer.from('{"level":"info","time":"x","name":"docker-launcher"}\n');
  const log = Buffer.concat([numbered(1, 2000), odd, numbered(1, 2000)]);
  const kept = await find({ sidecar: await sealOf(log), last: log });
  const pieces = await readFrom(kept, 0);
  assertTrue(log, pieces);
  assert.ok(sizeOf(pieces) > log.length - 4 * 4096);
});

test('kept log: an answer that ends too early is noticed, while it is looked at and while it is given', async () => {
  const log = numbered(1, 5000);
  const whole = kubelet({ sidecar: await sealOf(log), last: log });
  const shortened = kubelet({ sidecar: await sealOf(log), last: log.subarray(0, 20_000) });
  let reads = 0;
  const pods: Pick<Client, 'log'> = {
    log: (ref, options) => {
      reads += options.container === 'instance' ? 1 : 0;
      // The first of two looks, then, once both were whole, the first reading.
      return (reads === 1 || reads === 5 ? shortened : whole).log(ref, options);
    },
  };
  const kept = await KeptLog.find({ pods, namespace: 'games', podName: 'a' }, signal);
  assert.ok(kept instanceof KeptLog);
  assert.equal(reads, 4);
  const cut = await kept.open({ offset: 0, follow: true }, signal);
  await assert.rejects(async () => {
    for await (const chunk of cut.bytes) assert.ok(chunk.length > 0);
  }, /missing/);
  assert.equal(cut.endReason, undefined);
  assert.deepEqual(await readFrom(kept, 0), [[0, 1, log]]);
});

test('kept log: without a mirror, without the seal, without the pod', async () => {
  const log = numbered(1, 10);
  const quiet = await find({ sidecar: await sealOf(log), last: Buffer.alloc(0) });
  assert.deepEqual(await readFrom(quiet, 0), []);
  assert.equal((await quiet.open({ tail: 5, follow: true }, signal)).isLost, true);
  assert.equal((await quiet.open({ tail: 0, follow: true }, signal)).isLost, false);
  const silent = await find({ sidecar: await sealOf(Buffer.alloc(0), []), last: Buffer.alloc(0) });
  assert.equal((await silent.open({ tail: 5, follow: true }, signal)).isLost, false);
  const texts = [undefined, '', '{"msg":"Log sealed"}\n', `{"epoch":"0123456789abcdef","msg":"${sealMessage}`];
  const found = texts.map((sidecar) =>
    KeptLog.find({ pods: kubelet({ sidecar, last: log }), namespace: 'games', podName: 'a' }, signal),
  );
  assert.deepEqual(await Promise.all(found), [undefined, 'unsealed', 'unsealed', 'unsealed']);
});

function assertTrue(log: Buffer, pieces: readonly [number, number, Buffer][], starts: readonly number[] = [0]): void {
  let end = -1;
  for (const [offset, run, bytes] of pieces) {
    assert.ok(offset >= end, 'no byte twice');
    end = offset + bytes.length;
    assert.ok(log.subarray(offset, end).equals(bytes), 'the bytes of the log at their place');
    assert.ok(offset === 0 || log[offset - 1] === 10, 'the start of a line');
    assert.ok(end === log.length || log[end - 1] === 10, 'the end of a line');
    assert.equal(run, starts.findLastIndex((start) => start <= offset) + 1);
  }
}

function sizeOf(pieces: readonly [number, number, Buffer][]): number {
  return pieces.reduce((sum, [, , { length }]) => sum + length, 0);
}

const runText = fc
  .tuple(
    fc.array(fc.tuple(fc.integer({ min: 0, max: 2000 }), fc.boolean()), { maxLength: 60, size: 'max' }),
    fc.boolean(),
  )
  .map(([lines, isEnded]) => {
    // Lines that differ, and lines that do not.
    const text = lines.map(([length, isSame], index) => (isSame ? 'same' : `${index}${'x'.repeat(length)}`)).join('\n');
    return Buffer.from(isEnded && text !== '' ? `${text}\n` : text);
  });

/** Of a copy, the part between two shares of its bytes is missing: at the beginning, at the end, or in the middle. */
const missing = fc.tuple(fc.constantFrom('nothing', 'begin', 'middle', 'end'), fc.nat(1000), fc.nat(1000));

function without([where, one, other]: readonly [string, number, number], copy: Buffer): Buffer {
  const at = (share: number): number => Math.floor((share / 1000) * copy.length);
  const [from, to] = [
    where === 'begin' ? 0 : at(Math.min(one, other)),
    where === 'end' ? copy.length : at(Math.max(one, other)),
  ];
  return where === 'nothing' ? copy : Buffer.concat([copy.subarray(0, from), copy.subarray(to)]);
}

test('kept log: whatever is missing of the copies, what is given is the log, at its place; and where nothing is missing, all of it', async () => {
  const history = fc.record({
    runs: fc.array(runText, { minLength: 1, maxLength: 3 }),
    missing: fc.tuple(missing, missing),
    from: fc.nat(1000),
  });
  await fc.assert(
    fc.asyncProperty(history, async ({ runs, missing: [ofLast, ofPrevious], from }) => {
      let log = Buffer.alloc(0);
      const starts: number[] = [];
      for (const run of runs) {
        if (log.length > 0 && log.at(-1) !== 10) log = Buffer.concat([log, Buffer.from('\n')]);
        starts.push(log.length);
        log = Buffer.concat([log, run]);
      }
      const [last = Buffer.alloc(0), previous] = [runs.at(-1), runs.at(-2)];
      const kept = await find({
        sidecar: await sealOf(log, starts),
        last: without(ofLast, last),
        previous: previous && without(ofPrevious, previous),
      });
      const whole = await readFrom(kept, 0);
      assertTrue(log, whole, starts);
      const isWhole = ofLast[0] === 'nothing' && ofPrevious[0] === 'nothing';
      if (isWhole) assert.equal(sizeOf(whole), log.length - (starts.at(-2) ?? 0));
      const [offset = 0] = whole[Math.floor((from / 1001) * whole.length)] ?? [];
      assert.deepEqual(
        await readFrom(kept, offset),
        whole.filter(([at]) => at >= offset),
      );
    }),
    { numRuns: Number(process.env['MODEL_RUNS'] ?? 150) },
  );
});
