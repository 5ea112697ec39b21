import assert from 'node:assert/strict';
import { test } from 'node:test';
import { jwtOf } from '../testing/reviews.ts';
import { readJwt } from './jwt.ts';

const part = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString('base64url');
const head = part({ alg: 'RS256' });

const cases: [title: string, token: string, expected: ReturnType<typeof readJwt>][] = [
  ['a signed token', jwtOf(1), { expiresAtMs: undefined }],
  ['one with an expiry', jwtOf(1, { exp: 1_700_000_000 }), { expiresAtMs: 1_700_000_000_000 }],
  ['one with an expiry that is no number', jwtOf(1, { exp: 'soon' }), undefined],
  ['a token of an ApiKey', 'rm_abcdef', undefined],
  ['two parts', `${head}.${part({})}`, undefined],
  ['four parts', `${jwtOf(1)}.x`, undefined],
  ['an unsigned one', `${head}.${part({})}.`, undefined],
  ['the algorithm "none"', `${part({ alg: 'none' })}.${part({})}.x`, undefined],
  ['no algorithm', `${part({})}.${part({})}.x`, undefined],
  ['parts that are no JSON', 'abc.def.ghi', undefined],
  ['a payload that is no object', `${head}.${part(1)}.x`, undefined],
];

for (const [title, token, expected] of cases) {
  test(`readJwt: ${title}`, () => {
    assert.deepEqual(readJwt(token), expected);
  });
}
