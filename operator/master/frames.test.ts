import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import type { LogBatch } from '../logs/source.ts';
import { lineBytesMax } from '../logs/source.ts';
import type { EncodedBatch } from '../logs/subscription.ts';
import { encodeEvent, encoderFor, frameBoundary, gapLine } from './frames.ts';

const plain = { isJson: false, isAnsiStripped: false };
const json = { isJson: true, isAnsiStripped: false };

function batchOf(lines: readonly Buffer[], timeAt: (index: number) => string | undefined = () => undefined): LogBatch {
  return { type: 'lines', lines, cursorAt: (index) => `c${index}`, timeAt };
}

/** Takes frames apart by the standard's rules, independently of the encoder. */
function decode(bytes: Buffer): Buffer[] {
  const payloads: Buffer[] = [];
  let at = 0;
  while (at < bytes.length) {
    assert.equal(bytes[at], 0x81);
    let length = bytes[at + 1]!;
    assert.equal(length & 0x80, 0, 'server frames are not masked');
    let start = at + 2;
    if (length === 126) {
      length = bytes.readUInt16BE(at + 2);
      assert.ok(length >= 126, 'the shortest length form is used');
      start = at + 4;
    } else if (length === 127) {
      length = Number(bytes.readBigUInt64BE(at + 2));
      assert.ok(length >= 65_536, 'the shortest length form is used');
      start = at + 10;
    }
    payloads.push(bytes.subarray(start, start + length));
    at = start + length;
  }
  assert.equal(at, bytes.length);
  return payloads;
}

function lineBytes({ bytes, offsets }: EncodedBatch, index: number): Buffer {
  return bytes.subarray(offsets[index], offsets[index + 1]);
}

test('encoderFor: a format has one encoder, so that its results are shared', () => {
  for (const isJson of [false, true]) {
    for (const isAnsiStripped of [false, true]) {
      assert.equal(encoderFor({ isJson, isAnsiStripped }), encoderFor({ isJson, isAnsiStripped }));
    }
  }
});

test('plain: lines of every length form come out whole, and each offset is a frame boundary', () => {
  const lengths = [0, 1, 125, 126, 127, 65_535, 65_536, 65_537, lineBytesMax];
  const lines = lengths.map((length) => Buffer.alloc(length, 'x'));
  const encoded = encoderFor(plain).encode(batchOf(lines));
  assert.equal(encoded.offsets.length, lines.length + 1);
  assert.deepEqual(decode(encoded.bytes), lines);
  for (const [index, line] of lines.entries()) assert.deepEqual(decode(lineBytes(encoded, index)), [line]);
});

test('plain: an empty batch is nothing', () => {
  const encoded = encoderFor(plain).encode(batchOf([]));
  assert.equal(encoded.bytes.length, 0);
  assert.deepEqual([...encoded.offsets], [0]);
});

test('plain: any bytes become what TextDecoder makes of them', () => {
  const decoder = new TextDecoder('utf-8', { ignoreBOM: true });
  const piece = fc.oneof(
    fc.uint8Array({ maxLength: 6 }),
    fc.string({ unit: 'binary', maxLength: 4 }).map((text) => Buffer.from(text)),
    fc.constantFrom(
      Buffer.from('efbbbf', 'hex'),
      Buffer.from('eda080', 'hex'),
      Buffer.from('f4908080', 'hex'),
      Buffer.from('c080', 'hex'),
      Buffer.from('e282', 'hex'),
      Buffer.from('f09f98', 'hex'),
    ),
  );
  const line = fc.array(piece, { maxLength: 8 }).map((pieces) => Buffer.concat(pieces));
  fc.assert(
    fc.property(fc.array(line, { maxLength: 10 }), (lines) => {
      const expected = lines.map((bytes) => decoder.decode(bytes));
      assert.deepEqual(
        decode(encoderFor(plain).encode(batchOf(lines)).bytes).map((bytes) => bytes.toString()),
        expected,
      );
      const objects = decode(encoderFor(json).encode(batchOf(lines)).bytes).map(
        (bytes) => (JSON.parse(bytes.toString()) as { line: string }).line,
      );
      assert.deepEqual(objects, expected);
    }),
    { numRuns: 500 },
  );
});

