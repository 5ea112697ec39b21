import assert from 'node:assert/strict';
import { test } from 'node:test';
import { TerminalError } from '../errors.ts';
import { createSilentLogger } from '../log.ts';
import { FakeClock, settle } from '../testing/clock.ts';
import { ApiError } from './client.ts';
import { Controller } from './controller.ts';
import type { ControllerOptions, Reconcile } from './controller.ts';
import { WorkQueue } from './workqueue.ts';

interface Rig {
  clock: FakeClock;
  queue: WorkQueue;
  results: string[];
  running: Promise<void>;
  stopping: AbortController;
}

function start(reconcile: Reconcile, extra: Partial<ControllerOptions> = {}): Rig {
  const clock = new FakeClock();
  const queue = new WorkQueue({ clock, random: () => 1, backoffMinMs: 100 });
  const results: string[] = [];
  const stopping = new AbortController();
  const controller = new Controller({
    name: 'test',
    queue,
    reconcile,
    informers: [],
    clock,
    log: createSilentLogger(),
    observer: { onReconcile: (result) => results.push(result) },
    ...extra,
  });
  return { clock, queue, results, stopping, running: controller.run(stopping.signal) };
}

async function stop(rig: Rig): Promise<void> {
  rig.stopping.abort();
  await settle();
  await rig.running;
  assert.equal(rig.clock.pending, 0);
}

test('controller: takes no key before every informer has synced, and stops while it waits for that', async () => {
  const seen: string[] = [];
  const synced = Promise.withResolvers<undefined>();
  const reconcile: Reconcile = async (key) => {
    seen.push(key);
    return Promise.resolve({});
  };
  const informers = [{ whenSynced: () => Promise.resolve() }, { whenSynced: () => synced.promise }];
  const rig = start(reconcile, { informers });
  rig.queue.add('a');
  await settle();
  assert.deepEqual(seen, []);
  synced.resolve(undefined);
  await settle();
  assert.deepEqual(seen, ['a']);
  await stop(rig);
  const waiting = start(reconcile, {
    informers: [
      {
        whenSynced: (signal) =>
          new Promise((_, reject) => {
            signal.addEventListener('abort', () => {
              reject(signal.reason as Error);
            });
          }),
      },
    ],
  });
  await stop(waiting);
});

test('controller: a reconcile that fails is tried again with growing delays, and others are not held up', async () => {
  const times: number[] = [];
  const seen: string[] = [];
  const rig = start(async (key) => {
    if (key === 'good') {
      seen.push(key);
      return Promise.resolve({});
    }
    times.push(rig.clock.elapsed());
    if (times.length < 4) throw new Error('bug');
    return Promise.resolve({});
  });
  rig.queue.add('bad');
  rig.queue.add('good');
  await settle();
  assert.deepEqual(seen, ['good']);
  await rig.clock.advance(10_000);
  assert.deepEqual(times, [0, 100, 300, 700]);
  assert.equal(rig.queue.failures('bad'), 0);
  assert.deepEqual(rig.results, ['error', 'success', 'error', 'error', 'success']);
  await stop(rig);
});

test('controller: a synchronous throw and a thrown string are failures like any other', async () => {
  let calls = 0;
  const rig = start(() => {
    calls += 1;
    // eslint-disable-next-line @typescript-eslint/only-throw-error -- this is what must not hurt
    if (calls === 1) throw 'text';
    if (calls === 2) throw new Error('not even a promise');
    return Promise.resolve(undefined);
  });
  rig.queue.add('a');
  await rig.clock.advance(1_000);
  assert.deepEqual(rig.results, ['error', 'error', 'success']);
  await stop(rig);
});

test('controller: a TerminalError is not tried again', async () => {
  const rig = start(async () => Promise.reject(new TerminalError('InvalidSpec', 'no')));
  rig.queue.add('a');
  await rig.clock.advance(100_000);
  assert.deepEqual(rig.results, ['terminal']);
  await stop(rig);
});

