import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import {
  OrdinalCounter,
  StampReader,
  compareStamps,
  comparePositions,
  decodeCursor,
  encodeCursor,
  formatStamp,
  hashOf,
  matchLine,
  sinceTimeOf,
} from './resume.ts';

const position = fc.record({
  podSequence: fc.nat({ max: 100_000 }),
  seconds: fc.nat({ max: 4_000_000_000 }),
  nanos: fc.nat({ max: 999_999_999 }),
  ordinal: fc.integer({ min: 1, max: 100_000 }),
  hash: fc.nat({ max: 0xffffffff }),
});

test('cursor: survives the way there and back, is one printable word, and is bound to its instance', () => {
  fc.assert(
    fc.property(position, (at) => {
      const cursor = encodeCursor('uid-a', at);
      assert.match(cursor, /^[\x21-\x7e]{1,80}$/);
      assert.deepEqual(decodeCursor('uid-a', cursor), { ...at });
      assert.throws(() => decodeCursor('uid-b', cursor), { code: 'CURSOR_INVALID' });
    }),
  );
});

test('cursor: a changed character is noticed', () => {
  fc.assert(
    fc.property(position, fc.nat(), fc.constantFrom('0', 'z', '.', ' ', 'K'), (at, index, character) => {
      const cursor = encodeCursor('uid-a', at);
      const spot = index % cursor.length;
      const changed = cursor.slice(0, spot) + character + cursor.slice(spot + 1);
      fc.pre(changed !== cursor);
      assert.throws(() => decodeCursor('uid-a', changed), { code: 'CURSOR_INVALID' });
    }),
  );
});

test('comparePositions: is the order of pod, stamp and ordinal', () => {
  fc.assert(
    fc.property(position, position, (a, b) => {
      const keys = (at: typeof a): number[] => [at.podSequence, at.seconds, at.nanos, at.ordinal];
      const expected = keys(a).reduce((order, key, index) => order || key - (keys(b)[index] ?? 0), 0);
      assert.equal(Math.sign(comparePositions(a, b)), Math.sign(expected));
    }),
  );
});

test('StampReader: reads every shape of RFC 3339 that a kubelet writes, as instants', () => {
  const reader = new StampReader();
  const cases: [string, string, number][] = [
    ['2026-11-24T10:54:01.000000001Z x', '2026-11-24T10:54:01.000000001Z', 31],
    ['2026-11-24T12:54:01.000000001+02:00 x', '2026-11-24T10:54:01.000000001Z', 36],
    ['2026-11-24T05:24:01.000000001-05:30 x', '2026-11-24T10:54:01.000000001Z', 36],
    ['2026-11-24T10:54:01Z ', '2026-11-24T10:54:01.000000000Z', 21],
    ['2026-11-24T10:54:01.5Z \n', '2026-11-24T10:54:01.500000000Z', 23],
    ['2026-02-28T23:59:59.999999999Z y', '2026-02-28T23:59:59.999999999Z', 31],
  ];
  for (const [line, stamp, length] of cases) {
    const bytes = Buffer.from(line);
    assert.equal(reader.read(bytes, 0, bytes.length), length, line);
    assert.equal(formatStamp(reader), stamp);
  }
});

test('StampReader: what is no stamp is none', () => {
  const reader = new StampReader();
  const lines = [
    '',
    'failed to create fsnotify watcher: too many open files',
    '2026-11-24T10:54:01.000000001Z',
    '2026-11-24T10:54:01.000000001Zx',
    '2026-13-24T10:54:01.000000001Z x',
    '2026-11-24T10:54:01.000000001+0200 x',
    '2026-11-24 10:54:01.000000001Z x',
    '9999999999T999999999999999999999 x',
  ];
  for (const line of lines) {
    const bytes = Buffer.from(line);
    assert.equal(reader.read(bytes, 0, bytes.length), 0, line);
  }
});

test('OrdinalCounter: numbers lines of one stamp, also where others stand between them', () => {
  const counter = new OrdinalCounter();
  const stamps = [5, 5, 6, 5, 7, 6, 5, 9, 9, 8, 9];
  assert.deepEqual(
    stamps.map((nanos) => counter.next(1, nanos)),
    [1, 2, 1, 3, 1, 2, 4, 1, 2, 1, 3],
  );
});

test('matchLine: finds exactly the line, and knows what lies certainly beyond', () => {
  const bytes = Buffer.from('text');
  const at = { podSequence: 1, seconds: 100, nanos: 500, ordinal: 2, hash: hashOf(bytes) };
  const line = { seconds: 100, nanos: 500, ordinal: 2, bytes };
  assert.equal(matchLine(line, at, 1), 'found');
  assert.equal(matchLine({ ...line, ordinal: 1 }, at, 1), 'before');
  assert.equal(matchLine({ ...line, bytes: Buffer.from('other') }, at, 1), 'before');
  assert.equal(matchLine({ ...line, seconds: 101, nanos: 500 }, at, 1), 'before');
  assert.equal(matchLine({ ...line, seconds: 101, nanos: 501 }, at, 1), 'beyond');
  assert.equal(matchLine({ ...line, seconds: 5000 }, at, Number.POSITIVE_INFINITY), 'before');
});

test('sinceTimeOf: is in whole seconds, before the stamp', () => {
  const stamp = { seconds: Date.UTC(2026, 0, 1) / 1000, nanos: 999_999_999 };
  assert.equal(sinceTimeOf(stamp, 1), '2025-12-31T23:59:59Z');
  assert.equal(sinceTimeOf({ seconds: 0, nanos: 0 }, 1), '1970-01-01T00:00:00Z');
  assert.ok(compareStamps(stamp, { ...stamp, nanos: 0 }) > 0);
});
