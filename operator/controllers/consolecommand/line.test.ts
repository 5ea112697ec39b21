import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { splitRaw, splitWords } from './line.ts';

const quote = (word: string): string => `'${word.replaceAll("'", String.raw`'\''`)}'`;

test('splitWords: words in single quotes come back exactly, whatever they hold', () => {
  fc.assert(
    fc.property(fc.array(fc.string({ unit: 'binary' }), { maxLength: 6 }), (words) => {
      assert.deepEqual(splitWords(words.map(quote).join(' ')), words);
    }),
  );
});

test('splitWords: nothing is expanded', () => {
  assert.deepEqual(splitWords(String.raw`a $HOME *.ts ; | > #b $(x) $'a\n' "$b"`), [
    ...['a', '$HOME', '*.ts', ';', '|', '>', '#b', '$(x)', String.raw`$a\n`, '$b'],
  ]);
});

test('splitWords: an open quote and a lone backslash are said in words', () => {
  assert.throws(() => splitWords('a "b'), { name: 'RangeError', message: 'a quote is not closed' });
  assert.throws(() => splitWords('a \\'), { name: 'RangeError', message: 'a backslash is at the end' });
});

test('splitRaw: the rest of the line is what was written, byte for byte', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), (rest) => {
      assert.deepEqual(splitRaw(`instance  execute a1b2c3 ${rest}`, 3), {
        words: ['instance', 'execute', 'a1b2c3'],
        rest,
      });
    }),
  );
});
