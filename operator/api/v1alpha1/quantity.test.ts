import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseQuantity } from './quantity.ts';

const cases: [string | number, number][] = [
  ['500m', 0.5],
  [2, 2],
  ['1Gi', 1024 ** 3],
  ['1.5Gi', 1.5 * 1024 ** 3],
  ['128974848', 128_974_848],
  ['129e6', 129_000_000],
  ['129M', 129_000_000],
  ['.5', 0.5],
  ['2E', 2e18],
];

for (const [text, expected] of cases) {
  test(`parseQuantity: ${text} is ${expected}`, () => {
    assert.equal(parseQuantity(text), expected);
  });
}

test('parseQuantity: what is no quantity throws with an example', () => {
  for (const text of ['', 'lots', '1 Gi', '1GiB']) assert.throws(() => parseQuantity(text), /write it like/);
});
