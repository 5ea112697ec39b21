import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ownBytes } from './ownbytes.ts';

test('own bytes: the parts one behind the other, and no slab around them', () => {
  const bytes = ownBytes([Buffer.from('one '), new Uint8Array(0), Buffer.from('two')]);
  assert.equal(bytes.toString(), 'one two');
  assert.equal(bytes.buffer.byteLength, 7);
});
