import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { stripAnsi } from './ansi.ts';

const cases: [title: string, line: string, expected: string][] = [
  ['plain text stays', 'plain text', 'plain text'],
  ['text beyond ASCII stays', 'zw\u00f6lf \u00a0 \ud83d\ude00', 'zw\u00f6lf \u00a0 \ud83d\ude00'],
  ['tabs and BEL stay', 'a\tb\x07', 'a\tb\x07'],
  ['colours', '\x1b[31mred\x1b[0m text', 'red text'],
  ['many parameters', '\x1b[38;2;1;2;3mx\x1b[m', 'x'],
  ['colon parameters', '\x1b[4:3mx', 'x'],
  ['private modes', '\x1b[?25lx\x1b[?25h', 'x'],
  ['intermediate bytes', '\x1b[1 qx', 'x'],
  ['a link, ended by ST', '\x1b]8;;http://a/\x1b\\text\x1b]8;;\x1b\\', 'text'],
  ['a title, ended by BEL', '\x1b]0;title\x07text', 'text'],
  ['DCS, SOS, PM and APC', '\x1bPq#0\x1b\\a\x1bXb\x1b\\c\x1b^d\x1b\\e\x1b_f\x1b\\g', 'aceg'],
  ['a reset', 'a\x1bcb', 'ab'],
  ['a character set', 'a\x1b(Bb', 'ab'],
  ['C1 CSI', 'a\u009b31mb', 'ab'],
  ['C1 OSC with C1 ST', 'a\u009d0;title\u009cb', 'ab'],
  ['C1 NEL', 'a\u0085b', 'ab'],
  ['a CSI that the line ends in', 'a\x1b[31', 'a'],
  ['an ESC that the line ends in', 'a\x1b', 'a'],
  ['a title that is not ended keeps its text', 'a\x1b]0;title', 'a0;title'],
  ['a CSI that is cut short by text', 'a\x1b[3\u00e4b', 'a\u00e4b'],
  ['an ESC before text beyond ASCII', 'a\x1b\u00e4b', 'a\u00e4b'],
  ['ESC ESC', 'a\x1b\x1b[1mb', 'ab'],
  ['an ESC before a control character', 'a\x1b\tb', 'a\tb'],
];

for (const [title, line, expected] of cases) {
  test(`stripAnsi: ${title}`, () => {
    assert.equal(stripAnsi(Buffer.from(line)).toString(), expected);
  });
}

test('stripAnsi: a line without sequences is the same buffer', () => {
  const line = Buffer.from('zw\u00f6lf');
  assert.equal(stripAnsi(line), line);
});

test('stripAnsi: what it gives of valid UTF-8 is valid UTF-8 and no longer', () => {
  const parts = fc.oneof(
    fc.string({ unit: 'binary', maxLength: 4 }),
    fc.constantFrom('\x1b', '\x1b[', '\x1b]', '\x1b\\', '\x07', '\x1bP', '\u009b', '\u009c', '\u00e4', '3', ';', 'm'),
  );
  fc.assert(
    fc.property(fc.array(parts, { maxLength: 30 }), (pieces) => {
      const line = Buffer.from(pieces.join(''));
      const stripped = stripAnsi(line);
      assert.ok(stripped.length <= line.length);
      assert.deepEqual(Buffer.from(stripped.toString()), Buffer.from(stripped));
      assert.ok(!stripped.includes(0x1b) || stripped !== line);
    }),
  );
});

test('stripAnsi: a megabyte of introducers without an end takes linear time', () => {
  const line = Buffer.from('\x1b]'.repeat(512 * 1024));
  const startedAtMs = performance.now();
  assert.equal(stripAnsi(line).length, 0);
  assert.ok(performance.now() - startedAtMs < 2_000);
});
