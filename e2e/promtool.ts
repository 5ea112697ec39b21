/** Prometheus and its checker of rules, from this machine or out of their Debian package; nothing is installed, so that no service starts. */
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { hasProgram, run } from './cluster/command.ts';
import { defaultCacheDir } from './cluster/settings.ts';

type ProgramName = 'prometheus' | 'promtool';

/** Its path; undefined, with the reason said, where it cannot be had. */
export async function findPromtool(say: (line: string) => void): Promise<string | undefined> {
  try {
    return await findPrometheusProgram('promtool');
  } catch (error) {
    // No apt, or no network: the tests that need it are skipped, with this as the reason.
    say(`promtool cannot be had: ${error instanceof Error ? error.message : String(error)}`);
    return undefined;
  }
}

/** Its path. The package (19 MB) is fetched once. Throws where it cannot be had. */
export async function findPrometheusProgram(name: ProgramName): Promise<string> {
  if (await hasProgram(name)) return name;
  const cached = join(defaultCacheDir(), name);
  if (!existsSync(cached)) await fetchTo(name, cached);
  return cached;
}

async function fetchTo(name: ProgramName, file: string): Promise<void> {
  await mkdir(defaultCacheDir(), { recursive: true });
  const scratch = await mkdtemp(join(defaultCacheDir(), `${name}-`));
  try {
    // No lists yet, or lists that name files which are gone; if it is something else, the second try says so.
    await download(scratch).catch(async () => {
      await run('apt-get', ['update', '-q']);
      await download(scratch);
    });
    const [debian = ''] = await readdir(scratch);
    await run('dpkg-deb', ['--extract', join(scratch, debian), join(scratch, 'files')]);
    await rename(join(scratch, 'files/usr/bin', name), file);
  } finally {
    await rm(scratch, { recursive: true });
  }
}

async function download(cwd: string): Promise<void> {
  await run('apt-get', ['download', '-q', 'prometheus'], { cwd });
}
