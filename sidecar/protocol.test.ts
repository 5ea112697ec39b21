import assert from 'node:assert/strict';
import { test } from 'node:test';
import { deriveKey, protocolVersions, versionFault, versionWords } from './protocol.ts';
import { parseLogQuery } from './query.ts';
import { parseLines } from './stdin.ts';
import { parseWorkload } from './status.ts';

test('deriveKey: is HMAC-SHA256 of the uid, and refuses a weak master key', () => {
  // RFC 4231, test case 6 has a longer key than this; computed with openssl dgst -sha256 -mac hmac.
  const key = deriveKey(Buffer.alloc(32, 0x0b), 'uid');
  assert.equal(key.length, 32);
  assert.notDeepEqual(key, deriveKey(Buffer.alloc(32, 0x0b), 'uie'));
  assert.throws(() => deriveKey(Buffer.alloc(31), 'uid'), RangeError);
  assert.throws(() => deriveKey(Buffer.alloc(32), ''), RangeError);
});

test('parseLogQuery: takes one of offset and tail, and says what is wrong with anything else', () => {
  const parse = (query: string): ReturnType<typeof parseLogQuery> => parseLogQuery(new URLSearchParams(query));
  assert.deepEqual(parse('offset=5&follow=true'), {
    query: { offset: 5, tail: undefined, follow: true },
    fault: undefined,
  });
  assert.deepEqual(parse('tail=0'), { query: { offset: undefined, tail: 0, follow: false }, fault: undefined });
  const wrong = ['', 'follow=true', 'offset=1&tail=1', 'offset=-1', 'offset=1.5', 'offset=', 'offset=9007199254740993'];
  for (const query of [
    ...wrong,
    'tail=1000001',
    'tail=x',
    'offset=1&offset=2',
    'offset=1&x=1',
    'offset=1&follow=1',
    'offset=0x10',
  ]) {
    assert.ok(parse(query).fault !== undefined, query);
  }
});

test('parseLines: keeps exact bytes and refuses what a terminal would act on or cut', () => {
  const parse = (text: string | Buffer): string[] => parseLines(Buffer.from(text)).map(String);
  assert.deepEqual(parse('a\n\n b\t\nlast'), ['a\n', '\n', ' b\t\n', 'last\n']);
  assert.equal(parse('x'.repeat(4096))[0]?.length, 4097);
  const bad = [
    '',
    'a\rb',
    '\u0003',
    '\u001b[A',
    'a\u0000b',
    '\u007f',
    'ok\nbad\u0004\n',
    'x'.repeat(4097),
    Buffer.from([0xff, 10]),
  ];
  for (const text of bad) {
    assert.throws(() => parse(text), { code: 'BAD_REQUEST' });
  }
});

test('parseWorkload: believes the pipe before the launcher, and only numbers', () => {
  const text = 'starts=3\nstarted=100\ncode=139\nexited=200\n';
  assert.equal(parseWorkload(text, true).state, 'running');
  assert.equal(parseWorkload(text, true).exitCode, null);
  assert.equal(parseWorkload(text, false).signal, 'SIGSEGV');
  assert.equal(parseWorkload('', false).state, 'waiting');
  assert.equal(parseWorkload('starts=x\ncode=-1; rm\n', false).exitCode, null);
});

test('versionFault: neighbours have a version in common, those further apart have none', () => {
  const range = { current: 3, oldest: 2 };
  const faults = [1, 2, 3, 4, 5].map((newest) => versionFault(newest, range));
  assert.deepEqual(faults, ['too old', undefined, undefined, undefined, 'too new']);
  assert.equal(versionFault(NaN, range), undefined, 'what nobody knows is no fault');
  assert.equal(versionWords(1, range), 'its sidecar speaks protocol 1, this Ringmaster 2 to 3');
  assert.equal(protocolVersions.oldest, protocolVersions.current - 1, 'as the other side counts on');
});
