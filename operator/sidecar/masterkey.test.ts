import assert from 'node:assert/strict';
import { mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { pino } from 'pino';
import { createSilentLogger } from '../log.ts';
import { createMasterKey } from './masterkey.ts';

const bytes = (byte: number): Buffer => Buffer.alloc(32, byte);

test('master key: keys that were replaced are read again; one of another size is refused and not shown', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'key-'));
  const path = join(folder, 'key');
  const replace = async (name: string, content: Buffer | string): Promise<void> => {
    await writeFile(join(folder, 'new'), content);
    await rename(join(folder, 'new'), join(folder, name));
  };
  try {
    const lines: string[] = [];
    const key = createMasterKey(path, pino({}, { write: (line) => lines.push(line) }));
    await assert.rejects(key.read(), { code: 'ENOENT' });
    await writeFile(path, bytes(1));
    assert.deepEqual(await key.read(), [bytes(1)]);
    await replace('next', bytes(2));
    assert.deepEqual(await key.read(), [bytes(1), bytes(2)], 'the next one counts beside it');
    await replace('key', bytes(2));
    await replace('previous', bytes(1));
    await rm(join(folder, 'next'));
    assert.deepEqual(await key.read(), [bytes(2), bytes(1)], 'the previous one counts on');
    await rm(join(folder, 'previous'));
    assert.deepEqual(await key.read(), [bytes(2)]);
    await replace('previous', 'secret');
    assert.deepEqual(await key.read(), [bytes(2)], 'it can be done without');
    await replace('key', 'secret');
    for (let round = 0; round < 3; round += 1)
      assert.deepEqual(await key.read(), [bytes(2)], 'the one before counts on');
    const said = lines.join('');
    assert.equal(said.match(/previous.*6 bytes, not 32/g)?.length, 1);
    assert.equal(said.match(/changed master key/g)?.length, 1, 'it is said once');
    assert.doesNotMatch(said, /secret/);
    await assert.rejects(createMasterKey(path, createSilentLogger()).read(), /6 bytes, not 32/);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
});
