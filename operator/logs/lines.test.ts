import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { LineSplitter } from './lines.ts';

function split(chunks: readonly Buffer[], lineBytesMax: number): { lines: string[]; rest: string } {
  const lines: string[] = [];
  const splitter = new LineSplitter({
    lineBytesMax,
    onLine: (bytes, start, end, isContinuation) => {
      lines.push(`${isContinuation ? '+' : ''}${bytes.toString('latin1', start, end)}`);
    },
  });
  chunks.forEach((chunk) => {
    splitter.push(chunk);
  });
  return { lines, rest: splitter.rest.toString('latin1') };
}

test('LineSplitter: ends lines at \\n, drops one \\r before it, keeps blank lines and the unfinished rest', () => {
  const { lines, rest } = split([Buffer.from('a\r\n\n\r\n\r\r\nb\rc\nrest')], 100);
  assert.deepEqual(lines, ['a', '', '', '\r', 'b\rc']);
  assert.equal(rest, 'rest');
});

test('LineSplitter: a long line comes in pieces that end at characters', () => {
  assert.deepEqual(
    split([Buffer.from('€€€\n')], 4).lines,
    ['€', '+€', '+€'].map((text) => Buffer.from(text).toString('latin1')),
  );
  assert.deepEqual(split([Buffer.from('12345\n1234\r\n1234')], 4).lines, ['1234', '+5', '1234']);
  assert.deepEqual(split([Buffer.alloc(10, 0x80), Buffer.from('\n')], 4).lines.length, 3, 'also what is not UTF-8');
});

test('LineSplitter: the same bytes give the same lines however they are chunked', () => {
  const bytes = fc
    .array(fc.constantFrom('a', 'b', '\n', '\n', '\r', '€', 'xyzxyz', '\u0000', '🚀'), { maxLength: 60 })
    .map((parts) => Buffer.from(parts.join('')));
  fc.assert(
    fc.property(
      bytes,
      fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 1 }),
      fc.integer({ min: 4, max: 12 }),
      (all, sizes, max) => {
        const chunks: Buffer[] = [];
        for (let start = 0, index = 0; start < all.length; index += 1) {
          const size = sizes[index % sizes.length] ?? 1;
          chunks.push(all.subarray(start, start + size));
          start += size;
        }
        const [whole, parts] = [split([all, Buffer.from('\n')], max), split([...chunks, Buffer.from('\n')], max)];
        assert.deepEqual(parts, whole);
        const text = whole.lines.map((line) => line.replace(/^\+/, '')).join('');
        const expected = `${all.toString('latin1')}\n`.replaceAll(/\r?\n/g, '');
        assert.equal(text, expected);
      },
    ),
    { numRuns: 2000 },
  );
});

test('LineSplitter: an endless line is never held as a whole, and byte by byte costs no object for each byte', () => {
  let pieces = 0;
  const splitter = new LineSplitter({ lineBytesMax: 4096, onLine: () => (pieces += 1) });
  for (let index = 0; index < 100_000; index += 1) {
    splitter.push(Buffer.from('x'));
    assert.ok(index % 1000 !== 0 || splitter.rest.length <= 4096 + 66);
  }
  assert.ok(pieces >= 24);
});
