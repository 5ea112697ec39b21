import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { FrameParser, LineMender, LogStreamError, pieceBytes } from './demux.ts';
import type { LogRecord } from './demux.ts';
import { Aligner } from './position.ts';
import type { Anchor } from './position.ts';

function stampOf(number: number): string {
  return `2026-01-01T00:00:00.${String(number).padStart(9, '0')}Z`;
}

/** What the Engine keeps of a line: pieces of 16 KiB under one stamp, the last one without its end, as Docker 20.10 does. */
function recordsOf(lines: readonly Line[]): LogRecord[] {
  return lines.flatMap(({ stream, bytes, fill }, index) => {
    const stamp = stampOf(index);
    if (bytes < pieceBytes) {
      return [{ stream, stamp, bytes: Buffer.from(`${fill.repeat(bytes)}\n`) }];
    }
    const whole = Buffer.from(fill.repeat(bytes));
    const pieces: LogRecord[] = [];
    for (let at = 0; at <= whole.length; at += pieceBytes) {
      pieces.push({ stream, stamp, bytes: whole.subarray(at, at + pieceBytes) });
    }
    return pieces;
  });
}

interface Line {
  readonly stream: 'stdout' | 'stderr';
  readonly bytes: number;
  readonly fill: string;
}

const line: fc.Arbitrary<Line> = fc.record({
  stream: fc.constantFrom('stdout', 'stderr'),
  bytes: fc.oneof(
    { weight: 8, arbitrary: fc.nat(20) },
    { weight: 1, arbitrary: fc.constantFrom(pieceBytes - 1, pieceBytes, pieceBytes + 1, 2 * pieceBytes, 40_000) },
  ),
  fill: fc.constantFrom('a', 'b'),
});

function frame(record: LogRecord): Buffer {
  const payload = Buffer.concat([Buffer.from(`${record.stamp} `), record.bytes]);
  const header = Buffer.alloc(8);
  header.writeUInt8(record.stream === 'stdout' ? 1 : 2, 0);
  header.writeUInt32BE(payload.length, 4);
  return Buffer.concat([header, payload]);
}

test('FrameParser: chunks of any size give the same records', () => {
  fc.assert(
    fc.property(
      fc.array(line, { maxLength: 30 }),
      fc.array(fc.integer({ min: 1, max: 9000 }), { minLength: 1 }),
      (lines, sizes) => {
        const records = recordsOf(lines);
        const stream = Buffer.concat(records.map(frame));
        const parser = new FrameParser();
        const parsed: LogRecord[] = [];
        for (let at = 0, turn = 0; at < stream.length; turn += 1) {
          const size = sizes[turn % sizes.length]!;
          parsed.push(...parser.push(stream.subarray(at, at + size)));
          at += size;
        }
        assert.deepEqual(parsed, records);
      },
    ),
    { numRuns: 100 },
  );
});

test("FrameParser: the Engine's complaint, a stream out of step and a record without a stamp are errors", () => {
  const complaint = Buffer.concat([Buffer.from([3, 0, 0, 0, 0, 0, 0, 4]), Buffer.from('oops')]);
  assert.throws(
    () => new FrameParser().push(complaint),
    (error) => error instanceof LogStreamError && error.message.includes('"oops"'),
  );
  assert.throws(() => new FrameParser().push(Buffer.from([1, 0, 0, 0, 255, 0, 0, 0])), /claims 4278190080 bytes/);
  assert.throws(() => new FrameParser().push(Buffer.from([1, 0, 0, 0, 0, 0, 0, 1, 65])), /no time stamp/);
});

test('LineMender: a long line gets its end back; a last line without one stays so', () => {
  const mend = (records: readonly LogRecord[]): string => {
    const mender = new LineMender();
    return Buffer.concat(records.map((record) => mender.mend(record))).toString();
  };
  for (const bytes of [pieceBytes - 1, pieceBytes, pieceBytes + 1, 2 * pieceBytes, 40_000]) {
    assert.equal(mend(recordsOf([{ stream: 'stdout', bytes, fill: 'x' }])), `${'x'.repeat(bytes)}\n`, String(bytes));
  }
  assert.equal(mend([{ stream: 'stdout', stamp: stampOf(1), bytes: Buffer.from('no end') }]), 'no end');
  const fixed = [Buffer.alloc(pieceBytes, 'x'), Buffer.from('rest\n')];
  assert.equal(
    mend(fixed.map((bytes) => ({ stream: 'stderr', stamp: stampOf(1), bytes }))),
    `${'x'.repeat(pieceBytes)}rest\n`,
  );
});

test('Aligner: whatever moments the copy is killed at, each byte is copied once', () => {
  const kill = fc.record({
    records: fc.nat(40),
    bytes: fc.nat(50),
    isAnchorKept: fc.boolean(),
    tail: fc.integer({ min: 1, max: 30 }),
  });
  fc.assert(
    fc.property(fc.array(line, { minLength: 1, maxLength: 40 }), fc.array(kill, { maxLength: 8 }), (lines, kills) => {
      const records = recordsOf(lines);
      const mender = new LineMender();
      const expected = Buffer.concat(records.map((record) => mender.mend(record)));
      let file: Buffer = Buffer.alloc(0);
      let anchor: Anchor | undefined;

      /** One stream; the copy dies after some records, in the middle of writing the last one's bytes. False: the place is not in it. */
      const pass = (
        tail: number | undefined,
        death: { records: number; bytes: number; isAnchorKept: boolean },
      ): boolean => {
        const copied = file;
        const aligner = new Aligner({
          position: { copiedBytes: copied.length, anchor },
          tailRecords: tail,
          readCopied: (at, length) => copied.subarray(at, at + length),
          onMismatch: () => assert.fail('a mismatch where there is none'),
        });
        const seen = (tail === undefined ? records : records.slice(-tail)).slice(0, death.records);
        for (const [index, record] of seen.entries()) {
          const placed = aligner.place(record);
          if (placed.kind === 'missing') {
            return false;
          }
          const isLast = index === death.records - 1;
          const bytes = placed.kind === 'fresh' ? placed.bytes : Buffer.alloc(0);
          file = Buffer.concat([file, isLast ? bytes.subarray(0, death.bytes) : bytes]);
        }
        if (death.isAnchorKept && (aligner.anchor?.copiedBytes ?? 0) <= file.length) {
          anchor = aligner.anchor;
        }
        return aligner.isPlaced;
      };

      const never = { records: Infinity, bytes: Infinity, isAnchorKept: true };
      for (const { tail, ...death } of [...kills, { tail: 5, ...never }]) {
        if (anchor === undefined || !pass(tail, death)) {
          pass(undefined, death);
        }
      }
      assert.ok(file.equals(expected), `${file.length} bytes instead of ${expected.length}`);
    }),
    { numRuns: 500 },
  );
});

test('Aligner: an Engine log that is not what was copied is told once, and the copy goes on behind what it has', () => {
  let told = 0;
  const aligner = new Aligner({
    position: { copiedBytes: 6, anchor: undefined },
    tailRecords: undefined,
    readCopied: (at, length) => Buffer.from('aa\nbb\n').subarray(at, at + length),
    onMismatch: () => {
      told += 1;
    },
  });
  const place = (text: string): unknown =>
    aligner.place({ stream: 'stdout', stamp: stampOf(1), bytes: Buffer.from(text) });
  assert.deepEqual(place('aa\n'), { kind: 'skipped' });
  assert.deepEqual(place('XX\n'), { kind: 'skipped' });
  assert.deepEqual(place('cc\n'), { kind: 'fresh', bytes: Buffer.from('cc\n') });
  assert.equal(told, 1);
});
