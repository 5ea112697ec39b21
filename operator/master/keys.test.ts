import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { FakeTimers } from '../testing/timers.ts';
import { createFakeTimers } from '../testing/timers.ts';
import { keySpec } from '../testing/master.ts';
import { fingerprintOf } from './auth.ts';
import type { Key } from './auth.ts';
import type { KeyTable } from './keys.ts';
import { createKeyTable } from './keys.ts';
import { createRateLimit } from './rate.ts';

interface Parts {
  readonly timers: FakeTimers;
  readonly keys: KeyTable;
  /** Names that listeners were told. */
  readonly changed: string[];
  readonly find: (token: string) => Key | undefined;
  /** The time so far from now, as an ApiKey has it. */
  readonly inMs: (ms: number) => string;
}

function setUp(): Parts {
  const timers = createFakeTimers();
  const keys = createKeyTable(timers);
  const changed: string[] = [];
  keys.onChange((name) => changed.push(name));
  const find = (token: string): Key | undefined => keys.find(fingerprintOf(token));
  const inMs = (ms: number): string => new Date(timers.nowMs() + ms).toISOString();
  return { timers, keys, changed, find, inMs };
}

test('keys: a key is found by the fingerprint of its token until it is removed', () => {
  const { keys, find, changed } = setUp();
  keys.set('a', keySpec('one'));
  assert.equal(find('one')?.name, 'a');
  assert.equal(find('two'), undefined);
  keys.remove('a');
  keys.remove('a');
  assert.equal(find('one'), undefined);
  assert.deepEqual(changed, ['a', 'a']);
});

test('keys: setting the same again tells nobody', () => {
  const { keys, changed } = setUp();
  keys.set('a', keySpec('one'));
  keys.set('a', keySpec('one'));
  assert.deepEqual(changed, ['a']);
});

test('keys: a granted key holds through changes that leave it what it was', () => {
  const { keys, find, inMs } = setUp();
  keys.set('a', keySpec('one'));
  const granted = find('one')!;
  keys.set('a', keySpec('one', { expiresAt: inMs(1_000) }));
  assert.equal(keys.holds(granted, 'ALL'), true);
  keys.set('a', keySpec('one', { permission: 'PUBLIC' }));
  assert.equal(keys.holds(granted, 'ALL'), false);
  assert.equal(keys.holds(granted, 'PUBLIC'), true);
});

test('keys: a granted key does not hold after removal, another token or deletion and creation under the same name', () => {
  const { keys, find } = setUp();
  keys.set('a', keySpec('one'));
  const granted = find('one')!;
  keys.set('a', keySpec('two', { uid: granted.uid }));
  assert.equal(keys.holds(granted, 'ALL'), false);
  keys.set('a', keySpec('one', { uid: 'new' }));
  assert.equal(keys.holds(granted, 'ALL'), false);
  keys.remove('a');
  assert.equal(keys.holds(granted, 'ALL'), false);
});

test('keys: an expiry that passes is told once, at its time', () => {
  const { timers, keys, changed, find, inMs } = setUp();
  keys.set('a', keySpec('one', { expiresAt: inMs(5_000) }));
  keys.set('b', keySpec('two', { expiresAt: inMs(2_000) }));
  const granted = find('one')!;
  changed.length = 0;
  timers.advance(1_999);
  assert.deepEqual(changed, []);
  timers.advance(1);
  assert.deepEqual(changed, ['b']);
  timers.advance(3_000);
  assert.deepEqual(changed, ['b', 'a']);
  assert.equal(keys.holds(granted, 'ALL'), false);
  timers.advance(1_000_000);
  assert.deepEqual(changed, ['b', 'a']);
});

test('keys: an expiry farther away than a timer reaches is still told', () => {
  const { timers, keys, changed, inMs } = setUp();
  const yearMs = 365 * 24 * 3_600_000;
  keys.set('a', keySpec('one', { expiresAt: inMs(yearMs) }));
  changed.length = 0;
  timers.advance(yearMs - 1);
  assert.deepEqual(changed, []);
  timers.advance(1);
  assert.deepEqual(changed, ['a']);
});

test('keys: an expiry that cannot be read counts as passed', () => {
  const { timers, keys, find } = setUp();
  keys.set('a', keySpec('one', { expiresAt: 'tomorrow' }));
  assert.ok(find('one')!.expiresAtMs! <= timers.nowMs());
});

test('keys: of two keys with one token the more permissive counts, and the other stays when it goes', () => {
  const { keys, find, inMs, timers } = setUp();
  keys.set('public', keySpec('one', { permission: 'PUBLIC' }));
  keys.set('all', keySpec('one', { uid: 'other', expiresAt: inMs(1_000) }));
  assert.equal(find('one')?.name, 'all');
  timers.advance(1_000);
  assert.equal(find('one')?.name, 'public');
  keys.remove('public');
  assert.equal(find('one')?.name, 'all');
});

test('keys: close leaves no timer behind', () => {
  const { timers, keys, inMs } = setUp();
  keys.set('a', keySpec('one', { expiresAt: inMs(1_000) }));
  keys.close();
  assert.equal(timers.pendingCount, 0);
});

test('rate: a key has its calls in each window, and is told how long to wait', () => {
  const { timers, keys } = setUp();
  const rate = createRateLimit({ callsMax: 2, windowMs: 60_000, clock: timers, keys });
  assert.equal(rate.take('a'), undefined);
  timers.advance(15_000);
  assert.equal(rate.take('a'), undefined);
  assert.equal(rate.take('a'), 45_000);
  assert.equal(rate.take('b'), undefined);
  timers.advance(44_999);
  assert.equal(rate.take('a'), 1);
  timers.advance(1);
  assert.equal(rate.take('a'), undefined);
});

test('rate: a key that changed starts afresh', () => {
  const { timers, keys } = setUp();
  const rate = createRateLimit({ callsMax: 1, windowMs: 60_000, clock: timers, keys });
  keys.set('a', keySpec('one'));
  rate.take('a');
  keys.remove('a');
  assert.equal(rate.take('a'), undefined);
});
