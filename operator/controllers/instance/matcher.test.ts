import assert from 'node:assert/strict';
import { test } from 'node:test';
import { systemClock } from '../../runtime/clock.ts';
import { PatternMatcher, PatternTooSlowError } from './matcher.ts';

async function withMatcher(use: (matcher: PatternMatcher) => Promise<void>, budgetMs?: number): Promise<void> {
  const matcher = new PatternMatcher({
    clock: systemClock,
    signal: new AbortController().signal,
    ...(budgetMs === undefined ? {} : { budgetMs }),
  });
  try {
    await use(matcher);
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
  await withMatcher(async (matcher) => {
    // The thread is up before the clock counts.
    await matcher.check('x');
    const line = Array.from({ length: 16_384 }, (_, index) => ((index * 7919) % 13 < 6 ? 'a' : 'b')).join('');
    await assert.rejects(() => matcher.matches('[ab]*a[ab]{200}[cd]', [line]), PatternTooSlowError);
    assert.equal(await matcher.check('y'), undefined);
  }, 20);
});