test('controller: waits at least as long as the API server asks', async () => {
  const times: number[] = [];
  const rig = start(async () => {
    times.push(rig.clock.elapsed());
    if (times.length > 1) return Promise.resolve({});
    throw new ApiError({ code: 429, reason: 'TooManyRequests', message: 'slow down' }, 5_000);
  });
  rig.queue.add('a');
  await rig.clock.advance(10_000);
  assert.deepEqual(times, [0, 5_000]);
  await stop(rig);
});

test('controller: comes back after requeueAfterMs, or earlier when the key is added', async () => {
  const times: number[] = [];
  const rig = start(async () => {
    times.push(rig.clock.elapsed());
    return Promise.resolve(times.length < 3 ? { requeueAfterMs: 1_000 } : {});
  });
  rig.queue.add('a');
  await rig.clock.advance(400);
  rig.queue.add('a');
  await rig.clock.advance(5_000);
  assert.deepEqual(times, [0, 400, 1_400]);
  await stop(rig);
});

test('controller: never works on one key twice at a time, and on no more keys than it has workers', async () => {
  let now = 0;
  let most = 0;
  const busy = new Set<string>();
  const rig = start(
    async (key) => {
      assert.ok(!busy.has(key));
      busy.add(key);
      now += 1;
      most = Math.max(most, now);
      await rig.clock.after(100);
      now -= 1;
      busy.delete(key);
      return {};
    },
    { workers: 3 },
  );
  for (let round = 0; round < 5; round += 1) {
    for (const key of ['a', 'b', 'c', 'd', 'e']) rig.queue.add(key);
    await rig.clock.advance(50);
  }
  await rig.clock.advance(2_000);
  assert.equal(most, 3);
  assert.ok(!rig.results.includes('error'));
  await stop(rig);
});

test('controller: a reconcile over its time limit is aborted and tried again', async () => {
  let calls = 0;
  const rig = start(
    async (_key, signal) => {
      calls += 1;
      if (calls === 1) await rig.clock.after(60_000, signal);
      return {};
    },
    { reconcileTimeoutMs: 1_000 },
  );
  rig.queue.add('a');
  await rig.clock.advance(2_000);
  assert.equal(calls, 2);
  assert.deepEqual(rig.results, ['error', 'success']);
  await stop(rig);
});

test('controller: a reconcile that ignores its signal loses its worker, but keeps its key', async () => {
  const stuck = Promise.withResolvers<object>();
  const seen: string[] = [];
  const reconcile: Reconcile = async (key) => {
    seen.push(key);
    return key === 'stuck' && seen.length === 1 ? await stuck.promise : {};
  };
  const rig = start(reconcile, { workers: 1, reconcileTimeoutMs: 1_000 });
  rig.queue.add('stuck');
  rig.queue.add('other');
  await rig.clock.advance(1_500);
  assert.deepEqual(seen, ['stuck']);
  await rig.clock.advance(5_000);
  rig.queue.add('stuck');
  await settle();
  assert.deepEqual(seen, ['stuck', 'other']);
  stuck.resolve({});
  await settle();
  assert.deepEqual(seen, ['stuck', 'other', 'stuck']);
  await stop(rig);
});

test('controller: told to stop, it starts nothing new and lets running reconciles finish, unaborted', async () => {
  const seen: string[] = [];
  const rig = start(
    async (key, signal) => {
      await rig.clock.after(500, signal);
      seen.push(key);
      return {};
    },
    { workers: 1 },
  );
  rig.queue.add('running');
  rig.queue.add('waiting');
  await settle();
  rig.stopping.abort();
  await rig.clock.advance(500);
  await rig.running;
  assert.deepEqual(seen, ['running']);
  assert.equal(rig.clock.pending, 0);
});

test('controller: stopping is bounded, for a reconcile that listens to its signal and for one that does not', async () => {
  for (const isListening of [true, false]) {
    const rig = start(
      async (_key, signal) => {
        await rig.clock.after(1_000_000, isListening ? signal : undefined);
        return {};
      },
      { stopTimeoutMs: 2_000 },
    );
    rig.queue.add('a');
    await settle();
    rig.stopping.abort();
    await rig.clock.advance(isListening ? 2_000 : 7_000);
    await rig.running;
  }
});
