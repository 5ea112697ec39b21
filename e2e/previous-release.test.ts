import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { run } from './cluster/command.ts';
import { extractPreviousRelease, previousReleaseFault } from './previous-release.ts';

const skip = await previousReleaseFault();

test('previous release: where the history does not have it, the error says what to do', async () => {
  const missing = 'f'.repeat(40);
  await assert.rejects(extractPreviousRelease(missing), (error: Error) => {
    assert.match(error.message, new RegExp(`commit ${missing}, .*run "git fetch --unshallow"$`, 's'));
    return true;
  });
});

test('previous release: a history that is cut does not have it; one that is whole and does not have it is a mistake', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'ringmaster-history-'));
  t.after(() => rm(folder, { recursive: true }));
  const missing = 'f'.repeat(40);
  const [whole, shallow] = [join(folder, 'whole'), join(folder, 'shallow')];
  const commit = (): Promise<string> =>
    run('git', ['-C', whole, '-c', 'user.name=x', '-c', 'user.email=x@x', 'commit', '--allow-empty', '-qm', 'x']);
  await run('git', ['init', '-q', whole]);
  await commit();
  const cut = /^the previous release, commit f+, is not in .* run "git fetch --unshallow"$/;
  assert.match((await previousReleaseFault(missing, whole)) ?? '', cut);
  await commit();
  await assert.rejects(previousReleaseFault(missing, whole), /which is whole: set previousRelease/);
  await run('git', ['clone', '-q', '--depth=1', `file://${whole}`, shallow]);
  assert.match((await previousReleaseFault(missing, shallow)) ?? '', cut);
  assert.match((await previousReleaseFault(missing, folder)) ?? '', cut);
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
