import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { pieceBytesMax, pieceLinesMax, piecesOf } from './pieces.ts';
import type { LogBatch, LogEvent } from './source.ts';

const batchOf = (lengths: readonly number[]): LogBatch => ({
  type: 'lines',
  lines: lengths.map((length, index) => Buffer.alloc(length, index)),
  cursorAt: (index) => `c${index}`,
  timeAt: (index) => `t${index}`,
});

test('pieces: the lines of a batch with their cursors and times, in order, none over the limits but a single line', () => {
  const length = fc.oneof(fc.constant(0), fc.nat({ max: 200 }), fc.constantFrom(pieceBytesMax - 1, 2 * pieceBytesMax));
  fc.assert(
    fc.property(fc.array(length, { minLength: 1, maxLength: 1500, size: 'max' }), (lengths) => {
      const batch = batchOf(lengths);
      const pieces = piecesOf(batch) as LogBatch[];
      for (const { lines } of pieces) {
        const bytes = lines.reduce((sum, line) => sum + line.length, 0);
        assert.ok(lines.length === 1 || (lines.length <= pieceLinesMax && bytes <= pieceBytesMax));
      }
      const given = pieces.flatMap((piece) =>
        piece.lines.map((line, at) => [line, piece.cursorAt(at), piece.timeAt(at)]),
      );
      assert.equal(given.length, batch.lines.length);
      for (const [index, [line, cursor, time]] of given.entries()) {
        assert.equal(line, batch.lines[index], 'the very bytes, not a copy');
        assert.deepEqual([cursor, time], [`c${index}`, `t${index}`]);
      }
    }),
    { numRuns: 50 },
  );
});

test('pieces: a batch within the limits, and any other event, is given as it is', () => {
  const batch = batchOf([pieceBytesMax - 1, 1]);
  assert.equal(piecesOf(batch)[0], batch);
  assert.deepEqual(piecesOf({ type: 'end' }), [{ type: 'end' }]);
});

test('pieces: 256 lines or 16 KiB, as the protocol says', () => {
  const lengths = (event: LogEvent): number[] =>
    piecesOf(event).map((piece) => (piece.type === 'lines' ? piece.lines.length : 0));
  assert.deepEqual(lengths(batchOf(new Array<number>(518).fill(1))), [256, 256, 6]);
  assert.deepEqual(lengths(batchOf([8192, 8192, 1])), [2, 1]);
});
