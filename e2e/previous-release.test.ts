import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { test } from 'node:test';
import { extractPreviousRelease, previousReleaseFault } from './previous-release.ts';

const skip = await previousReleaseFault();

test('previous release: where the history does not have it, the error says what to do', async () => {
  const missing = 'f'.repeat(40);
  await assert.rejects(extractPreviousRelease(missing), (error: Error) => {
    assert.match(error.message, new RegExp(`commit ${missing}, .*run "git fetch --unshallow"$`, 's'));
    return true;
  });
});

test('previous release: whether the history has it is known before', async () => {
  assert.match((await previousReleaseFault('f'.repeat(40))) ?? '', /^the previous release, commit f+, is not in/);
});

test('previous release: its files are there with the packages, and are removed', { skip }, async () => {
  const tree = await extractPreviousRelease();
  for (const path of ['charts/ringmaster/Chart.yaml', 'e2e/release.ts', 'sidecar/main.ts', 'node_modules/ws']) {
    assert.ok(existsSync(`${tree.folder}/${path}`), path);
  }
  await tree.remove();
  assert.ok(!existsSync(tree.folder));
  assert.ok(existsSync('node_modules/ws'), 'the packages are a link, which alone is removed');
});
