/**
 * Makes the programs of a cluster: Kubernetes, etcd, CoreDNS and Helm from their Go modules, the rest from the distribution. Nothing comes
 * from a container registry or a download site. The result is kept outside of the clone, under a key of everything that decides it.
 */
import { existsSync } from 'node:fs';
import { mkdir, readFile, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { run } from './command.ts';
import { ensureGo } from './golang.ts';
import { withLock } from './lock.ts';
import { ensurePackages } from './packages.ts';
import type { GoProgram } from './recipe.ts';
import {
  goBuildEnv,
  goFlags,
  goPrograms,
  hyperkubeLinks,
  kwokKey,
  kwokProgram,
  kwokStages,
  programKey,
  readRecipeFile,
  recipeKey,
} from './recipe.ts';
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
  await buildInto(dir, { log, cacheDir }, async (go, temporary) => {
    for (const program of goPrograms()) {
      await buildProgram(go, program, { output: join(temporary, program.output), log });
    }
    await Promise.all(hyperkubeLinks.map((name) => symlink('hyperkube', join(temporary, name))));
  });
  return dir;
}

/** Gives the folder that holds `kwok` and `stages.yaml`, which tells it what to do; the same as `ensureBuilt` otherwise, in a minute or two. */
export async function ensureKwok({ log, cacheDir = defaultCacheDir() }: BuildOptions): Promise<string> {
  const dir = join(cacheDir, `kwok-${await kwokKey(readRecipeFile, process.arch)}`);
  await buildInto(dir, { log, cacheDir }, async (go, temporary) => {
    await buildProgram(go, kwokProgram, { output: join(temporary, kwokProgram.output), log });
    const cwd = join(import.meta.dirname, kwokProgram.module);
    const module = (
      await run(go, ['list', '-m', '-f', '{{.Dir}}', 'sigs.k8s.io/kwok'], {
        cwd,
        env: goBuildEnv,
      })
    ).trim();
    const stages = await Promise.all(kwokStages.map((file) => readFile(join(module, 'kustomize/stage', file), 'utf8')));
    await writeFile(join(temporary, 'stages.yaml'), stages.join('---\n'));
  });
  return dir;
}

/**
 * Gives the file of a program that few runs need, building it if it is not there. `sources` are our own files in its module. With `goVersion`
 * (`1.27.3`) by that release, which Go fetches as a module. Two at once are safe, and an interrupted build leaves nothing.
 */
export async function ensureProgram(
  program: GoProgram,
  options: BuildOptions & { sources?: readonly string[]; goVersion?: string },
): Promise<string> {
  const { log, cacheDir = defaultCacheDir(), goVersion } = options;
  const key = await programKey(program, readRecipeFile, options);
  const file = join(cacheDir, `${program.output}-${key}`);
  const onWait = (): void => {
    log(`waiting for another build of ${program.output}`);
  };
  await withLock(join(cacheDir, `${program.output}.lock`), onWait, async () => {
    if (existsSync(file)) return;
    const go = await ensureGo({ log, cacheDir });
    const toolchain = goVersion === undefined ? {} : { toolchain: `go${goVersion}` };
    await buildProgram(go, program, { output: `${file}.tmp`, log, ...toolchain });
    await rename(`${file}.tmp`, file);
  });
  return file;
}

/** Makes the folder unless it is there. What is interrupted leaves nothing under its name. */
async function buildInto(
  dir: string,
  { log, cacheDir }: Required<BuildOptions>,
  build: (go: string, temporary: string) => Promise<void>,
): Promise<void> {
  if (existsSync(dir)) return;
  const onWait = (): void => {
    log('waiting for another build of the same');
  };
  await withLock(join(cacheDir, 'build.lock'), onWait, async () => {
    if (existsSync(dir)) return;
    const temporary = `${dir}.tmp`;
    await rm(temporary, { recursive: true, force: true });
    await mkdir(temporary, { recursive: true });
    await build(await ensureGo({ log, cacheDir }), temporary);
    await rename(temporary, dir);
  });
}

/** Builds one program; with `toolchain` (`go1.27.3`) by that release, which Go fetches as a module. */
export async function buildProgram(
  go: string,
  program: GoProgram,
  { output, log, toolchain = 'local' }: { output: string; log: (line: string) => void; toolchain?: string },
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
      env: { ...goBuildEnv, GOTOOLCHAIN: toolchain },
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
