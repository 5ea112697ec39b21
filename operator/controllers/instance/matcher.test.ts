import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FakeClock } from '../../testing/clock.ts';
import { PatternMatcher, PatternTooSlowError } from './matcher.ts';

/** Time passes only where the test says so: how fast the machine is decides nothing. */
async function withMatcher(use: (matcher: PatternMatcher, clock: FakeClock) => Promise<void>): Promise<void> {
  const clock = new FakeClock();
  const matcher = new PatternMatcher({ clock, signal: new AbortController().signal, budgetMs: 20 });
  try {
    await use(matcher, clock);
  } finally {
    await matcher.stop();
  }
}

test('matcher: finds a pattern anywhere in one of the lines, and not across two', async () => {
  await withMatcher(async (matcher) => {
    assert.equal(await matcher.matches('Done \\(', ['starting', '[12:00] Done (1.2s)!']), true);
    assert.equal(await matcher.matches('^Done$', ['Done', 'x']), true);
    assert.equal(await matcher.matches('a.*b', ['a', 'b']), false);
    assert.equal(await matcher.matches('x', []), false);
  });
});

test('matcher: all of many long lines is looked at', async () => {
  await withMatcher(async (matcher) => {
    const lines = Array.from({ length: 50 }, () => 'x'.repeat(16_384));
    assert.equal(await matcher.matches('end', [...lines, 'the end']), true);
  });
});

test('matcher: what cannot be read or is too large is said in words', async () => {
  await withMatcher(async (matcher) => {
    assert.equal(await matcher.check('Done \\('), undefined);
    assert.match((await matcher.check('Done (')) ?? '', /missing closing \)/);
    assert.match((await matcher.check('[a-z]{1000}')) ?? '', /instructions, more than/);
    await assert.rejects(() => matcher.matches('(', ['x']), SyntaxError);
  });
});

test('matcher: a pattern that takes too long is given up, and the next question is answered', async () => {
  await withMatcher(async (matcher, clock) => {
    // The thread is up before the clock counts.
    await matcher.check('x');
    // Some seconds of work, of which the thread does next to nothing before it is ended.
    const line = Array.from({ length: 500_000 }, (_, index) => ((index * 7919) % 13 < 6 ? 'a' : 'b')).join('');
    const isGivenUp = assert.rejects(() => matcher.matches('[ab]*a[ab]{200}[cd]', [line]), PatternTooSlowError);
    await clock.advance(20);
    await isGivenUp;
    assert.equal(await matcher.check('y'), undefined);
  });
});
