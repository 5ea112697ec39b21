import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FakeClock } from '../testing/clock.ts';
import { systemClock, toMicroTime } from './clock.ts';

for (const [name, make] of [
  ['systemClock', () => systemClock],
  ['FakeClock', () => new FakeClock()],
] as const) {
  test(`${name}: a wait ends with its signal and its reason, before and after it began`, async () => {
    const clock = make();
    const stop = new AbortController();
    const waiting = clock.after(3_600_000, stop.signal);
    stop.abort(new Error('enough'));
    await assert.rejects(waiting, /enough/);
    await assert.rejects(clock.after(0, stop.signal), /enough/);
  });
}

test('systemClock: waits, however short or negative, and durations never go back', async () => {
  const startedMs = systemClock.elapsed();
  await systemClock.after(-5);
  await systemClock.after(2);
  assert.ok(systemClock.elapsed() >= startedMs);
});

test('FakeClock: waits end in the order of their times, and what they set off has run before the next', async () => {
  const clock = new FakeClock();
  const seen: string[] = [];
  const note = async (ms: number, name: string): Promise<void> => {
    await clock.after(ms);
    seen.push(`${name} at ${clock.elapsed()}`);
    if (name === 'a') void note(10, 'after a');
  };
  const all = [note(30, 'c'), note(10, 'a'), note(25, 'b')];
  await clock.advance(30);
  await Promise.all(all);
  assert.deepEqual(seen, ['a at 10', 'after a at 20', 'b at 25', 'c at 30']);
  assert.equal(clock.pending, 0);
});

test('toMicroTime: exactly six digits, as MicroTime is parsed', () => {
  assert.equal(toMicroTime(Date.UTC(2026, 0, 2, 3, 4, 5, 6)), '2026-01-02T03:04:05.006000Z');
});
