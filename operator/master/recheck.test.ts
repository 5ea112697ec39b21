import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { createSilentLogger } from '../log.ts';
import { createMetrics } from '../metrics.ts';
import { createFakeReviews, jwtOf, userRight } from '../testing/reviews.ts';
import type { FakeReviews } from '../testing/reviews.ts';
import { createFakeTimers } from '../testing/timers.ts';
import type { FakeTimers } from '../testing/timers.ts';
import type { Claim } from './recheck.ts';
import { Recheck } from './recheck.ts';
import { Users } from './users.ts';

const other = { ...userRight, target: { namespace: 'games', name: 'other' } };

interface Parts {
  readonly reviews: FakeReviews;
  readonly timers: FakeTimers;
  readonly recheck: Recheck;
  readonly lost: string[];
  readonly open: (token: string, right?: typeof userRight) => Promise<{ claim: Claim; end: () => void }>;
  /** Time passes, and all that it brings about. */
  readonly pass: (ms: number) => Promise<void>;
}

function setUp(): Parts {
  const reviews = createFakeReviews();
  const timers = createFakeTimers();
  const users = new Users({ reviews, clock: timers, metrics: createMetrics(), log: createSilentLogger() });
  const lost: string[] = [];
  const recheck = new Recheck({ users, clock: timers, onLost: (name) => lost.push(name) });
  for (const [number, name] of [
    [1, 'ada'],
    [2, 'bob'],
  ] as const) {
    reviews.tokens.set(jwtOf(number), name);
    for (const instance of ['lobby', 'other']) reviews.rights.add(`${name} get live-log games ${instance}`);
  }
  return {
    ...{ reviews, timers, recheck, lost },
    async open(token, right = userRight) {
      const user = await users.identify(token);
      assert.ok(!('status' in user));
      assert.equal(await users.check(user, right), undefined);
      return recheck.watch(user, token, right);
    },
    async pass(ms) {
      timers.advance(ms);
      for (let i = 0; i < 20; i++) await nextTurn();
    },
  };
}

test('recheck: each token and each of its rights is asked about once in a round, whatever the number of sockets', async () => {
  const { reviews, open, pass, lost } = setUp();
  for (let i = 0; i < 5; i++) {
    await open(jwtOf(1));
    await open(jwtOf(1), other);
    await open(jwtOf(2));
  }
  const asked = (kind: string): number => reviews.asked.splice(0).filter((what) => what.startsWith(kind)).length;
  asked('');
  await pass(9_999);
  assert.equal(asked(''), 0);
  await pass(1);
  assert.equal(reviews.asked.length, 5);
  assert.equal(asked('token'), 2);
  await pass(10_000);
  assert.equal(asked(''), 5);
  assert.deepEqual(lost, []);
});

test('recheck: a right that is gone loses exactly its claims, a token that is gone all of its own', async () => {
  const { reviews, open, pass, lost } = setUp();
  const [first, second, third] = [await open(jwtOf(1)), await open(jwtOf(1), other), await open(jwtOf(2))];
  const state = (): boolean[] => [first, second, third].map(({ claim }) => claim.isLost);
  reviews.rights.delete('ada get live-log games lobby');
  await pass(10_000);
  assert.deepEqual([state(), lost], [[true, false, false], ['user:ada']]);
  reviews.tokens.delete(jwtOf(1));
  await pass(10_000);
  assert.deepEqual(
    [state(), lost],
    [
      [true, true, false],
      ['user:ada', 'user:ada'],
    ],
  );
});

test('recheck: a token that expires loses its claims at that moment', async () => {
  const { reviews, timers, open, pass, lost } = setUp();
  const token = jwtOf(3, { exp: (timers.nowMs() + 15_000) / 1_000 });
  reviews.tokens.set(token, 'ada');
  const { claim } = await open(token);
  await pass(10_000);
  await pass(4_999);
  assert.equal(claim.isLost, false);
  await pass(1);
  assert.deepEqual([claim.isLost, lost], [true, ['user:ada']]);
});

test('recheck: without answers claims hold for a minute since their last yes, and no longer', async () => {
  const { reviews, open, pass, lost } = setUp();
  const { claim } = await open(jwtOf(1));
  await pass(10_000);
  reviews.fault = new Error('connect ECONNREFUSED');
  for (let round = 0; round < 6; round++) await pass(10_000);
  assert.equal(claim.isLost, false);
  reviews.fault = undefined;
  await pass(10_000);
  reviews.fault = new Error('connect ECONNREFUSED');
  for (let round = 0; round < 6; round++) await pass(10_000);
  assert.equal(claim.isLost, false);
  await pass(10_000);
  assert.deepEqual([claim.isLost, lost], [true, ['user:ada']]);
});

test('recheck: what has ended is asked about no more, and no timer is left', async () => {
  const { reviews, timers, recheck, open, pass } = setUp();
  const { end } = await open(jwtOf(1));
  await open(jwtOf(2));
  end();
  end();
  reviews.asked.length = 0;
  await pass(10_000);
  assert.ok(reviews.asked.every((what) => !what.includes(jwtOf(1))));
  recheck.close();
  await pass(10_000);
  assert.equal(timers.pendingCount, 0);
});
