import assert from 'node:assert/strict';
import { test } from 'node:test';
import { median, seededRandom, trendOf } from './trend.ts';

const random = seededRandom(7);
/** Around a hundred, within five. */
const noise = (): number => 95 + 10 * random();

test('trend: noise, a step back and single spikes are flat', () => {
  const flat = Array.from({ length: 200 }, noise);
  assert.ok(Math.abs(trendOf(flat).growth) < 3, JSON.stringify(trendOf(flat)));
  const spiked = flat.map((value, index) => (index % 23 === 0 ? value * 50 : value));
  assert.ok(Math.abs(trendOf(spiked).growth) < 5, JSON.stringify(trendOf(spiked)));
});

test('trend: a leak is seen through noise, in whole', () => {
  const leak = Array.from({ length: 200 }, (_, index) => noise() + index / 4);
  const { first, last, growth } = trendOf(leak);
  assert.ok(growth > 38 && growth < 52, `${growth}`);
  assert.ok(last - first > 35);
});

test('trend: says nothing of too few values; the median is the middle', () => {
  assert.throws(() => trendOf([1, 2, 3, 4, 5]), RangeError);
  assert.deepEqual(trendOf([1, 1, 1, 1, 1, 1]), { first: 1, last: 1, growth: 0 });
  assert.equal(median([3, 1, 2]), 2);
  assert.equal(median([4, 1, 2, 3]), 2.5);
});

test('seeded random: the same seed gives the same numbers, in [0, 1), spread evenly', () => {
  const [one, other, third] = [seededRandom(1), seededRandom(1), seededRandom(2)];
  const numbers = Array.from({ length: 10_000 }, one);
  assert.deepEqual(numbers, Array.from({ length: 10_000 }, other));
  assert.notEqual(numbers[0], third());
  assert.ok(numbers.every((number) => number >= 0 && number < 1));
  const mean = numbers.reduce((sum, number) => sum + number, 0) / numbers.length;
  assert.ok(Math.abs(mean - 0.5) < 0.02, `${mean}`);
});
