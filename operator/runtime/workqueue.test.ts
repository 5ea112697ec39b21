import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { FakeClock, settle } from '../testing/clock.ts';
import { WorkQueue } from './workqueue.ts';
import type { QueueObserver } from './workqueue.ts';

function makeQueue(observer?: QueueObserver): { queue: WorkQueue; clock: FakeClock } {
  const clock = new FakeClock();
  const options = { clock, random: () => 1, backoffMinMs: 100, backoffMaxMs: 1_000 };
  return { clock, queue: new WorkQueue(observer === undefined ? options : { ...options, observer }) };
}

test('workqueue: a key that waits already is not added twice, and keys come in the order of arrival', async () => {
  const { queue } = makeQueue();
  for (const key of ['a', 'b', 'a', 'c', 'b']) queue.add(key);
  assert.equal(queue.depth, 3);
  assert.deepEqual([await queue.next(), await queue.next(), await queue.next()], ['a', 'b', 'c']);
  assert.equal(queue.depth, 0);
});

test('workqueue: a key added while a worker has it comes back once, after that worker is done', async () => {
  const { queue } = makeQueue();
  queue.add('a');
  assert.equal(await queue.next(), 'a');
  queue.add('a');
  queue.add('a');
  assert.equal(queue.depth, 0);
  queue.done('a');
  assert.equal(await queue.next(), 'a');
  queue.done('a');
  assert.equal(queue.depth, 0);
});

test('workqueue: a waiting worker gets the next key at once', async () => {
  const { queue } = makeQueue();
  const taken = [queue.next(), queue.next()];
  queue.add('a');
  queue.add('b');
  assert.deepEqual(await Promise.all(taken), ['a', 'b']);
});

test('workqueue: of several planned times the earliest wins, and adding at once replaces it', async () => {
  const { queue, clock } = makeQueue();
  queue.addAfter('a', 500);
  queue.addAfter('a', 200);
  queue.addAfter('a', 900);
  await clock.advance(199);
  assert.equal(queue.depth, 0);
  await clock.advance(1);
  assert.equal(queue.depth, 1);
  assert.equal(clock.pending, 0);
  queue.addAfter('b', 500);
  queue.add('b');
  assert.equal(queue.depth, 2);
  await clock.advance(1_000);
  assert.equal(queue.depth, 2);
});

test('workqueue: the backoff of a key doubles up to its maximum, starts anew after forget, and honours a minimum', async () => {
  const { queue, clock } = makeQueue();
  const delays: number[] = [];
  const measure = async (delayMinMs?: number): Promise<void> => {
    const startedMs = clock.elapsed();
    queue.addRateLimited('a', delayMinMs);
    while (queue.depth === 0) await clock.advance(50);
    delays.push(clock.elapsed() - startedMs);
    await queue.next();
    queue.done('a');
  };
  for (let times = 0; times < 6; times += 1) await measure();
  queue.forget('a');
  await measure();
  await measure(700);
  assert.deepEqual(delays, [100, 200, 400, 800, 1_000, 1_000, 100, 700]);
});

test('workqueue: shut down, it wakes idle workers, drops what waits and takes no more; a key in work can be finished', async () => {
  const { queue, clock } = makeQueue();
  queue.add('a');
  await queue.next();
  queue.addAfter('later', 10);
  const idle = queue.next();
  queue.add('a');
  queue.shutDown();
  assert.equal(await idle, undefined);
  queue.done('a');
  queue.add('b');
  queue.addRateLimited('b');
  await settle();
  assert.equal(await queue.next(), undefined);
  assert.equal(clock.pending, 0);
  assert.throws(() => {
    queue.done('a');
  }, RangeError);
});

test('workqueue: its observer sees depth, adds, retries and latency', async () => {
  const seen: string[] = [];
  const { queue, clock } = makeQueue({
    onDepth: (keys) => seen.push(`depth ${keys}`),
    onAdd: () => seen.push('add'),
    onRetry: () => seen.push('retry'),
    onLatency: (ms) => seen.push(`latency ${ms}`),
  });
  queue.add('a');
  queue.add('a');
  await clock.advance(30);
  await queue.next();
  queue.addRateLimited('a');
  assert.deepEqual(seen, ['add', 'depth 1', 'depth 0', 'latency 30', 'retry']);
});

type Action =
  | { type: 'add' | 'retry' | 'forget'; key: string }
  | { type: 'after'; key: string; ms: number }
  | { type: 'take' | 'done' }
  | { type: 'advance'; ms: number };

const key = fc.constantFrom('a', 'b', 'c', 'd');
const action: fc.Arbitrary<Action> = fc.oneof(
  fc.record({ type: fc.constantFrom('add' as const, 'retry' as const, 'forget' as const), key }),
  fc.record({ type: fc.constant('after' as const), key, ms: fc.integer({ min: 0, max: 400 }) }),
  fc.record({ type: fc.constantFrom('take' as const, 'done' as const) }),
  fc.record({ type: fc.constant('advance' as const), ms: fc.integer({ min: 0, max: 300 }) }),
);

/** What the queue must do, said as simply as possible: at most one due time per key. */
class Model {
  readonly due = new Map<string, number>();
  readonly working: string[] = [];
  readonly failures = new Map<string, number>();

  plan(name: string, atMs: number): void {
    this.due.set(name, Math.min(this.due.get(name) ?? Infinity, atMs));
  }

  ready(nowMs: number): string[] {
    return [...this.due.keys()].filter(
      (name) => (this.due.get(name) ?? Infinity) <= nowMs && !this.working.includes(name),
    );
  }
}

async function step(subject: { queue: WorkQueue; clock: FakeClock; model: Model }, next: Action): Promise<void> {
  const { queue, clock, model } = subject;
  const nowMs = clock.elapsed();
  if (next.type === 'add') {
    queue.add(next.key);
    model.plan(next.key, nowMs);
  } else if (next.type === 'after') {
    queue.addAfter(next.key, next.ms);
    model.plan(next.key, nowMs + next.ms);
  } else if (next.type === 'retry') {
    const failures = model.failures.get(next.key) ?? 0;
    model.failures.set(next.key, failures + 1);
    queue.addRateLimited(next.key);
    model.plan(next.key, nowMs + Math.min(100 * 2 ** failures, 1_000));
  } else if (next.type === 'forget') {
    queue.forget(next.key);
    model.failures.delete(next.key);
  } else if (next.type === 'advance') await clock.advance(next.ms);
  else if (next.type === 'done') {
    const finished = model.working.shift();
    if (finished !== undefined) queue.done(finished);
  } else if (queue.depth > 0) {
    const taken = await queue.next();
    assert.ok(taken !== undefined && model.ready(nowMs).includes(taken), `took ${String(taken)}, which was not due`);
    model.due.delete(taken);
    model.working.push(taken);
  }
}

test('workqueue: whatever happens, each key is handed out when it is due, once, to one worker', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(action, { maxLength: 60 }), async (actions) => {
      const { queue, clock } = makeQueue();
      const model = new Model();
      for (const next of actions) {
        await step({ queue, clock, model }, next);
        await settle();
        assert.equal(queue.depth, model.ready(clock.elapsed()).length);
      }
    }),
    { numRuns: 200 },
  );
});
