import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { test } from 'node:test';
import fc from 'fast-check';
import { splitLine } from '../testing/dispatcher.ts';
import { issuerOf } from './commandline.ts';
import { quoteWord, toLine } from './runline.ts';

test('runline: a plain word stays as it is, all others are in single quotes', () => {
  assert.deepEqual(['lobby', 'games/lobby', '--token=1', '', 'a b', "it's", '$HOME', '{"a":1}'].map(quoteWord), [
    'lobby',
    'games/lobby',
    '--token=1',
    "''",
    "'a b'",
    String.raw`'it'\''s'`,
    "'$HOME'",
    `'{"a":1}'`,
  ]);
});

test('runline: words come back from a line exactly, whatever they hold', () => {
  fc.assert(
    fc.property(fc.array(fc.string({ unit: 'binary' })), (words) => {
      assert.deepEqual(splitLine(toLine(words)), words);
    }),
  );
});

test('runline: a POSIX shell reads the words as we write them', () => {
  const words = ["it's", "''", '\\', '$(id) `id` "x" *', '\t~ #', 'ü\u2028'];
  const script = `printf '%s\\0' ${toLine(words)}`;
  assert.deepEqual(execFileSync('sh', ['-c', script], { encoding: 'utf8' }).split('\0').slice(0, -1), words);
});

test('runline: an ApiKey and a user of Kubernetes are told apart by their names', () => {
  assert.deepEqual(issuerOf('dashboard'), { kind: 'ApiKey', name: 'dashboard' });
  const name = 'system:serviceaccount:games:bot';
  assert.deepEqual(issuerOf(`user:${name}`), { kind: 'User', name });
  assert.equal(issuerOf(`user:${'x'.repeat(600)}`).name.length, 512);
});
