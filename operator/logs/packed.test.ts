import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { PackedBatch } from './packed.ts';
import { Ring } from './ring.ts';
import type { LogBatch } from './source.ts';
import type { Encoder } from './subscription.ts';

interface Line {
  readonly bytes: Uint8Array;
  readonly cursor: string;
  readonly time: string | undefined;
}

const lineArbitrary: fc.Arbitrary<Line> = fc.record(
  {
    bytes: fc.uint8Array({ maxLength: 40 }),
    cursor: fc.nat().map((offset) => `s1.0.0123456789abcdef.${offset.toString(36)}`),
    time: fc.option(
      fc.nat({ max: 999_999_999 }).map((nanos) => `2026-01-01T00:00:00.${nanos.toString().padStart(9, '0')}Z`),
      { nil: undefined },
    ),
  },
  { noNullPrototype: true },
);

function toBatch(lines: readonly Line[]): LogBatch {
  return {
    type: 'lines',
    lines: lines.map(({ bytes }) => Buffer.from(bytes)),
    cursorAt: (index) => lines[index]?.cursor ?? assert.fail(),
    timeAt: (index) => lines[index]?.time,
  };
}

test('packed: many batches in one have the same lines, positions and times', () => {
  fc.assert(
    fc.property(fc.array(fc.array(lineArbitrary, { minLength: 1, maxLength: 8 }), { minLength: 1 }), (batches) => {
      const lines = batches.flat();
      const packed = new PackedBatch(batches.map(toBatch));
      assert.equal(packed.lineCount, lines.length);
      assert.deepEqual(
        packed.lines.map((bytes, index) => ({
          bytes: new Uint8Array(bytes),
          cursor: packed.cursorAt(index),
          time: packed.timeAt(index),
        })),
        lines,
      );
      assert.throws(() => packed.cursorAt(lines.length), RangeError);
    }),
  );
});

const encoder: Encoder = {
  encode: ({ lines }) => ({ bytes: Buffer.concat(lines), offsets: new Uint32Array(lines.length + 1) }),
};

test('ring: what everybody has taken is packed to a tenth of its memory, with the same lines at the same places', () => {
  const lines = Array.from({ length: 1000 }, (_, index) => ({
    bytes: Buffer.from(`12:00:00 [INFO] player ${index} joined the game`),
    cursor: `c${index.toString().padStart(4, '0')}`,
    time: undefined,
  }));
  const ring = new Ring({ ringBytesMax: 1e9, ringLinesMax: 1e9, packEntries: 64 }, (a, b) => (a < b ? -1 : +(a > b)));
  for (const [index, line] of lines.entries()) {
    ring.append(index === 500 ? { type: 'restart', cause: 'container' } : toBatch([line]));
    const chunk = ring.entry(index)?.chunk(0);
    if (chunk?.type === 'lines') chunk.encoded(encoder);
  }
  const before = ring.bytes;
  ring.pack(ring.nextSequence - 100);
  // A line that came alone is counted with 1.3 KB at least: chunk, view, batch, entry and frames.
  assert.ok(before > 1200 * 1000 && ring.bytes < 0.2 * before, `${before} bytes became ${ring.bytes}`);
  assert.equal(ring.lines, 999);
  for (const index of [0, 63, 64, 498, 499, 501, 999]) {
    const place = ring.placeAfter(`c${index.toString().padStart(4, '0')}`);
    const missing = index < 500 ? 999 - index - 1 : 999 - index;
    assert.equal(place && ring.linesAfter(place), missing, `after line ${index}`);
    const last = ring.lastLines(missing);
    assert.equal(last && ring.linesAfter(last), missing, `the last ${missing}`);
  }
  while (ring.oldestSequence < ring.nextSequence) {
    ring.evict();
  }
  assert.deepEqual([ring.nextSequence, ring.lines], [1000, 0]);
  assert.equal(ring.bytes, 0, 'what was counted is given back');
});

test('ring: of many lines that came together only the frames are given back, and made again for who joins there', () => {
  const lines = Array.from({ length: 100 }, (_, index) => ({
    ...{ bytes: Buffer.from(`line ${index}`), cursor: `c${index}`, time: undefined },
  }));
  const ring = new Ring({ ringBytesMax: 1e9, ringLinesMax: 1e9, packEntries: 2 }, () => 0);
  const encode = (): Buffer => {
    const chunk = ring.entry(0)?.chunk(0);
    return chunk?.type === 'lines' ? chunk.encoded(encoder) : assert.fail();
  };
  for (let count = 0; count < 2; count += 1) ring.append(toBatch(lines));
  const before = ring.bytes;
  const frames = encode();
  assert.ok(ring.bytes > before + frames.length);
  ring.pack(2);
  assert.equal(ring.bytes, before);
  assert.notEqual(encode(), frames);
  assert.deepEqual(encode(), frames);
});

test('ring: what is encoded after it was dropped or packed does not count', () => {
  const line = { bytes: Buffer.from('line'), cursor: 'c', time: undefined };
  const ring = new Ring({ ringBytesMax: 1e9, ringLinesMax: 1e9, packEntries: 2 }, () => 0);
  for (let count = 0; count < 4; count += 1) ring.append(toBatch([line]));
  const taken = [0, 1, 2, 3].map((sequence) => ring.entry(sequence)?.chunk(0));
  ring.pack(2);
  while (ring.oldestSequence < ring.nextSequence) ring.evict();
  for (const chunk of taken) if (chunk?.type === 'lines') chunk.encoded(encoder);
  assert.equal(ring.bytes, 0);
});
