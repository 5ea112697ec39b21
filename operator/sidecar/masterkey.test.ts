import assert from 'node:assert/strict';
import { mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { createMasterKey } from './masterkey.ts';

test('master key: a key that was replaced is read again; one of another size is refused and not shown', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'key-'));
  const path = join(folder, 'key');
  try {
    const key = createMasterKey(path);
    await assert.rejects(key.read(), { code: 'ENOENT' });
    await writeFile(path, Buffer.alloc(32, 1));
    assert.deepEqual(await key.read(), Buffer.alloc(32, 1));
    await writeFile(`${path}.new`, Buffer.alloc(32, 2));
    await rename(`${path}.new`, path);
    assert.deepEqual(await key.read(), Buffer.alloc(32, 2));
    await writeFile(path, 'secret');
    await assert.rejects(
      key.read(),
      (error: Error) => /6 bytes, not 32/.test(error.message) && !/secret/.test(error.message),
    );
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
});
