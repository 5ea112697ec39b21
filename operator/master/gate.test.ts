import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createFakeTimers } from '../testing/timers.ts';
import { createGate } from './gate.ts';

test('gate: a burst, then so many a second, and time that was not used adds up to the burst alone', () => {
  const timers = createFakeTimers();
  const gate = createGate({ perSecond: 2, burst: 3, inFlightMax: 100 }, timers);
  const pass = (): number => [1, 2, 3, 4, 5].filter(() => gate.enter()).length;
  assert.equal(pass(), 3);
  timers.advance(499);
  assert.equal(pass(), 0);
  timers.advance(1);
  assert.equal(pass(), 1);
  timers.advance(60_000);
  assert.equal(pass(), 3);
});

test('gate: so many at the same time', () => {
  const gate = createGate({ perSecond: 1, burst: 100, inFlightMax: 2 }, createFakeTimers());
  assert.deepEqual([gate.enter(), gate.enter(), gate.enter()], [true, true, false]);
  gate.leave();
  assert.deepEqual([gate.enter(), gate.enter()], [true, false]);
});
