import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdir, mkdtemp, readFile, rm, stat, symlink, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { run } from '../cluster/command.ts';
import type { ImageSpec } from './oci.ts';
import { buildImage } from './oci.ts';

const longName = `${'long-'.repeat(30)}name.txt`;

async function inFolder(work: (dir: string) => Promise<void>): Promise<void> {
  const dir = await mkdtemp(join(tmpdir(), 'ringmaster-oci-'));
  try {
    await work(dir);
  } finally {
    await rm(dir, { recursive: true });
  }
}

async function makeSource(dir: string): Promise<ImageSpec> {
  const source = join(dir, 'source');
  await mkdir(join(source, 'sub'), { recursive: true });
  await writeFile(join(source, 'sub', longName), 'deep');
  await writeFile(join(source, 'run.sh'), '#!/bin/sh\n', { mode: 0o700 });
  await symlink('run.sh', join(source, 'link'));
  await writeFile(join(source, 'skipped'), 'x');
  const skip = (path: string): boolean => path.endsWith('/skipped');
  return {
    repository: 'example.local/app',
    layers: [
      { files: [{ target: '/etc/passwd', content: 'root:x:0:0::/:/bin/sh\n' }] },
      { files: [{ source, target: '/app', skip }] },
    ],
    entrypoint: ['/app/run.sh'],
    user: '65532',
  };
}

test('buildImage: the same files give the same digest, whatever their times and the folder they are in', async () => {
  await inFolder(async (dir) => {
    const first = await buildImage(await makeSource(join(dir, 'a')), join(dir, 'cache-a'));
    const other = await makeSource(join(dir, 'b'));
    await utimes(join(dir, 'b/source/run.sh'), 1, 1);
    const second = await buildImage(other, join(dir, 'cache-b'));
    assert.equal(second.digest, first.digest);
    assert.equal(second.name, `example.local/app:${first.digest.slice(7, 19)}`);
    assert.deepEqual(await readFile(second.tar), await readFile(first.tar));
  });
});

test('buildImage: a changed file gives a new name, and leaves the other layer as it was', async () => {
  await inFolder(async (dir) => {
    const spec = await makeSource(dir);
    const cache = join(dir, 'cache');
    const before = await buildImage(spec, cache);
    await writeFile(join(dir, 'source/run.sh'), '#!/bin/sh\n:\n');
    const after = await buildImage(spec, cache);
    assert.notEqual(after.name, before.name);
    const [old, changed] = await Promise.all([before, after].map((image) => layersOf(image.tar)));
    assert.equal(changed?.[0], old?.[0]);
    assert.notEqual(changed?.[1], old?.[1]);
  });
});

test('buildImage: nothing is written when nothing changed', async () => {
  await inFolder(async (dir) => {
    const spec = await makeSource(dir);
    const cache = join(dir, 'cache');
    const first = await buildImage(spec, cache);
    const before = await stat(first.tar, { bigint: true });
    const second = await buildImage(spec, cache);
    assert.deepEqual(second, first);
    assert.equal((await stat(second.tar, { bigint: true })).mtimeNs, before.mtimeNs);
  });
});

test('buildImage: tar reads what was written: long names, modes, links, owners', async () => {
  await inFolder(async (dir) => {
    const image = await buildImage(await makeSource(dir), join(dir, 'cache'));
    const out = join(dir, 'out');
    await mkdir(out);
    await run('tar', ['-xf', image.tar, '-C', out]);
    const [, layer = ''] = await layersOf(image.tar);
    const blob = join(out, 'blobs/sha256', layer.slice(7));
    assert.equal(
      createHash('sha256')
        .update(await readFile(blob))
        .digest('hex'),
      layer.slice(7),
    );
    const lines = (await run('tar', ['-tvf', blob, '--numeric-owner', '--utc'])).trimEnd().split('\n');
    const listing = lines.map((line) => line.replace(/\s+/g, ' ').replace(' 1970-01-01 00:00', ''));
    assert.deepEqual(listing, [
      'drwxr-xr-x 0/0 0 app/',
      'lrwxrwxrwx 0/0 0 app/link -> run.sh',
      '-rwxr-xr-x 0/0 10 app/run.sh',
      'drwxr-xr-x 0/0 0 app/sub/',
      `-rw-r--r-- 0/0 4 app/sub/${longName}`,
    ]);
  });
});

async function layersOf(tar: string): Promise<string[]> {
  const read = async (name: string): Promise<unknown> => JSON.parse(await run('tar', ['-xOf', tar, name]));
  const index = (await read('index.json')) as { manifests: { digest: string }[] };
  const digest = index.manifests[0]?.digest.slice(7) ?? '';
  const manifest = (await read(`blobs/sha256/${digest}`)) as { layers: { digest: string }[] };
  return manifest.layers.map((layer) => layer.digest);
}
