/** stern, which follows the logs of many pods in one terminal: a peer of the benchmarks, built from its Go module when one first needs it. */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { rename } from 'node:fs/promises';
import { join } from 'node:path';
import { buildProgram } from './build.ts';
import type { BuildOptions } from './build.ts';
import { ensureGo } from './golang.ts';
import { withLock } from './lock.ts';
import type { GoProgram } from './recipe.ts';
import { goFlags, readRecipeFile } from './recipe.ts';
import { defaultCacheDir, versions } from './settings.ts';

const program: GoProgram = {
  module: 'go-stern',
  target: 'github.com/stern/stern',
  output: 'stern',
  title: `stern ${versions.stern}`,
  ldflags: '-s -w',
};

/** Gives its file, building it if it is not there: a minute, and a newer Go than the cluster's, which Go fetches as a module. */
export async function ensureStern({ log, cacheDir = defaultCacheDir() }: BuildOptions): Promise<string> {
  const hash = createHash('sha256').update(JSON.stringify([process.arch, goFlags, program, versions.goForStern]));
  for (const file of ['go-stern/go.mod', 'go-stern/go.sum']) hash.update(await readRecipeFile(file));
  const file = join(cacheDir, `stern-${hash.digest('hex').slice(0, 12)}`);
  const onWait = (): void => {
    log('waiting for another build of stern');
  };
  await withLock(join(cacheDir, 'stern.lock'), onWait, async () => {
    if (existsSync(file)) return;
    const go = await ensureGo({ log, cacheDir });
    await buildProgram(go, program, { output: `${file}.tmp`, log, toolchain: `go${versions.goForStern}` });
    await rename(`${file}.tmp`, file);
  });
  return file;
}
