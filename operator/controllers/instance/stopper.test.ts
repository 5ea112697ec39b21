import assert from 'node:assert/strict';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { test } from 'node:test';
import { createSilentLogger } from '../../log.ts';
import { ApiError } from '../../runtime/client.ts';
import type { Client, Pod } from '../../runtime/client.ts';
import { FakeClock } from '../../testing/clock.ts';
import { makeInstance, makePod, runningStatus } from '../../testing/objects.ts';
import { viewPod } from './observe.ts';
import { Stopper } from './stopper.ts';

const lobby = makeInstance({ spec: { stop: { command: 'stop', gracePeriodSeconds: 10 } } });
const running = makePod(lobby, { status: runningStatus });
const notRunning = new ApiError({
  code: 500,
  reason: 'InternalError',
  message: 'container instance not found in pod lobby-a1b2c3-1_games',
});

/** The four calls that stopping makes. Following the log ends at once; `onAttach` answers to an attach without bytes. */
function stopping(
  pod: Pod,
  onAttach: (attempt: number) => Error | undefined,
): { calls: string[]; times: number[]; done: Promise<void> } {
  const calls: string[] = [];
  const times: number[] = [];
  const clock = new FakeClock();
  let attempts = 0;
  const note = (call: string): void => {
    calls.push(call);
    times.push(clock.elapsed());
  };
  const client: Partial<Client> = {
    remove: (_resource, _ref, options) => {
      note(`delete ${options?.gracePeriodSeconds ?? 'gracefully'}`);
      return Promise.resolve();
    },
    mergePatch: (_resource, _ref, patch) => Promise.resolve(patch as never),
    attachStdin: (_ref, _container, bytes) => {
      note(bytes.length === 0 ? 'ask' : 'command');
      const error = bytes.length === 0 ? onAttach((attempts += 1)) : undefined;
      return error === undefined ? Promise.resolve() : Promise.reject(error);
    },
    log: () => Promise.resolve(noBytes()),
  };
  const { signal } = new AbortController();
  const stopper = new Stopper({ client: client as Client, clock, log: createSilentLogger(), signal });
  const done = (async () => {
    await stopper.stop(lobby, viewPod(pod));
    for (let turn = 0; turn < 30; turn += 1) {
      await nextTurn();
      await clock.advance(200);
    }
  })();
  return { calls, times, done };
}

async function* noBytes(): AsyncGenerator<Uint8Array> {
  // The log ends without a byte.
}

test('stopper: when the log ends and the kubelet says that nothing runs, the pod goes without waiting for the sleep', async () => {
  const { calls, done } = stopping(running, () => notRunning);
  await done;
  assert.deepEqual(calls, ['delete gracefully', 'command', 'ask', 'delete 0']);
});

test('stopper: readers that the kubelet tells of the end a second later still find the log, and open it again', async () => {
  const { calls, times, done } = stopping(running, () => notRunning);
  await done;
  const [asked = 0, removed = 0] = [times[calls.indexOf('ask')], times[calls.indexOf('delete 0')]];
  assert.ok(removed - asked >= 2500, `removed ${removed - asked} ms after its end was known`);
});

test('stopper: the end of the log alone is no proof: as long as attach works, the program is left its time', async () => {
  const { calls, done } = stopping(running, (attempt) => (attempt < 3 ? undefined : notRunning));
  await done;
  assert.deepEqual(calls, ['delete gracefully', 'command', 'ask', 'ask', 'ask', 'delete 0']);
});

test('stopper: an answer that may mean anything proves nothing', async () => {
  const broken = new ApiError({ code: 500, reason: 'InternalError', message: 'dial tcp 10.0.0.1:10250: i/o timeout' });
  const { calls, done } = stopping(running, (attempt) => (attempt === 1 ? broken : new Error('socket hang up')));
  await done;
  assert.ok(!calls.includes('delete 0'));
});

test('stopper: a pod with another container keeps its whole grace period', async () => {
  const spec = { ...running.spec, containers: [...(running.spec?.containers ?? []), { name: 'helper' }] };
  const { calls, done } = stopping({ ...running, spec }, () => notRunning);
  await done;
  assert.deepEqual(calls, ['delete gracefully', 'command']);
});

test('stopper: under a runtime with a launcher the pod is deleted, and nothing else is done', async () => {
  const calls: string[] = [];
  const client: Partial<Client> = { remove: () => Promise.resolve(void calls.push('delete')) };
  const clock = new FakeClock();
  const { signal } = new AbortController();
  const stopper = new Stopper({ client: client as Client, clock, log: createSilentLogger(), signal });
  const instance = makeInstance({
    spec: { runtime: 'process', command: ['a'], stop: { command: 'stop', gracePeriodSeconds: 10 } },
  });
  const { command } = await stopper.stop(instance, viewPod(makePod(instance, { status: runningStatus })));
  assert.equal(command, 'none');
  assert.deepEqual(calls, ['delete']);
});
