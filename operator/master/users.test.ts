import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createSilentLogger } from '../log.ts';
import { createMetrics } from '../metrics.ts';
import { createFakeReviews, jwtOf, userRight } from '../testing/reviews.ts';
import type { FakeReviews } from '../testing/reviews.ts';
import { createFakeTimers } from '../testing/timers.ts';
import type { FakeTimers } from '../testing/timers.ts';
import type { User, UserLimits } from './users.ts';
import { Users } from './users.ts';

function setUp(limits: Partial<UserLimits> = {}): { users: Users; reviews: FakeReviews; timers: FakeTimers } {
  const reviews = createFakeReviews();
  const timers = createFakeTimers();
  reviews.tokens.set(jwtOf(1), 'ada');
  reviews.rights.add('ada get live-log games lobby');
  const users = new Users({ reviews, clock: timers, metrics: createMetrics(), log: createSilentLogger(), limits });
  return { users, reviews, timers };
}

/** The user's name, or the status of the refusal. */
async function identify(users: Users, token: string): Promise<string | number> {
  const user = await users.identify(token);
  return 'status' in user ? user.status : user.name;
}

async function ada(users: Users): Promise<User> {
  const user = await users.identify(jwtOf(1));
  assert.ok(!('status' in user));
  return user;
}

test('users: only what looks like a signed and unexpired JWT is asked about', async () => {
  const { users, reviews, timers } = setUp();
  const expired = jwtOf(2, { exp: timers.nowMs() / 1_000 });
  for (const token of ['rm_abc', 'a.b.c', '', expired]) assert.equal(await identify(users, token), 401);
  assert.deepEqual(reviews.asked, []);
});

test('users: a yes counts for 10 s and a no for 3 s, then it is asked again', async () => {
  const { users, reviews, timers } = setUp();
  assert.deepEqual([await identify(users, jwtOf(1)), await identify(users, jwtOf(2))], ['user:ada', 401]);
  timers.advance(2_999);
  assert.deepEqual([await identify(users, jwtOf(1)), await identify(users, jwtOf(2))], ['user:ada', 401]);
  assert.equal(reviews.asked.length, 2);
  timers.advance(1);
  reviews.tokens.set(jwtOf(2), 'bob');
  assert.equal(await identify(users, jwtOf(2)), 'user:bob');
  timers.advance(7_000);
  reviews.tokens.delete(jwtOf(1));
  assert.equal(await identify(users, jwtOf(1)), 401);
});

test('users: a right is remembered the same way, and each by itself', async () => {
  const { users, reviews, timers } = setUp();
  const user = await ada(users);
  const other = { ...userRight, target: { namespace: 'games', name: 'other' } };
  for (let i = 0; i < 3; i++) {
    assert.equal(await users.check(user, userRight), undefined);
    assert.equal((await users.check(user, other))?.status, 401);
  }
  assert.equal(reviews.asked.length, 3);
  timers.advance(3_000);
  reviews.rights.add('ada get live-log games other');
  assert.equal(await users.check(user, other), undefined);
  timers.advance(7_000);
  reviews.rights.clear();
  assert.equal((await users.check(user, userRight))?.status, 401);
});

test('users: rights are forgotten when the token turns out to be of other groups or of another user', async () => {
  const { users, reviews, timers } = setUp();
  timers.advance(5_000);
  assert.equal(await users.check(await ada(users), userRight), undefined);
  timers.advance(10_000);
  reviews.tokens.set(jwtOf(1), 'bob');
  const user = await ada(users);
  assert.equal(user.name, 'user:bob');
  assert.equal((await users.check(user, userRight))?.status, 401);
});

test('users: those who ask the same at the same time share one question', async () => {
  const { users, reviews } = setUp();
  const { promise, resolve } = Promise.withResolvers<undefined>();
  reviews.gate = promise;
  const many = Array.from({ length: 100 }, () => identify(users, jwtOf(1)));
  resolve(undefined);
  assert.deepEqual(new Set(await Promise.all(many)), new Set(['user:ada']));
  const user = await ada(users);
  await Promise.all(Array.from({ length: 100 }, () => users.check(user, userRight)));
  assert.equal(reviews.asked.length, 2);
});

test('users: a flood of unknown tokens is cut off with 503 and keeps no known user out', async () => {
  const { users, reviews, timers } = setUp({ strangerGate: { perSecond: 10, burst: 20, inFlightMax: 5 } });
  await ada(users);
  timers.advance(10_000);
  reviews.asked.length = 0;
  const answers = [];
  for (let i = 0; i < 1_000; i++) answers.push(await identify(users, jwtOf(1_000 + i)));
  assert.equal(answers.filter((answer) => answer === 401).length, 20);
  assert.equal(answers.filter((answer) => answer === 503).length, 980);
  assert.equal(reviews.asked.length, 20);
  assert.equal(await identify(users, jwtOf(1)), 'user:ada');
  timers.advance(1_000);
  const later = await Promise.all(Array.from({ length: 100 }, (_, i) => identify(users, jwtOf(5_000 + i))));
  assert.equal(later.filter((answer) => answer === 401).length, 5, 'so many at once');
});

test('users: without an answer it is 503, after 5 s at the latest, and nothing is remembered of it', async () => {
  const { users, reviews, timers } = setUp();
  reviews.fault = new Error('connect ECONNREFUSED');
  assert.equal(await identify(users, jwtOf(1)), 503);
  reviews.fault = undefined;
  const user = await ada(users);
  timers.advance(10_000);
  reviews.gate = new Promise(() => undefined);
  const [token, right] = [identify(users, jwtOf(1)), users.check(user, userRight)];
  timers.advance(5_000);
  assert.deepEqual([await token, (await right)?.status], [503, 503]);
  reviews.gate = undefined;
  assert.equal(await identify(users, jwtOf(1)), 'user:ada');
});

test('users: what is remembered is bounded', async () => {
  const limits = { usersMax: 2, strangersMax: 2, rightsMax: 2 };
  const { users, reviews } = setUp(limits);
  for (const number of [2, 3, 4]) reviews.tokens.set(jwtOf(number), `u${number}`);
  for (const number of [2, 3, 4, 12, 13, 14]) await identify(users, jwtOf(number));
  reviews.asked.length = 0;
  for (const number of [4, 3, 14, 13]) await identify(users, jwtOf(number));
  assert.deepEqual(reviews.asked, []);
  for (const number of [2, 12]) await identify(users, jwtOf(number));
  assert.equal(reviews.asked.length, 2);
  const user = await ada(users);
  reviews.asked.length = 0;
  for (const name of ['a', 'b', 'c', 'c', 'b', 'a']) {
    await users.check(user, { ...userRight, target: { namespace: 'games', name } });
  }
  assert.equal(reviews.asked.length, 4);
});
