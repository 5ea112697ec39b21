import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { allocateId, isInstanceId } from './id.ts';

test('allocateId: the same uid gives the same id, six characters of [0-9a-z]', () => {
  fc.assert(
    fc.property(fc.uuid(), (uid) => {
      const id = allocateId(uid, () => false);
      assert.ok(isInstanceId(id));
      assert.equal(
        allocateId(uid, () => false),
        id,
      );
    }),
  );
});

test('allocateId: a taken id is drawn again, and the second draw is stable too', () => {
  const first = allocateId('u', () => false);
  const second = allocateId('u', (id) => id === first);
  assert.notEqual(second, first);
  assert.equal(
    allocateId('u', (id) => id === first),
    second,
  );
});

test('allocateId: 20,000 uids get 20,000 different ids when each sees the ones before', () => {
  const taken = new Set<string>();
  for (let index = 0; index < 20_000; index += 1) taken.add(allocateId(`uid-${index}`, (id) => taken.has(id)));
  assert.equal(taken.size, 20_000);
});

test('allocateId: when every draw is taken it throws instead of looping', () => {
  assert.throws(() => allocateId('u', () => true), /all taken/);
});
