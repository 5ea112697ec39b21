/**
 * Makes the programs of a cluster: Kubernetes, etcd, CoreDNS and Helm from their Go modules, the rest from the distribution. Nothing comes
 * from a container registry or a download site. The result is kept outside of the clone, under a key of everything that decides it.
 */
import { existsSync } from 'node:fs';
import { mkdir, rename, rm, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { run } from './command.ts';
import { ensureGo } from './golang.ts';
import { withLock } from './lock.ts';
import { ensurePackages } from './packages.ts';
import type { GoProgram } from './recipe.ts';
import { goBuildEnv, goFlags, goPrograms, hyperkubeLinks, readRecipeFile, recipeKey } from './recipe.ts';
import { defaultCacheDir } from './settings.ts';

const heartbeatMs = 30_000;

export interface BuildOptions {
  log: (line: string) => void;
  cacheDir?: string;
}

/**
 * Gives the folder that holds `kube-apiserver`, `kubectl`, `helm`, `coredns`, `pause` and the others, building what is not there yet: about
 * ten minutes and 7 GB of Go caches on two cores the first time. Two at once are safe: the second waits. An interrupted build leaves nothing.
 */
export async function ensureBuilt({ log, cacheDir = defaultCacheDir() }: BuildOptions): Promise<string> {
  await ensurePackages(log);
  const dir = join(cacheDir, `bin-${await recipeKey(readRecipeFile, process.arch)}`);
  if (existsSync(dir)) return dir;
  const onWait = (): void => {
    log('waiting for another build of the same');
  };
  await withLock(join(cacheDir, 'build.lock'), onWait, async () => {
    if (!existsSync(dir)) await build(dir, await ensureGo({ log, cacheDir }), log);
  });
  return dir;
}

async function build(dir: string, go: string, log: (line: string) => void): Promise<void> {
  const temporary = `${dir}.tmp`;
  await rm(temporary, { recursive: true, force: true });
  await mkdir(temporary, { recursive: true });
  for (const program of goPrograms()) {
    await buildProgram(go, program, { output: join(temporary, program.output), log });
  }
  await Promise.all(hyperkubeLinks.map((name) => symlink('hyperkube', join(temporary, name))));
  await rename(temporary, dir);
}

async function buildProgram(
  go: string,
  program: GoProgram,
  { output, log }: { output: string; log: (line: string) => void },
): Promise<void> {
  const startedAt = Date.now();
  const hint = program.output === 'hyperkube' ? ' (about 10 minutes the first time)' : '';
  log(`building ${program.title} from Go modules${hint}…`);
  const heartbeat = setInterval(() => {
    log(`building ${program.title}… ${elapsed(startedAt)}`);
  }, heartbeatMs);
  try {
    await run(go, ['build', ...goFlags, '-ldflags', program.ldflags, '-o', output, program.target], {
      cwd: join(import.meta.dirname, program.module),
      env: goBuildEnv,
    });
  } finally {
    clearInterval(heartbeat);
  }
  log(`built ${program.title} in ${elapsed(startedAt)}`);
}

/** `42s`, `3m10s`. */
function elapsed(sinceMs: number): string {
  const seconds = Math.round((Date.now() - sinceMs) / 1000);
  return seconds < 60 ? `${String(seconds)}s` : `${String(Math.floor(seconds / 60))}m${String(seconds % 60)}s`;
}
