import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FakeClock } from '../../testing/clock.ts';
import { Flusher } from './flush.ts';

test('Flusher: many touches are one write each 25 ms, and none after it was stopped', async () => {
  const clock = new FakeClock();
  const writes: number[] = [];
  const flusher = new Flusher({
    clock,
    write: () => {
      writes.push(clock.elapsed());
      return Promise.resolve();
    },
  });
  for (let step = 0; step < 12; step += 1) {
    flusher.touch();
    await clock.advance(5);
  }
  assert.deepEqual(writes, [25, 50]);
  await flusher.stop();
  flusher.touch();
  await clock.advance(100);
  assert.deepEqual(writes, [25, 50]);
});