test('plain: a line that grows past the limit when repaired is cut at character boundaries, under one offset', () => {
  const bad = Buffer.alloc(lineBytesMax, 0xff);
  const encoded = encoderFor(plain).encode(batchOf([Buffer.from('before'), bad, Buffer.from('after')]));
  assert.deepEqual(decode(lineBytes(encoded, 0)), [Buffer.from('before')]);
  assert.deepEqual(decode(lineBytes(encoded, 2)), [Buffer.from('after')]);
  const pieces = decode(lineBytes(encoded, 1));
  assert.equal(pieces.length, 4);
  assert.ok(pieces.every((piece) => piece.length <= lineBytesMax && piece.length % 3 === 0));
  assert.equal(Buffer.concat(pieces).toString(), '\ufffd'.repeat(lineBytesMax));
});

test('ansi=strip: sequences go, the frames of both protocols stay right', () => {
  const batch = batchOf([
    Buffer.from('\x1b[1mbold\x1b[0m'),
    Buffer.from('\x1b[2J'),
    Buffer.from([0x61, 0xff, 0x9b, 0x6d]),
  ]);
  const texts = decode(encoderFor({ isJson: false, isAnsiStripped: true }).encode(batch).bytes).map(String);
  assert.deepEqual(texts, ['bold', '', 'a\ufffd\ufffdm']);
  const objects = decode(encoderFor({ isJson: true, isAnsiStripped: true }).encode(batch).bytes).map(
    (bytes) => JSON.parse(bytes.toString()) as unknown,
  );
  assert.deepEqual(objects[0], { type: 'line', cursor: 'c0', line: 'bold' });
});

test('json: a line has its cursor, and its time where it is known', () => {
  const time = '2025-01-01T00:00:00.123456789Z';
  const batch = batchOf([Buffer.from('say "hi"\t\x00'), Buffer.from('')], (index) => (index === 0 ? time : undefined));
  const objects = decode(encoderFor(json).encode(batch).bytes).map((bytes) => JSON.parse(bytes.toString()) as unknown);
  assert.deepEqual(objects, [
    { type: 'line', cursor: 'c0', time, line: 'say "hi"\t\x00' },
    { type: 'line', cursor: 'c1', line: '' },
  ]);
});

test('events: the plain protocol tells of gaps only, the JSON one of all', () => {
  const textOf = (bytes: Buffer | undefined): string | undefined =>
    bytes === undefined ? undefined : decode(bytes).map(String).join();
  const gap = { type: 'gap', lines: 1234, cause: 'rotated' } as const;
  assert.equal(textOf(encodeEvent(plain, gap)), '[ringmaster] 1234 lines were no longer available');
  assert.equal(gapLine(undefined), '[ringmaster] some lines were no longer available');
  assert.equal(encodeEvent(plain, { type: 'restart', cause: 'pod' }), undefined);
  assert.equal(encodeEvent(plain, { type: 'end' }), undefined);
  assert.equal(textOf(encodeEvent(json, gap)), '{"type":"gap","lines":1234,"cause":"rotated"}');
  assert.equal(
    textOf(encodeEvent(json, { ...gap, lines: undefined })),
    '{"type":"gap","lines":null,"cause":"rotated"}',
  );
  assert.equal(textOf(encodeEvent(json, { type: 'restart', cause: 'pod' })), '{"type":"restart","cause":"pod"}');
  assert.equal(textOf(encodeEvent(json, { type: 'end' })), '{"type":"end"}');
});

test('frameBoundary: slices hold whole frames, at most the limit, and never nothing', () => {
  const line = fc.nat({ max: 70_000 }).map((length) => Buffer.alloc(length, 'x'));
  fc.assert(
    fc.property(fc.array(line, { minLength: 1, maxLength: 8 }), fc.integer({ min: 1, max: 100_000 }), (lines, max) => {
      const { bytes } = encoderFor(plain).encode(batchOf(lines));
      const payloads: Buffer[] = [];
      let at = 0;
      while (at < bytes.length) {
        const end = frameBoundary(bytes, at, max);
        const slice = decode(bytes.subarray(at, end));
        assert.ok(slice.length > 0);
        assert.ok(end - at <= max || slice.length === 1);
        payloads.push(...slice);
        at = end;
      }
      assert.deepEqual(
        payloads.map((payload) => payload.length),
        lines.map((payload) => payload.length),
      );
    }),
  );
});

test('frames: they are no part of a slab that they would keep alive, be it one or many', () => {
  for (const count of [1, 100]) {
    const { bytes } = encoderFor(plain).encode(batchOf(Array.from({ length: count }, () => Buffer.alloc(100))));
    assert.equal(bytes.length, 102 * count);
    assert.equal(bytes.buffer.byteLength, 102 * count);
  }
});
