import assert from 'node:assert/strict';
import { glob, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { parse } from 'yaml';
import { runtimes } from '../../operator/api/v1alpha1/instance.ts';

interface Sample {
  metadata: { name: string };
  spec: { runtime?: string };
}

async function read(pattern: string): Promise<Map<string, Sample>> {
  const samples = new Map<string, Sample>();
  for await (const file of glob(pattern, { cwd: import.meta.dirname }))
    samples.set(file, parse(await readFile(join(import.meta.dirname, file), 'utf8')) as Sample);
  return samples;
}

test('samples of the runtimes: one for each, and nothing differs but the runtime and the name', async () => {
  const samples = [...(await read('runtimes/*.yaml')).values()];
  const served = runtimes.filter((runtime) => runtime !== 'kubernetes');
  assert.deepEqual(samples.map(({ spec }) => spec.runtime).sort(), served.toSorted());
  const [first, ...others] = samples.map(({ metadata, spec }) => {
    assert.equal(metadata.name, `hall-${spec.runtime ?? ''}`);
    return { ...spec, runtime: undefined };
  });
  for (const other of others) assert.deepEqual(other, first);
});
