import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { test } from 'node:test';
import type { Key, KeyLookup } from './auth.ts';
import { decide, fingerprintOf, readToken, realProtocols, tokenProtocolPrefix } from './auth.ts';

const carrier = (token: string | Buffer): string => tokenProtocolPrefix + Buffer.from(token).toString('base64url');

const headerCases: { title: string; values: string[] | undefined; token?: string; fault?: string }[] = [
  { title: 'none', values: undefined, fault: 'absent' },
  { title: 'an empty list', values: [], fault: 'absent' },
  { title: 'a token', values: ['Bearer abc.DEF-1_2~3+4/5=='], token: 'abc.DEF-1_2~3+4/5==' },
  { title: 'the scheme in lower case', values: ['bearer abc'], token: 'abc' },
  { title: 'the scheme in upper case', values: ['BEARER abc'], token: 'abc' },
  { title: 'several spaces', values: ['Bearer   abc'], token: 'abc' },
  { title: 'the longest token', values: [`Bearer ${'a'.repeat(8192)}`], token: 'a'.repeat(8192) },
  { title: 'a token that is too long', values: [`Bearer ${'a'.repeat(8193)}`], fault: 'malformed' },
  { title: 'two headers', values: ['Bearer abc', 'Bearer abc'], fault: 'malformed' },
  { title: 'an empty header', values: [''], fault: 'malformed' },
  { title: 'only the scheme', values: ['Bearer'], fault: 'malformed' },
  { title: 'the scheme and a space', values: ['Bearer '], fault: 'malformed' },
  { title: 'no space', values: ['Bearerabc'], fault: 'malformed' },
  { title: 'a tab', values: ['Bearer\tabc'], fault: 'malformed' },
  { title: 'another scheme', values: ['Basic abc'], fault: 'malformed' },
  { title: 'two tokens', values: ['Bearer abc def'], fault: 'malformed' },
  { title: 'a list', values: ['Bearer abc, Bearer def'], fault: 'malformed' },
  { title: 'padding in the middle', values: ['Bearer a=b'], fault: 'malformed' },
  { title: 'only padding', values: ['Bearer =='], fault: 'malformed' },
  { title: 'a character outside of token68', values: ['Bearer a!b'], fault: 'malformed' },
  { title: 'a character outside of ASCII', values: ['Bearer \u00e4b'], fault: 'malformed' },
];

for (const { title, values, token, fault } of headerCases) {
  test(`readToken: Authorization with ${title} is ${token === undefined ? (fault ?? '') : 'read'}`, () => {
    assert.deepEqual(readToken({ authorization: values }), token === undefined ? { fault } : { token });
  });
}

const protocolCases: { title: string; protocols: string[]; token?: string; fault?: string }[] = [
  { title: 'none', protocols: [], fault: 'absent' },
  { title: 'only real ones', protocols: ['a', 'b'], fault: 'absent' },
  { title: 'a token and a real one', protocols: [carrier('abc'), 'a'], token: 'abc' },
  { title: 'a token behind a real one', protocols: ['a', carrier('abc')], token: 'abc' },
  { title: 'a token alone', protocols: [carrier('abc')], fault: 'malformed' },
  { title: 'two tokens', protocols: [carrier('abc'), carrier('def'), 'a'], fault: 'malformed' },
  { title: 'an empty token', protocols: [tokenProtocolPrefix, 'a'], fault: 'malformed' },
  { title: 'padding', protocols: [`${tokenProtocolPrefix}YQ==`, 'a'], fault: 'malformed' },
  { title: 'the other alphabet', protocols: [`${tokenProtocolPrefix}ab+/`, 'a'], fault: 'malformed' },
  { title: 'stray bits at the end', protocols: [`${tokenProtocolPrefix}YR`, 'a'], fault: 'malformed' },
  { title: 'a token that is not token68', protocols: [carrier('a b'), 'a'], fault: 'malformed' },
  { title: 'a token with a line break', protocols: [carrier('a\n'), 'a'], fault: 'malformed' },
  { title: 'bytes that are no text', protocols: [carrier(Buffer.from([0xff, 0xfe])), 'a'], fault: 'malformed' },
  { title: 'the longest token', protocols: [carrier('a'.repeat(8192)), 'a'], token: 'a'.repeat(8192) },
  { title: 'a token that is too long', protocols: [carrier('a'.repeat(8193)), 'a'], fault: 'malformed' },
];

for (const { title, protocols, token, fault } of protocolCases) {
  test(`readToken: subprotocols with ${title} are ${token === undefined ? (fault ?? '') : 'read'}`, () => {
    assert.deepEqual(readToken({ authorization: undefined, protocols }), token === undefined ? { fault } : { token });
  });
}

test('readToken: an Authorization header decides alone, also a malformed one', () => {
  const protocols = [carrier('abc'), 'a'];
  assert.deepEqual(readToken({ authorization: ['Bearer other'], protocols }), { token: 'other' });
  assert.deepEqual(readToken({ authorization: ['garbage'], protocols }), { fault: 'malformed' });
});

test('realProtocols: the entry with the token is never among them', () => {
  assert.deepEqual(realProtocols(['a', carrier('abc'), 'b']), ['a', 'b']);
});

test('fingerprintOf: SHA-256 in lower-case hexadecimal', () => {
  assert.equal(fingerprintOf('abc'), createHash('sha256').update('abc').digest('hex'));
  assert.equal(fingerprintOf('abc'), 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad');
});

function lookup(changes: Partial<Key> = {}): KeyLookup {
  const key: Key = {
    name: 'k',
    uid: 'u',
    tokenSHA256: fingerprintOf('abc'),
    permission: 'ALL',
    expiresAtMs: undefined,
    ...changes,
  };
  return { find: () => key };
}

const decisions: { title: string; keys: KeyLookup; need: 'ALL' | 'PUBLIC'; outcome: string }[] = [
  { title: 'no key', keys: { find: () => undefined }, need: 'PUBLIC', outcome: 'unknown' },
  {
    title: 'a look-up that gives a wrong key',
    keys: lookup({ tokenSHA256: fingerprintOf('abd') }),
    need: 'ALL',
    outcome: 'unknown',
  },
  { title: 'a stored hash of another length', keys: lookup({ tokenSHA256: 'ab' }), need: 'ALL', outcome: 'unknown' },
  { title: 'ALL where ALL is needed', keys: lookup(), need: 'ALL', outcome: 'granted' },
  { title: 'ALL where PUBLIC is needed', keys: lookup(), need: 'PUBLIC', outcome: 'granted' },
  { title: 'PUBLIC where ALL is needed', keys: lookup({ permission: 'PUBLIC' }), need: 'ALL', outcome: 'permission' },
  {
    title: 'PUBLIC where PUBLIC is needed',
    keys: lookup({ permission: 'PUBLIC' }),
    need: 'PUBLIC',
    outcome: 'granted',
  },
  { title: 'a key that expires later', keys: lookup({ expiresAtMs: 1_001 }), need: 'ALL', outcome: 'granted' },
  { title: 'a key that expires now', keys: lookup({ expiresAtMs: 1_000 }), need: 'ALL', outcome: 'expired' },
];

for (const { title, keys, need, outcome } of decisions) {
  test(`decide: ${title} is ${outcome}`, () => {
    const decision = decide(keys, 'abc', { nowMs: 1_000, need });
    assert.equal(decision.granted ? 'granted' : decision.reason, outcome);
  });
}
