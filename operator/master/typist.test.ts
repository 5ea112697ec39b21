import assert from 'node:assert/strict';
import { setImmediate } from 'node:timers/promises';
import { test } from 'node:test';
import { OperatorError } from '../errors.ts';
import { createTypist, StdinFault } from './typist.ts';
import type { StdinWriter } from './typist.ts';

/** A writer whose batches wait until the test answers them. */
function heldWriter(): {
  write: StdinWriter;
  batches: string[];
  answer: (fault?: Error) => Promise<void>;
} {
  const batches: string[] = [];
  const waiting: { resolve: () => void; reject: (fault: Error) => void }[] = [];
  return {
    batches,
    write: (uid, lines) => {
      batches.push(`${uid}:${Buffer.from(lines).toString()}`);
      return new Promise((resolve, reject) => {
        waiting.push({ resolve, reject });
      });
    },
    async answer(fault) {
      const next = waiting.shift();
      assert.ok(next !== undefined, 'a batch is under way');
      if (fault === undefined) next.resolve();
      else next.reject(fault);
      await setImmediate();
    },
  };
}

test('typist: what comes while a batch is under way goes together in the next one, in order', async () => {
  const { write, batches, answer } = heldWriter();
  const typist = createTypist(write);
  const all = Promise.all(['1', '2', '3', '4'].map((line) => typist.type('a', line)));
  const other = typist.type('b', 'x');
  assert.deepEqual(batches, ['a:1\n', 'b:x\n']);
  await answer();
  assert.deepEqual(batches, ['a:1\n', 'b:x\n', 'a:2\n3\n4\n']);
  await answer();
  await answer();
  await Promise.all([all, other]);
  const again = typist.type('a', '5');
  assert.equal(batches.at(-1), 'a:5\n');
  await answer();
  await again;
});

test('typist: a batch that fails fails its lines alone and is not sent again', async () => {
  const { write, batches, answer } = heldWriter();
  const typist = createTypist(write);
  const first = typist.type('a', '1');
  const [second, third] = [typist.type('a', '2'), typist.type('a', '3')];
  const fault = new OperatorError('STDIN_UNCERTAIN', 'broke');
  const failed = assert.rejects(first, fault);
  await answer(fault);
  await failed;
  const partial = assert.rejects(third, { code: 'STDIN_FULL' });
  await answer(new StdinFault(1, new OperatorError('STDIN_FULL', 'full')));
  await Promise.all([second, partial]);
  assert.deepEqual(batches, ['a:1\n', 'a:2\n3\n']);
});

test('typist: a batch is bounded in bytes, and the queue in lines', async () => {
  const { write, batches, answer } = heldWriter();
  const typist = createTypist(write, { waitingMax: 4, batchBytesMax: 10 });
  const typed = ['first', 'aaaa', 'bbbb', 'cccc', 'dddd'].map((line) => typist.type('a', line));
  await assert.rejects(typist.type('a', 'no'), { code: 'STDIN_OVERLOADED' });
  await answer();
  await answer();
  await answer();
  await Promise.all(typed);
  assert.deepEqual(batches, ['a:first\n', 'a:aaaa\nbbbb\n', 'a:cccc\ndddd\n']);
});

test('typist: a line whose caller goes while it waits is not typed; one under way is', async () => {
  const { write, batches, answer } = heldWriter();
  const typist = createTypist(write);
  const [gone, late] = [new AbortController(), new AbortController()];
  const first = typist.type('a', '1', late.signal);
  const second = typist.type('a', '2', gone.signal);
  const third = typist.type('a', '3');
  const failed = assert.rejects(second, /gone/);
  gone.abort(new Error('gone'));
  late.abort(new Error('too late'));
  await failed;
  await answer();
  await answer();
  await Promise.all([first, third]);
  assert.deepEqual(batches, ['a:1\n', 'a:3\n']);
  await assert.rejects(typist.type('a', '4', gone.signal), /gone/);
});
