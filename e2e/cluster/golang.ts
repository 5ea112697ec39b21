import { existsSync } from 'node:fs';
import { chmod, glob, mkdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { hasProgram, run } from './command.ts';
import { aptInstall } from './packages.ts';
import { versions } from './settings.ts';

export interface GoOptions {
  log: (line: string) => void;
  /** Where a Go that had to be fetched is kept. */
  cacheDir: string;
  /** Where to look for one, in this order; the usual places by default. */
  candidates?: readonly string[];
}

/**
 * Gives a Go that can build the recipe. An older one (the distribution's, which is installed if there is none) fetches the release that is
 * needed as the Go module that every release is published as. Throws one line that names the ways on.
 */
export async function ensureGo({ log, cacheDir, candidates }: GoOptions): Promise<string> {
  const found = await findGo(candidates ?? (await usualPlaces()));
  if (found?.isNew === true) return found.file;
  const old = found?.file ?? (await distributionGo(log));
  if (old !== undefined) return fetchGo(old, { log, cacheDir });
  throw new Error(
    `Cannot build Kubernetes: there is no Go. Install Go ${versions.go} (https://go.dev/dl), ` +
      'or use a cluster that you have with --context NAME',
  );
}

async function usualPlaces(): Promise<string[]> {
  const places = ['go', '/usr/local/go/bin/go'];
  for await (const file of glob('/usr/lib/go-*/bin/go')) places.push(file);
  return places;
}

interface FoundGo {
  file: string;
  isNew: boolean;
}

/** The first that is new enough, else the first that there is. */
async function findGo(candidates: readonly string[]): Promise<FoundGo | undefined> {
  let old: FoundGo | undefined;
  for (const file of candidates) {
    const version = await versionOf(file);
    if (version === undefined) continue;
    if (isAtLeast(version, parseVersion(versions.goMin))) return { file, isNew: true };
    old ??= { file, isNew: false };
  }
  return old;
}

async function distributionGo(log: (line: string) => void): Promise<string | undefined> {
  if (!(await hasProgram('apt-get'))) return undefined;
  await aptInstall(['golang-go'], log);
  return (await findGo(await usualPlaces()))?.file;
}

async function fetchGo(old: string, { log, cacheDir }: Omit<GoOptions, 'candidates'>): Promise<string> {
  const arch = process.arch === 'x64' ? 'amd64' : process.arch;
  const release = `toolchain@v0.0.1-go${versions.go}.linux-${arch}`;
  const dir = join(cacheDir, `go-${versions.go}`);
  const file = join(dir, 'golang.org', release, 'bin/go');
  if (existsSync(file)) return file;
  log(`fetching Go ${versions.go} (the one here is older)…`);
  const temporary = `${dir}.tmp`;
  await rm(temporary, { recursive: true, force: true });
  await mkdir(temporary, { recursive: true });
  const env = { GOMODCACHE: temporary, GOFLAGS: '-modcacherw', GOTOOLCHAIN: 'local', GO111MODULE: 'on' };
  await run(old, ['mod', 'download', `golang.org/${release}`], { cwd: temporary, env });
  // A module's files are not executable.
  for await (const program of glob(join(temporary, 'golang.org', release, '{bin,pkg/tool/*}/*'))) {
    await chmod(program, 0o755);
  }
  await rm(join(temporary, 'cache'), { recursive: true, force: true });
  await rename(temporary, dir);
  return file;
}

async function versionOf(file: string): Promise<readonly number[] | undefined> {
  try {
    return parseVersion(await run(file, ['env', 'GOVERSION'], { cwd: '/', env: { GOTOOLCHAIN: 'local' } }));
  } catch {
    // Not installed there.
    return undefined;
  }
}

/** `go1.26.8` -> [1, 26, 8]. */
export function parseVersion(text: string): number[] {
  const match = /(\d+)\.(\d+)\.?(\d*)/.exec(text);
  return match === null ? [] : match.slice(1).map(Number);
}

/** Whether a version is the other one or newer. */
export function isAtLeast(version: readonly number[], other: readonly number[]): boolean {
  for (let index = 0; index < Math.max(version.length, other.length); index++) {
    const difference = (version[index] ?? 0) - (other[index] ?? 0);
    if (difference !== 0) return difference > 0;
  }
  return true;
}
